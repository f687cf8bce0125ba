package machine

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nodejoin/nodejoin/test/expect"
)

// The loader has written to what is read-only afterwards, in some programs: they would not outlive that it is lost.
func TestReleaseMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds programs")
	}
	golang := expect.Program(t, "go")
	for _, test := range []struct {
		name, cgo string
		flags     []string
	}{
		{"as it is shipped", "0", nil},
		{"position-independent", "0", []string{"-buildmode=pie"}},
		{"linked by another", "1", []string{"-ldflags=-linkmode=external"}},
		{"position-independent, linked by another", "1", []string{"-buildmode=pie", "-ldflags=-linkmode=external"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "release")
			build := exec.CommandContext(t.Context(), golang, append(append([]string{"build", "-o", program}, test.flags...), "./testdata/release")...)
			build.Env = append(build.Environ(), "CGO_ENABLED="+test.cgo)
			if out, err := build.CombinedOutput(); err != nil {
				if test.flags == nil {
					t.Fatalf("%v:\n%s", err, out)
				}
				expect.Able(t, "a C compiler that links it", fmt.Errorf("%w:\n%s", err, out))
			}
			out, err := exec.CommandContext(t.Context(), program).CombinedOutput()
			if err != nil {
				t.Fatalf("%v:\n%s", err, out)
			}
			var before, after int
			if _, err := fmt.Sscan(string(out), &before, &after); err != nil {
				t.Fatalf("%v:\n%s", err, out)
			}
			if t.Logf("of %d kB %d kB are left", before, after); after > before*9/10 {
				t.Error("nothing was given back")
			}
		})
	}
}

func TestReleasedMappings(t *testing.T) {
	text := func(permissions string, sizes ...string) string {
		return "00400000-004ac000 " + permissions + " 00000000 fe:00 9979556                            /usr/bin/a program\nSize: 688 kB\n" + strings.Join(sizes, "\n") + "\nVmFlags: rd mr mw me\n"
	}
	for _, test := range []struct {
		name, text string
		want       bool
	}{
		{"code", text("r-xp", "Private_Dirty: 0 kB", "Anonymous: 0 kB", "Swap: 0 kB"), true},
		{"constants", text("r--p", "Anonymous:             0 kB", "Swap:                  0 kB"), true},
		{"a file that is yet to be written to the disk", text("r--p", "Private_Dirty: 832 kB", "Anonymous: 0 kB", "Swap: 0 kB"), true},
		{"relocated", text("r--p", "Anonymous: 4 kB", "Swap: 0 kB"), false},
		{"relocated and swapped out", text("r--p", "Anonymous: 0 kB", "Swap: 4 kB"), false},
		{"code with a breakpoint", text("r-xp", "Anonymous: 4 kB", "Swap: 0 kB"), false},
		{"variables", text("rw-p", "Anonymous: 0 kB", "Swap: 0 kB"), false},
		{"shared", text("r--s", "Anonymous: 0 kB", "Swap: 0 kB"), false},
		{"a kernel that does not tell what is its own", text("r--p", "Swap: 0 kB"), false},
		{"a kernel that does not tell what is swapped out", text("r--p", "Anonymous: 0 kB"), false},
		{"a size that is none", text("r--p", "Anonymous: x kB", "Swap: 0 kB"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := parseMappings([]byte(test.text))
			if len(got) != 1 || got[0].path != "/usr/bin/a program" || got[0].from != 0x400000 || got[0].size != 0xac000 {
				t.Fatalf("the mappings are %+v", got)
			}
			if got[0].isAsInFile() != test.want {
				t.Errorf("it is as in its file: %t", !test.want)
			}
		})
	}
	t.Run("one after the other", func(t *testing.T) {
		const nameless = "7f0000000000-7f0000001000 r--p 00000000 00:00 0\nAnonymous: 0 kB\nSwap: 0 kB\n"
		got := parseMappings([]byte(text("r--p", "Anonymous: 4 kB", "Swap: 0 kB") + nameless + text("r-xp", "Anonymous: 0 kB", "Swap: 0 kB")))
		if len(got) != 3 || got[0].isAsInFile() || got[1].path != "" || !got[2].isAsInFile() {
			t.Errorf("the mappings are %+v", got)
		}
	})
	for name, text := range map[string]string{"nothing": "", "no mapping": "Anonymous: 0 kB\n", "no line": "\n\n", "one field": "00400000-004ac000\n"} {
		if got := parseMappings([]byte(text)); len(got) != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for name, text := range map[string]string{"the wrong way round": "2000-1000 r--p 0 0:0 1 /a\n", "no number": "x-y r--p 0 0:0 1 /a\n", "one address": "1000 r--p 0 0:0 1 /a\n"} {
		if got := parseMappings([]byte(text)); len(got) != 1 || got[0].size != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
