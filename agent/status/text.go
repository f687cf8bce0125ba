package status

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	textLimit = 600 // bytes of one thing that somebody else has to say
	listLimit = 16  // items of one list
)

// Text returns all of it for a person, without colour: the verdict, each thing that is wrong or waited for with what to
// do about it, and then the facts. It ends in a line break.
func (s *Status) Text(now time.Time) string {
	p := page{now: now}
	s.writeVerdict(&p)
	s.writeAgent(&p)
	for i := range s.Certificates {
		s.Certificates[i].write(&p, i == 0 && s.Rotation == "kubelet")
	}
	s.writeEndpoints(&p)
	s.CA.write(&p)
	return p.String()
}

func (s *Status) writeVerdict(p *page) {
	findings := s.findings(p.now, inRelation)
	verdict := s.name() + " has no valid certificate"
	if s.Ready(p.now) {
		verdict = s.name() + " has a valid certificate, until " + p.when(s.Certificates[0].NotAfter)
	}
	switch {
	case len(findings) != 0 && s.Ready(p.now):
		verdict += ", but:"
	case len(findings) != 0:
		verdict += ":"
	}
	p.line(verdict)
	for i := range findings {
		p.line("")
		p.line("  " + findings[i].line() + findings[i].aside)
		if findings[i].remedy != "" {
			p.line("    remedy: " + findings[i].remedy)
		}
	}
}

func (s *Status) writeAgent(p *page) {
	b := block{}
	agent := "not running: this is what is on disk"
	if s.Rotation == "agent" {
		agent += ", and nothing is rotated until it runs"
	}
	if s.Running {
		agent = "runs"
		if !s.Since.IsZero() {
			agent += " since " + stamp(s.Since) + " (" + words(p.now.Sub(s.Since)) + ")"
		}
		if s.PID != 0 {
			agent += fmt.Sprintf(", pid %d", s.PID)
		}
		agent += optional(", ", s.Version)
	}
	b.add("agent", agent)
	config := s.ConfigFile
	if config != "" && !s.ConfigLoaded.IsZero() {
		config += ", read " + p.when(s.ConfigLoaded)
	}
	b.add("configuration", config)
	b.add("rotation", optional("by the ", s.Rotation)+optional(": ", s.RotationNote))
	b.add("kubeconfig", s.Kubeconfig)
	b.add("credential", optional("used last: ", s.Credential))
	b.add("", optional("note: ", s.CredentialNote))
	if s.ClockSkew.Abs() > skewLimit {
		b.add("clock", skew(s.ClockSkew))
	}
	if s.Running && !s.Watching {
		b.add("file events", "none: files are looked at once a minute")
	}
	p.block("", b)
}

func (c *Certificate) write(p *page, byKubelet bool) {
	b := block{}
	b.add("state", c.stateInWords(p.now))
	b.add("subject", c.Subject)
	b.add("names", list(slices.Concat(c.DNSNames, c.IPAddresses)))
	b.add("issuer", c.Issuer)
	b.add("serial", c.Serial)
	if c.NotBefore.After(p.now) {
		b.add("valid from", p.when(c.NotBefore))
	}
	switch {
	case c.NotAfter.IsZero():
	case c.expired(p.now):
		b.add("expired", p.when(c.NotAfter))
	default:
		b.add("expires", p.when(c.NotAfter))
	}
	switch {
	case byKubelet:
		b.add("rotates", "when the kubelet sees fit")
	case c.RotateAt.After(p.now):
		b.add("rotates", p.when(c.RotateAt))
	case !c.RotateAt.IsZero():
		b.add("rotates", "now: due since "+p.when(c.RotateAt))
	}
	b.add("file", c.Path)
	if r := c.Request; r != nil {
		b.add("request", r.Name)
		if r.known() {
			b.add("", "made"+optional(" by ", r.Username)+optional(" ", p.when(r.Created)))
		}
		b.add("", optional("for the signer ", r.SignerName))
		switch {
		case r.Approved:
			b.add("", "approved; waits for the signer"+inRelation.since(r.Since, p.now))
		case r.known():
			b.add("", "waits for approval"+inRelation.since(r.Since, p.now))
		}
	}
	if c.Rotations != 0 || c.Failures != 0 {
		b.add("history", fmt.Sprintf("%d obtained and %d failed since the agent started", c.Rotations, c.Failures))
	}
	p.block("certificate "+c.Name, b)
}

func (c *Certificate) stateInWords(now time.Time) string {
	if (c.State == Valid || c.State == Due) && !c.Usable(now) { // until a moment ago
		return "not valid: " + c.inWords(now)
	}
	return string(c.State) + optional(": ", c.Message)
}

func (s *Status) writeEndpoints(p *page) {
	b := block{}
	for i, e := range s.Endpoints {
		if i == listLimit {
			b.add("…", fmt.Sprintf("and %d more", len(s.Endpoints)-i))
			break
		}
		text := "alive"
		switch {
		case e.CheckedAt.IsZero():
			text = "not tried yet"
		case !e.Alive:
			text = "dead"
		}
		if e.InUse {
			text += ", in use"
		}
		if !e.CheckedAt.IsZero() {
			text += ", tried " + relative(e.CheckedAt, p.now)
		}
		b.add(e.Address, text+optional(": ", e.Error))
	}
	if len(b) != 0 {
		p.block("API servers", b)
	}
}

func (ca *CA) write(p *page) {
	b := block{}
	b.add("file", ca.Path)
	source := ca.Source
	if source != "" && !ca.CheckedAt.IsZero() {
		source += ", " + relative(ca.CheckedAt, p.now)
	}
	b.add("compared with", source)
	for i, c := range ca.Certificates {
		if i == listLimit {
			b.add("", fmt.Sprintf("and %d more", len(ca.Certificates)-i))
			break
		}
		expiry := ", expires "
		if !c.NotAfter.IsZero() && !c.NotAfter.After(p.now) {
			expiry = ", EXPIRED "
		}
		b.add("certificate", c.Subject+optional(expiry, p.when(c.NotAfter)))
		pinned := ""
		if c.Pinned {
			pinned = " (pinned)"
		}
		b.add("", c.Pin+pinned)
	}
	b.add("note", ca.UnpinnedNote)
	if len(b) != 0 {
		p.block("CA bundle", b)
	}
}

// optional returns text with something before it, or nothing at all.
func optional(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

func list(items []string) string {
	if more := len(items) - listLimit; more > 0 {
		return strings.Join(items[:listLimit], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(items, ", ")
}

// page is a text in the making.
type page struct {
	strings.Builder
	now time.Time
}

// when writes a moment, and how far away it is; "" if it is not known.
func (p *page) when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return stamp(t) + " (" + relative(t, p.now) + ")"
}

func (p *page) line(text string) {
	p.WriteString(strings.TrimRight(oneLine(text), " ") + "\n")
}

// block writes rows with their values aligned, below a title if there is one.
func (p *page) block(title string, b block) {
	p.line("")
	indent, width := "", 0
	if title != "" {
		p.line(title)
		indent = "  "
	}
	for _, r := range b {
		width = max(width, len(r.key))
	}
	for _, r := range b {
		p.line(fmt.Sprintf("%s%-*s  %s", indent, width, r.key, r.value))
	}
}

// block is a list of rows.
type block []row

type row struct{ key, value string }

// add appends a row, if there is something to say.
func (b *block) add(key, value string) {
	if value = clip(oneLine(value), textLimit); value != "" {
		*b = append(*b, row{oneLine(key), value})
	}
}
