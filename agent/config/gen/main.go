// Command gen writes REFERENCE.md of package config from the comments of its types. go generate runs it.
package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
)

func main() {
	if err := run(".", os.Stderr); err != nil {
		os.Exit(1) //nolint:forbidigo // the main of a generator
	}
}

// run writes the reference of the package in dir, where go generate starts this.
func run(dir string, stderr io.Writer) error {
	text, err := reference(dir)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "REFERENCE.md"), text, 0o644) //nolint:gosec // a part of the source, for everybody to read
	}
	if err != nil {
		fmt.Fprintln(stderr, "gen:", err)
	}
	return err
}

// section is what the reference says of one type.
type section struct {
	path   string // of the mapping: "certificates[]"; "" for the file
	text   string
	fields []field
}

// field is a key of a mapping.
type field struct {
	key, kind, text string
	fallback        string // its default; "" where nothing is said
	required        bool
	inner           string // the type of the mapping that it holds, or ""
}

const head = `<!-- Generated from types.go and example.yaml by "go generate ./agent/config". Do not edit. -->

# The configuration file

`

// reference returns the text.
func reference(dir string) ([]byte, error) {
	types, err := readTypes(filepath.Join(dir, "types.go"))
	if err != nil {
		return nil, err
	}
	example, err := os.ReadFile(filepath.Join(dir, "example.yaml"))
	if err != nil {
		return nil, err
	}
	sections, err := outline(types, "File", "")
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString(head)
	b.WriteString(sections[0].text + "\n\n## A complete example\n\n```yaml\n" + string(example) + "```\n")
	for _, s := range sections {
		s.write(&b)
	}
	return []byte(b.String()), nil
}

func (s *section) write(b *strings.Builder) {
	if s.path == "" {
		b.WriteString("\n## Keys of the file\n")
	} else {
		fmt.Fprintf(b, "\n## `%s`\n\n%s\n", s.path, s.text)
	}
	for _, f := range s.fields {
		fmt.Fprintf(b, "\n- **`%s`** (%s", f.key, f.kind)
		switch {
		case f.required:
			b.WriteString("; required")
		case f.fallback != "":
			b.WriteString("; default: " + f.fallback)
		}
		b.WriteString(")\n\n" + indent(f.text) + "\n")
		if f.inner != "" {
			path := s.inner(f)
			fmt.Fprintf(b, "\n  See [`%s`](#%s).\n", path, anchor(path))
		}
	}
}

// inner returns the path of the mapping that a field holds.
func (s *section) inner(f field) string {
	path := strings.TrimPrefix(s.path+"."+f.key, ".")
	if strings.HasPrefix(f.kind, "list") {
		path += "[]"
	}
	return path
}

func indent(text string) string {
	return regexp.MustCompile(`(?m)^(.)`).ReplaceAllString(text, "  $1")
}

// anchor returns what GitHub makes of a heading.
func anchor(heading string) string {
	return strings.ToLower(strings.NewReplacer(".", "", "[", "", "]", "").Replace(heading))
}

// outline returns the section of a type and those of the types in it, in the order of the file.
func outline(types map[string]section, name, path string) ([]section, error) {
	s, found := types[name]
	if !found {
		return nil, fmt.Errorf("there is no type %s", name)
	}
	s.path = path
	sections := []section{s}
	for _, f := range s.fields {
		if f.inner == "" {
			continue
		}
		inner, err := outline(types, f.inner, s.inner(f))
		if err != nil {
			return nil, err
		}
		sections = append(sections, inner...)
	}
	return sections, nil
}

// readTypes returns the exported structs of a source file, by name.
func readTypes(path string) (map[string]section, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	types := map[string]section{}
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok || general.Tok != token.TYPE {
			continue
		}
		for _, spec := range general.Specs {
			spec, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			if fields, ok := spec.Type.(*ast.StructType); ok {
				if types[spec.Name.Name], err = readStruct(spec.Name.Name, general.Doc.Text(), fields); err != nil {
					return nil, fmt.Errorf("%s: %w", spec.Name.Name, err)
				}
			}
		}
	}
	return types, nil
}

func readStruct(name, text string, fields *ast.StructType) (section, error) {
	rest, found := strings.CutPrefix(text, name+" ") // the type's name means nothing to an operator
	if !found {
		return section{}, errors.New("its comment does not begin with its name")
	}
	s := section{text: markdown("This " + rest)}
	for _, f := range fields.Fields.List {
		if f.Tag == nil {
			return s, fmt.Errorf("%s has no tag", f.Names[0])
		}
		key, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json"), ",")
		described, err := describe(f.Type)
		if err == nil && f.Doc.Text() == "" {
			err = errors.New("it has no comment")
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", key, err)
		}
		described.key = key
		described.text, described.fallback, described.required = split(f.Doc.Text())
		s.fields = append(s.fields, described)
	}
	return s, nil
}

var fallbackText = regexp.MustCompile(`^Default: (.*)\.$`)

// split takes the last paragraph off a field's comment where it is the default.
func split(text string) (described, fallback string, required bool) {
	paragraphs := strings.Split(markdown(text), "\n\n")
	last := paragraphs[len(paragraphs)-1]
	m := fallbackText.FindStringSubmatch(last)
	switch {
	case m != nil:
		fallback = m[1]
	case last == "Required.":
		required = true
	default:
		return strings.Join(paragraphs, "\n\n"), "", false
	}
	return strings.Join(paragraphs[:len(paragraphs)-1], "\n\n"), fallback, required
}

// describe says of what type a field is, in the words of an operator.
func describe(expr ast.Expr) (field, error) {
	switch t := expr.(type) {
	case *ast.StarExpr:
		return describe(t.X)
	case *ast.ArrayType:
		inner, err := describe(t.Elt)
		inner.kind = "list of " + inner.kind + "s"
		return inner, err
	case *ast.Ident:
		switch t.Name {
		case "string":
			return field{kind: "string"}, nil
		case "bool":
			return field{kind: "true or false"}, nil
		case "int":
			return field{kind: "number"}, nil
		case "Duration":
			return field{kind: "duration"}, nil
		}
		return field{kind: "mapping", inner: t.Name}, nil
	}
	return field{}, fmt.Errorf("a %T has no name for operators", expr)
}

// markdown returns a Go comment as Markdown: paragraphs on one line each, lists and code. Backquotes stay as they are.
func markdown(text string) string {
	var p comment.Parser
	var parts []string
	for _, block := range p.Parse(text).Content {
		switch block := block.(type) {
		case *comment.Paragraph:
			parts = append(parts, plain(block.Text))
		case *comment.Code:
			parts = append(parts, "```yaml\n"+block.Text+"```")
		case *comment.List:
			var items []string
			for _, item := range block.Items {
				for _, content := range item.Content {
					if paragraph, ok := content.(*comment.Paragraph); ok {
						items = append(items, "- "+plain(paragraph.Text))
					}
				}
			}
			parts = append(parts, strings.Join(items, "\n"))
		}
	}
	return strings.Join(parts, "\n\n")
}

// plain returns text on one line.
func plain(texts []comment.Text) string {
	var b strings.Builder
	for _, text := range texts {
		switch text := text.(type) {
		case comment.Plain:
			b.WriteString(string(text))
		case comment.Italic:
			b.WriteString(string(text))
		case *comment.Link:
			b.WriteString(plain(text.Text))
		case *comment.DocLink:
			b.WriteString(plain(text.Text))
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
