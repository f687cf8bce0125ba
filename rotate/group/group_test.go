package group

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// role makes this program a command of the tests: one that starts another, or that other, which says each 20 ms that it is there.
const role = "NODEJOIN_TEST_GROUP"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "parent":
		child := self("child", os.Args[1])
		if err := child.Start(); err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
		if len(os.Args) == 3 { // it ends, and leaves the other behind
			os.Exit(0)
		}
		time.Sleep(time.Minute)
	case "child":
		for range 500 {
			if f, err := os.OpenFile(os.Args[1], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
				_, _ = f.WriteString(".")
				_ = f.Close()
			}
			time.Sleep(20 * time.Millisecond)
		}
	default:
		os.Exit(m.Run())
	}
}

func self(as string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), role+"="+as)
	return cmd
}

// size waits until the file is longer than it was, and returns its length; the length it has after a while where it does not grow.
func size(path string, longerThan, within int) int {
	length := 0
	for range within {
		data, _ := os.ReadFile(path)
		if length = len(data); length > longerThan {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return length
}

// What a command has started ends with it, and goes on where nobody ends it.
func TestGroup(t *testing.T) {
	for _, test := range []struct {
		name  string
		leave bool // the command ends by itself, and leaves another behind
		end   func(*Group) error
		goes  bool // on
	}{
		{"killed", false, (*Group).Kill, false},
		{"asked", false, (*Group).Terminate, false},
		{"killed at once", false, func(g *Group) error { g.KillAt(time.Now()); return nil }, false},
		{"left behind, and killed", true, (*Group).Kill, false},
		{"left behind", true, (*Group).Close, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "alive")
			args := []string{path}
			if test.leave {
				args = append(args, "leave")
			}
			cmd := self("parent", args...)
			var out bytes.Buffer
			cmd.Stderr = &out
			cmd.WaitDelay = 50 * time.Millisecond
			g := New(cmd)
			if err := g.Start(); err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			t.Cleanup(func() { _ = g.Kill() })
			if test.leave {
				_ = cmd.Wait()
			}
			if size(path, 0, 500) == 0 {
				t.Fatalf("the command has started nothing: %s", out.String())
			}
			if err := test.end(g); err != nil {
				t.Errorf("it cannot be ended: %v", err)
			}
			if !test.leave {
				_ = cmd.Wait()
			}
			time.Sleep(200 * time.Millisecond) // what has ended may have been about to write
			before := size(path, 0, 1)
			if after := size(path, before, 30); (after > before) != test.goes {
				t.Errorf("what it has started goes on: %t", after > before)
			}
		})
	}
}

func TestStartFails(t *testing.T) {
	g := New(exec.CommandContext(t.Context(), filepath.Join(t.TempDir(), "missing.exe")))
	if err := g.Start(); err == nil {
		t.Error("there is a command that is not there")
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}
