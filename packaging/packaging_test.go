package packaging

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/nodejoin/nodejoin/agent/config"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The configuration that is installed says nothing, so that the service is not started on it.
func TestInstalledConfigurationIsEmpty(t *testing.T) {
	text := read(t, "config.yaml")
	condition := regexp.MustCompile(`(?m)^ExecCondition=.*grep -qs "(.*)" (\S+)$`).FindStringSubmatch(read(t, "../systemd/nodejoin.service"))
	if condition == nil || condition[2] != "/etc/nodejoin/config.yaml" {
		t.Fatalf("the unit has another condition: %q", condition)
	}
	if regexp.MustCompile(`(?m)` + strings.ReplaceAll(condition[1], "[:space:]", `\s`)).MatchString(text) {
		t.Errorf("the service would be started on\n%s", text)
	}
	if _, err := config.Parse([]byte(text), "config.yaml"); err != nil {
		t.Error(err)
	}
}

// The example in it is a configuration as soon as the signs of the comment are taken off, and says what it promises to.
func TestInstalledExampleIsRight(t *testing.T) {
	example := regexp.MustCompile(`(?m)^#(\w|  )`).ReplaceAllString(read(t, "config.yaml"), "$1")
	file, err := config.Parse([]byte(example), "config.yaml")
	if err != nil {
		t.Fatalf("%v in\n%s", err, example)
	}
	if len(file.Cluster.Servers) != 1 || len(file.Cluster.CACertHashes) != 1 {
		t.Errorf("%+v", file.Cluster)
	}
}

// asked is where a maintainer script asks whether the configuration says anything.
var asked = regexp.MustCompile(`grep -qs '([^']*)'`)

// Wherever the maintainer scripts look into the configuration, they ask what the unit does.
func TestScriptsAskWhatTheUnitAsks(t *testing.T) {
	const condition = "^[[:space:]]*[^#[:space:]]"
	if !strings.Contains(read(t, "../systemd/nodejoin.service"), `"`+condition+`"`) {
		t.Error("the unit has another condition")
	}
	asking := 0
	for _, script := range scripts(t) {
		for _, found := range asked.FindAllStringSubmatch(read(t, script), -1) {
			asking++
			if found[1] != condition {
				t.Errorf("%s has another condition: %s", script, found[1])
			}
		}
	}
	if asking != 2 { // postinst, and rpm's post
		t.Errorf("they ask %d times", asking)
	}
}

// A configuration that was written while an older one stood aside is kept, whatever its indentation.
func TestPostinstKeepsWhatWasWritten(t *testing.T) {
	const older = "nodeName: older\n"
	for name, test := range map[string]struct{ config, kept string }{
		"written":          {"# mine\nnodeName: newer\n", ""},
		"written indented": {"# mine\n  nodeName: newer\n", ""},
		"the template":     {read(t, "config.yaml"), older},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "config.yaml")
			script := strings.ReplaceAll(read(t, "scripts/deb/postinst"), "/etc/nodejoin/config.yaml", path)
			// Only what is done with the file: the rest is the system's.
			script, _, found := strings.Cut(script, "# As debhelper's dh_installsystemd has it.")
			err := errors.Join(os.WriteFile(path, []byte(test.config), 0o600), os.WriteFile(path+".nodejoin-preinst", []byte(older), 0o600))
			if err != nil || !found {
				t.Fatal(err, found)
			}
			if out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "postinst", "configure", "").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if test.kept == "" {
				test.kept = test.config
			}
			if got := read(t, path); got != test.kept {
				t.Errorf("the configuration is\n%s", got)
			}
		})
	}
}

func scripts(t *testing.T) []string {
	t.Helper()
	scripts, err := filepath.Glob("scripts/*/*")
	if err != nil || len(scripts) != 7 {
		t.Fatalf("%q, %v", scripts, err)
	}
	return scripts
}

// sh takes every script. What rpm runs has no shebang: rpm names the shell.
func TestScriptsAreForSh(t *testing.T) {
	for _, script := range slices.Concat(scripts(t), []string{"repository"}) {
		if out, err := exec.CommandContext(t.Context(), "sh", "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
		if forRPM := strings.HasPrefix(script, "scripts/rpm/"); strings.HasPrefix(read(t, script), "#!/bin/sh\n") == forRPM {
			t.Errorf("%s begins with another line", script)
		}
	}
}

// No script touches the node's identity, and none removes a tree.
func TestScriptsKeepTheIdentity(t *testing.T) {
	for _, script := range scripts(t) {
		for number, line := range strings.Split(read(t, script), "\n") {
			code, _, _ := strings.Cut(strings.TrimSpace(line), "#")
			if strings.Contains(code, "/etc/kubernetes") || strings.Contains(code, "/var/lib/kubelet") || regexp.MustCompile(`\brm -\w*r`).MatchString(code) {
				t.Errorf("%s:%d: %s", script, number+1, line)
			}
		}
	}
}

// Every override is beside the reason for it.
func TestOverridesHaveReasons(t *testing.T) {
	for _, file := range []struct{ path, override string }{
		{"debian/lintian-overrides", `^nodejoin: `},
		{"rpmlint.toml", `^    "`},
	} {
		before, found := "", 0
		for line := range strings.Lines(read(t, file.path)) {
			if regexp.MustCompile(file.override).MatchString(line) {
				found++
				if !strings.HasPrefix(strings.TrimSpace(before), "# ") {
					t.Errorf("%s: %q has no reason", file.path, line)
				}
			}
			before = line
		}
		if found < 3 {
			t.Errorf("%s: only %d overrides were found", file.path, found)
		}
	}
}

// The packages ship one configuration file, which dpkg and rpm leave to the administrator, and no directory of the identity.
func TestRecipe(t *testing.T) {
	var recipe struct {
		Contents []struct{ Src, Dst, Type string }
	}
	if err := yaml.Unmarshal([]byte(read(t, "nfpm.yaml")), &recipe); err != nil {
		t.Fatal(err)
	}
	var configured []string
	for _, c := range recipe.Contents {
		if strings.HasPrefix(c.Dst, "/etc/kubernetes") || strings.HasPrefix(c.Dst, "/var") {
			t.Errorf("%s is shipped", c.Dst)
		}
		if c.Type == "config|noreplace" {
			configured = append(configured, c.Dst)
		}
	}
	if !slices.Equal(configured, []string{"/etc/nodejoin/config.yaml"}) {
		t.Errorf("conffiles: %q", configured)
	}
}

// directives returns those of a unit file, each with its section, in their order.
func directives(unit string) []string {
	var section string
	var found []string
	for line := range strings.Lines(unit) {
		line = strings.TrimSpace(line)
		switch {
		case line == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = line
		default:
			found = append(found, section+" "+line)
		}
	}
	return found
}

// What makes machines by other means gives the kubelet the same drop-in as the example does.
func TestDropInsAreThatOfTheExample(t *testing.T) {
	want := directives(read(t, "../systemd/examples/kubelet.service.d/10-nodejoin.conf"))
	if len(want) < 4 {
		t.Fatalf("the example has only %q", want)
	}
	var plays []struct {
		Tasks []struct {
			Block []struct {
				Copy struct{ Dest, Content string } `yaml:"ansible.builtin.copy"`
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "ansible/nodejoin.yaml")), &plays); err != nil {
		t.Fatal(err)
	}
	var butane struct {
		Systemd struct {
			Units []struct {
				Name    string
				Dropins []struct{ Name, Contents string }
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "ignition/nodejoin.bu")), &butane); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, play := range plays {
		for _, task := range play.Tasks {
			for _, inner := range task.Block {
				if inner.Copy.Dest == "/etc/systemd/system/kubelet.service.d/10-nodejoin.conf" {
					found["ansible"] = inner.Copy.Content
				}
			}
		}
	}
	for _, unit := range butane.Systemd.Units {
		for _, dropIn := range unit.Dropins {
			if unit.Name == "kubelet.service" && dropIn.Name == "10-nodejoin.conf" {
				found["ignition"] = dropIn.Contents
			}
		}
	}
	for _, by := range []string{"ansible", "ignition"} {
		if got := directives(found[by]); !slices.Equal(got, want) {
			t.Errorf("%s has\n%s\ninstead of\n%s", by, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}
