package status

import (
	"fmt"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/csr"
)

const (
	// StaleAfter is how long the loop may be without progress until it counts as stuck. Every wait of the loop beats
	// at least once a minute.
	StaleAfter = 5 * time.Minute
	// skewLimit is the difference between two clocks that is nobody's concern.
	skewLimit = time.Minute
	// summaryLimit is how long a summary may be, in bytes.
	summaryLimit = 200
)

// finding is something that is wrong or waited for.
type finding struct {
	about  string // a certificate's name, or another heading; may be ""
	text   string
	aside  string // what is left out where room is short: since when, or for whom
	remedy string
	class  fault.Class // 0: not a failure
}

// Exit returns the exit status that says how things are, as the package describes: 0 when every certificate is valid
// and nothing is wrong.
func (s *Status) Exit(now time.Time) fault.Class {
	for _, f := range s.findings(now, inRelation) {
		if f.class != 0 {
			return f.class
		}
	}
	return 0
}

// Fault returns what is wrong or waited for first of all as an error with its class and its remedy; nil where nothing is.
func (s *Status) Fault(now time.Time) error {
	findings := s.findings(now, inStamps)
	if len(findings) == 0 {
		return nil
	}
	f := &findings[0]
	return fault.New(max(f.class, fault.Unexpected), f.remedy, "%s%s", f.line(), f.aside)
}

// Certificate returns what is known of a certificate; nil where none of the name is kept.
func (s *Status) Certificate(name string) *Certificate {
	for i := range s.Certificates {
		if s.Certificates[i].Name == name {
			return &s.Certificates[i]
		}
	}
	return nil
}

// About returns what concerns one certificate: the status without the others, but for the node's, which they are
// requested with as long as they cannot be used.
func (s *Status) About(name string, now time.Time) *Status {
	about := *s
	about.Certificates = nil
	c := s.Certificate(name)
	for i := range s.Certificates {
		if other := &s.Certificates[i]; other == c || i == 0 && !other.Usable(now) {
			about.Certificates = append(about.Certificates, *other)
		}
	}
	about.CA.Problem = nil
	if about.Problem != nil && about.Problem.Certificate != name {
		about.Problem = nil
	}
	return &about
}

// Ready reports whether the node's client certificate can be used.
func (s *Status) Ready(now time.Time) bool {
	return len(s.Certificates) != 0 && s.Certificates[0].Usable(now)
}

// Alive reports whether the loop has made progress within [StaleAfter], or has just been started. Where the times have
// a monotonic reading, as those of a running agent do, neither suspend nor a step of the clock is taken for silence.
func (s *Status) Alive(now time.Time) bool {
	return now.Sub(s.lastBeat()) < StaleAfter
}

// lastBeat returns when the loop last made progress: where it has not beaten yet, when it was started or its
// configuration loaded.
func (s *Status) lastBeat() time.Time {
	switch {
	case !s.Beat.IsZero():
		return s.Beat
	case s.ConfigLoaded.After(s.Since):
		return s.ConfigLoaded
	}
	return s.Since
}

// Summary returns one line of at most 200 bytes: what is wrong or waited for first of all and the command that would
// end it, or how long all is well. It does not change with the time alone, so it need be passed on only when it differs
// from the last. A command is never cut: where it does not fit, the line refers to `nodejoin status`.
func (s *Status) Summary(now time.Time) string {
	findings := s.findings(now, inStamps)
	if len(findings) == 0 {
		return fit(s.allIsWell(), "", "")
	}
	f := &findings[0]
	return fit(f.line(), f.aside, f.remedy)
}

// line returns whom the finding is about and what there is to say, on one line of bounded length.
func (f *finding) line() string {
	line := f.text
	if f.about != "" {
		line = f.about + ": " + f.text
	}
	return clip(oneLine(line), textLimit)
}

func (s *Status) allIsWell() string {
	c := &s.Certificates[0] // without one there is a finding
	text := fmt.Sprintf("%s: certificate valid until %s", s.name(), stamp(c.NotAfter))
	switch {
	case !s.Running:
		text += ", the agent does not run"
	case !c.RotateAt.IsZero():
		text += ", rotates at " + stamp(c.RotateAt)
	}
	return text
}

func (s *Status) name() string {
	if s.Node == "" {
		return "this machine"
	}
	return s.Node
}

// fit puts a text, an aside and a remedy on one line of a summary. What does not fit is left out, and of the text as much
// as must be.
func fit(text, aside, remedy string) string {
	text, aside, remedy = oneLine(text), oneLine(aside), oneLine(remedy)
	if remedy != "" {
		remedy = "; remedy: " + remedy
	}
	switch {
	case len(text)+len(aside)+len(remedy) <= summaryLimit:
		return text + aside + remedy
	case len(text)+len(remedy) <= summaryLimit:
		return text + remedy
	case remedy == "" || len(remedy) > summaryLimit*3/5: // it would leave too little of the cause
		remedy = "; see: nodejoin status"
	}
	return clip(text, summaryLimit-len(remedy)) + remedy
}

// findings returns what is wrong or waited for, the most important first. How it tells the time is up to the caller.
func (s *Status) findings(now time.Time, tell timekeeping) []finding {
	var all []finding
	if s.Running && !s.Alive(now) {
		all = append(all, finding{
			text:   "the agent has made no progress" + tell.since(s.lastBeat(), now),
			remedy: "look at its log, then: nodejoin service restart", class: fault.Unexpected,
		})
	}
	if len(s.Certificates) == 0 {
		text := "no certificate is kept on this machine"
		if s.Running {
			text = "the agent is starting"
		}
		all = append(all, finding{text: text, class: fault.Unexpected})
	}
	told := map[Problem]bool{}
	problem := func(about string, p *Problem) {
		if p == nil || told[essence(p)] {
			return
		}
		told[essence(p)] = true
		f := finding{about: about, text: p.Text, remedy: p.Remedy, class: max(p.Class, fault.Unexpected)}
		if when := tell.since(p.Since, now); when != "" {
			f.aside = " (" + when[1:] + ")"
		}
		all = append(all, f)
	}
	for i := range s.Certificates {
		c := &s.Certificates[i]
		problem(c.Name, c.Problem)
		switch {
		case c.Request != nil:
			all = append(all, c.waits(s.Node, now, tell))
		case c.Problem == nil && !c.Usable(now):
			all = append(all, c.unusable(now, s.Running))
		}
	}
	if s.Problem != nil {
		problem(s.Problem.Certificate, s.Problem)
	}
	problem("CA bundle", s.CA.Problem)
	if s.ClockSkew.Abs() > skewLimit {
		all = append(all, finding{text: "this machine's clock is " + skew(s.ClockSkew), remedy: "see whether it is synchronised: timedatectl"})
	}
	return all
}

// essence is what makes two reports of a problem the same, so that it is told once.
func essence(p *Problem) Problem {
	return Problem{Text: p.Text, Class: p.Class}
}

// waits tells what a certificate's request waits for, and who can act. A request with a credential for another node is not to
// be approved without a thought.
func (c *Certificate) waits(node string, now time.Time, tell timekeeping) finding {
	r := c.Request
	f := finding{about: c.Name, class: fault.Unapproved}
	if c.Usable(now) {
		f.class = 0
	}
	since := r.Since
	if since.IsZero() {
		since = r.Created
	}
	if !r.known() {
		f.text = "its request is under way, as far as the disk tells"
		f.remedy = "see what it waits for: kubectl get csr " + r.Name
		return f
	}
	if !r.Approved {
		f.text = "nobody has approved its request" + tell.since(since, now)
		f.remedy = "kubectl certificate approve " + r.Name
		if strings.HasPrefix(r.Username, csr.NodeUser) && r.Username != csr.NodeUser+node {
			f.remedy += ", if this is no theft of another node's credential"
		}
		if r.Username != "" {
			f.aside = " (by " + clip(oneLine(r.Username), textLimit) + ")"
		}
		return f
	}
	f.text = "approved" + tell.at(since, now) + ", not signed"
	signer := "the signer " + r.SignerName
	if r.SignerName == "" || strings.HasPrefix(r.SignerName, "kubernetes.io/") {
		signer = "kube-controller-manager's csrsigning controller"
	}
	f.remedy = "see " + signer + ": kubectl describe csr " + r.Name
	return f
}

// unusable tells of a certificate that cannot be used, without anything else being known.
func (c *Certificate) unusable(now time.Time, running bool) finding {
	f := finding{about: c.Name, text: c.Message, class: fault.Unexpected}
	switch c.State {
	case Unreadable, Foreign:
		f.class = fault.Files
	case Denied:
		f.class = fault.Denied
	case Refused:
		f.class = fault.Refused
	case Valid, Due: // until a moment ago
		f.text = ""
	}
	if f.text == "" {
		f.text = c.inWords(now)
	}
	switch {
	case c.State == NotYetValid:
		f.remedy = "check this machine's clock: timedatectl"
	case !running:
		f.remedy = "start the agent (nodejoin service start), or join by hand: nodejoin join"
	}
	return f
}

// inWords says what the state means.
func (c *Certificate) inWords(now time.Time) string {
	switch {
	case c.State == Missing:
		return "there is no certificate"
	case c.State == Unreadable:
		return "the certificate on disk cannot be read"
	case c.State == Foreign:
		return "the certificate on disk is of another name or another cluster"
	case c.State == Denied:
		return "the request was denied"
	case c.State == Refused:
		return "the API server does not accept the certificate"
	case c.State == NotYetValid || now.Before(c.NotBefore):
		return "the certificate becomes valid at " + stamp(c.NotBefore)
	case c.State == Expired || c.expired(now):
		return "the certificate expired at " + stamp(c.NotAfter)
	}
	return "the certificate is " + string(c.State)
}
