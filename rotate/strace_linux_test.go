package rotate

import (
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
)

// changing are the system calls that change what is on disk.
var changing = []string{"openat", "write", "fchmod", "fchmodat", "fsync", "mkdirat", "renameat", "symlinkat", "unlinkat"}

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

// traced runs a child that commits a pair below root under strace, with a change to its system calls ("": none). It
// returns those of its main thread that touch root, and how it ended.
func traced(t *testing.T, root string, pair *KeyPair, inject string) ([]call, error) {
	t.Helper()
	dir := t.TempDir()
	pairFile := filepath.Join(dir, "pair.pem")
	write(t, pairFile, string(pair.pem), 0o600)
	args := []string{"strace", "-ff", "-qq", "-y", "-s", "0", "-o", filepath.Join(dir, "trace"), "-e", "trace=" + strings.Join(changing, ",")}
	if inject != "" {
		args = append(args, "-e", "inject="+inject)
	}
	if !strings.Contains(inject, "signal") {
		args = append(args, "--seccomp-bpf") // faster; with it, strace 6.1 delivers no signals
	}
	cmd := command(t, "commit", root, args...)
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
	needs(t, "it takes strace", err)
}

// TestOrder holds the system calls of a first join and of a rotation against the order in which they must be made.
func TestOrder(t *testing.T) {
	needsStrace(t)
	for _, name := range []string{"join", "rotation"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, root := newStore(t)
			if name == "rotation" {
				if err := rotation(store, pairNo(t, 0), testTime); err != nil {
					t.Fatal(err)
				}
			}
			calls, err := traced(t, root, pairNo(t, 1), "")
			if err != nil {
				t.Fatal(err)
			}
			wantWhole(t, store, pairNo(t, 1))
			for i := range calls {
				calls[i].path, calls[i].from = below(root, calls[i].path), below(root, calls[i].from)
			}
			checkOrder(t, calls)
		})
	}
}

func below(root, path string) string {
	if path == root {
		return "/"
	}
	return strings.TrimPrefix(path, root)
}

func checkOrder(t *testing.T, calls []call) {
	t.Helper()
	index := func(from int, what string, match func(call) bool) int {
		t.Helper()
		for i := from; i < len(calls); i++ {
			if match(calls[i]) && !calls[i].failed {
				return i
			}
		}
		t.Errorf("no %s after %q", what, calls[max(0, from-1)].line)
		return len(calls) - 1
	}
	isSync := func(path string) func(call) bool {
		return func(c call) bool { return c.name == "fsync" && c.path == path }
	}
	modes := map[string]string{"/etc/kubernetes/pki/ca.crt": "0644"}
	var names []string // in the order in which they appear
	for i, c := range calls {
		dir := filepath.Dir(c.path)
		switch {
		case c.failed:
			continue
		case c.name == "mkdirat":
			if next := index(i, "fsync of "+dir, isSync(dir)); slices.ContainsFunc(calls[i+1:next], func(c call) bool { return c.name != "fchmodat" && c.name != "openat" }) {
				t.Errorf("something is done before %s is durable in %s", c.path, dir)
			}
		case c.name == "symlinkat":
			if filepath.IsAbs(c.from) || strings.Contains(c.from, "/") {
				t.Errorf("the link leads to %q", c.from)
			}
		case c.name == "unlinkat" && strings.HasSuffix(c.path, pendingName):
			index(i, "fsync of "+dir, isSync(dir))
			names = append(names, "-"+filepath.Base(c.path))
		case c.name == "renameat":
			names = append(names, filepath.Base(c.path))
			// The directory is synced before anything else is renamed, linked or removed.
			if next := index(i, "fsync of "+dir, isSync(dir)); slices.ContainsFunc(calls[i+1:next], func(c call) bool { return c.name != "openat" }) {
				t.Errorf("something is done before %s is durable", c.path)
			}
			if filepath.Base(c.path) == currentName {
				if made := index(0, "link", func(c call) bool { return c.name == "symlinkat" }); made > i || calls[made].path != c.from {
					t.Errorf("%s is no fresh link", c.from)
				}
				continue
			}
			mode := modes[c.path]
			if mode == "" {
				mode = "0600"
			}
			checkStaged(t, calls[:i], c, mode)
		case c.name == "openat" && strings.Contains(c.line, "O_CREAT"):
			if !strings.Contains(c.line, "O_EXCL") || !strings.HasPrefix(filepath.Base(c.path), ".") || strings.Contains(c.line, "O_TRUNC") {
				t.Errorf("not a temporary file: %s", c.line)
			}
		}
	}
	want := []string{pendingName, "kubelet-client-2026-03-14-15-10-26.pem", currentName, "ca.crt", "kubelet.conf", stateName, "-" + pendingName}
	if !slices.Equal(names, want) {
		t.Errorf("the order is %q, want %q", names, want)
	}
	// What surrounds the pair is durable before there is a pair.
	pair := index(0, "pair", func(c call) bool {
		return c.name == "openat" && strings.HasPrefix(filepath.Base(c.path), ".kubelet-client-20") && strings.Contains(c.line, "O_CREAT")
	})
	for _, name := range []string{"ca.crt", "kubelet.conf"} {
		if at := index(0, "fsync of "+name, func(c call) bool { return c.name == "fsync" && strings.HasPrefix(filepath.Base(c.path), "."+name) }); at > pair {
			t.Errorf("%s was not durable before the pair", name)
		}
	}
}

// checkStaged follows a temporary file from its making to the rename: the mode, then the content, then its fsync.
func checkStaged(t *testing.T, before []call, rename call, mode string) {
	t.Helper()
	var steps []string
	for _, c := range before {
		if c.path != rename.from || c.failed {
			continue
		}
		step := c.name
		if step == "openat" && !strings.Contains(c.line, "O_CREAT|O_EXCL") {
			step = "reopened"
		}
		if step == "openat" && strings.Contains(c.line, ", "+mode+")") || step == "fchmod" && strings.Contains(c.line, ", "+mode+")") {
			step += " " + mode
		}
		if len(steps) == 0 || steps[len(steps)-1] != step { // once or twice, it is synced
			steps = append(steps, step)
		}
	}
	got, want := strings.Join(steps, ", "), "openat "+mode+", write, fsync"
	if got != want && got != "openat, fchmod "+mode+", write, fsync" {
		t.Errorf("%s: %s; want %s", rename.path, got, want)
	}
}

// scenarios are what a child is disturbed in: the store it finds, and the pair that is old in it.
var scenarios = []struct {
	name string
	old  bool
}{{"join", false}, {"rotation", true}}

// TestKilled kills a join and a rotation before every system call that changes something.
func TestKilled(t *testing.T) {
	needsStrace(t)
	for _, scenario := range scenarios {
		for _, name := range changing {
			t.Run(scenario.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				for n := 1; ; n++ {
					store, root := newStore(t)
					if scenario.old {
						if err := rotation(store, pairNo(t, 0), testTime); err != nil {
							t.Fatal(err)
						}
					}
					_, err := traced(t, root, pairNo(t, 1), fmt.Sprintf("%s:signal=KILL:when=%d", name, n))
					if err == nil {
						if made := name == "mkdirat" || name == "fchmodat"; n == 1 && (!scenario.old || !made) { // there are directories already
							t.Error("never killed")
						}
						t.Logf("killed %d times", n-1)
						return
					}
					if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
						t.Fatal(err)
					}
					checkRecovery(t, store, scenario.old, fmt.Sprintf("killed before the %d. %s", n, name))
				}
			})
		}
	}
}

// TestSystemCallFails has each system call that changes something fail, one at a time.
func TestSystemCallFails(t *testing.T) {
	needsStrace(t)
	for _, scenario := range scenarios {
		for name, class := range map[string]fault.Class{
			"fsync:error=EIO": fault.Unexpected, "write:error=ENOSPC": fault.Unexpected, "renameat:error=EIO": fault.Unexpected, "symlinkat:error=ENOSPC": fault.Unexpected,
			"mkdirat:error=EROFS": fault.Files, "fchmod:error=EIO": fault.Unexpected,
		} {
			t.Run(scenario.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				for n := 1; ; n++ {
					store, root := newStore(t)
					if scenario.old {
						if err := rotation(store, pairNo(t, 0), testTime); err != nil {
							t.Fatal(err)
						}
					}
					calls, err := traced(t, root, pairNo(t, 1), fmt.Sprintf("%s:when=%d", name, n))
					if !slices.ContainsFunc(calls, func(c call) bool { return c.injected }) {
						if n == 1 && (!scenario.old || name != "mkdirat:error=EROFS") {
							t.Error("never failed")
						}
						t.Logf("failed %d times", n-1)
						return
					}
					exit, ok := errors.AsType[*exec.ExitError](err)
					if !ok || exit.ExitCode() != int(class) {
						t.Errorf("the %d. failed and the child says %v, want status %d", n, err, class)
					}
					checkRecovery(t, store, scenario.old, fmt.Sprintf("the %d. %s", n, name))
				}
			})
		}
	}
}

// checkRecovery is what must hold after a disturbance: I1, no torn pending key, and a next run that mends everything.
func checkRecovery(t *testing.T, store *Store, old bool, when string) {
	t.Helper()
	if old {
		wantIdentity(t, store, pairNo(t, 0), pairNo(t, 1))
		if disk := mustLoad(t, store); !disk.Whole() {
			t.Errorf("%s: the kubeconfig does not lead to the pair", when)
		}
	} else {
		disk := mustLoad(t, store)
		if disk.PairErr != nil || disk.KubeconfigErr != nil || disk.Pair != nil && disk.Pair.Fingerprint() != pairNo(t, 1).Fingerprint() || disk.Kubeconfig != nil && !disk.Whole() {
			t.Errorf("%s: %+v", when, disk)
		}
	}
	if key := mustLoad(t, store).PendingKey; len(key) != 0 && string(key) != string(pendingKey) {
		t.Errorf("%s: the pending key is %q", when, key)
	}
	if err := rotation(store, pairNo(t, 2), testTime.Add(time.Hour)); err != nil {
		t.Errorf("%s: the next run: %v", when, err)
	}
	wantWhole(t, store, pairNo(t, 2))
	if t.Failed() {
		t.Fatal(when)
	}
	if err := os.RemoveAll(store.paths.Root); err != nil {
		t.Fatal(err)
	}
}
