package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// operatorCommands are what stories of an operator who looks at an agent can do.
var operatorCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"pending":     cmdPending,
	"asked":       cmdAsked,
	"signer":      cmdSigner,
	"scrape":      cmdScrape,
	"port":        cmdPort,
	"field":       cmdField,
	"stable":      cmdStable,
	"holds":       cmdHolds,
	"commandline": cmdCommandLine,
	"atmost":      cmdAtMost,
	"showing":     cmdShowing,
	"substitute":  cmdSubstitute,
	"events":      cmdEvents,
}

func init() { maps.Copy(commands, operatorCommands) }

// ownRequests returns the requests for a signer that a story's node has made, the oldest first.
func (s *story) ownRequests(ctx context.Context, node, signer string) ([]certificates.CertificateSigningRequest, error) {
	list, err := s.cp.Client().CertificatesV1().CertificateSigningRequests().List(ctx, meta.ListOptions{FieldSelector: "spec.signerName=" + signer})
	if err != nil {
		return nil, err
	}
	own := slices.DeleteFunc(list.Items, func(o certificates.CertificateSigningRequest) bool {
		return o.Spec.Username != "system:node:"+node
	})
	slices.SortFunc(own, func(a, b certificates.CertificateSigningRequest) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return own, nil
}

// pending SIGNER waits until the node has made a request for a signer that nobody has acted on and that no earlier pending
// found, and sets CSR to its name.
func cmdPending(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: pending SIGNER")
	}
	s, known := storyOf(ts), strings.Fields(ts.Getenv("KNOWN_CSRS"))
	ts.Check(s.eventually(func() error {
		own, err := s.ownRequests(s.ctx, ts.Getenv("NODE"), args[0])
		for i := range own {
			if name := own[i].Name; len(own[i].Status.Conditions) == 0 && !slices.Contains(known, name) {
				ts.Setenv("CSR", name)
				ts.Setenv("KNOWN_CSRS", strings.Join(append(known, name), " "))
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("there is no such request among %d", len(own)))
	}))
}

// asked SIGNER prints a line for each request for a signer that the node has made: its state, and who made it.
func cmdAsked(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: asked SIGNER")
	}
	s := storyOf(ts)
	own, err := s.ownRequests(s.ctx, ts.Getenv("NODE"), args[0])
	ts.Check(err)
	for i := range own {
		fmt.Fprintln(ts.Stdout(), stateOf(&own[i]), own[i].Spec.Username)
	}
	fmt.Fprint(ts.Stdout())
}

// signer NAME has somebody approve and sign, as it is asked for, whatever the node asks of a signer of its own, from now
// on until the script ends.
func cmdSigner(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: signer NAME")
	}
	s, node := storyOf(ts), ts.Getenv("NODE")
	ctx, cancel := context.WithCancel(s.ctx)
	var running sync.WaitGroup
	var failed error
	running.Go(func() {
		for ctx.Err() == nil {
			own, err := s.ownRequests(ctx, node, args[0])
			for i := range own {
				if len(own[i].Status.Conditions) == 0 {
					err = errors.Join(err, s.sign(ctx, &own[i]))
				}
			}
			if ctx.Err() == nil {
				failed = errors.Join(failed, err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	ts.Defer(func() {
		cancel()
		running.Wait()
		ts.Check(failed)
	})
}

// sign approves a request and signs what it asks for, backdated by five minutes as the cluster's own signer does.
func (s *story) sign(ctx context.Context, object *certificates.CertificateSigningRequest) error {
	request, err := requestOf(object)
	if err != nil {
		return err
	}
	lifetime := time.Hour
	if object.Spec.ExpirationSeconds != nil {
		lifetime = time.Duration(*object.Spec.ExpirationSeconds) * time.Second
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetInt64(time.Now().UnixNano()), Subject: request.Subject,
		NotBefore: time.Now().Add(-5 * time.Minute), NotAfter: time.Now().Add(lifetime), BasicConstraintsValid: true,
		DNSNames: request.DNSNames, IPAddresses: request.IPAddresses, URIs: request.URIs,
	}
	for _, usage := range object.Spec.Usages {
		switch usage {
		case certificates.UsageDigitalSignature:
			template.KeyUsage |= x509.KeyUsageDigitalSignature
		case certificates.UsageServerAuth:
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		case certificates.UsageClientAuth:
			template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		default:
			return fmt.Errorf("a signer of this test does not know the usage %q", usage)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.cp.ClientCA.Cert, request.PublicKey, s.cp.ClientCA.Key)
	if err != nil {
		return err
	}
	requests := s.cp.Client().CertificatesV1().CertificateSigningRequests()
	object.Status.Conditions = append(object.Status.Conditions, certificates.CertificateSigningRequestCondition{
		Type: certificates.CertificateApproved, Status: core.ConditionTrue, Reason: "ByHand",
	})
	if object, err = requests.UpdateApproval(ctx, object.Name, object, meta.UpdateOptions{}); err != nil {
		return err
	}
	object.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	_, err = requests.UpdateStatus(ctx, object, meta.UpdateOptions{})
	return err
}

// scrape [-until PATTERN] URL asks a server until its answer matches a regular expression, and prints status and body. The
// URL is http://HOST:PORT/PATH or unix:SOCKET:/PATH. ! scrape URL fails if anybody listens there.
func cmdScrape(ts *testscript.TestScript, neg bool, args []string) {
	s := storyOf(ts)
	f := flag.NewFlagSet("scrape", flag.ContinueOnError)
	until := f.String("until", "", "")
	url := parse(ts, f, args, 1)[0]
	pattern, err := regexp.Compile("(?m)" + *until)
	ts.Check(err)
	transport := &http.Transport{DisableKeepAlives: true}
	if socket, ok := strings.CutPrefix(url, "unix:"); ok {
		var path string
		socket, path, _ = strings.Cut(socket, ":")
		url = "http://localhost" + path
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	var answer string
	ask := func() error {
		request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if answer = response.Status + "\n" + string(body); err == nil && !pattern.MatchString(answer) {
			err = fmt.Errorf("%s answers %q", url, answer)
		}
		return err
	}
	if neg {
		if ask() == nil {
			ts.Fatalf("%s answers %q", url, answer)
		}
		return
	}
	ts.Check(s.eventually(ask))
	fmt.Fprint(ts.Stdout(), answer)
}

// port [-taken] NAME sets an environment variable to a port of 127.0.0.1 that is free, or that somebody listens on until
// the script ends.
func cmdPort(ts *testscript.TestScript, _ bool, args []string) {
	f := flag.NewFlagSet("port", flag.ContinueOnError)
	taken := f.Bool("taken", false, "")
	name := parse(ts, f, args, 1)[0]
	listener, err := new(net.ListenConfig).Listen(storyOf(ts).ctx, "tcp", "127.0.0.1:0")
	ts.Check(err)
	_, number, err := net.SplitHostPort(listener.Addr().String())
	ts.Check(err)
	ts.Setenv(name, number)
	if *taken {
		ts.Defer(func() { listener.Close() })
	} else {
		ts.Check(listener.Close())
	}
}

// field PATH... prints what the last program printed as JSON has at each path, a.0.b: a text as it is, anything else as
// JSON, and nothing where there is nothing.
func cmdField(ts *testscript.TestScript, _ bool, args []string) {
	var document any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &document))
	for _, path := range args {
		value := document
		for step := range strings.SplitSeq(path, ".") {
			switch v := value.(type) {
			case map[string]any:
				value = v[step]
			case []any:
				i, err := strconv.Atoi(step)
				ts.Check(err)
				if value = nil; i < len(v) {
					value = v[i]
				}
			default:
				value = nil
			}
		}
		text, ok := value.(string)
		if !ok {
			data, err := json.Marshal(value)
			ts.Check(err)
			text = string(data)
		}
		fmt.Fprintln(ts.Stdout(), text)
	}
	fmt.Fprint(ts.Stdout())
}

// unstable is what differs between two runs of the same story.
var unstable = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\b(node-csr|nodejoin)-[\w-]{43}`), "REQUEST"},
	{regexp.MustCompile(`\b[0-9a-f]{24,40}\b`), "SERIAL"},
	{regexp.MustCompile(`\b(\d+ (seconds|minutes|hours|days|years)|a second|a moment)\b`), "SPAN"},
	{regexp.MustCompile(`(\bpid"?:? )\d+`), "${1}PID"},
	{regexp.MustCompile(`\b(\d+(\.\d+)?(ms|µs)|0s)\b`), "SPAN"},
}

// stable prints what the last program printed, times and other things that differ from run to run replaced by their names.
func cmdStable(ts *testscript.TestScript, _ bool, _ []string) {
	text := ts.ReadFile("stdout")
	for _, u := range unstable {
		text = u.pattern.ReplaceAllString(text, u.instead)
	}
	fmt.Fprint(ts.Stdout(), text)
}

// holds [-but FILE] TEXT PATH... prints the files at and below some paths that a text is in, which there must be; with !
// there must be none.
func cmdHolds(ts *testscript.TestScript, neg bool, args []string) {
	var but []string
	f := flag.NewFlagSet("holds", flag.ContinueOnError)
	f.Func("but", "", func(path string) error { but = append(but, ts.MkAbs(path)); return nil })
	rest := parse(ts, f, args, 2)
	looked := 0
	var found []string
	for _, root := range rest[1:] {
		ts.Check(filepath.WalkDir(ts.MkAbs(root), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() || slices.Contains(but, path) {
				return err
			}
			data, err := os.ReadFile(path)
			if looked++; bytes.Contains(data, []byte(rest[0])) {
				found = append(found, path)
			}
			return err
		}))
	}
	switch {
	case looked == 0:
		ts.Fatalf("there are no files to look at")
	case neg && len(found) != 0:
		ts.Fatalf("it is in %q", found)
	case !neg && len(found) == 0:
		ts.Fatalf("it is in none of %d files", looked)
	}
	fmt.Fprintln(ts.Stdout(), strings.Join(found, "\n"))
}

// commandline prints the arguments and the environment of the running agent, as everybody on the machine and as root
// can read them, one a line.
func cmdCommandLine(ts *testscript.TestScript, _ bool, _ []string) {
	for _, name := range []string{"cmdline", "environ"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", storyOf(ts).agent.PID(), name))
		ts.Check(err)
		fmt.Fprintln(ts.Stdout(), strings.ReplaceAll(string(data), "\x00", "\n"))
	}
}

// atmost N PATTERN fails if a regular expression matches more than N lines of what the last program printed, or none.
func cmdAtMost(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: atmost N PATTERN")
	}
	most, err := strconv.Atoi(args[0])
	ts.Check(err)
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	if n := len(pattern.FindAllString(ts.ReadFile("stdout"), -1)); n == 0 || n > most {
		ts.Fatalf("there are %d", n)
	}
}

// showing KUBECONFIG CERTDIR FILE starts a real kubelet as NODE with the certificate and key in FILE as its serving
// certificate, waits until its Node is registered, and sets KUBELET to the HOST:PORT where it answers.
func cmdShowing(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: showing KUBECONFIG CERTDIR FILE")
	}
	s := storyOf(ts)
	cmdPort(ts, false, []string{"KUBELET_PORT"})
	number, err := strconv.Atoi(ts.Getenv("KUBELET_PORT"))
	ts.Check(err)
	file := ts.MkAbs(args[2])
	o := testbed.KubeletOptions{
		NodeName: ts.Getenv("NODE"), Dir: ts.MkAbs("kubelet"), Kubeconfig: ts.MkAbs(args[0]), CertDir: ts.MkAbs(args[1]),
		TLSCertFile: file, TLSPrivateKeyFile: file, Config: map[string]any{"port": number},
	}
	o.ContainerRuntimeEndpoint, err = s.plane.containerd()
	ts.Check(err)
	s.kubelet, err = s.cp.Kubelet(s.ctx, o)
	ts.Check(err)
	ts.Defer(s.kubelet.Kill)
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	if _, err := s.cp.WaitNode(ctx, o.NodeName); err != nil {
		ts.Fatalf("%v\n%s", err, s.kubelet.Tail(20))
	}
	ts.Setenv("KUBELET", "127.0.0.1:"+ts.Getenv("KUBELET_PORT"))
}

// substitute TEMPLATE FILE writes a file of the script elsewhere, with the environment's values in the place of $NAME. It
// appears all at once, as an editor has it.
func cmdSubstitute(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: substitute TEMPLATE FILE")
	}
	path := ts.MkAbs(args[1])
	ts.Check(os.WriteFile(path+".new", []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
	ts.Check(os.Rename(path+".new", path))
}

// events [-fields] FILE prints each level and message once that a log of JSON objects, one a line, has, sorted; or the
// names of its other fields.
func cmdEvents(ts *testscript.TestScript, _ bool, args []string) {
	f := flag.NewFlagSet("events", flag.ContinueOnError)
	fields := f.Bool("fields", false, "")
	seen := map[string]bool{}
	for line := range strings.Lines(ts.ReadFile(parse(ts, f, args, 1)[0])) {
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			ts.Fatalf("%q: %v", line, err)
		}
		stamp, _ := event["time"].(string)
		level, _ := event["level"].(string)
		message, _ := event["msg"].(string)
		if _, err := time.Parse(time.RFC3339, stamp); err != nil || level == "" || message == "" {
			ts.Fatalf("%q has no time, level or message", line)
		}
		if !*fields {
			seen[level+" "+message] = true
			continue
		}
		for name := range event {
			seen[name] = true
		}
	}
	fmt.Fprintln(ts.Stdout(), strings.Join(slices.Sorted(maps.Keys(seen)), "\n"))
}
