package doctor

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	OK      Level = "ok"
	Warning Level = "warning" // it works, and may not for ever
	Failure Level = "failure" // it keeps the machine from joining, or will keep it from rotating
	Skipped Level = "skipped" // not checked, since it cannot be or need not be
)

// Finding is the result of one check, or of a part of it.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Text   string `json:"text"`             // one line
	Remedy string `json:"remedy,omitempty"` // what to do about it, on one line, with the command where there is one
}

// Report is what was found, in an order that is always the same.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Count returns how many findings there are of a level.
func (r *Report) Count(level Level) int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == level {
			n++
		}
	}
	return n
}

// Exit returns the program's exit status: that of success without a failure, of any failure else.
func (r *Report) Exit() fault.Class {
	if r.Count(Failure) == 0 {
		return 0
	}
	return fault.Unexpected
}

// Text returns the report for a person: a line for each finding, one for its remedy, and the sum.
func (r *Report) Text() string {
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.Check))
	}
	var text strings.Builder
	for _, f := range r.Findings {
		head := fmt.Sprintf("%-*s  %-*s  ", len(Failure), f.Level, width, f.Check)
		fmt.Fprintf(&text, "%s%s\n", head, f.Text)
		if f.Remedy != "" {
			fmt.Fprintf(&text, "%*sremedy: %s\n", len(head), "", f.Remedy)
		}
	}
	fmt.Fprintf(&text, "\n%s, %s, %d ok, %d skipped\n", plural(r.Count(Failure), "failure"), plural(r.Count(Warning), "warning"), r.Count(OK), r.Count(Skipped))
	return text.String()
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// findings collects what one check finds.
type findings []Finding

func (f *findings) ok(format string, args ...any) { f.add(OK, "", format, args...) }

func (f *findings) skip(format string, args ...any) {
	f.add(Skipped, "", "not checked: "+format, args...)
}

func (f *findings) add(level Level, remedy, format string, args ...any) {
	*f = append(*f, Finding{Level: level, Text: oneLine(fmt.Sprintf(format, args...)), Remedy: oneLine(remedy)})
}

// fail adds an error, with its own remedy if it has one.
func (f *findings) fail(level Level, err error, remedy string) {
	if own := fault.Remedy(err); own != "" {
		remedy = own
	}
	f.add(level, remedy, "%s", err)
}

// worst reports whether something of that level is among them.
func (f *findings) has(level Level) bool {
	return slices.ContainsFunc(*f, func(found Finding) bool { return found.Level == level })
}

// oneLine keeps what a server or a file had to say from breaking out of its line.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "\uFFFD"), func(r rune) bool {
		return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r)
	}), " ")
}
