package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nodejoin/nodejoin/agent/cmd/cli"
	"github.com/nodejoin/nodejoin/packaging/man"
)

// document is a file that is the same for all architectures, by its path in the tree that nfpm.yaml describes.
type document struct {
	path string
	data []byte
	mode fs.FileMode
}

const docDir = "usr/share/doc/nodejoin/"

// sources are the files that are shipped as they stand in the repository.
var sources = []struct{ from, to string }{
	{"systemd/nodejoin.service", "usr/lib/systemd/system/nodejoin.service"},
	{"packaging/config.yaml", "etc/nodejoin/config.yaml"},
	{"packaging/debian/copyright", "debian/copyright"},
	{"packaging/debian/lintian-overrides", "debian/lintian-overrides"},
	{"packaging/scripts/", "scripts/"},
	{"LICENSE", "LICENSE"},
	{"README.md", docDir + "README.md"},
	{"CHANGELOG.md", docDir + "CHANGELOG.md"},
	{"SECURITY.md", docDir + "SECURITY.md"},
	{"bootstrap/EXAMPLES.md", docDir + "CREDENTIALS.md"},
	{"agent/config/example.yaml", docDir + "examples/config.yaml"},
	{"systemd/examples/", docDir + "examples/systemd/"},
	{"packaging/cloud-init/", docDir + "examples/cloud-init/"},
	{"packaging/ansible/", docDir + "examples/ansible/"},
	{"packaging/ignition/", docDir + "examples/ignition/"},
	{"packaging/image/", docDir + "examples/image/"},
}

// documents returns everything but the program.
func (r *release) documents() ([]document, error) {
	var documents []document
	for _, s := range sources {
		found, err := r.read(s.from, s.to)
		if err != nil {
			return nil, err
		}
		documents = append(documents, found...)
	}
	pages, err := r.manual()
	if err != nil {
		return nil, err
	}
	completions, err := completions()
	if err != nil {
		return nil, err
	}
	changelog, err := compress([]byte(r.debianChangelog()))
	if err != nil {
		return nil, err
	}
	documents = slices.Concat(documents, pages, completions, []document{{"debian/changelog.gz", changelog, 0o644}, {"changelog.yaml", []byte(r.rpmChangelog()), 0o644}})
	for _, format := range []string{"deb", "rpm"} {
		recipe, err := r.recipe(format, documents)
		if err != nil {
			return nil, err
		}
		documents = append(documents, document{"nfpm-" + format + ".yaml", []byte(recipe), 0o644})
	}
	return documents, nil
}

// read returns a file, or what is below a directory, whose names end in a slash. Go code is for the source alone.
func (r *release) read(from, to string) ([]document, error) {
	if !strings.HasSuffix(from, "/") {
		data, err := os.ReadFile(filepath.Join(r.source, from))
		return []document{{to, data, 0o644}}, err
	}
	var documents []document
	root := os.DirFS(filepath.Join(r.source, from))
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(name, ".go") {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		data, err := fs.ReadFile(root, name)
		mode := fs.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		documents = append(documents, document{path.Join(to, name), data, mode})
		return err
	})
	return documents, err
}

// manual returns the manual pages, compressed as the distributions want them.
func (r *release) manual() ([]document, error) {
	book := man.Book{Version: r.version, Date: r.date}
	pages := book.Commands(cli.Command())
	reference, err := os.ReadFile(filepath.Join(r.source, "agent/config/REFERENCE.md"))
	if err != nil {
		return nil, err
	}
	if pages["nodejoin-config.5"], err = book.Config(string(reference)); err != nil {
		return nil, fmt.Errorf("REFERENCE.md: %w", err)
	}
	var documents []document
	for _, name := range slices.Sorted(maps.Keys(pages)) {
		data, err := compress([]byte(pages[name]))
		if err != nil {
			return nil, err
		}
		documents = append(documents, document{"usr/share/man/man" + name[len(name)-1:] + "/" + name + ".gz", data, 0o644})
	}
	return documents, nil
}

func completions() ([]document, error) {
	var documents []document
	for _, shell := range []struct {
		path  string
		write func(*cobra.Command, *bytes.Buffer) error
	}{
		{"usr/share/bash-completion/completions/nodejoin", func(c *cobra.Command, b *bytes.Buffer) error { return c.GenBashCompletionV2(b, true) }},
		{"usr/share/zsh/_nodejoin", func(c *cobra.Command, b *bytes.Buffer) error { return c.GenZshCompletion(b) }},
		{"usr/share/fish/vendor_completions.d/nodejoin.fish", func(c *cobra.Command, b *bytes.Buffer) error { return c.GenFishCompletion(b, true) }},
	} {
		var b bytes.Buffer
		if err := shell.write(cli.Command(), &b); err != nil {
			return nil, err
		}
		documents = append(documents, document{shell.path, b.Bytes(), 0o644})
	}
	return documents, nil
}

// debianChangelog says what there is to say of a package that is made by its own authors: which version it is. What
// changed in the program is in CHANGELOG.md.
func (r *release) debianChangelog() string {
	return fmt.Sprintf("nodejoin (%s) stable; urgency=medium\n\n  * nodejoin %s. What changed is in CHANGELOG.md.\n\n -- %s  %s\n",
		r.packaged, r.version, "The nodejoin Authors <nodejoin@users.noreply.github.com>", r.date.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
}

// compress does so without a name or a time.
func compress(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	return b.Bytes(), err
}

// stage lays out the tree of a package. Whatever the umask is, the modes are those of the documents; the times are the commit's.
func (r *release) stage(dir, binary string, documents []document) error {
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	for _, d := range slices.Concat(documents, []document{{"usr/bin/nodejoin", program, 0o755}}) {
		target := filepath.Join(dir, d.path)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil { //nolint:gosec // the modes of a package
			return err
		}
		if err := os.WriteFile(target, d.data, d.mode); err != nil {
			return err
		}
		if err := os.Chmod(target, d.mode); err != nil {
			return err
		}
		if err := os.Chtimes(target, r.date, r.date); err != nil {
			return err
		}
	}
	return nil
}

// recipe returns nfpm.yaml for a format, with the documents in it, and the changelog where the format has one inside.
func (r *release) recipe(format string, documents []document) (string, error) {
	data, err := os.ReadFile(filepath.Join(r.source, "packaging/nfpm.yaml"))
	if err != nil {
		return "", err
	}
	const place = "  # documents\n"
	before, after, found := strings.Cut(string(data), place)
	if !found {
		return "", fmt.Errorf("nfpm.yaml has no line %q", place)
	}
	var b strings.Builder
	b.WriteString(before)
	owned := map[string]bool{}
	for _, d := range documents {
		isDocument := strings.HasPrefix(d.path, docDir)
		switch {
		case !isDocument && !strings.HasPrefix(d.path, "usr/share/man/"):
		case format != "rpm":
			fmt.Fprintf(&b, "  - {src: %q, dst: %q}\n", d.path, "/"+d.path)
		default:
			fmt.Fprintf(&b, "  - {src: %q, dst: %q, type: doc}\n", d.path, "/"+d.path)
			for dir := path.Dir(d.path); isDocument && !owned[dir] && strings.HasPrefix(dir+"/", docDir); dir = path.Dir(dir) {
				fmt.Fprintf(&b, "  - {dst: %q, type: dir, file_info: {mode: 0755}}\n", "/"+dir)
				owned[dir] = true
			}
		}
	}
	b.WriteString(after)
	if format == "rpm" {
		b.WriteString("changelog: changelog.yaml\n")
	}
	return b.String(), nil
}

// rpmChangelog is debianChangelog for rpm, as nfpm wants it.
func (r *release) rpmChangelog() string {
	return fmt.Sprintf("- semver: %q\n  date: %s\n  packager: The nodejoin Authors <nodejoin@users.noreply.github.com>\n  changes:\n  - note: %q\n",
		r.packaged+"-1", r.date.Format(time.RFC3339), "nodejoin "+r.version+". What changed is in CHANGELOG.md.")
}
