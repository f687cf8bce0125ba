package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nodejoin/nodejoin/csr"
)

// What a shell is told to complete: the values, and whether it adds files (0), directories (16) or nothing (4).
func TestComplete(t *testing.T) {
	root := t.TempDir()
	path := filepath.Join(root, "etc/nodejoin/config.yaml")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("certificates:\n- name: kubelet-serving\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		line string // a space at the end begins the next word
		want []string
		kind string
	}{
		{"status -o ", []string{"text", "json", "yaml"}, ":4"},
		{"--log-format ", []string{"text", "json"}, ":4"},
		{"run --rotation ", []string{"agent", "kubelet"}, ":4"},
		{"join --key-algorithm ", csr.Algorithms(), ":4"},
		{"user --key-algorithm ", csr.Algorithms(), ":4"},
		{"wait --for ", []string{"identity", "kubelet-client"}, ":4"},
		{"wait --root " + root + " --for ", []string{"identity", "kubelet-client", "kubelet-serving"}, ":4"},
		{"wait --config " + path + " --for ", []string{"identity", "kubelet-client", "kubelet-serving"}, ":4"},
		{"wait --timeout ", nil, ":4"},
		{"join --root ", nil, ":16"},
		{"join --bundle ", nil, ":0"},
		{"join ", nil, ":4"},
		{"config validate ", nil, ":0"},
		{"completion ", shells, ":4"},
	} {
		t.Run(test.line, func(t *testing.T) {
			var out, unheard bytes.Buffer
			if code := Main(append([]string{"__complete"}, strings.Split(test.line, " ")...), strings.NewReader(""), &out, &unheard); code != 0 {
				t.Fatalf("exit status %d: %s", code, unheard.String())
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			values := lines[:len(lines)-1]
			if !slices.Equal(values, test.want) || lines[len(lines)-1] != test.kind {
				t.Errorf("completed are %q, %s", values, lines[len(lines)-1])
			}
		})
	}
}

// A flag whose values are listed is one that there is.
func TestKnownFlags(t *testing.T) {
	var help bytes.Buffer
	for _, command := range []string{"run", "join", "user"} {
		Main([]string{command, "--help"}, strings.NewReader(""), &help, &help)
	}
	for name := range known {
		if !strings.Contains(help.String(), "--"+name+" string") {
			t.Errorf("there is no flag --%s", name)
		}
	}
	for _, name := range directories {
		if !strings.Contains(help.String(), "--"+name+" string") {
			t.Errorf("there is no flag --%s", name)
		}
	}
}
