package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/agent/monitor"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/test/testbed"
)

// inBackground tells a long story that mostly sleeps, while other tests go on: it begins now, and the test ends when it
// has ended. As a parallel test alone it would begin after all tests that are not, and wait for the place of another.
func inBackground(t *testing.T, story func(ctx context.Context) error) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- story(t.Context()) }()
	t.Parallel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// needKubelet skips a test where no kubelet can run, or fails it where every test must run.
func needKubelet(t *testing.T) {
	t.Helper()
	switch can, err := condition("kubelet"); {
	case err != nil:
		t.Fatal(err)
	case !can:
		t.Skip("a real kubelet needs root, containerd and runc")
	}
}

// machine is a node whose files are all in one directory: nodejoin runs there, and a kubelet on the files that it keeps.
type machine struct {
	cp      *testbed.ControlPlane
	dir     string
	node    string
	agent   *testbed.Process
	kubelet *testbed.Process
}

// newMachine returns a machine whose agent is a program, and nothing runs yet.
func newMachine(cp *testbed.ControlPlane, dir, node, program string) *machine {
	m := &machine{cp: cp, dir: dir, node: node}
	m.agent = &testbed.Process{
		Name: "nodejoin run on " + node, Path: program, Args: []string{"run", "--config", m.file("config.yaml")},
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GORACE=atexit_sleep_ms=0"}, Log: m.file("agent.log"),
	}
	cp.Adopt(m.agent)
	return m
}

// file returns the path of a file of the machine.
func (m *machine) file(elements ...string) string {
	return filepath.Join(append([]string{m.dir}, elements...)...)
}

// settings is the part of the configuration that all machines have.
const settings = `apiVersion: nodejoin/v1alpha1
kind: AgentConfiguration
nodeName: $NODE
credentials:
- bootstrapToken: {file: $DIR/token}
paths:
  kubeconfig: $DIR/kubelet.conf
  certDir: $DIR/pki
  caFile: $DIR/ca.crt
  stateDir: $DIR/state
  runtimeDir: $DIR/run
  kubeletConfig: $DIR/kubelet/config.yaml
metrics: {listen: ""}
`

// configure writes the agent's configuration: what all machines have and more, with values in the place of $NODE,
// $DIR, $SERVER and $PIN.
func (m *machine) configure(more string) error {
	values := map[string]string{"NODE": m.node, "DIR": m.dir, "SERVER": m.cp.Endpoint, "PIN": m.cp.ServingCA.Pin()}
	text := os.Expand(settings+more, func(name string) string { return values[name] })
	return os.WriteFile(m.file("config.yaml"), []byte(text), 0o600)
}

// giveToken makes a bootstrap token and puts it where the agent looks for it.
func (m *machine) giveToken(ctx context.Context, o testbed.TokenOptions) error {
	token, err := m.cp.CreateToken(ctx, o)
	if err != nil {
		return err
	}
	if err := m.cp.WaitSigned(ctx, token); err != nil {
		return err
	}
	return os.WriteFile(m.file("token"), []byte(token+"\n"), 0o600)
}

// startKubelet starts a kubelet on the agent's files, with a container runtime of its own, and waits for its Node.
func (m *machine) startKubelet(ctx context.Context, o testbed.KubeletOptions) error {
	runtime, err := testbed.StartContainerd(ctx, m.file("containerd"))
	if err != nil {
		return err
	}
	m.cp.Adopt(runtime.Process)
	o.NodeName, o.Dir, o.Kubeconfig, o.CertDir = m.node, m.file("kubelet"), m.file("kubelet.conf"), m.file("pki")
	o.ContainerRuntimeEndpoint = runtime.Endpoint
	if m.kubelet, err = m.cp.Kubelet(ctx, o); err != nil {
		return err
	}
	_, err = m.cp.WaitNode(ctx, m.node)
	return err
}

// join starts the agent and waits until it has its first certificate.
func (m *machine) join(ctx context.Context) error {
	if err := m.giveToken(ctx, testbed.TokenOptions{}); err != nil {
		return err
	}
	if err := m.agent.Start(ctx); err != nil {
		return err
	}
	return m.await(ctx, "the certificate is valid", func(s *status.Status) bool {
		return len(s.Certificates) != 0 && s.Certificates[0].State == status.Valid
	})
}

func (m *machine) socket() string { return m.file("run", monitor.SocketName) }

// await asks the agent for its status until that is as wanted.
func (m *machine) await(ctx context.Context, what string, wanted func(*status.Status) bool) error {
	err := eventually(ctx, patience, func() error {
		s, err := monitor.Ask(ctx, m.socket())
		if err == nil && !wanted(s) {
			err = fmt.Errorf("not so: %s; the status is\n%s", what, s.Text(time.Now()))
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("%w\nthe agent's log ends:\n%s", err, m.agent.Tail(20))
	}
	return err
}

// eventually repeats check until it returns nil.
func eventually(ctx context.Context, within time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", within, err)
		case <-ticker.C:
		}
	}
}

// certificate returns the client certificate on disk.
func (m *machine) certificate() (*x509.Certificate, error) {
	text, err := os.ReadFile(m.file("pki", "kubelet-client-current.pem"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("there is no PEM in the certificate's file")
	}
	return x509.ParseCertificate(block.Bytes)
}

// fingerprint is how the API server's audit log calls a certificate.
func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// credentialOf returns the fingerprint of the certificate that authenticated a request, "" if none did.
func credentialOf(e *testbed.AuditEvent) string {
	for _, id := range e.User.Extra["authentication.kubernetes.io/credential-id"] {
		if sum, found := strings.CutPrefix(id, "X509SHA256="); found {
			return sum
		}
	}
	return ""
}

// answered returns the requests that the API server has answered to this machine: to its node's user, or to whatever calls
// itself a kubelet or nodejoin (a request whose credential is refused has no user). Both are this machine's alone as long as no
// other one uses the control plane.
func (m *machine) answered(ctx context.Context) ([]testbed.AuditEvent, error) {
	return m.cp.AuditEvents(ctx, func(e testbed.AuditEvent) bool {
		return e.Stage == "ResponseComplete" && (e.User.Username == "system:node:"+m.node || isKubelet(&e) || strings.HasPrefix(e.UserAgent, "nodejoin"))
	})
}

func isKubelet(e *testbed.AuditEvent) bool { return strings.HasPrefix(e.UserAgent, "kubelet/") }

// refusals returns an error if a request failed. That something is not there, or has changed meanwhile, is an answer.
func refusals(events []testbed.AuditEvent) error {
	var lines []string
	for _, e := range events {
		if code := e.ResponseStatus.Code; code >= http.StatusBadRequest && code != http.StatusNotFound && code != http.StatusConflict {
			lines = append(lines, fmt.Sprintf("%s %s %s by %q (%s): %d %s", e.StageTimestamp.Format(time.RFC3339), e.Verb, e.RequestURI, e.User.Username, e.UserAgent, code, e.ResponseStatus.Message))
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("%d requests of the node failed:\n%s", len(lines), strings.Join(lines, "\n"))
}

// linesOf returns the lines of a process's log that match.
func linesOf(p *testbed.Process, pattern *regexp.Regexp) ([]string, error) {
	log, err := os.ReadFile(p.Log)
	var lines []string
	for line := range strings.Lines(string(log)) {
		if pattern.MatchString(line) {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines, err
}

// renewals follows a node's Lease.
type renewals struct {
	times []time.Time
}

// look notes a renewal that is new. An API server that does not answer is none.
func (r *renewals) look(ctx context.Context, cp *testbed.ControlPlane, node string) {
	var lease *coordination.Lease
	lease, err := cp.Client().CoordinationV1().Leases(core.NamespaceNodeLease).Get(ctx, node, meta.GetOptions{})
	if err != nil || lease.Spec.RenewTime == nil {
		return
	}
	if t := lease.Spec.RenewTime.Time; len(r.times) == 0 || t.After(r.times[len(r.times)-1]) {
		r.times = append(r.times, t)
	}
}

// longest returns the longest time between two renewals, or between the last and now.
func (r *renewals) longest(now time.Time) (gap time.Duration, at time.Time) {
	if len(r.times) == 0 {
		return now.Sub(time.Time{}), now
	}
	for i, t := range r.times {
		next := now
		if i+1 < len(r.times) {
			next = r.times[i+1]
		}
		if next.Sub(t) > gap {
			gap, at = next.Sub(t), t
		}
	}
	return gap, at
}

// usage is what a process needs at a moment.
type usage struct {
	kilobytes  int // resident
	files      int // open
	goroutines int
}

// usage returns what the agent needs.
func (m *machine) usage(ctx context.Context) (u usage, err error) {
	proc := filepath.Join("/proc", strconv.Itoa(m.agent.PID()))
	text, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return u, err
	}
	if u.kilobytes, err = numberAfter(text, `(?m)^VmRSS:\s+(\d+) kB$`); err != nil {
		return u, err
	}
	entries, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return u, err
	}
	u.files = len(entries)
	metrics, err := m.metrics(ctx)
	if err != nil {
		return u, err
	}
	u.goroutines, err = numberAfter(metrics, `(?m)^go_goroutines (\d+)$`)
	return u, err
}

// metrics asks the agent for its metrics.
func (m *machine) metrics(ctx context.Context) ([]byte, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", m.socket())
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://nodejoin/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

func numberAfter(text []byte, pattern string) (int, error) {
	found := regexp.MustCompile(pattern).FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("there is no %s in %q", pattern, text)
	}
	return strconv.Atoi(string(found[1]))
}

// program returns the path of nodejoin as the scripts have it: this test, with its race detector if it has one.
func program() (string, error) { return exec.LookPath("nodejoin") }

// buildProgram builds nodejoin as it is shipped.
func buildProgram(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "nodejoin")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", path, "github.com/nodejoin/nodejoin/agent/cmd/nodejoin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build nodejoin: %w\n%s", err, bytes.TrimSpace(out))
	}
	return path, nil
}
