package man_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent/cmd/cli"
	"github.com/nodejoin/nodejoin/packaging/man"
	"github.com/nodejoin/nodejoin/test/expect"
)

var book = man.Book{Version: "v1.2.3", Date: time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)}

// pages returns all of them.
func pages(t *testing.T) map[string]string {
	t.Helper()
	pages := book.Commands(cli.Command())
	reference, err := os.ReadFile("../../agent/config/REFERENCE.md")
	if err != nil {
		t.Fatal(err)
	}
	if pages["nodejoin-config.5"], err = book.Config(string(reference)); err != nil {
		t.Fatal(err)
	}
	return pages
}

// Both of the programs that read manual pages find nothing wrong.
func TestPagesAreCorrect(t *testing.T) {
	dir := t.TempDir()
	for name, text := range pages(t) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 20 {
		t.Fatalf("%d pages, %v", len(files), err)
	}
	t.Run("mandoc", func(t *testing.T) {
		expect.Program(t, "mandoc")
		out, err := exec.CommandContext(t.Context(), "mandoc", append([]string{"-T", "lint", "-W", "style"}, files...)...).CombinedOutput()
		var complaints []string
		for line := range strings.Lines(string(out)) {
			// References to other pages are looked for on this machine, and nobody edits these sources.
			if !strings.Contains(line, "referenced manual not found") && !strings.Contains(line, "outdated mandoc.db") &&
				!strings.Contains(line, "input text line longer than 80 bytes") {
				complaints = append(complaints, line)
			}
		}
		if len(complaints) != 0 {
			t.Errorf("%v\n%s", err, strings.Join(complaints, ""))
		}
	})
	t.Run("groff", func(t *testing.T) {
		expect.Program(t, "groff")
		for _, file := range files {
			out, err := exec.CommandContext(t.Context(), "groff", "-man", "-Tutf8", "-ww", "-z", file).CombinedOutput()
			if err != nil || len(out) != 0 {
				t.Errorf("%s: %v\n%s", filepath.Base(file), err, out)
			}
		}
	})
}

// Each page has the sections that a manual page has, and leads to pages that there are.
func TestPagesAreComplete(t *testing.T) {
	all := pages(t)
	reference := regexp.MustCompile(`(?m)^\.BR (\S+) \((\d)\)`)
	for name, text := range all {
		sections := []string{"NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "SEE ALSO"}
		if strings.HasSuffix(name, ".8") {
			sections = []string{"NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "ENVIRONMENT", "SEE ALSO"}
		}
		for _, section := range sections {
			if !strings.Contains(text, ".SH \""+section+"\"\n") {
				t.Errorf("%s has no section %s", name, section)
			}
		}
		if !strings.Contains(text, `"2026-11-28" "nodejoin v1.2.3"`) {
			t.Errorf("%s has another date or version", name)
		}
		for _, m := range reference.FindAllStringSubmatch(text, -1) {
			if page := strings.ReplaceAll(m[1], `\-`, "-") + "." + m[2]; all[page] == "" {
				t.Errorf("%s: there is no page %s", name, page)
			}
		}
	}
}

// Every command has a page with all of its flags, and every key of the configuration is in nodejoin-config(5).
func TestNothingIsLeftOut(t *testing.T) {
	all := pages(t)
	var check func(cmd *cobra.Command)
	check = func(cmd *cobra.Command) {
		page := all[strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".8"]
		if page == "" {
			t.Errorf("%s has no page", cmd.CommandPath())
		}
		for flag := range strings.FieldsSeq(cmd.LocalFlags().FlagUsages()) {
			if strings.HasPrefix(flag, "--") && !strings.Contains(page, strings.ReplaceAll(flag, "-", `\-`)) {
				t.Errorf("%s: %s is missing", cmd.CommandPath(), flag)
			}
		}
		for _, child := range cmd.Commands() {
			if child.IsAvailableCommand() && child.Name() != "help" && cmd.Name() != "completion" {
				check(child)
			}
		}
	}
	check(cli.Command())
	source, err := os.ReadFile("../../agent/config/REFERENCE.md")
	if err != nil {
		t.Fatal(err)
	}
	keys := regexp.MustCompile("(?m)^- \\*\\*`(.*?)`").FindAllStringSubmatch(string(source), -1)
	if len(keys) < 60 {
		t.Errorf("only %d keys", len(keys))
	}
	for _, key := range keys {
		if !strings.Contains(all["nodejoin-config.5"], `\fB`+key[1]+`\fR (`) {
			t.Errorf("%s is missing", key[1])
		}
	}
}

// What the generator of the reference does not write is not passed over.
func TestConfigRefuses(t *testing.T) {
	for _, text := range []string{"| a | b |", "> quoted", "```yaml\na: b\n", "* item"} {
		if page, err := book.Config(text); err == nil {
			t.Errorf("%q became\n%s", text, page)
		}
	}
}

// Text cannot become a request of roff's.
func TestTextStaysText(t *testing.T) {
	root := &cobra.Command{Use: "x", Short: "Do it", Long: ".so /etc/passwd\n'br\n\\fBbold\n\n  .indented -flag", Run: func(*cobra.Command, []string) {}}
	page := book.Commands(root)["x.8"]
	for _, line := range []string{`\&.so /etc/passwd`, `\(aqbr`, `\efBbold`, `\&.indented \-flag`} {
		if !strings.Contains(page, "\n"+line+"\n") {
			t.Errorf("%s is missing in\n%s", line, page)
		}
	}
}
