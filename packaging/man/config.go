package man

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	fieldLine = regexp.MustCompile("^- \\*\\*`([^`]+)`\\*\\* \\((.*)\\)$")
	heading   = regexp.MustCompile("^## `?([^`]*)`?$")
	link      = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// Config returns nodejoin-config(5), made of REFERENCE.md of the configuration, in the few forms that its generator writes. It fails
// on one that it does not know.
func (b Book) Config(reference string) (string, error) {
	p := newPage("nodejoin-config", 5, b)
	p.section("NAME")
	p.WriteString(`nodejoin\-config \- configuration file of the Kubernetes node join agent` + "\n")
	p.section("SYNOPSIS")
	p.WriteString(italic("/etc/nodejoin/config.yaml") + "\n")
	p.section("DESCRIPTION")
	c := converter{page: p}
	for line := range strings.Lines(reference) {
		if err := c.line(strings.TrimRight(line, "\n")); err != nil {
			return "", err
		}
	}
	if c.code != nil {
		return "", fmt.Errorf("a block of code has no end")
	}
	p.section("FILES")
	p.item(italic("/etc/nodejoin/config.yaml"), "The file that is read without --config.")
	p.item(italic("/etc/nodejoin/token"), "The bootstrap token that is shown where no credential is configured.")
	p.item(italic("/usr/share/doc/nodejoin/examples/config.yaml"), "The example above.")
	p.related([]string{"nodejoin(8)", "nodejoin-config-print(8)", "nodejoin-config-validate(8)", "nodejoin-doctor(8)", "nodejoin-run(8)"})
	return p.String(), nil
}

// converter reads the reference line by line.
type converter struct {
	page *page
	item bool             // within a field
	code *strings.Builder // the block of code that was begun
}

func (c *converter) line(line string) error {
	text := strings.TrimPrefix(line, "  ")
	switch {
	case c.code != nil && text == "```":
		c.page.literal(c.code.String())
		c.code = nil
	case c.code != nil && c.item:
		c.code.WriteString(text + "\n")
	case c.code != nil:
		c.code.WriteString(line + "\n")
	case text == "```yaml":
		c.code = &strings.Builder{}
	case text == "", strings.HasPrefix(text, "<!--"), strings.HasPrefix(text, "# "), strings.HasPrefix(text, "See ["):
		// Headings of the document; the mappings follow under their names.
	case strings.HasPrefix(text, "## "):
		c.endItem()
		c.heading(heading.FindStringSubmatch(text)[1])
	case fieldLine.MatchString(text):
		m := fieldLine.FindStringSubmatch(text)
		c.endItem()
		c.item = true
		c.page.WriteString(".TP\n" + bold(m[1]) + " (" + inline(m[2]) + ")\n")
	case strings.HasPrefix(text, "- "):
		c.page.WriteString(".IP \\(bu 2\n" + inlineLine(text[2:]))
	case strings.HasPrefix(text, "|"), strings.HasPrefix(text, ">"), strings.HasPrefix(text, "*"), strings.HasPrefix(text, "1."):
		return fmt.Errorf("nothing is known of a line such as %q", line)
	default:
		c.paragraph(text)
	}
	return nil
}

// heading begins the example, the keys of the file, or those of a mapping in it.
func (c *converter) heading(title string) {
	switch title {
	case "A complete example":
		c.page.section("EXAMPLE")
	case "Keys of the file":
		c.page.section("KEYS")
	default:
		c.page.sub(title)
	}
}

// endItem closes the indentation of the paragraphs that followed a field's first one.
func (c *converter) endItem() { c.item = false }

// paragraph is the first of a field, right after its term, or one more.
func (c *converter) paragraph(text string) {
	if strings.HasSuffix(c.page.String(), ")\n") && c.item {
		c.page.WriteString(inlineLine(text))
		return
	}
	if c.item {
		c.page.WriteString(".IP\n" + inlineLine(text))
		return
	}
	c.page.begin()
	c.page.WriteString(inlineLine(text))
}

func inlineLine(text string) string {
	text = inline(text)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text + "\n"
}

// inline turns `code` into bold text and links into what they say.
func inline(text string) string {
	var b strings.Builder
	for i, part := range strings.Split(link.ReplaceAllString(text, "$1"), "`") {
		if i%2 == 1 {
			b.WriteString(bold(part))
		} else {
			b.WriteString(escape(part))
		}
	}
	return b.String()
}
