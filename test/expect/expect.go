// Package expect is what the tests of all packages expect in the same way: of an error that is told to a person, of something
// that comes to be by itself, and of the machine that they run on.
//
// What a machine has not got (root, a program) skips the test that needs it, which says so. Where NODEJOIN_TEST_ALL is 1,
// everything is expected to run, and the test fails.
package expect

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// patience bounds what is waited for. It is for machines that have a lot to do.
const patience = 30 * time.Second

// look is how often it is looked at, which may mean to ask an API server that has as much to do.
const look = 20 * time.Millisecond

// Fault expects an error of a class (0: one that passes by itself) that says what is wanted. It has a remedy if it is final, and
// both fit on a line.
func Fault(tb testing.TB, err error, class fault.Class, want string) {
	tb.Helper()
	if err == nil {
		tb.Fatalf("no error, want one that says %q", want)
	}
	if final := fault.IsFinal(err); final != (class != 0) || final && fault.ClassOf(err) != class {
		tb.Errorf("class %d (final: %t), want %d: %v", fault.ClassOf(err), final, class, err)
	}
	if !strings.Contains(err.Error(), want) {
		tb.Errorf("the error is %q, want one that says %q", err, want)
	}
	if class != 0 && fault.Remedy(err) == "" {
		tb.Errorf("no remedy with %q", err)
	}
	for _, text := range []string{err.Error(), fault.Remedy(err)} {
		if strings.ContainsAny(text, "\r\n") || strings.HasSuffix(text, ".") {
			tb.Errorf("not one line without a period: %q", text)
		}
	}
}

// Eventually waits for a condition that comes to be by itself, and that nothing tells of.
func Eventually(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	for start := time.Now(); !done(); time.Sleep(look) {
		if time.Since(start) > patience {
			tb.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

// Able skips a test that this machine cannot run, as the error says that came of trying what it takes.
func Able(tb testing.TB, takes string, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case os.Getenv("NODEJOIN_TEST_ALL") == "1":
		tb.Fatalf("it takes %s: %v", takes, err)
	default:
		tb.Skipf("it takes %s: %v", takes, err)
	}
}

// Root skips a test that only root can run.
func Root(tb testing.TB) {
	tb.Helper()
	var err error
	if os.Geteuid() != 0 {
		err = errors.New("this user is not root")
	}
	Able(tb, "root", err)
}

// Program returns where a program is, and skips a test where it is not installed.
func Program(tb testing.TB, name string) (path string) {
	tb.Helper()
	path, err := exec.LookPath(name)
	Able(tb, name, err)
	return path
}
