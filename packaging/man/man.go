// Package man writes the manual pages: one for each command, from what its --help says, and nodejoin-config(5), from the
// reference of the configuration file.
//
// The pages use the macros of man(7) alone and carry no date but the one that they are given: the same sources give the same
// bytes. What cannot be told from the commands (files, environment, related pages) stands here, by the flags that ask for it.
package man

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Book is what all pages have in common.
type Book struct {
	Version string
	Date    time.Time // on every page
}

// Commands returns a page of section 8 for a command and each one below it, by file name: "nodejoin-join.8". The shells of the
// completion command are described with it.
func (b Book) Commands(root *cobra.Command) map[string]string {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	pages := map[string]string{}
	b.add(pages, root)
	return pages
}

func (b Book) add(pages map[string]string, cmd *cobra.Command) {
	pages[nameOf(cmd)+".8"] = b.command(cmd)
	for _, child := range children(cmd) {
		if cmd.Name() != "completion" {
			b.add(pages, child)
		}
	}
}

// nameOf returns the name of a command's page.
func nameOf(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

func children(cmd *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(cmd.Commands()), func(c *cobra.Command) bool { return !c.IsAvailableCommand() || c.Name() == "help" })
}

func (b Book) command(cmd *cobra.Command) string {
	cmd.InitDefaultHelpFlag()
	p := newPage(nameOf(cmd), 8, b)
	p.section("NAME")
	p.WriteString(escape(nameOf(cmd)) + ` \- ` + escape(lowerFirst(cmd.Short)) + "\n")
	p.section("SYNOPSIS")
	p.WriteString(synopsis(cmd))
	p.section("DESCRIPTION")
	long, status, _ := strings.Cut(cmd.Long, "Exit status:\n")
	p.prose(orShort(long, cmd))
	p.commands(cmd)
	p.options("OPTIONS", cmd.NonInheritedFlags())
	p.options("COMMON OPTIONS", cmd.InheritedFlags())
	p.exitStatus(status)
	p.files(cmd)
	p.environment(cmd)
	if cmd.Example != "" {
		p.section("EXAMPLES")
		p.literal(dedent(cmd.Example))
	}
	p.seeAlso(cmd)
	return p.String()
}

func orShort(long string, cmd *cobra.Command) string {
	if strings.TrimSpace(long) == "" {
		return cmd.Short + "."
	}
	return long
}

// lowerFirst returns the text as it follows a dash.
func lowerFirst(text string) string {
	if len(text) > 1 && strings.ToUpper(text[:2]) == text[:2] { // an abbreviation
		return text
	}
	return strings.ToLower(text[:1]) + text[1:]
}

func synopsis(cmd *cobra.Command) string {
	if len(children(cmd)) != 0 {
		return bold(cmd.CommandPath()) + " " + italic("command") + " [" + italic("option") + " ...]\n"
	}
	words := []string{bold(cmd.CommandPath())}
	for _, word := range strings.Fields(cmd.Use)[1:] {
		if word != "[flags]" {
			words = append(words, italic(word))
		}
	}
	return strings.Join(words, " ") + " [" + italic("option") + " ...]\n"
}

// prose writes the paragraphs of a help text; what is indented in it keeps its lines.
func (p *page) prose(text string) {
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		switch {
		case strings.HasPrefix(paragraph, " ") || strings.HasPrefix(paragraph, "\t"):
			p.literal(dedent(paragraph))
		case strings.HasPrefix(paragraph, "#"): // of cobra's own texts
			p.paragraph(strings.TrimLeft(paragraph, "# "))
		default:
			p.paragraph(paragraph)
		}
	}
}

var indentation = regexp.MustCompile(`(?m)^(  |\t)`)

func dedent(text string) string { return indentation.ReplaceAllString(text, "") }

func (p *page) commands(cmd *cobra.Command) {
	below := children(cmd)
	if len(below) == 0 {
		return
	}
	p.section("COMMANDS")
	for _, child := range below {
		term := bold(child.Name())
		if cmd.Name() != "completion" {
			term = bold(nameOf(child)) + "(8)"
		}
		p.item(term, child.Short+".")
	}
}

func (p *page) options(title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.section(title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		var terms []string
		if f.Shorthand != "" {
			terms = append(terms, bold("-"+f.Shorthand))
		}
		kind, usage := pflag.UnquoteUsage(f)
		term := bold("--" + f.Name)
		switch {
		case f.NoOptDefVal != "": // needs no value
		case kind != "":
			term += " " + italic(kind)
		}
		text := strings.ToUpper(usage[:1]) + usage[1:] + "."
		if !slices.Contains([]string{"", "false", "0", "0s", "[]"}, f.DefValue) {
			text += " Default: " + f.DefValue + "."
		}
		p.item(strings.Join(append(terms, term), ", "), text)
	})
}

// exitStatus writes what the help says of it: a line for each number.
func (p *page) exitStatus(text string) {
	p.section("EXIT STATUS")
	if text == "" {
		p.paragraph("0 where it is done, 2 where it was called wrongly or the configuration is wrong, and 1 where it failed otherwise. All numbers are in nodejoin(8).")
		return
	}
	for line := range strings.Lines(text) {
		if number, meaning, found := strings.Cut(strings.TrimSpace(line), "  "); found {
			p.item(bold(number), strings.ToUpper(meaning[:1])+meaning[1:]+".")
		}
	}
}

// pathFlags are the flags that name a place which has a default, with what is there.
var pathFlags = []struct{ flag, path, text string }{
	{"config", "/etc/nodejoin/config.yaml", "The configuration file; see nodejoin-config(5)."},
	{"token-file", "/etc/nodejoin/token", "A bootstrap token, of mode 0600."},
	{"cert-dir", "/var/lib/kubelet/pki/kubelet-client-current.pem", "The node's certificate and its key: a symbolic link to the newest kubelet-client-TIME.pem."},
	{"ca-file", "/etc/kubernetes/pki/ca.crt", "The CA bundle that verifies the API servers."},
	{"cert-dir", "/etc/kubernetes/kubelet.conf", "The kubelet's kubeconfig. It names the others by path."},
	{"state-dir", "/var/lib/nodejoin/", "Pending keys, the lock and what the agent remembers."},
	{"runtime-dir", "/run/nodejoin/", "The socket of the agent that runs, for nodejoin-status(8)."},
}

func (p *page) files(cmd *cobra.Command) {
	begun := false
	for _, file := range pathFlags {
		// The root's page is that of the whole program.
		if cmd.HasParent() && cmd.Flag(file.flag) == nil {
			continue
		}
		if !begun {
			p.section("FILES")
			begun = true
		}
		p.item(italic(file.path), file.text)
	}
}

func (p *page) environment(cmd *cobra.Command) {
	p.section("ENVIRONMENT")
	admin := cmd.Flag("kubeconfig") != nil && strings.Contains(cmd.Flag("kubeconfig").Usage, "administrator")
	named := false
	say := func(applies bool, name, text string) {
		if applies {
			p.item(bold(name), text)
			named = true
		}
	}
	whole := !cmd.HasParent()
	say(whole || cmd.Flag("token-file") != nil, "CREDENTIALS_DIRECTORY",
		"Where systemd puts the service's credentials: the one of the name \"token\" is the bootstrap token where none is configured.")
	say(whole || cmd.Name() == "run", "NOTIFY_SOCKET", "Where systemd is told that the agent runs and what it waits for; see sd_notify(3).")
	say(whole || admin, "KUBECONFIG", "The administrator's kubeconfig, as for kubectl, for the commands that need one.")
	if !named {
		p.paragraph("None: no variable changes what this command does.")
	}
}

func (p *page) seeAlso(cmd *cobra.Command) {
	related := map[string]bool{"nodejoin(8)": true, "nodejoin-config(5)": true}
	if cmd.HasParent() {
		related[nameOf(cmd.Parent())+"(8)"] = true
		for _, sibling := range children(cmd.Parent()) {
			related[nameOf(sibling)+"(8)"] = true
		}
	} else {
		for _, child := range children(cmd) {
			related[nameOf(child)+"(8)"] = true
		}
	}
	delete(related, nameOf(cmd)+"(8)")
	p.related(slices.Sorted(maps.Keys(related)))
}

// related writes references such as "nodejoin(8)".
func (p *page) related(pages []string) {
	p.section("SEE ALSO")
	for i, name := range pages {
		title, number, _ := strings.Cut(name, "(")
		comma := ","
		if i == len(pages)-1 {
			comma = ""
		}
		fmt.Fprintf(p, ".BR %s (%s%s\n", escape(title), number, comma)
	}
}
