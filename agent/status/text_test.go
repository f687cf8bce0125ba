package status

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nodejoin/nodejoin/agent/fault"
)

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "a moment", 0: "a moment", 999 * time.Millisecond: "a moment", time.Second: "a second", 2 * time.Second: "2 seconds",
		119 * time.Second: "119 seconds", 2 * time.Minute: "2 minutes", 119 * time.Minute: "119 minutes", 2 * time.Hour: "2 hours",
		47 * time.Hour: "47 hours", 48 * time.Hour: "2 days", 13*day - 1: "12 days", 729 * day: "729 days", 730 * day: "2 years",
	} {
		if got := words(d); got != want {
			t.Errorf("%s is %q instead of %q", d, got, want)
		}
	}
}

// Whatever a server, a certificate or a file has to say, it stays on its line, and the summary stays short.
func FuzzText(f *testing.F) {
	f.Add("plain", "kubectl certificate approve x")
	f.Add("two\nlines\r\tand\x1b[31m more\u2028\u202e", "cmd\x00\x7f")
	f.Add(strings.Repeat("é", 3000), strings.Repeat("long ", 100))
	f.Add("\xff\xfe", strings.Repeat("x", 120))
	f.Fuzz(func(t *testing.T, text, remedy string) {
		plain, wild := everywhere("x", "y"), everywhere(text, remedy)
		if summary := wild.Summary(now); len(summary) > summaryLimit || !clean(summary) {
			t.Errorf("the summary has %d bytes: %q", len(summary), summary)
		}
		wild.Problem, wild.Certificates[0].Problem = nil, nil
		if summary := wild.Summary(now); len(summary) > summaryLimit || !clean(summary) {
			t.Errorf("the summary has %d bytes: %q", len(summary), summary)
		}
		got := everywhere(text, remedy)
		for line := range strings.SplitSeq(got.Text(now), "\n") {
			if !clean(line) {
				t.Errorf("a line is %q", line)
			}
		}
		// An empty value leaves its row out.
		if lines, most := strings.Count(got.Text(now), "\n"), strings.Count(plain.Text(now), "\n"); lines > most || oneLine(text) != "" && oneLine(remedy) != "" && strings.TrimSpace(text) != "" && lines != most {
			t.Errorf("%d lines instead of %d:\n%s", lines, most, got.Text(now))
		}
	})
}

func clean(line string) bool {
	return utf8.ValidString(line) && !strings.ContainsFunc(line, func(r rune) bool {
		return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
	})
}

// everywhere returns a status with a text wherever it could come from outside.
func everywhere(text, remedy string) *Status {
	s := healthy()
	s.Problem = &Problem{Text: text, Remedy: remedy, Class: fault.Denied, Since: ago(time.Hour)}
	s.Node, s.RotationNote, s.Credential, s.Kubeconfig = text, text, text, text
	s.Endpoints[0].Address, s.Endpoints[0].Error = text, text
	s.CA.Source, s.CA.UnpinnedNote = text, text
	s.CA.Certificates[0].Subject, s.CA.Certificates[0].Pin = text, text
	c := &s.Certificates[0]
	c.Name, c.Message, c.Path, c.Subject, c.Issuer, c.Serial, c.DNSNames = text, text, text, text, text, text, []string{text, text}
	c.Request = &Request{Name: text, Username: text, SignerName: text, Created: ago(time.Minute), Since: ago(time.Minute)}
	return s
}

// No list is endless in the text.
func TestLongLists(t *testing.T) {
	s := healthy()
	for range 1000 {
		s.Certificates[0].DNSNames = append(s.Certificates[0].DNSNames, "x.example.com")
		s.Endpoints = append(s.Endpoints, Endpoint{Address: "x:1"})
		s.CA.Certificates = append(s.CA.Certificates, CACertificate{Subject: "CN=x", Pin: "sha256:00"})
	}
	text := s.Text(now)
	if lines := strings.Count(text, "\n"); lines > 100 {
		t.Errorf("%d lines", lines)
	}
	for _, want := range []string{"and 984 more", "and 986 more", "and 985 more"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
