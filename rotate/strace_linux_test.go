package rotate

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

// changing are the system calls that change what is on disk.
var changing = []string{"openat", "write", "fchmod", "fchmodat", "fchown", "fsync", "mkdirat", "renameat", "symlinkat", "unlinkat"}

// call is a system call of a traced child.
type call struct {
	name     string
	path     string // what it acts on; of a rename or a link, what it makes
	from     string // of a rename; of a link, what it leads to
	line     string
	failed   bool
	injected bool
}

var (
	callPattern   = regexp.MustCompile(`^(\w+)\((.*)\)\s+= (-?\d+)`)
	quotedPattern = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"(?:\.\.\.)?`)
	openPattern   = regexp.MustCompile(`^\d+<([^>]*)>`)
)

// traced runs a child on the files below root under strace, with a change to its system calls ("": none). A pair that it
// commits is pair 1. It returns those of its main thread that touch root, and how it ended.
func traced(t *testing.T, child, root, inject string) ([]call, error) {
	t.Helper()
	dir := t.TempDir()
	pairFile := filepath.Join(dir, "pair.pem")
	write(t, pairFile, string(pairNo(t, 1).pem), 0o600)
	args := []string{"strace", "-ff", "-qq", "-y", "-s", "0", "-o", filepath.Join(dir, "trace"), "-e", "trace=" + strings.Join(changing, ",")}
	if inject != "" {
		args = append(args, "-e", "inject="+inject)
	}
	if !strings.Contains(inject, "signal") {
		args = append(args, "--seccomp-bpf") // faster; with it, strace 6.1 delivers no signals
	}
	cmd := command(t, child, root, args...)
	cmd.Env = append(cmd.Env, pairVariable+"="+pairFile)
	output, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, output)
	}
	return parseTraces(t, dir, root), err
}

// parseTraces reads the trace of the thread that did something below root. There is one: the child sees to that.
func parseTraces(t *testing.T, dir, root string) []call {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "trace.*"))
	if err != nil {
		t.Fatal(err)
	}
	var found []call
	for _, file := range files {
		var calls []call
		for line := range strings.Lines(read(t, file)) {
			if c := parseCall(strings.TrimSpace(line)); strings.HasPrefix(c.path, root+"/") || c.path == root {
				calls = append(calls, c)
			}
		}
		if len(calls) != 0 && found != nil {
			t.Fatal("two threads write")
		}
		if len(calls) != 0 {
			found = calls
		}
	}
	return found
}

func parseCall(line string) call {
	parts := callPattern.FindStringSubmatch(line)
	if parts == nil {
		return call{line: line}
	}
	c := call{name: parts[1], line: line, failed: parts[3] == "-1", injected: strings.HasSuffix(line, "(INJECTED)")}
	if open := openPattern.FindStringSubmatch(parts[2]); open != nil {
		c.path = open[1]
		return c
	}
	for _, quoted := range quotedPattern.FindAllStringSubmatch(parts[2], 2) {
		c.from, c.path = c.path, quoted[1]
	}
	return c
}

func needsStrace(t *testing.T) {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err == nil {
		err = exec.CommandContext(t.Context(), path, "-f", "--seccomp-bpf", "-qq", "-e", "trace=openat", "true").Run()
	}
	expect.Able(t, "strace", err)
}

// TestOrder holds the system calls of a child against the order in which they must be made.
func TestOrder(t *testing.T) {
	needsStrace(t)
	for _, scenario := range scenarios {
		if scenario.order == nil {
			continue
		}
		t.Run(scenario.name, func(t *testing.T) {
			t.Parallel()
			store, root := newStore(t)
			scenario.prepare(t, store)
			calls, err := traced(t, scenario.child, root, "")
			if err != nil {
				t.Fatal(err)
			}
			scenario.whole(t, store)
			for i := range calls {
				calls[i].path, calls[i].from = below(root, calls[i].path), below(root, calls[i].from)
			}
			checkOrder(t, calls, scenario.order)
			if scenario.child == "commit" {
				checkAround(t, calls)
			}
		})
	}
}

// TestReplaceSecretInTheSandbox forbids what the sandbox of the unit forbids: giving a file to the owner that it has already.
func TestReplaceSecretInTheSandbox(t *testing.T) {
	needsStrace(t)
	root := t.TempDir()
	write(t, filepath.Join(root, "secret"), "old", 0o600)
	if _, err := traced(t, "replace", root, "fchown,chown,fchownat:error=EPERM"); err != nil {
		t.Error(err)
	}
	if got := read(t, filepath.Join(root, "secret")); got != "new" {
		t.Errorf("the secret is %q", got)
	}
}

func below(root, path string) string {
	if path == root {
		return "/"
	}
	return strings.TrimPrefix(path, root)
}

// after returns the index of the first system call from an index on that a condition holds for.
func after(t *testing.T, calls []call, from int, what string, match func(call) bool) int {
	t.Helper()
	for i := from; i < len(calls); i++ {
		if match(calls[i]) && !calls[i].failed {
			return i
		}
	}
	t.Errorf("no %s after %q", what, calls[max(0, from-1)].line)
	return len(calls) - 1
}

func isSync(path string) func(call) bool {
	return func(c call) bool { return c.name == "fsync" && c.path == path }
}

// stagedModes are those of the files whose mode is not 0600.
var stagedModes = map[string]string{"ca.crt": "0644", "tls.crt": "0644", "tls.key": "0640"}

func checkOrder(t *testing.T, calls []call, want []string) {
	t.Helper()
	var names []string // in the order in which they appear
	claimed := false
	for i, c := range calls {
		dir, base := filepath.Dir(c.path), filepath.Base(c.path)
		switch {
		case c.failed:
			continue
		case c.name == "mkdirat":
			if next := after(t, calls, i, "fsync of "+dir, isSync(dir)); slices.ContainsFunc(calls[i+1:next], func(c call) bool { return c.name != "fchmodat" && c.name != "openat" }) {
				t.Errorf("something is done before %s is durable in %s", c.path, dir)
			}
			if !claimed && !holds(c.path, "/var/lib/nodejoin") {
				t.Errorf("%s is made before that is remembered", c.path)
			}
		case c.name == "symlinkat":
			if filepath.IsAbs(c.from) || strings.Contains(c.from, "/") {
				t.Errorf("the link leads to %q", c.from)
			}
		case c.name == "unlinkat" && strings.HasSuffix(c.path, pendingSuffix):
			after(t, calls, i, "fsync of "+dir, isSync(dir))
			names = append(names, "-"+base)
		case c.name == "renameat":
			names = append(names, base)
			claimed = claimed || base == stateName
			// The directory is synced before anything else is renamed, linked or removed.
			if next := after(t, calls, i, "fsync of "+dir, isSync(dir)); slices.ContainsFunc(calls[i+1:next], func(c call) bool { return c.name != "openat" }) {
				t.Errorf("something is done before %s is durable", c.path)
			}
			if strings.HasSuffix(base, "-current.pem") {
				if made := after(t, calls, 0, "link", func(c call) bool { return c.name == "symlinkat" }); made > i || calls[made].path != c.from {
					t.Errorf("%s is no fresh link", c.from)
				}
				continue
			}
			mode, owned := stagedModes[base], strings.HasPrefix(base, "metrics-") || strings.HasPrefix(base, "tls.")
			if strings.HasPrefix(base, "metrics-") {
				mode = "0640"
			}
			if mode == "" {
				mode = "0600"
			}
			checkStaged(t, calls[:i], c, mode, owned && os.Geteuid() == 0)
		case c.name == "openat" && strings.Contains(c.line, "O_CREAT"):
			if !strings.Contains(c.line, "O_EXCL") || !strings.HasPrefix(base, ".") || strings.Contains(c.line, "O_TRUNC") {
				t.Errorf("not a temporary file: %s", c.line)
			}
		}
	}
	if !slices.Equal(names, want) {
		t.Errorf("the order is %q, want %q", names, want)
	}
}

// checkAround: what surrounds the pair is durable before there is a pair.
func checkAround(t *testing.T, calls []call) {
	t.Helper()
	pair := after(t, calls, 0, "pair", func(c call) bool {
		return c.name == "openat" && strings.HasPrefix(filepath.Base(c.path), ".kubelet-client-20") && strings.Contains(c.line, "O_CREAT")
	})
	for _, name := range []string{"ca.crt", "kubelet.conf"} {
		if at := after(t, calls, 0, "fsync of "+name, func(c call) bool { return c.name == "fsync" && strings.HasPrefix(filepath.Base(c.path), "."+name) }); at > pair {
			t.Errorf("%s was not durable before the pair", name)
		}
	}
}

// checkStaged follows a temporary file from its making to the rename: the mode, the owner, then the content, then its
// fsync.
func checkStaged(t *testing.T, before []call, rename call, mode string, owned bool) {
	t.Helper()
	var steps []string
	for _, c := range before {
		if c.path != rename.from || c.failed {
			continue
		}
		step := c.name
		if step == "openat" && !strings.Contains(c.line, "O_CREAT|O_EXCL") {
			step = "opened again"
		}
		if step == "openat" && strings.Contains(c.line, ", "+mode+")") || step == "fchmod" && strings.Contains(c.line, ", "+mode+")") {
			step += " " + mode
		}
		if len(steps) == 0 || steps[len(steps)-1] != step { // once or twice, it is synced
			steps = append(steps, step)
		}
	}
	got, rest := strings.Join(steps, ", "), ", write, fsync"
	if owned {
		rest = ", fchown" + rest
	}
	if got != "openat "+mode+rest && got != "openat, fchmod "+mode+rest {
		t.Errorf("%s: %s; want openat %s%s", rename.path, got, mode, rest)
	}
}

// scenario is something that a child does and is disturbed in.
type scenario struct {
	name    string
	child   string
	order   []string                       // in which files appear, and pending keys (-) disappear; nil: not looked at
	prepare func(t *testing.T, s *Store)   // what it finds
	whole   func(t *testing.T, s *Store)   // what must hold when it was not disturbed
	holds   func(t *testing.T, s *Store)   // what must hold when it was
	mend    func(*testing.T, *Store) error // what a next run does; whole must hold after it
	foreign bool                           // there was an identity that this program did not make
}

var scenarios = []scenario{
	{
		name: "join", child: "commit",
		order:   []string{pendingName, stateName, stateName, "kubelet-client-2026-03-14-15-10-26.pem", currentName, "ca.crt", "kubelet.conf", stateName, "-" + pendingName},
		prepare: func(*testing.T, *Store) {},
		whole:   wantOneOf(1, 2),
		holds: func(t *testing.T, store *Store) {
			disk := mustLoad(t, store)
			if disk.PairErr != nil || disk.KubeconfigErr != nil || disk.Pair != nil && disk.Pair.Fingerprint() != pairNo(t, 1).Fingerprint() || disk.Kubeconfig != nil && !disk.Whole() {
				t.Errorf("%+v", disk)
			}
			wantPending(t, &disk.Found)
		},
		mend: rotateAgain,
	},
	{
		name: "rotation", child: "commit",
		order: []string{pendingName, stateName, "kubelet-client-2026-03-14-15-10-26.pem", currentName, "ca.crt", "kubelet.conf", stateName, "-" + pendingName},
		prepare: func(t *testing.T, store *Store) {
			must(t, rotation(store, pairNo(t, 0), testTime))
		},
		whole: wantOneOf(1, 2),
		holds: wantOldOrNew,
		mend:  rotateAgain,
	},
	{
		name: "adoption", child: "commit", foreign: true,
		order:   []string{pendingName, stateName, "kubelet-client-2026-03-14-15-10-26.pem", currentName, "ca.crt", "kubelet.conf", stateName, "-" + pendingName},
		prepare: kubeletsFiles,
		whole:   wantOneOf(1, 2),
		holds:   wantOldOrNew,
		mend:    rotateAgain,
	},
	{
		name: "first of a slot", child: "slot",
		order:   []string{"metrics.key.pending", stateName, stateName, "metrics-2026-03-14-15-10-26.pem", "metrics-current.pem", stateName, "tls.key", "tls.crt", stateName, "-metrics.key.pending"},
		prepare: func(*testing.T, *Store) {},
		whole:   wantSlotOneOf(1, 2),
		holds: func(t *testing.T, store *Store) {
			found, err := aSlot(store).Load()
			if err != nil || found.PairErr != nil || found.Pair == nil && found.Spare != nil && found.Spare.Fingerprint() != pairNo(t, 1).Fingerprint() {
				t.Errorf("%+v, %v", found, err)
			}
			if found.Pair != nil {
				wantSlot(t, store, pairNo(t, 1))
			}
			wantPending(t, found)
		},
		mend: rotateSlotAgain,
	},
	{
		name: "rotation of a slot", child: "slot",
		order: []string{"metrics.key.pending", stateName, "metrics-2026-03-14-15-10-26.pem", "metrics-current.pem", stateName, "tls.key", "tls.crt", stateName, "-metrics.key.pending"},
		prepare: func(t *testing.T, store *Store) {
			must(t, slotRotation(store, pairNo(t, 0), testTime))
		},
		whole: wantSlotOneOf(1, 2),
		holds: func(t *testing.T, store *Store) {
			found := wantSlot(t, store, pairNo(t, 0), pairNo(t, 1))
			wantPending(t, found)
			key, certificate := read(t, store.on(aSlot(store).PrivateKeyFile)), read(t, store.on(aSlot(store).CertificateFile))
			newChain, _ := parts(t, pairNo(t, 1))
			if _, oldKey := parts(t, pairNo(t, 0)); certificate == string(newChain) && key == string(oldKey) {
				t.Error("the copy of the certificate came before that of its key")
			}
		},
		mend: rotateSlotAgain,
	},
}

func wantOneOf(numbers ...int) func(*testing.T, *Store) {
	return func(t *testing.T, store *Store) {
		t.Helper()
		var pairs []*KeyPair
		for _, n := range numbers {
			pairs = append(pairs, pairNo(t, n))
		}
		wantIdentity(t, store, pairs...)
		wantWhole(t, store, mustLoad(t, store).Pair)
	}
}

func wantSlotOneOf(numbers ...int) func(*testing.T, *Store) {
	return func(t *testing.T, store *Store) {
		t.Helper()
		var pairs []*KeyPair
		for _, n := range numbers {
			pairs = append(pairs, pairNo(t, n))
		}
		wantSlotWhole(t, store, wantSlot(t, store, pairs...).Pair)
	}
}

func wantOldOrNew(t *testing.T, store *Store) {
	t.Helper()
	wantIdentity(t, store, pairNo(t, 0), pairNo(t, 1))
	disk := mustLoad(t, store)
	if !disk.Whole() {
		t.Error("the kubeconfig does not lead to the pair")
	}
	wantPending(t, &disk.Found)
}

func wantPending(t *testing.T, found *Found) {
	t.Helper()
	if key := found.PendingKey; len(key) != 0 && string(key) != string(pendingKey) {
		t.Errorf("the pending key is %q", key)
	}
}

func rotateAgain(t *testing.T, store *Store) error {
	return rotation(store, pairNo(t, 2), testTime.Add(time.Hour))
}

func rotateSlotAgain(t *testing.T, store *Store) error {
	return slotRotation(store, pairNo(t, 2), testTime.Add(time.Hour))
}

// kubeletsFiles writes what a kubelet has that joined by itself, on a machine that had its CA bundle before.
func kubeletsFiles(t *testing.T, store *Store) {
	t.Helper()
	root := store.paths.Root
	write(t, filepath.Join(root, "var/lib/dpkg/status"), "", 0o644)
	write(t, store.paths.CAFile, string(testCA), 0o644)
	write(t, filepath.Join(store.paths.CertDir, kubeletsPair), string(pairNo(t, 0).pem), 0o600)
	link(t, kubeletsPair, filepath.Join(store.paths.CertDir, currentName))
	current := store.Client.CurrentPath()
	write(t, store.paths.Kubeconfig, config(", certificate-authority-data: "+base64.StdEncoding.EncodeToString(testCA), "client-certificate: "+current+", client-key: "+current), 0o600)
}

const kubeletsPair = "kubelet-client-2026-01-01-00-00-00.pem"

// killed runs a scenario and kills it before the n. system call of a name. It reports whether it was.
func (s *scenario) killed(t *testing.T, store *Store, name string, n int) bool {
	t.Helper()
	_, err := traced(t, s.child, store.paths.Root, fmt.Sprintf("%s:signal=KILL:when=%d", name, n))
	if err == nil {
		return false
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatal(err)
	}
	return true
}

// makes reports whether a scenario that is not disturbed makes a system call.
func (s *scenario) makes(t *testing.T, name string) bool {
	t.Helper()
	store, root := newStore(t)
	s.prepare(t, store)
	calls, err := traced(t, s.child, root, "")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(calls, func(c call) bool { return c.name == name })
}

// TestKilled kills each scenario before every system call that changes something.
func TestKilled(t *testing.T) {
	needsStrace(t)
	for _, scenario := range scenarios {
		for _, name := range changing {
			t.Run(scenario.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				for n := 1; ; n++ {
					store, _ := newStore(t)
					scenario.prepare(t, store)
					before := fingerprint(t, store.paths.Root)
					if !scenario.killed(t, store, name, n) {
						if n == 1 && scenario.makes(t, name) {
							t.Error("never killed")
						}
						t.Logf("killed %d times", n-1)
						return
					}
					scenario.checkRecovery(t, store, before, fmt.Sprintf("killed before the %d. %s", n, name))
				}
			})
		}
	}
}

// TestSystemCallFails has each system call that changes something fail, one at a time.
func TestSystemCallFails(t *testing.T) {
	needsStrace(t)
	for _, scenario := range scenarios {
		for failure, class := range map[string]fault.Class{
			"fsync:error=EIO": fault.Unexpected, "write:error=ENOSPC": fault.Unexpected, "renameat:error=EIO": fault.Unexpected, "symlinkat:error=ENOSPC": fault.Unexpected,
			"mkdirat:error=EROFS": fault.Files, "fchmod:error=EIO": fault.Unexpected, "fchown:error=EPERM": fault.Files,
		} {
			t.Run(scenario.name+"/"+failure, func(t *testing.T) {
				t.Parallel()
				for n := 1; ; n++ {
					store, root := newStore(t)
					scenario.prepare(t, store)
					before := fingerprint(t, root)
					calls, err := traced(t, scenario.child, root, fmt.Sprintf("%s:when=%d", failure, n))
					if !slices.ContainsFunc(calls, func(c call) bool { return c.injected }) {
						if name, _, _ := strings.Cut(failure, ":"); n == 1 && scenario.makes(t, name) {
							t.Error("never failed")
						}
						t.Logf("failed %d times", n-1)
						return
					}
					exit, ok := errors.AsType[*exec.ExitError](err)
					if !ok || exit.ExitCode() != int(class) {
						t.Errorf("the %d. failed and the child says %v, want status %d", n, err, class)
					}
					scenario.checkRecovery(t, store, before, fmt.Sprintf("the %d. %s", n, failure))
				}
			})
		}
	}
}

// checkRecovery is what must hold after a disturbance: I1, no torn pending key, a reset that leaves what was there before
// and nothing else, and a next run that mends everything.
func (s *scenario) checkRecovery(t *testing.T, store *Store, before map[string]string, when string) {
	t.Helper()
	s.holds(t, store)
	waitForLock(t, store)
	s.checkReset(t, store, before)
	if err := s.mend(t, store); err != nil {
		t.Errorf("the next run: %v", err)
	}
	s.whole(t, store)
	if t.Failed() {
		t.Fatal(when)
	}
	if err := os.RemoveAll(store.paths.Root); err != nil {
		t.Fatal(err)
	}
}

// waitForLock waits for the lock of a process that was killed. A process that the test is about to start beside this one
// can hold on to it for a moment, too: it has all open files until its program begins.
func waitForLock(t *testing.T, store *Store) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		lock, err := store.Lock()
		if err == nil {
			must(t, lock.Unlock())
			return
		}
		if fault.ClassOf(err) != fault.Held || time.Since(start) > 5*time.Second {
			t.Fatal(err)
		}
	}
}

// checkReset resets a copy of the machine. Where there was no identity, or one that this program had made, nothing is left;
// else what was there before is.
func (s *scenario) checkReset(t *testing.T, store *Store, before map[string]string) {
	t.Helper()
	root := filepath.Join(tempDir(t), "copy")
	if err := run(t, "cp", "-a", store.paths.Root, root); err != nil {
		t.Fatal(err)
	}
	state := mustState(t, store)
	if _, err := NewStore(testPaths(root)).Reset(); err != nil {
		t.Errorf("reset: %v", err)
	}
	after := fingerprint(t, root)
	for path := range after {
		switch {
		case path == "var" || path == "var/lib":
			if slices.Contains(state.MadeDirs, "/"+path) {
				t.Errorf("reset: %s is left", path)
			}
		case !s.foreign || before[path] == "":
			t.Errorf("reset: %s is left: %s", path, after[path])
		}
	}
	if !s.foreign {
		return
	}
	for path := range before {
		if after[path] == "" && path != "var/lib/kubelet/pki/"+currentName {
			t.Errorf("reset: %s is gone", path)
		}
	}
	if target, err := os.Readlink(filepath.Join(root, "var/lib/kubelet/pki", currentName)); err == nil && filepath.Base(target) != kubeletsPair {
		t.Errorf("reset: a link to %s is left", target)
	}
	if read(t, filepath.Join(root, "var/lib/kubelet/pki", kubeletsPair)) != string(pairNo(t, 0).pem) {
		t.Error("reset: the kubelet's pair is another")
	}
}
