package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/nodejoin/nodejoin/agent/config"
)

func TestReferenceIsUpToDate(t *testing.T) {
	want, err := reference("..")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../REFERENCE.md")
	if diff := cmp.Diff(string(want), string(got)); err != nil || diff != "" {
		t.Errorf("run: go generate ./agent/config (%v, -want +got)\n%s", err, diff)
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"types.go", "example.yaml"} {
		data, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(dir, io.Discard); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "REFERENCE.md")); err != nil || !bytes.HasPrefix(data, []byte(head)) {
		t.Errorf("%v\n%s", err, data)
	}
	var said strings.Builder
	if err := run(t.TempDir(), &said); err == nil || !strings.HasPrefix(said.String(), "gen: ") {
		t.Errorf("%v, %q", err, said.String())
	}
}

// A type that nobody has described cannot get into the reference.
func TestReadTypes(t *testing.T) {
	for source, want := range map[string]string{
		"type T struct{}":                                                          "T: its comment does not begin with its name",
		"// Thing is T.\ntype T struct{}":                                          "T: its comment does not begin with its name",
		"// T is T.\ntype T struct{ A string `json:\"a\"` }":                       "T: a: it has no comment",
		"// T is T.\ntype T struct {\n// The A.\nA string\n}":                      "T: A has no tag",
		"// T is T.\ntype T struct {\n// The A.\nA map[string]int `json:\"a\"`\n}": "T: a: a *ast.MapType has no name for operators",
		"type": "expected",
	} {
		path := filepath.Join(t.TempDir(), "types.go")
		if err := os.WriteFile(path, []byte("package p\n\n"+source+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readTypes(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", source, err)
		}
	}
	if _, err := outline(nil, "T", ""); err == nil {
		t.Error("a type that is not there was described")
	}
}

func sectionsOf(t *testing.T) []section {
	t.Helper()
	types, err := readTypes("../types.go")
	if err != nil {
		t.Fatal(err)
	}
	sections, err := outline(types, "File", "")
	if err != nil || len(sections) != 18 {
		t.Fatalf("%d sections, %v", len(sections), err)
	}
	return sections
}

// lookup returns a value of the tree by its path in the reference. Of a list it takes the last item.
func lookup(tree any, path string) (any, bool) {
	for key := range strings.SplitSeq(path, ".") {
		name, isList := strings.CutSuffix(key, "[]")
		mapping, ok := tree.(map[string]any)
		if !ok {
			return nil, false
		}
		if tree, ok = mapping[name]; !ok {
			return nil, false
		}
		if isList {
			items := tree.([]any)
			tree = items[len(items)-1]
		}
	}
	return tree, true
}

// treeOf returns a configuration as a tree of maps.
func treeOf(t *testing.T, f *config.File) any {
	t.Helper()
	data, err := f.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var tree any
	if err := yaml.Unmarshal(data, &tree); err != nil {
		t.Fatal(err)
	}
	return tree
}

// The defaults that the comments tell are those that are filled in.
func TestDefaultsAreTold(t *testing.T) {
	f := &config.File{Certificates: []config.Certificate{{}}, Hooks: []config.Hook{{}}, Credentials: []config.Credential{{ // all kinds at once
		BootstrapToken: &config.BootstrapToken{}, BearerToken: &config.BearerToken{}, ClientCertificate: &config.ClientCertificate{}, OIDC: &config.OIDC{},
		Basic: &config.Basic{}, Exec: &config.Exec{Env: []config.EnvVar{{}}}, Endpoint: &config.Endpoint{},
	}}}
	f.Default()
	tree := treeOf(t, f)
	words := []string{ // what depends on the machine, or is no single value
		"the host name", "the bootstrap token in /etc/nodejoin/token", "kubelet-client alone", "the servers' own names", "no proxy",
		"paths.caFile, if that is there", "no copy", "none", "certificateFile, which holds both", "a public client, which has none", "the client credentials grant", "the provider's own", "those of this machine",
		"what verifies `cluster.servers`", "the server's own name", "the agent's user", "the agent's group", "any of them",
	}
	compared := 0
	for _, s := range sectionsOf(t) {
		for _, field := range s.fields {
			path := strings.TrimPrefix(s.path+"."+field.key, ".")
			value, filled := lookup(tree, path)
			if field.inner != "" {
				continue
			}
			var want string
			switch value := value.(type) {
			case nil:
				if field.fallback != "" && field.fallback != "false" && field.fallback != "0" && !slices.Contains(words, field.fallback) {
					t.Errorf("%s: %q is told, and nothing filled in", path, field.fallback)
				}
				continue
			case []any:
				items := make([]string, len(value))
				for i, v := range value {
					items[i] = fmt.Sprint(v)
				}
				want = "[" + strings.Join(items, ", ") + "]"
			default:
				want = fmt.Sprint(value)
			}
			if filled && strings.Trim(field.fallback, `"`) != want {
				t.Errorf("%s: %q is told, and %q filled in", path, field.fallback, want)
			}
			compared++
		}
	}
	if compared < 20 {
		t.Errorf("only %d defaults were compared", compared)
	}
}

// The example has every key, but for those that exclude another in it.
func TestExampleIsComplete(t *testing.T) {
	source, err := os.ReadFile("../example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Parse(source, "example.yaml"); err != nil {
		t.Error(err)
	}
	for _, s := range sectionsOf(t) {
		for _, field := range s.fields {
			if !regexp.MustCompile(`(?m)^[ #-]*` + field.key + `:`).Match(source) {
				t.Errorf("%s.%s is not in the example", s.path, field.key)
			}
		}
	}
}

// A cross-reference leads somewhere.
func TestLinks(t *testing.T) {
	text, err := reference("..")
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^## `(.*)`$").FindAllSubmatch(text, -1) {
		headings["#"+anchor(string(m[1]))] = true
	}
	links := regexp.MustCompile(`\]\((#[^)]*)\)`).FindAllSubmatch(text, -1)
	if len(links) != 17 || len(headings) != 17 {
		t.Errorf("%d links to %d headings", len(links), len(headings))
	}
	for _, link := range links {
		if !headings[string(link[1])] {
			t.Errorf("%s leads nowhere", link[1])
		}
	}
}

func TestMarkdown(t *testing.T) {
	text := "One\nline, a [Link] and `code`.\n\n  - a\n  - b\n\nAs in\n\n\ta: b\n\nDefault: x.y.\n"
	described, fallback, required := split(text)
	if want := "One line, a [Link] and `code`.\n\n- a\n- b\n\nAs in\n\n```yaml\na: b\n```"; described != want || fallback != "x.y" || required {
		t.Errorf("%q, %q, %t", described, fallback, required)
	}
	if described, _, required := split("A name.\n\nRequired.\n"); described != "A name." || !required {
		t.Errorf("%q, %t", described, required)
	}
}
