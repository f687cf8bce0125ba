package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	certificates "k8s.io/api/certificates/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodejoin/nodejoin/test/testbed"
)

// patience bounds every wait of a script for something that is about to happen.
const patience = 60 * time.Second

// story is what the commands of one script share.
type story struct {
	ctx   context.Context
	plane *plane
	cp    *testbed.ControlPlane

	marked    time.Time // what requests counts from
	started   time.Time // by stopwatch
	snapshots map[string]map[string]string
	kubelet   *testbed.Process
	agent     *testbed.Process // nodejoin run
	balancer  *balancer
}

type storyKey struct{}

func storyOf(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

// commands are what scripts can do beside running programs.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"token":     cmdToken,
	"paste":     cmdPaste,
	"exits":     cmdExits,
	"stopwatch": func(ts *testscript.TestScript, _ bool, _ []string) { storyOf(ts).started = time.Now() },
	"under":     cmdUnder,
	"csr":       cmdCSR,
	"issue":     cmdIssue,
	"pair":      cmdPair,
	"mark":      func(ts *testscript.TestScript, _ bool, _ []string) { storyOf(ts).marked = time.Now() },
	"requests":  cmdRequests,
	"requested": cmdRequested,
	"tree":      cmdTree,
	"snapshot":  cmdSnapshot,
	"unchanged": cmdUnchanged,
	"serve":     cmdServe,
	"publish":   cmdPublish,
	"component": cmdComponent,
	"files":     cmdFiles,
	"secret":    cmdSecret,
	"parsed":    cmdParsed,
	"remedy":    cmdRemedy,
	"appears":   cmdAppears,
	"replaced":  cmdReplaced,
	"kubelet":   cmdKubelet,
}

// parse reads a command's flags and returns the other arguments.
func parse(ts *testscript.TestScript, f *flag.FlagSet, args []string, least int) []string {
	f.SetOutput(io.Discard)
	ts.Check(f.Parse(args))
	if f.NArg() < least {
		ts.Fatalf("%s: %d arguments are missing", f.Name(), least-f.NArg())
	}
	return f.Args()
}

// eventually repeats check until it returns nil.
func (s *story) eventually(check func() error) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// token [-group G] [-ttl D] [-no-signing] [-no-auth] makes a bootstrap token, waits until cluster-info is signed with it,
// and sets TOKEN, TOKEN_ID and TOKEN_SECRET.
func cmdToken(ts *testscript.TestScript, _ bool, args []string) {
	s := storyOf(ts)
	var o testbed.TokenOptions
	f := flag.NewFlagSet("token", flag.ContinueOnError)
	f.Func("group", "", func(group string) error { o.Groups = append(o.Groups, group); return nil })
	f.DurationVar(&o.TTL, "ttl", 0, "")
	f.BoolVar(&o.NoSigning, "no-signing", false, "")
	f.BoolVar(&o.NoAuth, "no-auth", false, "")
	parse(ts, f, args, 0)
	token, err := s.cp.CreateToken(s.ctx, o)
	ts.Check(err)
	setToken(ts, token)
	if !o.NoSigning && o.TTL >= 0 {
		ts.Check(s.waitSigned(token))
	}
}

func setToken(ts *testscript.TestScript, token string) {
	id, secret, _ := strings.Cut(token, ".")
	ts.Setenv("TOKEN", token)
	ts.Setenv("TOKEN_ID", id)
	ts.Setenv("TOKEN_SECRET", secret)
}

func (s *story) waitSigned(token string) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	return s.cp.WaitSigned(ctx, token)
}

// paste ARG... runs the line of kubeadm join that the last program printed, with its first word changed and ARGs
// appended, and sets TOKEN and so on from it.
func cmdPaste(ts *testscript.TestScript, _ bool, args []string) {
	line := strings.Fields(ts.ReadFile("stdout"))
	at := slices.Index(line, "--token")
	if len(line) == 0 || line[0] != "kubeadm" || at < 0 {
		ts.Fatalf("paste: this is no line of kubeadm: %q", line)
	}
	setToken(ts, line[at+1])
	ts.Check(storyOf(ts).waitSigned(line[at+1]))
	ts.Check(ts.Exec("nodejoin", append(line[1:], args...)...))
}

// exits CODE PROGRAM ARG... runs a program, which must end with that exit status.
func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("the exit status is %d instead of %d", code, want)
	}
}

// under DURATION fails if more time has passed since stopwatch.
func cmdUnder(ts *testscript.TestScript, _ bool, args []string) {
	limit, err := time.ParseDuration(strings.Join(args, " "))
	ts.Check(err)
	if passed := time.Since(storyOf(ts).started); passed > limit {
		ts.Fatalf("it took %s", passed)
	}
}

// csr [-is STATE] waits until there is just one request for NODE that is not the one that CSR names, and sets CSR to its
// name. STATE is Pending (the default), Approved or Denied.
func cmdCSR(ts *testscript.TestScript, _ bool, args []string) {
	s := storyOf(ts)
	f := flag.NewFlagSet("csr", flag.ContinueOnError)
	state := f.String("is", "Pending", "")
	parse(ts, f, args, 0)
	known := ts.Getenv("CSR")
	ts.Check(s.eventually(func() error {
		list, err := s.cp.Client().CertificatesV1().CertificateSigningRequests().List(s.ctx, meta.ListOptions{})
		if err != nil {
			return err
		}
		var found []string
		for i := range list.Items {
			if object := &list.Items[i]; object.Name != known && nodeOf(object) == ts.Getenv("NODE") && stateOf(object) == *state {
				found = append(found, object.Name)
			}
		}
		if len(found) != 1 {
			return fmt.Errorf("there are %d such requests of %s: %q", len(found), ts.Getenv("NODE"), found)
		}
		ts.Setenv("CSR", found[0])
		return nil
	}))
}

// nodeOf returns the node that a request is for.
func nodeOf(object *certificates.CertificateSigningRequest) string {
	request, err := requestOf(object)
	if err != nil {
		return ""
	}
	name, _ := strings.CutPrefix(request.Subject.CommonName, "system:node:")
	return name
}

func stateOf(object *certificates.CertificateSigningRequest) string {
	for _, c := range object.Status.Conditions {
		return string(c.Type)
	}
	return "Pending"
}

// requests USER prints, sorted, what a user has asked of the API server since mark (else since ever), a line for each
// request: its verb and its path.
func cmdRequests(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: requests USER")
	}
	lines, err := storyOf(ts).requests(args[0])
	ts.Check(err)
	for _, line := range lines {
		fmt.Fprintln(ts.Stdout(), line)
	}
	fmt.Fprint(ts.Stdout())
}

// requested USER waits until a user has asked something of the API server since mark.
func cmdRequested(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: requested USER")
	}
	s := storyOf(ts)
	ts.Check(s.eventually(func() error {
		lines, err := s.requests(args[0])
		if err == nil && len(lines) == 0 {
			err = fmt.Errorf("%s has asked nothing", args[0])
		}
		return err
	}))
}

func (s *story) requests(user string) ([]string, error) {
	events, err := s.cp.AuditEvents(s.ctx, func(e testbed.AuditEvent) bool {
		return e.Stage == "RequestReceived" && e.User.Username == user && !e.RequestReceivedTimestamp.Before(s.marked.Truncate(time.Microsecond))
	})
	lines := make([]string, len(events))
	for i, e := range events {
		path, _, _ := strings.Cut(e.RequestURI, "?")
		lines[i] = e.Verb + " " + path
	}
	slices.Sort(lines)
	return lines, err
}

var timeInName = regexp.MustCompile(`\d{4}(-\d\d){5}`)

// tree DIR prints the mode and the path of everything in a directory, a time in a name as TIME.
func cmdTree(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: tree DIR")
	}
	root := ts.MkAbs(args[0])
	ts.Check(filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		line := info.Mode().String() + " " + strings.TrimPrefix(path, root+"/")
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		fmt.Fprintln(ts.Stdout(), timeInName.ReplaceAllString(line, "TIME"))
		return nil
	}))
}

// files DIR prints what tree does, directories left out. It prints nothing of a directory that is not there.
func cmdFiles(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: files DIR")
	}
	root := ts.MkAbs(args[0])
	found, err := snapshotOf(root)
	ts.Check(err)
	for _, path := range slices.Sorted(maps.Keys(found)) {
		if mode, _, _ := strings.Cut(found[path], " "); mode[0] != 'd' {
			fmt.Fprintln(ts.Stdout(), timeInName.ReplaceAllString(mode+" "+strings.TrimPrefix(path, root+"/"), "TIME"))
		}
	}
	fmt.Fprint(ts.Stdout())
}

// secret FILE TEXT writes a file that only its owner may read, and its directory.
func cmdSecret(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: secret FILE TEXT")
	}
	path := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	ts.Check(os.WriteFile(path, []byte(args[1]+"\n"), 0o600))
}

// parsed json|yaml parses what the last program printed and prints its fields, NAME=VALUE.
func cmdParsed(ts *testscript.TestScript, _ bool, args []string) {
	text := []byte(ts.ReadFile("stdout"))
	var fields map[string]any
	switch strings.Join(args, " ") {
	case "json":
		ts.Check(json.Unmarshal(text, &fields))
	case "yaml":
		if json.Valid(text) {
			ts.Fatalf("this is JSON: %s", text)
		}
		ts.Check(yaml.UnmarshalStrict(text, &fields))
	default:
		ts.Fatalf("usage: parsed json|yaml")
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(ts.Stdout(), "%s=%v\n", name, fields[name])
	}
}

// remedy FILE prints the commands of a remedy of several lines: all that follows the word in FILE.
func cmdRemedy(ts *testscript.TestScript, _ bool, args []string) {
	_, commands, found := strings.Cut(ts.ReadFile(strings.Join(args, " ")), "\n  remedy: ")
	if !found {
		ts.Fatalf("there is no remedy")
	}
	fmt.Fprint(ts.Stdout(), commands)
}

// appears PATTERN FILE waits until a file that is being written matches a regular expression.
func cmdAppears(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: appears PATTERN FILE")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	ts.Check(storyOf(ts).eventually(func() error {
		data, err := os.ReadFile(ts.MkAbs(args[1]))
		if err == nil && !pattern.Match(data) {
			err = fmt.Errorf("%q does not match %q", data, pattern)
		}
		return err
	}))
}

// replaced FILE OLD waits until a file has another content than a copy of it.
func cmdReplaced(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: replaced FILE OLD")
	}
	old := ts.ReadFile(args[1])
	ts.Check(storyOf(ts).eventually(func() error {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && string(data) == old {
			err = errors.New("it is the same")
		}
		return err
	}))
}

// snapshot DIR remembers everything in a directory, for unchanged.
func cmdSnapshot(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: snapshot DIR")
	}
	s := storyOf(ts)
	if s.snapshots == nil {
		s.snapshots = make(map[string]map[string]string)
	}
	taken, err := snapshotOf(ts.MkAbs(args[0]))
	ts.Check(err)
	s.snapshots[ts.MkAbs(args[0])] = taken
}

// unchanged [-but NAME] DIR fails if anything in a directory was added, removed or changed since its snapshot, files
// called NAME excepted.
func cmdUnchanged(ts *testscript.TestScript, neg bool, args []string) {
	s := storyOf(ts)
	var but []string
	f := flag.NewFlagSet("unchanged", flag.ContinueOnError)
	f.Func("but", "", func(name string) error { but = append(but, name); return nil })
	dir := ts.MkAbs(parse(ts, f, args, 1)[0])
	before, ok := s.snapshots[dir]
	if !ok {
		ts.Fatalf("unchanged: there is no snapshot of %s", dir)
	}
	now, err := snapshotOf(dir)
	ts.Check(err)
	changes := difference(before, now, but...)
	if !neg && len(changes) != 0 {
		ts.Fatalf("changed: %q", changes)
	}
	if neg && len(changes) == 0 {
		ts.Fatalf("nothing has changed")
	}
}

// snapshotOf describes everything in a directory by path: mode, time and content. One that is not there has nothing.
func snapshotOf(dir string) (map[string]string, error) {
	all := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		is := info.Mode().String()
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			is += " " + target
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			is += fmt.Sprintf(" %s %x", info.ModTime(), sha256.Sum256(data))
		}
		all[path] = is
		return nil
	})
	return all, err
}

// difference returns the paths at which two snapshots differ, those of the given names excepted.
func difference(before, after map[string]string, but ...string) []string {
	var paths []string
	for path := range after {
		if before[path] != after[path] && !slices.Contains(but, filepath.Base(path)) {
			paths = append(paths, path)
		}
	}
	for path := range before {
		if _, there := after[path]; !there {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// serve DIR serves a directory over https until the script ends. It sets URL, and WEB_CA to the file of a CA that
// vouches for it. URL/elsewhere/PATH redirects to URL/PATH.
func cmdServe(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: serve DIR")
	}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(ts.MkAbs(args[0]))))
	mux.HandleFunc("/elsewhere/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", strings.TrimPrefix(r.URL.Path, "/elsewhere"))
		w.WriteHeader(http.StatusFound)
	})
	server := httptest.NewUnstartedServer(mux)
	server.Config.ErrorLog = discardLog
	ca, err := testbed.NewCA(ts.MkAbs("."), "web-ca")
	ts.Check(err)
	server.TLS, err = servingConfig(ca)
	ts.Check(err)
	server.StartTLS()
	ts.Defer(server.Close)
	ts.Setenv("URL", server.URL)
	ts.Setenv("WEB_CA", ca.CertFile)
}

// publish publishes cluster-info.
func cmdPublish(ts *testscript.TestScript, _ bool, _ []string) {
	s := storyOf(ts)
	ts.Check(s.cp.PublishClusterInfo(s.ctx, s.cp.URL, s.cp.ServingCA.PEM))
}

// component kube-apiserver|kube-controller-manager stop|start
func cmdComponent(ts *testscript.TestScript, _ bool, args []string) {
	s := storyOf(ts)
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for _, process := range []*testbed.Process{s.cp.APIServer, s.cp.ControllerManager} {
		switch {
		case slices.Equal(args, []string{process.Name, "stop"}):
			ts.Check(process.Stop())
			return
		case slices.Equal(args, []string{process.Name, "start"}):
			ts.Check(process.Start(ctx))
			return
		}
	}
	ts.Fatalf("usage: component kube-apiserver|kube-controller-manager stop|start")
}

// kubelet [-rotate] [-bootstrap-kubeconfig FILE] KUBECONFIG CERTDIR starts a real kubelet as NODE and waits until its Node
// is registered. kubelet stop ends it.
func cmdKubelet(ts *testscript.TestScript, _ bool, args []string) {
	s := storyOf(ts)
	if slices.Equal(args, []string{"stop"}) {
		ts.Check(s.kubelet.Stop())
		return
	}
	o := testbed.KubeletOptions{NodeName: ts.Getenv("NODE"), Dir: ts.MkAbs("kubelet")}
	f := flag.NewFlagSet("kubelet", flag.ContinueOnError)
	f.BoolVar(&o.Rotate, "rotate", false, "")
	f.StringVar(&o.BootstrapKubeconfig, "bootstrap-kubeconfig", "", "")
	rest := parse(ts, f, args, 2)
	o.Kubeconfig, o.CertDir = ts.MkAbs(rest[0]), ts.MkAbs(rest[1])
	if o.BootstrapKubeconfig != "" {
		o.BootstrapKubeconfig = ts.MkAbs(o.BootstrapKubeconfig)
		ts.Check(s.cp.WriteTokenKubeconfig(o.BootstrapKubeconfig, ts.Getenv("TOKEN")))
	}
	var err error
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
}
