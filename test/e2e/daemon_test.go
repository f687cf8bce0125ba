package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nodejoin/nodejoin/agent/monitor"
	"github.com/nodejoin/nodejoin/test/testbed"
	"github.com/nodejoin/nodejoin/test/testbed/proxy"
)

// agentLog is the name of the running agent's log in a script's directory.
const agentLog = "agent.log"

// daemonCommands are what stories of an agent that keeps running can do.
var daemonCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"configure": cmdConfigure,
	"agent":     cmdAgent,
	"logged":    cmdLogged,
	"until":     cmdUntil,
	"note":      cmdNote,
	"process":   cmdProcess,
	"balancer":  cmdBalancer,
	"race":      cmdRace,
	"interrupt": cmdInterrupt,
	"reveals":   cmdReveals,
}

func init() { maps.Copy(commands, daemonCommands) }

// configure TEMPLATE writes the configuration of this machine's agent: a file of the script, with the environment's values
// in the place of $NAME.
func cmdConfigure(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: configure TEMPLATE")
	}
	path := filepath.Join(ts.Getenv("ROOT"), "etc/nodejoin/config.yaml")
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	ts.Check(os.WriteFile(path, []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
}

// agent start [ARG...] starts the agent of the machine at ROOT in the background, or the one of this machine that has another
// --config; what it says goes to the end of agent.log.
// agent stop ends it with SIGTERM: within 5 s, with status 0. agent kill ends it with SIGKILL. agent hup sends SIGHUP.
// agent abort does what systemd's watchdog does: SIGABRT, which must end it by that signal. agent ends CODE waits until it has
// ended by itself.
func cmdAgent(ts *testscript.TestScript, _ bool, args []string) {
	s := storyOf(ts)
	if s.agent == nil {
		s.agent = &testbed.Process{Name: "nodejoin run", Log: ts.MkAbs(agentLog)}
		ts.Defer(s.agent.Kill)
	}
	verb, rest := strings.Join(args[:min(1, len(args))], ""), args[min(1, len(args)):]
	switch {
	case verb == "start":
		s.agent.Path, s.agent.Env = inScript(ts, "nodejoin")
		s.agent.Args = append([]string{"run"}, rest...)
		if !slices.Contains(rest, "--config") {
			s.agent.Args = append(s.agent.Args, "--root", ts.Getenv("ROOT"))
		}
		log, _ := os.Stat(s.agent.Log) // none before the first start
		ts.Check(s.agent.Start(s.ctx))
		ts.Check(s.eventually(func() error { return s.underWay(ts, log) }))
	case verb == "stop":
		ts.Check(s.stopAgent())
	case verb == "kill":
		s.agent.Kill()
	case verb == "hup":
		ts.Check(signalTo(s.agent, syscall.SIGHUP))
	case verb == "abort":
		ts.Check(signalTo(s.agent, syscall.SIGABRT))
		<-s.agent.Done()
		if exit, ok := errors.AsType[*exec.ExitError](s.agent.Err()); !ok || !exit.Sys().(syscall.WaitStatus).Signaled() {
			ts.Fatalf("SIGABRT has ended it with: %v", s.agent.Err())
		}
	case verb == "ends" && len(rest) == 1:
		want, err := strconv.Atoi(rest[0])
		ts.Check(err)
		ctx, cancel := context.WithTimeout(s.ctx, patience)
		defer cancel()
		select {
		case <-s.agent.Done():
		case <-ctx.Done():
			ts.Fatalf("the agent has not ended")
		}
		if code := exitCode(s.agent.Err()); code != want {
			ts.Fatalf("the agent has ended with status %d instead of %d", code, want)
		}
	default:
		ts.Fatalf("usage: agent start [ARG...] | stop | kill | abort | hup | ends CODE")
	}
}

// reveals FILE SECRETS... finds secrets in a file: as they are, or eight bytes of one as a word of memory, as a stack trace shows
// arguments and registers. A secret that is a file's name is the key in it.
func cmdReveals(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: reveals FILE SECRET...")
	}
	text := ts.ReadFile(args[0])
	var found []string
	for _, secret := range args[1:] {
		data := []byte(secret)
		if filepath.IsAbs(secret) {
			block, _ := pem.Decode([]byte(ts.ReadFile(secret)))
			key, err := x509.ParseECPrivateKey(block.Bytes)
			ts.Check(err)
			data, err = key.Bytes()
			ts.Check(err)
		}
		if strings.Contains(text, string(data)) || strings.Contains(text, base64.StdEncoding.EncodeToString(data)) {
			found = append(found, "as it is")
		}
		for i := range len(data) - 7 {
			for _, word := range []uint64{binary.LittleEndian.Uint64(data[i:]), binary.BigEndian.Uint64(data[i:])} {
				if strings.Contains(text, fmt.Sprintf("%x", word)) {
					found = append(found, fmt.Sprintf("the word %x, at byte %d", word, i))
				}
			}
		}
	}
	if (len(found) != 0) == neg {
		ts.Fatalf("revealed: %q", found)
	}
}

// underWay returns nil when the agent has said something, answers, or has ended: before, a signal would end it as it ends any
// program.
func (s *story) underWay(ts *testscript.TestScript, before fs.FileInfo) error {
	select {
	case <-s.agent.Done():
		return nil
	default:
	}
	now, err := os.Stat(s.agent.Log)
	if err == nil && (before == nil && now.Size() > 0 || before != nil && now.Size() > before.Size()) {
		return nil
	}
	for _, dir := range []string{filepath.Join(ts.Getenv("ROOT"), "run/nodejoin"), ts.MkAbs("run")} {
		if _, err := monitor.Ask(s.ctx, filepath.Join(dir, monitor.SocketName)); err == nil {
			return nil
		}
	}
	return errors.Join(err, errors.New("the agent says nothing"))
}

// stopAgent ends the agent, and says where it hangs if it does not end in time.
func (s *story) stopAgent() error {
	const limit = 5 * time.Second
	late := time.AfterFunc(limit, func() { _ = signalTo(s.agent, syscall.SIGABRT) })
	err := errors.Join(s.agent.Stop(), s.agent.Err())
	if !late.Stop() {
		return errors.Join(fmt.Errorf("the agent took longer than %s to end:\n%s", limit, s.agent.Tail(400)), err)
	}
	return err
}

func signalTo(p *testbed.Process, signal syscall.Signal) error {
	pid := p.PID()
	if pid == 0 { // kill(2) takes it for this process group
		return fmt.Errorf("%s does not run", p.Name)
	}
	return syscall.Kill(pid, signal)
}

// exitCode returns the exit status that an error of os/exec tells, -1 for any other error.
func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// inScript returns the path of a program and the environment, as a script has them.
func inScript(ts *testscript.TestScript, program string) (path string, env []string) {
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "KUBECONFIG", "GORACE", "GOCOVERDIR"} {
		if value := ts.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, env
		}
	}
	ts.Fatalf("there is no program %s", program)
	return "", nil
}

var timeInLog = regexp.MustCompile(`^time=(\S+)`)

// logged [-count N] PATTERN waits until the agent has logged a line (or N lines) that matches a regular expression since
// mark, else since its first start. ! logged PATTERN fails if it has.
func cmdLogged(ts *testscript.TestScript, neg bool, args []string) {
	s := storyOf(ts)
	f := flag.NewFlagSet("logged", flag.ContinueOnError)
	count := f.Int("count", 1, "")
	pattern, err := regexp.Compile(parse(ts, f, args, 1)[0])
	ts.Check(err)
	look := func() error {
		lines, err := s.loggedLines(ts.MkAbs(agentLog), pattern)
		if err == nil && len(lines) < *count {
			err = fmt.Errorf("the agent has logged %d such lines: %q", len(lines), lines)
		}
		return err
	}
	if neg {
		if look() == nil {
			ts.Fatalf("the agent has logged it")
		}
		return
	}
	if err := s.eventually(look); err != nil {
		all, _ := s.loggedLines(ts.MkAbs(agentLog), regexp.MustCompile("")) // the error is told already
		ts.Fatalf("%v; its log:\n%s", err, strings.Join(all, ""))
	}
}

// loggedLines returns the lines of a log since mark that match.
func (s *story) loggedLines(path string, pattern *regexp.Regexp) ([]string, error) {
	log, err := os.ReadFile(path)
	var lines []string
	for line := range strings.Lines(string(log)) {
		stamp := timeInLog.FindStringSubmatch(line)
		if stamp == nil || !pattern.MatchString(line) {
			continue
		}
		if t, err := time.Parse(time.RFC3339, stamp[1]); err == nil && !t.Before(s.marked.Truncate(time.Millisecond)) {
			lines = append(lines, line)
		}
	}
	return lines, err
}

// until [-within D] [-code N] PATTERN PROGRAM ARG... runs a program again and again until its standard output matches a regular
// expression and its exit status is N, if that is given.
func cmdUntil(ts *testscript.TestScript, _ bool, args []string) {
	s := storyOf(ts)
	f := flag.NewFlagSet("until", flag.ContinueOnError)
	within := f.Duration("within", patience, "")
	code := f.Int("code", -1, "")
	rest := parse(ts, f, args, 2)
	pattern, err := regexp.Compile("(?m)" + rest[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(s.ctx, *within)
	defer cancel()
	path, env := inScript(ts, rest[1])
	for {
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(s.ctx, path, rest[2:]...)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), env, &stdout, &stderr
		err := cmd.Run()
		if pattern.Match(stdout.Bytes()) && (*code < 0 || exitCode(err) == *code) {
			fmt.Fprint(ts.Stdout(), stdout.String())
			return
		}
		select {
		case <-ctx.Done():
			ts.Fatalf("not within %s; exit status %d\n%s%s", *within, exitCode(err), &stdout, &stderr)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// note NAME PATTERN sets an environment variable to the first group of a regular expression in what the last program
// printed.
func cmdNote(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: note NAME PATTERN")
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	found := pattern.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) < 2 {
		ts.Fatalf("there is no %q in %q", args[1], ts.ReadFile("stdout"))
	}
	ts.Setenv(args[0], found[1])
}

// process NAME kill|stop|start|pause|resume does that to a process of the control plane: etcd, kube-apiserver or
// kube-controller-manager.
func cmdProcess(ts *testscript.TestScript, _ bool, args []string) {
	s := storyOf(ts)
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for _, p := range []*testbed.Process{s.cp.Etcd, s.cp.APIServer, s.cp.ControllerManager} {
		acts := map[string]func() error{
			"kill":   func() error { p.Kill(); return nil },
			"stop":   p.Stop,
			"start":  func() error { return p.Start(ctx) },
			"pause":  p.Pause,
			"resume": p.Resume,
		}
		if len(args) == 2 && args[0] == p.Name && acts[args[1]] != nil {
			ts.Check(acts[args[1]]())
			return
		}
	}
	ts.Fatalf("usage: process etcd|kube-apiserver|kube-controller-manager kill|stop|start|pause|resume")
}

// balancer stands between agents and the API server, with the certificate of that.
type balancer struct {
	front *proxy.Proxy
	back  net.Listener
	dead  atomic.Int64 // how many of the next connections are answered here
	tls   *tls.Config

	counted int // connections before balancer count
}

// balancer start puts a balancer before the API server and sets BALANCER to its HOST:PORT. balancer refuse and balancer accept
// close and open its port; connections that were open are cut. balancer stall and balancer flow hold back every byte, and let
// them flow again. balancer unauthorized N has it answer whatever is asked over the next N connections with 401, and an
// HTML page, by itself. balancer count begins to count connections; balancer most N fails if there were more, and balancer
// least N waits for as many.
func cmdBalancer(ts *testscript.TestScript, _ bool, args []string) {
	s := storyOf(ts)
	const usage = "usage: balancer start | refuse | accept | stall | flow | count | unauthorized N | most N | least N"
	verb, n := strings.Join(args[:min(1, len(args))], ""), 0
	if len(args) == 2 {
		var err error
		n, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	b := s.balancer
	if b == nil && verb != "start" {
		ts.Fatalf("there is no balancer yet")
	}
	counted := func() int { return b.front.Accepted() - b.counted }
	switch verb {
	case "start":
		b, err := newBalancer(s.cp)
		ts.Check(err)
		ts.Defer(b.close)
		s.balancer = b
		ts.Setenv("BALANCER", b.front.Address())
	case "refuse":
		ts.Check(b.front.Refuse(true))
		b.front.Cut()
	case "accept":
		ts.Check(b.front.Refuse(false))
	case "stall", "flow":
		b.front.Stall(verb == "stall")
	case "unauthorized":
		b.dead.Store(int64(n))
		b.front.Cut()
	case "count":
		b.counted = b.front.Accepted()
	case "most":
		if counted() > n {
			ts.Fatalf("there were %d connections", counted())
		}
	case "least":
		ts.Check(s.eventually(func() error {
			if counted() < n {
				return fmt.Errorf("there were %d connections", counted())
			}
			return nil
		}))
	default:
		ts.Fatalf(usage)
	}
}

func newBalancer(cp *testbed.ControlPlane) (*balancer, error) {
	pki := filepath.Join(cp.Dir, "pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(pki, "apiserver.crt"), filepath.Join(pki, "apiserver.key"))
	if err != nil {
		return nil, err
	}
	b := &balancer{tls: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}}
	if b.back, err = net.Listen("tcp", "127.0.0.1:0"); err != nil { //nolint:noctx // it listens at once
		return nil, err
	}
	go b.accept(cp.Endpoint)
	if b.front, err = proxy.New(b.back.Addr().String(), proxy.Options{}); err != nil {
		b.back.Close()
		return nil, err
	}
	return b, nil
}

func (b *balancer) accept(target string) {
	for {
		conn, err := b.back.Accept()
		if err != nil {
			return
		}
		if b.dead.Add(-1) >= 0 {
			go b.refuse(conn)
			continue
		}
		go relay(conn, target)
	}
}

// refuse answers every request of a connection as a balancer does that has lost its mind.
func (b *balancer) refuse(conn net.Conn) {
	one := make(chan net.Conn, 1)
	one <- tls.Server(conn, b.tls)
	server := &http.Server{ErrorLog: discardLog, ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, "<html><h1>401 Unauthorized</h1></html>")
	})}
	_ = server.Serve(&listenerOfOne{one, conn.LocalAddr()}) // until there is no second connection
}

// listenerOfOne accepts one connection.
type listenerOfOne struct {
	conn chan net.Conn
	addr net.Addr
}

func (l *listenerOfOne) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conn:
		return conn, nil
	default:
		return nil, net.ErrClosed
	}
}

func (l *listenerOfOne) Close() error   { return nil }
func (l *listenerOfOne) Addr() net.Addr { return l.addr }

func relay(conn net.Conn, target string) {
	defer conn.Close()
	server, err := net.Dial("tcp", target) //nolint:noctx // it is on this machine
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, conn) // until either side ends
		server.Close()
	}()
	_, _ = io.Copy(conn, server)
}

func (b *balancer) close() {
	b.front.Close()
	b.back.Close()
}

// race N starts two agents at once, N times: one must give way with status 7, and the other run and end with 0 when it is told
// to. It takes the first less than a second on average to give way.
func cmdRace(ts *testscript.TestScript, _ bool, args []string) {
	s := storyOf(ts)
	n, err := strconv.Atoi(strings.Join(args, " "))
	ts.Check(err)
	type end struct{ which, code int }
	path, env := inScript(ts, "nodejoin")
	var total time.Duration
	for i := range n {
		var agents [2]*testbed.Process
		ends := make(chan end, 2)
		begun := time.Now()
		for which := range agents {
			p := &testbed.Process{Name: "nodejoin run", Log: ts.MkAbs(agentLog), Path: path, Env: env, Args: []string{"run", "--root", ts.Getenv("ROOT")}}
			ts.Check(p.Start(s.ctx))
			defer p.Kill()
			agents[which] = p
			go func() {
				<-p.Done()
				ends <- end{which, exitCode(p.Err())}
			}()
		}
		select {
		case first := <-ends:
			total += time.Since(begun)
			if first.code != 7 {
				ts.Fatalf("race %d: the first to end has status %d", i+1, first.code)
			}
			ts.Check(agents[1-first.which].Stop())
			if second := <-ends; second.code != 0 {
				ts.Fatalf("race %d: the other one has ended with status %d", i+1, second.code)
			}
		case <-time.After(patience):
			ts.Fatalf("race %d: nobody gives way", i+1)
		}
	}
	if total > time.Duration(n)*time.Second {
		ts.Fatalf("it took %s to give way %d times", total, n)
	}
}

// interrupt N starts the agent N times, and ends it with SIGTERM as soon as it runs, and a little later each time. It must end within 5 s, with status
// 0, and a whole pair must be in place.
func cmdInterrupt(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(strings.Join(args, " "))
	ts.Check(err)
	pair := filepath.Join(ts.Getenv("ROOT"), "var/lib/kubelet/pki/kubelet-client-current.pem")
	for i := range n {
		storyOf(ts).marked = time.Now()
		cmdAgent(ts, false, []string{"start"})
		cmdLogged(ts, false, []string{"the agent runs"})
		time.Sleep(time.Duration(i) * 3 * time.Millisecond)
		cmdAgent(ts, false, []string{"stop"})
		_, err := tls.LoadX509KeyPair(pair, pair)
		ts.Check(err)
	}
}
