package fault

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestClassOf(t *testing.T) {
	denied := New(Denied, "ask again", "denied by %s: %w", "somebody", io.EOF)
	for _, test := range []struct {
		name   string
		err    error
		class  Class
		final  bool
		remedy string
	}{
		{"nil", nil, 0, false, ""},
		{"unclassified", io.EOF, Unexpected, false, ""},
		{"classified", denied, Denied, true, "ask again"},
		{"wrapped", fmt.Errorf("while joining: %w", denied), Denied, true, "ask again"},
		{"joined with another", errors.Join(io.ErrClosedPipe, denied), Denied, true, "ask again"},
		{"the outermost counts", New(Files, "look", "%w", denied), Files, true, "look"},
		{"passing", Passing(Untrusted, "wait", "not yet"), Untrusted, false, "wait"},
		{"passing, wrapped", fmt.Errorf("while joining: %w", Passing(Untrusted, "wait", "not yet")), Untrusted, false, "wait"},
		{"passing, given up", New(Unapproved, "go on", "late: %w", Passing(Untrusted, "wait", "not yet")), Unapproved, true, "go on"},
		{"unexpected, and final", New(Unexpected, "wait", "late"), Unexpected, true, "wait"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := ClassOf(test.err); got != test.class {
				t.Errorf("class %d instead of %d", got, test.class)
			}
			if got := IsFinal(test.err); got != test.final {
				t.Errorf("final: %t instead of %t", got, test.final)
			}
			if got := Is(test.err, test.class); got != test.final {
				t.Errorf("final and of class %d: %t instead of %t", test.class, got, test.final)
			}
			if Is(test.err, test.class+1) {
				t.Errorf("of class %d", test.class+1)
			}
			if got, want := HasClass(test.err), test.final || test.remedy != ""; got != want {
				t.Errorf("has a class: %t instead of %t", got, want)
			}
			if got := Remedy(test.err); got != test.remedy {
				t.Errorf("remedy %q instead of %q", got, test.remedy)
			}
		})
	}
	if !errors.Is(denied, io.EOF) {
		t.Error("the cause is not wrapped")
	}
	if got, want := denied.Error(), "denied by somebody: EOF"; got != want {
		t.Errorf("%q instead of %q: the remedy is for whoever prints it", got, want)
	}
}

// The values are the program's exit status, which scripts depend on.
func TestClassesAreStable(t *testing.T) {
	for want, class := range []Class{1: Unexpected, 2: Usage, 3: Untrusted, 4: Refused, 5: Denied, 6: Unapproved, 7: Held, 8: Files} {
		if int(class) != want {
			t.Errorf("a class has the value %d instead of %d", class, want)
		}
	}
}
