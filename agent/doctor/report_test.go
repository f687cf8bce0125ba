package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nodejoin/nodejoin/agent/fault"
)

func TestText(t *testing.T) {
	r := &Report{Findings: []Finding{
		{"dns", OK, "fine", ""}, {"certificate", Failure, "bad", "mend it"}, {"clock", Skipped, "not checked: no", ""}, {"lock", Warning, "hm", "look"},
	}}
	want := `ok       dns          fine
failure  certificate  bad
                      remedy: mend it
skipped  clock        not checked: no
warning  lock         hm
                      remedy: look

1 failure, 1 warning, 1 ok, 1 skipped
`
	if diff := cmp.Diff(want, r.Text()); diff != "" {
		t.Error(diff)
	}
	if r.Exit() != fault.Unexpected {
		t.Errorf("exit status %d", r.Exit())
	}
	r.Findings = r.Findings[2:]
	if r.Exit() != 0 || !strings.HasSuffix(r.Text(), "\n0 failures, 1 warning, 0 ok, 1 skipped\n") {
		t.Errorf("exit status %d: %s", r.Exit(), r.Text())
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"findings":[{"check":"clock","level":"skipped","text":"not checked: no"},{"check":"lock","level":"warning","text":"hm","remedy":"look"}]}`; string(data) != want {
		t.Errorf("%s", data)
	}
}

// What a server or a file had to say stays on its line.
func TestFindingsAreLines(t *testing.T) {
	var f findings
	f.fail(Failure, errors.New("a\nb\x1b[31m\u202e c\u2028d\xff"), "x\ny")
	if want := (Finding{Level: Failure, Text: "a b [31m  c d\uFFFD", Remedy: "x y"}); f[0] != want {
		t.Errorf("%q", f[0])
	}
	f.fail(Failure, fmt.Errorf("y: %w", fault.New(fault.Files, "its own", "x")), "another")
	if f[1].Remedy != "its own" {
		t.Errorf("%q", f[1])
	}
}
