package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/bootstrap"
)

const (
	mostMistakes = 100 // reported of one file
	longestText  = 400 // of one mistake, in bytes
	longestQuote = 80  // of what a mistake repeats
)

// Mistake is one thing that is wrong in a configuration.
type Mistake struct {
	File string // as it was named to [Parse]
	Line int    // from 1; 0 where it is of no line
	Path string // of the field: "certificates[1].mode"; "" for the file as a whole
	Text string // one line, lower case, without a final period; no secret is in it
}

// String returns "FILE:LINE: PATH: TEXT", without the parts that are missing.
func (m Mistake) String() string {
	place := m.File
	if m.Line != 0 {
		place += ":" + strconv.Itoa(m.Line)
	}
	parts := slices.DeleteFunc([]string{place, m.Path, m.Text}, func(part string) bool { return part == "" })
	return strings.Join(parts, ": ")
}

// Mistakes are all that were found in a configuration, in the order of its lines; never empty.
type Mistakes []Mistake //nolint:errname // it reads as what it is

// Error returns all mistakes on one line.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, mistake := range m {
		lines[i] = mistake.String()
	}
	return strings.Join(lines, "; ")
}

// report collects what is wrong in one file.
type report struct {
	file     string
	lines    map[string]int // where each field is that was given
	bad      map[string]bool
	mistakes Mistakes
}

// add reports a mistake at a field. Where one was reported at that field, or at what it is in, another would only follow
// from it and is dropped.
func (r *report) add(path, format string, args ...any) {
	if !r.isBad(path) {
		r.bad[path] = true
		r.addAt(r.line(path), path, fmt.Sprintf(format, args...))
	}
}

func (r *report) addAt(line int, path, text string) {
	text = embeddedToken.ReplaceAllString(text, "[redacted]")
	r.mistakes = append(r.mistakes, Mistake{File: r.file, Line: line, Path: path, Text: clip(text, longestText)})
}

// check reports err, if it is one, at a field.
func (r *report) check(path string, err error) {
	if err != nil {
		r.add(path, "%s", err)
	}
}

func (r *report) given(path string) bool { return r.lines[path] != 0 }

func (r *report) isBad(path string) bool {
	for ; path != ""; path = parent(path) {
		if r.bad[path] {
			return true
		}
	}
	return false
}

// line returns the line of a field, or of the nearest around it that is there.
func (r *report) line(path string) int {
	for ; path != ""; path = parent(path) {
		if line := r.lines[path]; line != 0 {
			return line
		}
	}
	return r.lines[""]
}

// err returns what was reported.
func (r *report) err() error {
	if len(r.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(r.mistakes, func(a, b Mistake) int { return cmp.Compare(a.Line, b.Line) })
	if more := len(r.mistakes) - mostMistakes; more > 0 {
		r.mistakes = append(r.mistakes[:mostMistakes:mostMistakes], Mistake{File: r.file, Text: fmt.Sprintf("and %d more mistakes", more)})
	}
	return fault.New(fault.Usage, "correct the file, then check it: nodejoin config validate", "%w", r.mistakes)
}

// parent returns the path of what a field is in: "a[1].b" is in "a[1]", which is in "a", which is in "".
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func item(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

var (
	embeddedToken = regexp.MustCompile(`(?i)\b[a-z0-9]{6}\.[a-z0-9]{16}\b`)
	jsonWebToken  = regexp.MustCompile(`^eyJ[\w-]+\.[\w-]+\.[\w-]*$`)
)

// secretIn names the kind of secret that text is, or "".
func secretIn(text string) string {
	switch {
	case bootstrap.LooksLikeToken(text):
		return "a bootstrap token"
	case jsonWebToken.MatchString(strings.TrimSpace(text)):
		return "a bearer token"
	case strings.Contains(text, "PRIVATE KEY-----"):
		return "a private key"
	}
	return ""
}

// quote returns text for an error: quoted, and not all of it where it is long.
func quote(text string) string { return strconv.Quote(clip(text, longestQuote)) }

func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
