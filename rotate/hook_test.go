//go:build unix

package rotate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nodejoin/nodejoin/test/expect"
)

// patience bounds what a test waits for.
const patience = 30 * time.Second

// logged is what was logged, a line a message.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(line))
	return len(line), nil
}

func (l *logged) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// messages returns what was logged so far.
func (l *logged) messages(tb testing.TB) []map[string]any {
	tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var messages []map[string]any
	for _, line := range l.lines {
		var message map[string]any
		if err := json.Unmarshal([]byte(line), &message); err != nil {
			tb.Fatalf("%v: %s", err, line)
		}
		delete(message, "time")
		messages = append(messages, message)
	}
	return messages
}

// output returns the lines of a hook's output that were logged so far.
func (l *logged) output(tb testing.TB) []string {
	tb.Helper()
	var lines []string
	for _, message := range l.messages(tb) {
		if line, is := message["line"].(string); is {
			lines = append(lines, line)
		}
	}
	return lines
}

// says reports whether a message was logged.
func (l *logged) says(tb testing.TB, text string) bool {
	tb.Helper()
	return slices.ContainsFunc(l.messages(tb), func(message map[string]any) bool { return message["msg"] == text })
}

// shell returns a hook that is a shell script.
func shell(script string, args ...string) Hook {
	return Hook{Name: "reload", Command: append([]string{"sh", "-c", script, "sh"}, args...)}
}

// TestHookEnvironment: it is what is documented, and nothing of the agent's own is in it. It does not run in parallel: the
// environment is the process's.
func TestHookEnvironment(t *testing.T) {
	t.Setenv("NODEJOIN_TOKEN", "abcdef.0123456789abcdef")
	t.Setenv("NODEJOIN_NODE", "another")
	t.Setenv("PATH", "/nowhere")
	t.Setenv("HOME", "/root")
	t.Setenv("LANG", "de_DE.UTF-8")
	t.Setenv("LD_PRELOAD", "")
	always := []string{"HOME=/", "LANG=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, test := range []struct {
		name   string
		change Change
		want   []string
	}{
		{"everything", Change{
			What: []string{"kubelet-client"}, Node: "node-1", Certificate: "/var/lib/kubelet/pki/kubelet-client-current.pem", Serial: "0a:1b",
			NotAfter: time.Date(2026, 3, 14, 17, 9, 26, 535, time.FixedZone("east", 3600)), Kubeconfig: "/etc/kubernetes/kubelet.conf", CAFile: "/etc/kubernetes/pki/ca.crt",
		}, []string{
			"NODEJOIN_CHANGED=kubelet-client", "NODEJOIN_NODE=node-1", "NODEJOIN_CERTIFICATE=/var/lib/kubelet/pki/kubelet-client-current.pem", "NODEJOIN_SERIAL=0a:1b",
			"NODEJOIN_NOT_AFTER=2026-03-14T16:09:26Z", "NODEJOIN_KUBECONFIG=/etc/kubernetes/kubelet.conf", "NODEJOIN_CA_FILE=/etc/kubernetes/pki/ca.crt",
		}},
		{"several changes", Change{What: []string{"metrics", "ca", "kubeconfig"}}, []string{"NODEJOIN_CHANGED=metrics ca kubeconfig"}},
		{"what a shell would take apart", Change{Node: "$(id) `id`; *", CAFile: "/a b"}, []string{"NODEJOIN_NODE=$(id) `id`; *", "NODEJOIN_CA_FILE=/a b"}},
		{"nothing", Change{}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log logged
			must(t, Hook{Name: "reload", Command: []string{"env"}}.Run(t.Context(), test.change, log.logger()))
			got, want := log.output(t), append(slices.Clone(always), test.want...)
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestHookSurroundings: there is no shell that was not asked for, nothing to read, and the directory is the root.
func TestHookSurroundings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		hook Hook
		want []string
	}{
		{"no shell", Hook{Name: "reload", Command: []string{"printf", `%s\n`, "$HOME", "*", "a; b", "`id`", "a b", ">/tmp/x", "%s"}}, []string{"$HOME", "*", "a; b", "`id`", "a b", ">/tmp/x", "%s"}},
		{"an empty argument", Hook{Name: "reload", Command: []string{"printf", `[%s]\n`, "", "a"}}, []string{"[]", "[a]"}},
		{"a path", Hook{Name: "reload", Command: []string{"/bin/echo", "a"}}, []string{"a"}},
		{"a path from the root", Hook{Name: "reload", Command: []string{"./bin/echo", "a"}}, []string{"a"}},
		{"the directory", Hook{Name: "reload", Command: []string{"pwd"}}, []string{"/"}},
		{"nothing to read", shell(`cat; if read line; then echo "$line"; else echo end; fi`), []string{"end"}},
		{"both outputs in their order", shell(`echo 1; echo 2 >&2; echo 3; echo 4 >&2`), []string{"1", "2", "3", "4"}},
		{"no output", Hook{Name: "reload", Command: []string{"true"}}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var log logged
			must(t, test.hook.Run(t.Context(), Change{}, log.logger()))
			if diff := cmp.Diff(test.want, log.output(t)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestHookProgram: what cannot be run is told, by name. It does not run in parallel: PATH is the process's.
func TestHookProgram(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "only-the-agent-finds-it"), "#!/bin/sh\n", 0o755)
	write(t, filepath.Join(dir, "no-program"), "#!/bin/sh\n", 0o644)
	write(t, filepath.Join(dir, "no-interpreter"), "#!/nowhere/sh\n", 0o755)
	write(t, filepath.Join(dir, "text"), "text", 0o755)
	t.Setenv("PATH", dir)
	const usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, test := range []struct {
		name    string
		command []string
		want    string
	}{
		{"no command", nil, "cannot run the hook reload: it has no command"},
		{"no name", []string{""}, `cannot run the hook reload: there is no program "" in ` + usual},
		{"unknown", []string{"no-such-program"}, `cannot run the hook reload: there is no program "no-such-program" in ` + usual},
		{"in the agent's PATH alone", []string{"only-the-agent-finds-it"}, `there is no program "only-the-agent-finds-it" in ` + usual},
		{"a directory of the usual ones", []string{"X11"}, `there is no program "X11" in ` + usual}, // where there is one at all
		{"a path to nothing", []string{filepath.Join(dir, "nothing")}, "cannot run the hook reload: fork/exec " + dir + "/nothing: no such file or directory"},
		{"a directory", []string{dir}, "permission denied"},
		{"not executable", []string{filepath.Join(dir, "no-program")}, "permission denied"},
		{"without its interpreter", []string{filepath.Join(dir, "no-interpreter")}, "no such file or directory"},
		{"no program at all", []string{filepath.Join(dir, "text")}, "exec format error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log logged
			expect.Fault(t, Hook{Name: "reload", Command: test.command}.Run(t.Context(), Change{}, log.logger()), 0, test.want)
			if got := log.messages(t); len(got) != 0 {
				t.Errorf("it was logged as well as returned: %v", got)
			}
		})
	}
}

// TestHookOutput: whatever a program puts out comes to the log as harmless lines, within limits.
func TestHookOutput(t *testing.T) {
	t.Parallel()
	const more = "..."
	for _, test := range []struct {
		name, output string
		want         []string
	}{
		{"lines", "one\ntwo\n", []string{"one", "two"}},
		{"no last newline", "one\ntwo", []string{"one", "two"}},
		{"blank lines", "\n\none\n \t\r\n\ntwo\n\n", []string{"one", "two"}},
		{"spaces", "  in front\nbehind  \n", []string{"  in front", "behind"}},
		{"CRLF", "one\r\ntwo\r\n", []string{"one", "two"}},
		{"progress on one line", "10 %\r20 %\n", []string{"10 %\ufffd20 %"}},
		{"tabs", "a\tb\n", []string{"a b"}},
		{"an escape sequence", "\x1b[31mred\x1b[0m\n", []string{"\ufffd[31mred\ufffd[0m"}},
		{"NUL, bell, delete", "a\x00b\ac\x7fd\n", []string{"a\ufffdb\ufffdc\ufffdd"}},
		{"a control character of two bytes", "a\u009bb\n", []string{"a\ufffdb"}},
		{"no UTF-8", "a\xffb\xc3\n", []string{"a\ufffdb\ufffd"}},
		{"letters of all kinds", "Grüße, 世界 ∞\n", []string{"Grüße, 世界 ∞"}},
		{"right to left, and invisible", "a\u202eb\u200bc\u2028d\n", []string{"a\ufffdb\ufffdc\ufffdd"}},
		{"as long as a line may be", strings.Repeat("x", 1024) + "\n", []string{strings.Repeat("x", 1024)}},
		{"longer than a line may be", strings.Repeat("x", 1025) + "\n", []string{strings.Repeat("x", 1024) + " " + more}},
		{"much longer, and another", strings.Repeat("x", 300_000) + "\ntwo\n", []string{strings.Repeat("x", 1024) + " " + more, "two"}},
		{"much longer, without an end", strings.Repeat("x", 300_000), []string{strings.Repeat("x", 1024) + " " + more}},
		{"cut within a letter", strings.Repeat("x", 1023) + "ü\n", []string{strings.Repeat("x", 1023) + "\ufffd " + more}},
		{"as much as is logged", strings.Repeat(strings.Repeat("x", 64)+"\n", 1024), slices.Repeat([]string{strings.Repeat("x", 64)}, 1024)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "output")
			write(t, file, test.output, 0o600)
			var log logged
			must(t, Hook{Name: "reload", Command: []string{"cat", file}}.Run(t.Context(), Change{}, log.logger()))
			if diff := cmp.Diff(test.want, log.output(t)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, message := range log.messages(t) {
				if delete(message, "line"); !cmp.Equal(message, map[string]any{"level": "INFO", "msg": "hook output", "hook": "reload"}) {
					t.Errorf("got %v", message)
				}
			}
		})
	}
}

// TestHookOutputWithoutEnd: what is over the limit is not logged, which is said once, and still read: the program can go
// on, and what it says last is known.
func TestHookOutputWithoutEnd(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, line string
		want       int // lines that are logged
	}{
		{"short lines", "x", 64 << 10 / 64},
		{"long lines", strings.Repeat("x", 1000), 64 << 10 / 1000},
		{"lines that are too long", strings.Repeat("x", 5000), 64 << 10 / (1024 + len(" ..."))},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "output")
			write(t, file, strings.Repeat(test.line+"\n", 20_000), 0o600)
			var log logged
			err := shell(`cat "$1"; echo done; echo; exit 3`, file).Run(t.Context(), Change{}, log.logger())
			if want := "the hook reload failed: exit status 3 (it said last: done)"; err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
			messages := log.messages(t)
			if got := len(log.output(t)); got != test.want || len(messages) != got+1 {
				t.Errorf("%d lines in %d messages, want %d", got, len(messages), test.want)
			}
			if last := messages[len(messages)-1]; last["msg"] != "the hook says more than is logged" || last["hook"] != "reload" {
				t.Errorf("the last message is %v", last)
			}
		})
	}
}

// TestHookLog: however the output is cut into writes, the same is logged, and nothing is held on to but the line.
func TestHookLog(t *testing.T) {
	hook := &hookLog{log: slog.New(slog.DiscardHandler), left: hookOutput}
	for range 100 {
		if n, err := hook.Write(bytes.Repeat([]byte("x"), 32<<10)); n != 32<<10 || err != nil {
			t.Fatalf("%d bytes were taken, %v", n, err)
		}
	}
	if cap(hook.line) > 4*hookLine {
		t.Errorf("%d bytes of a line are held", cap(hook.line))
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(rapid.SampledFrom([]byte("aü\x1b\t \r\n\n\xff")), 0, 3000).Draw(t, "text")
		collect := func(pieces ...[]byte) string {
			var log bytes.Buffer
			silent := func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}
			hook := &hookLog{hook: "reload", log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: silent})), left: 500}
			for _, piece := range pieces {
				if n, err := hook.Write(piece); n != len(piece) || err != nil {
					t.Fatalf("%d of %d bytes were taken, %v", n, len(piece), err)
				}
			}
			hook.flush()
			return log.String() + "last: " + hook.last
		}
		var pieces [][]byte
		for rest := text; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		if diff := cmp.Diff(collect(text), collect(pieces...)); diff != "" {
			t.Fatalf("(-at once +in pieces):\n%s", diff)
		}
	})
}

// TestHookFails: the error says how it ended, and what it said last.
func TestHookFails(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the agent ends"))
	for _, test := range []struct {
		name string
		ctx  context.Context
		hook Hook
		want string
	}{
		{"silently", t.Context(), Hook{Name: "reload", Command: []string{"false"}}, "the hook reload failed: exit status 1"},
		{"with a word", t.Context(), shell(`echo first; echo "no such service" >&2; exit 5`), "the hook reload failed: exit status 5 (it said last: no such service)"},
		{"with a word and blanks", t.Context(), shell(`echo "no such service"; echo; echo " "; exit 5`), "the hook reload failed: exit status 5 (it said last: no such service)"},
		{"with a word that is not harmless", t.Context(), shell(`printf 'a\033[2Jb'; exit 5`), "the hook reload failed: exit status 5 (it said last: a\ufffd[2Jb)"},
		{"with too long a word", t.Context(), shell(`printf '%02000d' 0; exit 5`), "the hook reload failed: exit status 5 (it said last: " + strings.Repeat("0", 1024) + " ...)"},
		{"by a signal", t.Context(), shell(`echo first; kill -9 $$`), "the hook reload failed: signal: killed (it said last: first)"},
		{"by a signal like ours", t.Context(), shell(`kill $$`), "the hook reload failed: signal: terminated"},
		{"before it began", gone, shell(`echo first`), "cannot run the hook reload: context canceled"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var log logged
			err := test.hook.Run(test.ctx, Change{}, log.logger())
			expect.Fault(t, err, 0, "")
			if err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// TestConcerns: a hook is for what it names, and for everything if it names nothing.
func TestConcerns(t *testing.T) {
	for _, test := range []struct {
		on   []string
		what string
		want bool
	}{
		{nil, "ca", true},
		{[]string{}, "kubelet-client", true},
		{[]string{"ca"}, "ca", true},
		{[]string{"metrics", "ca"}, "ca", true},
		{[]string{"ca"}, "kubeconfig", false},
		{[]string{"kubelet-client"}, "kubelet", false},
		{[]string{"CA"}, "ca", false},
		{[]string{""}, "ca", false},
	} {
		if got := (Hook{On: test.on}).Concerns(test.what); got != test.want {
			t.Errorf("%q, %s: %t", test.on, test.what, got)
		}
	}
}

// TestDigest: it is the same from version to version, else every hook would run again after an upgrade, and does not depend
// on when a hook is run and for how long.
func TestDigest(t *testing.T) {
	sum := sha256.Sum256([]byte("6:reload9:systemctl6:reload5:nginx"))
	want := hex.EncodeToString(sum[:16])
	hook := Hook{Name: "reload", Command: []string{"systemctl", "reload", "nginx"}}
	if got := hook.Digest(); got != want || len(got) != 32 {
		t.Errorf("got %s, want %s", got, want)
	}
	hook.On, hook.Timeout = []string{"ca"}, time.Hour
	if got := hook.Digest(); got != want {
		t.Errorf("with another time: %s", got)
	}
}

// TestDigestTellsApart: hooks of different names or commands have different digests.
func TestDigestTellsApart(t *testing.T) {
	part := rapid.StringOfN(rapid.RuneFrom([]rune("01:a \x00")), 0, 4, -1)
	hooks := rapid.Custom(func(t *rapid.T) Hook {
		return Hook{Name: part.Draw(t, "name"), Command: rapid.SliceOfN(part, 0, 4).Draw(t, "command")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a := hooks.Draw(t, "a")
		b := Hook{Name: a.Name, Command: slices.Clone(a.Command)}
		if rapid.Bool().Draw(t, "parted anew") { // the same text, with its parts elsewhere
			whole := a.Name + strings.Join(a.Command, "")
			b.Command = nil
			for b.Name = ""; whole != ""; {
				n := rapid.IntRange(0, len(whole)).Draw(t, "part")
				b.Command, whole = append(b.Command, whole[:n]), whole[n:]
				if len(b.Command) > 8 {
					break
				}
			}
		} else if rapid.Bool().Draw(t, "another") {
			b = hooks.Draw(t, "b")
		}
		same := a.Name == b.Name && slices.Equal(a.Command, b.Command)
		if (a.Digest() == b.Digest()) != same {
			t.Fatalf("%+v has %s, %+v has %s", a, a.Digest(), b, b.Digest())
		}
	})
}

// pids returns the process IDs that a hook has put out, as "pid NUMBER".
func pids(tb testing.TB, lines []string) []int {
	tb.Helper()
	var numbers []int
	for _, line := range lines {
		var pid int
		if _, err := fmt.Sscanf(line, "pid %d", &pid); err == nil {
			numbers = append(numbers, pid)
		}
	}
	return numbers
}

// alive reports whether there is a process. One that has ended and waits for its parent to see it is none.
func alive(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := bytes.Cut(status, []byte(") "))
	return len(state) > 0 && state[0] != 'Z' && state[0] != 'X'
}
