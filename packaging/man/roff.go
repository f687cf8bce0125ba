package man

import (
	"fmt"
	"strings"
)

// page is a manual page that is being written, in the macros of man(7), which both groff and mandoc know.
type page struct{ strings.Builder }

func newPage(name string, section int, b Book) *page {
	p := &page{}
	fmt.Fprintf(p, ".TH %s %d \"%s\" %s %s\n", quote(strings.ToUpper(name)), section, b.Date.UTC().Format("2006-01-02"), quote("nodejoin "+b.Version), quote("nodejoin"))
	return p
}

// section begins one; sub one in it.
func (p *page) section(title string) { p.WriteString(".SH " + quote(title) + "\n") }
func (p *page) sub(title string)     { p.WriteString(".SS " + quote(title) + "\n") }

// begin begins a paragraph, unless a heading has done so.
func (p *page) begin() {
	written := strings.TrimSuffix(p.String(), "\n")
	if last := written[strings.LastIndex(written, "\n")+1:]; !strings.HasPrefix(last, ".SH ") && !strings.HasPrefix(last, ".SS ") {
		p.WriteString(".PP\n")
	}
}

// paragraph is text on lines of any length.
func (p *page) paragraph(text string) {
	p.begin()
	p.WriteString(lines(text))
}

// literal is text that keeps its lines.
func (p *page) literal(text string) {
	p.begin()
	p.WriteString(".RS 4\n.EX\n" + lines(strings.TrimRight(text, "\n")) + ".EE\n.RE\n")
}

// item is a term, in the markup of roff, and what is said of it.
func (p *page) item(term, text string) {
	p.WriteString(".TP\n" + term + "\n" + lines(text))
}

func bold(text string) string { return `\fB` + escape(text) + `\fR` }

func italic(text string) string { return `\fI` + escape(text) + `\fR` }

// quote makes one argument of a macro.
func quote(text string) string { return `"` + strings.ReplaceAll(escape(text), `"`, `\(dq`) + `"` }

var escaped = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, "…", "...")

// escape keeps roff from taking text for its own: hyphens are those that can be copied into a shell.
func escape(text string) string { return escaped.Replace(text) }

// lines returns text as lines of input, none of which is a request; an empty one is written so that it stays one.
func lines(text string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		line = escape(strings.TrimRight(line, " \t"))
		if strings.HasPrefix(line, ".") {
			line = `\&` + line
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}
