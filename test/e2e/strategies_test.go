package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/agent/monitor"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/test/expect"
	"github.com/nodejoin/nodejoin/test/strategy"
	"github.com/nodejoin/nodejoin/test/testbed"
)

var update = flag.Bool("update", false, "write the table of strategies into README.md, and what is said of refusals into testdata/refusals.golden")

// ways are the control planes and judges of all strategies, started when they are first asked for.
var ways = &waysIn{}

type waysIn struct {
	once sync.Once
	bed  *strategy.Bed
	err  error
}

// needWays returns them; it skips a test where they cannot run, or fails it where every test must run.
func needWays(t *testing.T) *strategy.Bed {
	t.Helper()
	expect.Able(t, "nginx", strategy.HaveNginx())
	ways.once.Do(func() {
		var nodes []string
		for _, s := range strategy.All() {
			nodes = append(nodes, boundNode(s))
		}
		ways.bed, ways.err = strategy.Start(context.Background(), strategy.Options{Nodes: nodes})
	})
	if ways.err != nil {
		t.Fatal(ways.err)
	}
	return ways.bed
}

func (w *waysIn) stop() error {
	if w.bed == nil {
		return nil
	}
	return w.bed.Stop()
}

// boundNode is the node that a strategy's bound credential is for.
func boundNode(s strategy.Strategy) string { return s.Name + "-own" }

// TestStrategies joins by every strategy, and compares what was seen with the table in README.md.
func TestStrategies(t *testing.T) {
	bed := needWays(t)
	all := strategy.All()
	rows := make([]string, len(all)+1)
	t.Run("with", func(t *testing.T) {
		for i, s := range all {
			t.Run(s.Name, func(t *testing.T) {
				t.Parallel()
				j := &joins{bed: bed, s: s}
				cells := []string{j.cell(t, "joins", j.any), j.cell(t, "bound", j.bound), j.cell(t, "recovers", j.recovers), j.cell(t, "theft", j.theft)}
				rows[i] = "| " + s.Title + " | " + strings.Join(cells, " | ") + " |\n"
			})
		}
		t.Run("bundle", func(t *testing.T) {
			t.Parallel()
			// The control plane is the one for flags, and needs none for this.
			b := &bundles{&joins{bed: bed, s: strategy.Strategy{Name: "bundle"}}}
			cells := []string{"— (it is for one node)", b.cell(t, "bound", b.bound), b.cell(t, "recovers", b.recovers), b.cell(t, "theft", b.theft)}
			rows[len(all)] = "| bundle (`nodejoin bundle`) | " + strings.Join(cells, " | ") + " |\n"
		})
	})
	table := "| credential | joins | joins as one node only | a new certificate after the node's has expired, by a new credential after one that is refused | asked for another node's name |\n" +
		"| --- | --- | --- | --- | --- |\n" + strings.Join(rows, "")
	if t.Failed() {
		return // a row is no use that was not seen
	}
	compareWithReadme(t, table)
}

const (
	tableBegins = "<!-- strategies: go test ./test/e2e -run '^TestStrategies$' -update -->\n"
	tableEnds   = "<!-- end of strategies -->\n"
)

// compareWithReadme compares a table with the one in README.md, or writes it there.
func compareWithReadme(t *testing.T, table string) {
	const readme = "../../README.md"
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), tableBegins)
	now, after, ended := strings.Cut(rest, tableEnds)
	switch {
	case !found || !ended:
		t.Fatalf("README.md has no place for the table: it begins with %sand ends with %s", tableBegins, tableEnds)
	case now == table:
	case *update:
		if err := os.WriteFile(readme, []byte(before+tableBegins+table+tableEnds+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("README.md has\n%s\nand what was seen is\n%s\nWrite it with -update.", now, table)
	}
}

// joins are real runs of nodejoin by one strategy.
type joins struct {
	bed *strategy.Bed
	s   strategy.Strategy
}

// leftOutError is why a cell has no run.
type leftOutError string

func (e leftOutError) Error() string { return string(e) }

// cell runs what a cell of the table tells of.
func (j *joins) cell(t *testing.T, name string, run func(ctx context.Context, dir string) (string, error)) string {
	cell := "failed"
	t.Run(name, func(t *testing.T) {
		seen, err := run(t.Context(), t.TempDir())
		var leftOut leftOutError
		switch {
		case errors.As(err, &leftOut):
			cell = "— (" + leftOut.Error() + ")"
		case err != nil:
			t.Error(err)
		default:
			cell = seen
		}
	})
	return cell
}

// any joins with a credential that may become any node.
func (j *joins) any(ctx context.Context, dir string) (string, error) {
	c, err := j.bed.Credential(ctx, j.s, strategy.Request{Node: j.s.Name + "-any", Root: dir})
	if err != nil {
		return "", err
	}
	return "yes", j.joined(ctx, dir, j.s.Name+"-any", c)
}

// bound joins with a credential for one node.
func (j *joins) bound(ctx context.Context, dir string) (string, error) {
	if j.s.Unbindable != "" {
		return "", leftOutError(j.s.Unbindable)
	}
	c, err := j.bed.Credential(ctx, j.s, strategy.Request{Node: boundNode(j.s), Bound: true, Root: dir})
	if err != nil {
		return "", err
	}
	if c.User != "system:node:"+boundNode(j.s) {
		return "", fmt.Errorf("its user is %s", c.User)
	}
	return "yes", j.joined(ctx, dir, boundNode(j.s), c)
}

// joined joins, and looks for the request in the cluster.
func (j *joins) joined(ctx context.Context, dir, node string, c *strategy.Credential) error {
	if out, err := j.join(ctx, dir, node, c); err != nil {
		return fmt.Errorf("%w:\n%s", err, out)
	}
	return j.requested(ctx, node, c.User, "Approved")
}

// requested looks for a node's request by a user.
func (j *joins) requested(ctx context.Context, node, user, state string) error {
	list, err := j.bed.ControlPlane(j.s).Client().CertificatesV1().CertificateSigningRequests().List(ctx, meta.ListOptions{})
	if err != nil {
		return err
	}
	seen := "none"
	for i := range list.Items {
		object := &list.Items[i]
		if nodeOf(object) != node {
			continue
		}
		if object.Spec.Username == user && stateOf(object) == state {
			return nil
		}
		seen = object.Spec.Username + ", " + stateOf(object)
	}
	return fmt.Errorf("the cluster has no request for %s by %s that is %s, but: %s", node, user, state, seen)
}

// give writes a machine's configuration and credential.
func (j *joins) give(dir, node string, c *strategy.Credential) error {
	cp := j.bed.ControlPlane(j.s)
	if _, given := c.Files[clusterCAFile]; !given {
		c.Files[clusterCAFile] = string(cp.ServingCA.PEM)
	}
	c.Files["/etc/nodejoin/config.yaml"] = "nodeName: " + node + "\ncluster: {servers: [" + cp.Endpoint + "]}\nmetrics: {listen: \"\"}\ncredentials:\n" + c.YAML
	return c.Write(dir)
}

// join gives a machine a credential and runs nodejoin join there.
func (j *joins) join(ctx context.Context, dir, node string, c *strategy.Credential, args ...string) (string, error) {
	if err := j.give(dir, node, c); err != nil {
		return "", err
	}
	return nodejoin(ctx, append([]string{"join", "--root", dir}, args...)...)
}

// nodejoin runs the program and returns all that it prints.
func nodejoin(ctx context.Context, args ...string) (string, error) {
	path, err := program()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// theft shows the credential of one node to become another. The request is left pending.
func (j *joins) theft(ctx context.Context, dir string) (string, error) {
	if j.s.Unbindable != "" {
		return "", leftOutError(j.s.Unbindable)
	}
	c, err := j.bed.Credential(ctx, j.s, strategy.Request{Node: boundNode(j.s), Bound: true, Root: dir})
	if err != nil {
		return "", err
	}
	other := j.s.Name + "-stolen"
	out, err := j.join(ctx, dir, other, c, "--timeout", "8s")
	if exitCode(err) != 6 {
		return "", fmt.Errorf("%w:\n%s", err, out)
	}
	return "never approved", j.requested(ctx, other, "system:node:"+boundNode(j.s), "Pending")
}

// recovers runs the agent of a node whose certificate has expired, with a credential that is refused. It is given another
// one, and must get a new certificate by itself. None of the secrets may be seen anywhere but in its files.
func (j *joins) recovers(ctx context.Context, dir string) (string, error) {
	node := j.s.Name + "-recovers"
	r := strategy.Request{Node: node, Root: dir, Expired: true}
	expired, err := j.bed.Credential(ctx, j.s, r)
	if err != nil {
		return "", err
	}
	if err := j.expire(dir, node); err != nil {
		return "", err
	}
	refused, err := j.join(ctx, dir, node, expired, "-v", "-v", "--timeout", "1m")
	if exitCode(err) != 4 {
		return "", fmt.Errorf("with the credential that is refused: %w\n%s", err, refused)
	}
	path, err := program()
	if err != nil {
		return "", err
	}
	agent := &testbed.Process{
		Name: "nodejoin run on " + node, Path: path, Args: []string{"run", "--root", dir, "-v", "-v"},
		Env: []string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}, Log: filepath.Join(dir, "agent.log"),
	}
	if err := agent.Start(ctx); err != nil {
		return "", err
	}
	defer agent.Kill()
	if err := await(ctx, dir, agent, func(c *status.Certificate) bool { return c.Problem != nil }); err != nil {
		return "", err
	}
	r.Expired = false
	fresh, err := j.bed.Credential(ctx, j.s, r)
	if err != nil {
		return "", err
	}
	if err := fresh.Write(dir); err != nil {
		return "", err
	}
	if err := await(ctx, dir, agent, func(c *status.Certificate) bool { return c.State == status.Valid }); err != nil {
		return "", err
	}
	seen, err := whatIsSeen(ctx, dir, agent)
	if err != nil {
		return "", err
	}
	seen["what join printed"] = refused
	return "yes", secretive(dir, seen, expired, fresh)
}

// bundles are real runs of nodejoin with what nodejoin bundle makes.
type bundles struct{ *joins }

// make makes a bundle for a node, and returns its file.
func (b *bundles) make(ctx context.Context, dir, node string) (string, error) {
	cp, file := b.bed.Flags, filepath.Join(dir, "bundle.conf")
	out, err := nodejoin(ctx, "bundle", node, "--kubeconfig", cp.Kubeconfig, "--server", cp.Endpoint, "--out", file)
	if err != nil {
		return "", fmt.Errorf("%w:\n%s", err, out)
	}
	return file, nil
}

// bound joins as the node that a bundle names.
func (b *bundles) bound(ctx context.Context, dir string) (string, error) {
	file, err := b.make(ctx, dir, "bundle-own")
	if err != nil {
		return "", err
	}
	if out, err := nodejoin(ctx, "join", "--root", dir, "--bundle", file); err != nil {
		return "", fmt.Errorf("%w:\n%s", err, out)
	}
	return "yes", b.requested(ctx, "bundle-own", "system:node:bundle-own", "Approved")
}

// theft asks for another name.
func (b *bundles) theft(ctx context.Context, dir string) (string, error) {
	file, err := b.make(ctx, dir, "bundle-victim")
	if err != nil {
		return "", err
	}
	out, err := nodejoin(ctx, "join", "--root", dir, "--bundle", file, "--node-name", "bundle-stolen", "--timeout", "8s")
	if exitCode(err) != 6 {
		return "", fmt.Errorf("%w:\n%s", err, out)
	}
	return "never approved", b.requested(ctx, "bundle-stolen", "system:node:bundle-victim", "Pending")
}

// recovers joins again when the node's certificate has expired, which it does not without a bundle.
func (b *bundles) recovers(ctx context.Context, dir string) (string, error) {
	const node = "bundle-recovers"
	if err := b.expire(dir, node); err != nil {
		return "", err
	}
	if out, err := nodejoin(ctx, "join", "--root", dir, b.bed.Flags.Endpoint, "--certificate-authority", b.bed.Flags.ServingCA.CertFile); exitCode(err) != 2 {
		return "", fmt.Errorf("without a bundle: %w:\n%s", err, out)
	}
	file, err := b.make(ctx, dir, node)
	if err != nil {
		return "", err
	}
	if out, err := nodejoin(ctx, "join", "--root", dir, "--bundle", file); err != nil {
		return "", fmt.Errorf("%w:\n%s", err, out)
	}
	return "yes", b.requested(ctx, node, "system:node:"+node, "Approved")
}

// expire gives a machine a certificate of the node that has ended an hour ago.
func (j *joins) expire(dir, node string) error {
	chain, key, err := j.bed.ControlPlane(j.s).ClientCA.Issue(testbed.Certificate{
		CommonName: "system:node:" + node, Organization: []string{"system:nodes"}, NotBefore: time.Now().Add(-24 * time.Hour), Lifetime: -time.Hour,
	})
	if err != nil {
		return err
	}
	pki := filepath.Join(dir, "var/lib/kubelet/pki")
	if err := os.MkdirAll(pki, 0o755); err != nil {
		return err
	}
	const name = "kubelet-client-2025-01-02-03-04-05.pem"
	if err := os.WriteFile(filepath.Join(pki, name), append(chain, key...), 0o600); err != nil {
		return err
	}
	return os.Symlink(name, filepath.Join(pki, "kubelet-client-current.pem"))
}

// await asks the agent of a machine until its client certificate is as wanted.
func await(ctx context.Context, dir string, agent *testbed.Process, wanted func(*status.Certificate) bool) error {
	err := eventually(ctx, patience, func() error {
		s, err := monitor.Ask(ctx, filepath.Join(dir, "run/nodejoin", monitor.SocketName))
		if err == nil && (len(s.Certificates) == 0 || !wanted(&s.Certificates[0])) {
			err = fmt.Errorf("the status is\n%s", s.Text(time.Now()))
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("%w\nthe agent's log ends:\n%s", err, agent.Tail(20))
	}
	return err
}

// whatIsSeen returns what a running agent shows, by where.
func whatIsSeen(ctx context.Context, dir string, agent *testbed.Process) (map[string]string, error) {
	seen := make(map[string]string)
	for _, args := range [][]string{
		{"status", "--root", dir, "-v", "-v"}, {"status", "--root", dir, "-o", "json"}, {"doctor", "--root", dir, "-v", "-v"},
	} {
		out, err := nodejoin(ctx, args...)
		if exitCode(err) < 0 || out == "" {
			return nil, fmt.Errorf("%q: %w", args, err)
		}
		seen[strings.Join(args, " ")] = out
	}
	for _, name := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", agent.PID(), name))
		if err != nil {
			return nil, err
		}
		seen[name] = string(text)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/metrics", nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "run/nodejoin", monitor.SocketName))
	}}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	metrics, err := io.ReadAll(response.Body)
	seen["metrics"] = string(metrics)
	return seen, err
}

// secretive fails where a secret of a credential is in what was seen, or in any file of the machine but its own.
func secretive(dir string, seen map[string]string, credentials ...*strategy.Credential) error {
	own := make(map[string]bool)
	var secrets []string
	for _, c := range credentials {
		secrets = append(secrets, c.Secrets...)
		for path := range c.Files {
			own[filepath.Join(dir, path)] = true
		}
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || own[path] {
			return err
		}
		text, err := os.ReadFile(path)
		seen[path] = string(text)
		return err
	})
	if err != nil {
		return err
	}
	if seen[filepath.Join(dir, "agent.log")] == "" {
		return errors.New("the agent has logged nothing")
	}
	given := 0
	for path := range own {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, secret := range secrets {
			given += strings.Count(string(text), secret)
		}
	}
	if given == 0 {
		return errors.New("no secret is where it was put")
	}
	for where, text := range seen {
		for i, secret := range secrets {
			if strings.Contains(text, secret) {
				return fmt.Errorf("the secret %d is in %s", i, where)
			}
		}
	}
	return nil
}
