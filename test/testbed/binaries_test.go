package testbed

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBinariesNamed(t *testing.T) {
	whole, half := t.TempDir(), t.TempDir()
	for _, program := range programs {
		writeFile(t, filepath.Join(whole, program), "#!/bin/sh\n", 0o755)
	}
	writeFile(t, filepath.Join(half, "etcd"), "#!/bin/sh\n", 0o755)
	writeFile(t, filepath.Join(half, "kubectl"), "not executable", 0o644)
	tests := []struct {
		name               string
		own, kubebuilder   string
		want               string
		missing, complains string
	}{
		{"own", whole, "", whole, "", ""},
		{"kubebuilder", "", whole, whole, "", ""},
		{"own goes first", whole, half, whole, "", ""},
		{"own lacks programs", half, whole, "", "kube-apiserver, kube-controller-manager, kubelet, kubectl, kubeadm", "NODEJOIN_TEST_BIN"},
		{"kubebuilder lacks programs", "", half, "", "kube-controller-manager", "KUBEBUILDER_ASSETS"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("NODEJOIN_TEST_BIN", test.own)
			t.Setenv("KUBEBUILDER_ASSETS", test.kubebuilder)
			got, err := Binaries(t.Context())
			if test.want != "" && (err != nil || got != test.want) {
				t.Errorf("got %q (%v), want %q", got, err, test.want)
			}
			if test.want == "" && (err == nil || !strings.Contains(err.Error(), test.missing) || !strings.Contains(err.Error(), test.complains)) {
				t.Errorf("got %q (%v), want the missing programs", got, err)
			}
		})
	}
}

func TestRecipe(t *testing.T) {
	source := t.TempDir()
	mod := "module m\n\nrequire (\n\tk8s.io/kubernetes v1.37.2\n)\n"
	writeFile(t, filepath.Join(source, "go.mod"), mod, 0o644)
	writeFile(t, filepath.Join(source, "sub", "main.go"), "package main", 0o644)
	first := recipeOf(t, source)
	if again := recipeOf(t, source); again.key() != first.key() {
		t.Error("the key changes by itself")
	}
	ldflags := strings.Join(first.flags, " ")
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=v1.37.2", "-X k8s.io/component-base/version.gitMajor=1",
		"-X k8s.io/client-go/pkg/version.gitMinor=37",
	} {
		if !strings.Contains(ldflags, want) {
			t.Errorf("%q is not in %q", want, ldflags)
		}
	}
	keys := []string{first.key()}
	for name, text := range map[string]string{
		"sub/main.go": "package main // changed", "sub/other.go": "package main", "go.sum": "x",
		"go.mod": strings.ReplaceAll(mod, "37.2", "38.0"),
	} {
		writeFile(t, filepath.Join(source, name), text, 0o644)
		key := recipeOf(t, source).key()
		if slices.Contains(keys, key) {
			t.Errorf("%s does not change the key", name)
		}
		keys = append(keys, key)
	}
	before := recipeOf(t, source).key()
	writeFile(t, filepath.Join(source, "README.md"), "words", 0o644)
	if recipeOf(t, source).key() != before {
		t.Error("a file that is not built changes the key")
	}
}

func recipeOf(t *testing.T, source string) *recipe {
	t.Helper()
	r, err := readRecipe(source)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The module is found from the source file, and without one (-trimpath) from the working directory.
func TestModuleDir(t *testing.T) {
	dir, err := moduleDir()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "main.go")); err != nil {
		t.Error(err)
	}
}

func TestOverride(t *testing.T) {
	got := override([]string{"--a=1", "--list=x", "--b"}, []string{"--list=y", "--b=false", "--new=1"})
	if diff := cmp.Diff([]string{"--a=1", "--list=y", "--b=false", "--new=1"}, got); diff != "" {
		t.Error(diff)
	}
}

func writeFile(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
