//go:build unix

package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kardianos/service"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/test/expect"
)

const installed = "/opt/nodejoin/bin/nodejoin"

// machine is a machine with systemd: its files, and what systemctl was asked.
type machine struct {
	*Service
	asked []string
	show  string // what systemctl shows
	fails string // the verb that fails
}

func newMachine(t *testing.T, booted bool) *machine {
	t.Helper()
	m := &machine{}
	m.Service = &Service{Manager: "systemd", root: t.TempDir(), booted: booted}
	m.systemctl = func(args ...string) (string, error) {
		m.asked = append(m.asked, strings.ReplaceAll(strings.Join(args, " "), m.root, "ROOT"))
		if m.fails != "" && slices.Contains(args, m.fails) {
			return "", errors.New("Job for nodejoin.service failed")
		}
		return m.show, nil
	}
	return m
}

func (m *machine) write(t *testing.T, path, text string) {
	t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) read(path string) string {
	data, _ := os.ReadFile(filepath.Join(m.root, path))
	return string(data)
}

// changes is what systemctl was asked to do.
func (m *machine) changes() []string {
	return slices.DeleteFunc(slices.Clone(m.asked), func(asked string) bool { return strings.HasPrefix(asked, "show ") })
}

const ownPath, shippedPath = "/etc/systemd/system/nodejoin.service", "/usr/lib/systemd/system/nodejoin.service"

// The unit is what the packages ship but for the program's path, on one line.
func TestUnitIsThePackagedOne(t *testing.T) {
	text, err := Unit(installed)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.ReplaceAll(text, installed, packaged); got != unit {
		t.Errorf("the unit is\n%s", got)
	}
	if strings.Count(text, installed) != 1 || !strings.Contains(text, "\nExecStart="+installed+" run\n") {
		t.Errorf("the unit is\n%s", text)
	}
	if same, _ := Unit(packaged); same != unit {
		t.Error("the packaged unit is changed")
	}
	for _, path := range []string{"", "nodejoin", "/opt/my programs/nodejoin", "/opt/%n/nodejoin", "/opt/$HOME/nodejoin", "/opt/a\nb", "/opt/{{Path}}"} {
		_, err := Unit(path)
		wantClass(t, err, fault.Usage, "cannot stand in a unit")
	}
}

// installedUnit is the unit as an install writes it.
func installedUnit() string {
	text, _ := Unit(installed)
	return sealed(text)
}

// older is what an older version of this program has written for another path.
var older = sealed(unit + "# older\n")

func TestInstall(t *testing.T) {
	want := installedUnit()
	for _, test := range []struct {
		name    string
		prepare func(m *machine)
		booted  bool
		own     string // the unit afterwards
		asked   []string
		check   func(r *Report) bool
	}{
		{"first", func(*machine) {}, true, want, []string{"daemon-reload", "enable nodejoin.service"}, func(r *Report) bool { return r.Changed && !r.Packaged }},
		{"again", func(m *machine) { m.write(t, ownPath, want) }, true, want, []string{"daemon-reload", "enable nodejoin.service"}, func(r *Report) bool { return !r.Changed }},
		{"of an older program", func(m *machine) { m.write(t, ownPath, older) }, true, want, []string{"daemon-reload", "enable nodejoin.service"}, func(r *Report) bool { return r.Changed }},
		{"after a power cut", func(m *machine) { m.write(t, ownPath, "") }, true, want, []string{"daemon-reload", "enable nodejoin.service"}, func(r *Report) bool { return r.Changed }},
		{"packaged", func(m *machine) { m.write(t, shippedPath, unit) }, true, "", []string{"daemon-reload", "enable nodejoin.service"}, func(r *Report) bool { return r.Packaged && !r.Changed && r.Executable == packaged }},
		{"packaged elsewhere", func(m *machine) { m.write(t, "/lib/systemd/system/nodejoin.service", unit) }, true, "", []string{"daemon-reload", "enable nodejoin.service"}, func(r *Report) bool { return r.Packaged }},
		{"in an image", func(*machine) {}, false, want, []string{"--root=ROOT enable nodejoin.service"}, func(r *Report) bool { return r.Changed && strings.Contains(r.Note, "at boot") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t, test.booted)
			test.prepare(m)
			r, err := m.Install(installed)
			if err != nil {
				t.Fatal(err)
			}
			if changes := m.changes(); !r.AtBoot || !test.check(r) || !slices.Equal(changes, test.asked) {
				t.Errorf("%+v, asked was %q", r, changes)
			}
			if got := m.read(ownPath); got != test.own {
				t.Errorf("the unit is\n%s", got)
			}
			if left, _ := filepath.Glob(m.ownUnit() + "?*"); len(left) != 0 {
				t.Errorf("left is %q", left)
			}
			if info, err := os.Stat(m.ownUnit()); r.Changed && (err != nil || info.Mode() != 0o644) {
				t.Errorf("the unit has the mode %v: %v", info, err)
			}
		})
	}
}

// What runs before the install goes on as it was: a start would do nothing.
func TestInstallOverOneThatRuns(t *testing.T) {
	want := installedUnit()
	const start, restart = "start it now: nodejoin service start", "runs as it was before; to run what is installed: nodejoin service restart"
	for _, test := range []struct {
		name, active, unit, runs string
		note                     string
	}{
		{"it does not run", "inactive", want, installed, start},
		{"it is between two tries", "activating\nSubState=auto-restart", older, "", start},
		{"the same", "active", want, installed, "runs already"},
		{"of another unit", "active", older, installed, restart},
		{"of another program", "active", want, "/opt/nodejoin/bin/older", restart},
		{"of a program that is gone", "reloading", want, "", restart},
		{"it is starting", "activating\nSubState=start", older, installed, restart},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t, true)
			m.write(t, ownPath, test.unit)
			m.write(t, installed, "new")
			m.write(t, "/opt/nodejoin/bin/older", "old")
			m.write(t, "/proc/42/stat", "")
			if test.runs != "" {
				if err := os.Symlink(filepath.Join(m.root, test.runs), filepath.Join(m.root, "/proc/42/exe")); err != nil {
					t.Fatal(err)
				}
			}
			m.show = "LoadState=loaded\nMainPID=42\nActiveState=" + test.active + "\n"
			if r, err := m.Install(installed); err != nil || !strings.HasSuffix(r.Note, test.note) {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// recorded is a service of kardianos/service that runs.
type recorded struct {
	service.Service
	did []string
}

func (r *recorded) Status() (service.Status, error) { return service.StatusRunning, nil }
func (r *recorded) Stop() error                     { r.did = append(r.did, "stop"); return nil }
func (r *recorded) Uninstall() error                { r.did = append(r.did, "uninstall"); return nil }

// What somebody else has written for another service manager is neither stopped nor removed.
func TestUninstallScript(t *testing.T) {
	job := "<plist version=\"1.0\">\n<dict>\n\t<key>KeepAlive</key>\n\t<true/>\n\t<key>Label</key>\n\t<string>nodejoin</string>\n\t<key>ProgramArguments</key>\n" +
		"\t<array>\n\t\t<string>" + installed + "</string>\n\t\t<string>run</string>\n\t</array>\n\t<key>RunAtLoad</key>\n\t<true/>\n</dict>\n</plist>\n"
	for _, test := range []struct {
		manager, text string
		ours          bool
	}{
		{"openrc", script(installed), true},
		{"openrc", "", true},
		{"openrc", "#!/sbin/openrc-run\n# Joins nodes.\n", false},
		{"upstart", "# Kubernetes node join agent\n\ndescription    \"nodejoin\"\n", true},
		{"upstart", "# Joins nodes\nexec " + installed + " run\n", false},
		{"launchd", job, true},
		{"launchd", strings.Replace(job, "<string>run<", "<string>serve<", 1), false},
	} {
		t.Run(test.manager, func(t *testing.T) {
			inner := &recorded{}
			m := &machine{Service: &Service{Manager: test.manager, root: t.TempDir(), inner: func(string) (service.Service, error) { return inner, nil }}}
			m.write(t, strings.TrimPrefix(m.scriptPath(), m.root), test.text)
			r, err := m.Uninstall()
			if test.ours {
				if err != nil || !r.Changed || !slices.Equal(inner.did, []string{"stop", "uninstall"}) {
					t.Errorf("%+v, %v; it did %q", r, err, inner.did)
				}
				return
			}
			wantClass(t, err, fault.Files, "was not written by nodejoin")
			wantClass(t, m.makeRoom(m.scriptPath()), fault.Files, "was not written by nodejoin")
			if len(inner.did) != 0 || m.read(strings.TrimPrefix(m.scriptPath(), m.root)) != test.text {
				t.Errorf("it did %q", inner.did)
			}
		})
	}
}

func TestInstallIsRefused(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(m *machine) error
		want    string
	}{
		{"a unit of somebody else's", func(m *machine) error { m.write(t, ownPath, "[Unit]\n"); return nil }, "was not written by nodejoin"},
		{"an empty unit before a packaged one", func(m *machine) error { m.write(t, ownPath, ""); m.write(t, shippedPath, unit); return nil }, "hides the unit"},
		{"masked", func(m *machine) error {
			m.write(t, "/etc/systemd/system/x", "")
			return os.Symlink("/dev/null", m.ownUnit())
		}, "is masked"},
		{"a link", func(m *machine) error { m.write(t, "/etc/systemd/system/x", ""); return os.Symlink("x", m.ownUnit()) }, "was not written by nodejoin"},
		{"two of ours", func(m *machine) error { m.write(t, ownPath, older); m.write(t, shippedPath, unit); return nil }, "hides the unit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t, true)
			if err := test.prepare(m); err != nil {
				t.Fatal(err)
			}
			before := m.read(ownPath)
			_, err := m.Install(installed)
			wantClass(t, err, fault.Files, test.want)
			if len(m.asked) != 0 || m.read(ownPath) != before {
				t.Errorf("asked was %q", m.asked)
			}
		})
	}
}

func TestUninstall(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(m *machine)
		booted  bool
		asked   []string
		state   State
	}{
		{"ours", func(m *machine) { m.write(t, ownPath, older) }, true, []string{"stop nodejoin.service", "daemon-reload", "disable nodejoin.service", "daemon-reload"}, NotInstalled},
		{"packaged", func(m *machine) { m.write(t, shippedPath, unit) }, true, []string{"stop nodejoin.service", "daemon-reload", "disable nodejoin.service", "daemon-reload"}, Stopped},
		{"in an image", func(m *machine) { m.write(t, ownPath, older) }, false, []string{"--root=ROOT disable nodejoin.service"}, NotInstalled},
		{"nothing", func(*machine) {}, true, nil, NotInstalled},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t, test.booted)
			test.prepare(m)
			r, err := m.Uninstall()
			if err != nil || r.State != test.state || !slices.Equal(m.asked, test.asked) {
				t.Errorf("%+v, %v; asked was %q", r, err, m.asked)
			}
			if m.read(ownPath) != "" || (m.read(shippedPath) != "") != r.Packaged {
				t.Error("a file is left, or gone")
			}
		})
	}
}

// What an administrator has edited is neither replaced nor removed, whatever manages services, and neither is what he copied
// from a package: systemctl edit --full leaves the first comment as it was.
func TestEdited(t *testing.T) {
	edited := func(text string) string {
		return strings.Replace(text, "/etc/nodejoin/config.yaml", "/etc/nodejoin/other.yaml", 1)
	}
	for _, test := range []struct {
		name, manager, text string
		packaged            bool
		remedy              string
	}{
		{"edited", "systemd", edited(older), false, "systemctl edit nodejoin"},
		{"in its first line", "systemd", strings.Replace(older, "Changes go", "Changes do not go", 1), false, "systemctl disable --now nodejoin"},
		{"at its end", "systemd", older + "#\n", false, "drop-in"},
		{"cut off", "systemd", older[:len(older)/2], false, "drop-in"},
		{"its hash cut off", "systemd", older[:strings.Index(older, seal)+len(seal)+10], false, "drop-in"},
		{"a packaged one", "systemd", edited(unit), true, "systemctl edit nodejoin"},
		{"a copy of a packaged one", "systemd", unit, true, "move it away"},
		{"edited", "openrc", edited(script(installed)), false, "changes belong in /etc/conf.d/nodejoin"},
	} {
		t.Run(test.manager+" "+test.name, func(t *testing.T) {
			m, inner := newMachine(t, true), &recorded{}
			m.Manager, m.inner = test.manager, func(string) (service.Service, error) { return inner, nil }
			path := ownPath
			if test.manager != "systemd" {
				path = strings.TrimPrefix(m.scriptPath(), m.root)
			}
			m.write(t, path, test.text)
			if test.packaged {
				m.write(t, shippedPath, unit)
			}
			for _, do := range []func() (*Report, error){m.Uninstall, func() (*Report, error) { return m.Install(installed) }} {
				_, err := do()
				wantClass(t, err, fault.Files, "not as nodejoin wrote it")
				if remedy := fault.Remedy(err); !strings.Contains(remedy, test.remedy) {
					t.Errorf("the remedy is %q", remedy)
				}
			}
			if len(m.asked) != 0 || len(inner.did) != 0 || m.read(path) != test.text {
				t.Errorf("asked was %q, done was %q", m.asked, inner.did)
			}
		})
	}
}

// What is sealed stays what it was but for one comment.
func TestSealed(t *testing.T) {
	for _, text := range []string{unit, openRCScript} {
		got := sealed(text)
		first, rest, _ := strings.Cut(got, seal)
		_, rest, _ = strings.Cut(rest, "\n")
		if first+rest != text || !strings.HasSuffix(first, "\n") || !bearsHead(text) {
			t.Errorf("sealed is\n%s", got)
		}
	}
	if text := script(installed); !strings.Contains(text, "\ncommand=\""+installed+"\"\n") || strings.Contains(text, "{{") {
		t.Errorf("the script is\n%s", text)
	}
}

func TestUnitStatus(t *testing.T) {
	for _, test := range []struct {
		show string
		want Report
	}{
		{"LoadState=not-found\nActiveState=inactive\n", Report{State: NotInstalled}},
		{"LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nFragmentPath=/usr/lib/systemd/system/nodejoin.service\nStatusText=waits\nResult=success\n", Report{State: Running, AtBoot: true, Packaged: true, File: shippedPath, Detail: "waits"}},
		{"LoadState=loaded\nActiveState=reloading\nResult=success\n", Report{State: Running}},
		{"LoadState=loaded\nActiveState=inactive\nStatusText=waits\nResult=success\n", Report{State: Stopped}},
		{"LoadState=loaded\nActiveState=inactive\nResult=exec-condition\n", Report{State: Stopped, Detail: "its last start ended with exec-condition"}},
		{"LoadState=loaded\nActiveState=failed\nResult=exit-code\nExecMainStatus=3\n", Report{State: Failed, Detail: "it ended with exit-code 3", exit: 3}},
		{"LoadState=loaded\nActiveState=failed\nResult=watchdog\nExecMainStatus=6\n", Report{State: Failed, Detail: "it ended with watchdog"}},
		{"LoadState=loaded\nActiveState=failed\nResult=core-dump\nExecMainStatus=6\n", Report{State: Failed, Detail: "it ended with core-dump"}},
		{"LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nStatusText=waits\nResult=exit-code\nExecMainStatus=1\n", Report{State: Failed, Detail: "it ended with exit-code 1, and is started again", exit: 1}},
		{"LoadState=loaded\nActiveState=activating\nSubState=auto-restart-queued\nResult=signal\nExecMainStatus=9\n", Report{State: Failed, Detail: "it ended with signal, and is started again"}},
		{"LoadState=loaded\nActiveState=activating\nSubState=start\nStatusText=reads\nResult=success\nExecMainStatus=0\n", Report{State: Starting, Detail: "reads"}},
	} {
		m := newMachine(t, true)
		m.show, test.want.Manager = test.show, "systemd"
		if got, err := m.Status(); err != nil || *got != test.want {
			t.Errorf("%+v instead of %+v: %v", got, test.want, err)
		}
	}
}

func TestStart(t *testing.T) {
	for _, test := range []struct {
		name, show, fails string
		class             fault.Class
		want              string
	}{
		{"it runs", "LoadState=loaded\nActiveState=active\n", "", 0, ""},
		{"not installed", "LoadState=not-found\n", "", fault.Files, "it is not installed"},
		{"not configured", "LoadState=loaded\nActiveState=inactive\nResult=exec-condition\n", "", fault.Usage, "/etc/nodejoin/config.yaml"},
		{"the agent ends with its exit status", "LoadState=loaded\nActiveState=failed\nResult=exit-code\nExecMainStatus=7\n", "start", fault.Held, "Job for nodejoin.service failed"},
		{"the agent ends by a signal", "LoadState=loaded\nActiveState=failed\nResult=core-dump\nExecMainStatus=6\n", "start", fault.Unexpected, "Job for nodejoin.service failed"},
		{"the agent is ready, and ends", "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\nExecMainStatus=1\n", "", fault.Unexpected, "it ended with exit-code 1, and is started again"},
		{"systemd refuses", "LoadState=loaded\nActiveState=inactive\nResult=success\n", "start", fault.Unexpected, "Job for nodejoin.service failed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t, true)
			m.show, m.fails = test.show, test.fails
			err := m.Start()
			if test.class == 0 && err == nil {
				return
			}
			wantClass(t, err, test.class, test.want)
		})
	}
	wantClass(t, newMachine(t, false).Start(), fault.Usage, "systemd does not run here")
}

// A program that somebody else could replace does not become a service, which runs as root.
func TestExecutableThatOthersCanReplace(t *testing.T) {
	expect.Root(t)
	safe, err := os.MkdirTemp("/usr/local", "nodejoin-test-") //nolint:usetesting // the test's own directory is below one that all can write to
	expect.Able(t, "a directory in /usr/local", err)
	t.Cleanup(func() { _ = os.RemoveAll(safe) })
	path := filepath.Join(safe, "nodejoin")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := checkExecutable(path); err != nil {
		t.Errorf("a program that is root's alone: %v", err)
	}
	for _, test := range []struct {
		name   string
		change func() error
		undo   func() error
		want   string
	}{
		{"others can write to it", func() error { return os.Chmod(path, 0o777) }, func() error { return os.Chmod(path, 0o755) }, "others can write to"},
		{"others can write to its directory", func() error { return os.Chmod(safe, 0o1777|os.ModeSticky) }, func() error { return os.Chmod(safe, 0o755) }, "others can write to " + safe + ","},
		{"it is another's", func() error { return os.Chown(path, 65534, 0) }, func() error { return os.Chown(path, 0, 0) }, "belongs to the user 65534"},
		{"its directory is another's", func() error { return os.Chown(safe, 65534, 0) }, func() error { return os.Chown(safe, 0, 0) }, "belongs to the user 65534"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := test.change(); err != nil {
				t.Fatal(err)
			}
			wantClass(t, checkExecutable(path), fault.Usage, test.want)
			if err := test.undo(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The remedy is no directory that is refused next.
func TestPlaceForTheProgram(t *testing.T) {
	expect.Root(t)
	dir, err := os.MkdirTemp("/usr/local", "nodejoin-test-") //nolint:usetesting // the test's own directory is below one that all can write to
	expect.Able(t, "a directory in /usr/local", err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if got := placeAt(dir); !strings.Contains(got, " "+dir+"/nodejoin,") {
		t.Errorf("of one that is root's alone: %s", got)
	}
	if err := os.Chmod(dir, 0o775|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	for _, usual := range []string{dir, filepath.Join(dir, "missing")} {
		if got := placeAt(usual); !strings.Contains(got, " /opt/nodejoin/bin/nodejoin,") {
			t.Errorf("of one that a group can write to: %s", got)
		}
	}
}

// analyze runs systemd-analyze, where there is one of the version that units are checked with.
func analyze(t *testing.T, args ...string) {
	t.Helper()
	version, err := exec.CommandContext(context.Background(), expect.Program(t, "systemd-analyze"), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	var major int
	if _, err = fmt.Sscanf(string(version), "systemd %d", &major); err == nil && major < 252 {
		err = fmt.Errorf("it is of version %d, and cannot read files", major)
	}
	expect.Able(t, "systemd-analyze 252", err)
	if out, err := exec.CommandContext(context.Background(), "systemd-analyze", args...).CombinedOutput(); err != nil || strings.Contains(string(out), "ignoring") {
		t.Errorf("systemd-analyze %q: %v\n%s", args, err, out)
	}
}

// analyzable returns the unit with a program that is there: a missing one is the first thing that is complained of.
func analyzable(t *testing.T, dir string) string {
	t.Helper()
	text := strings.ReplaceAll(unit, "="+packaged+" ", "=/bin/true ")
	text = strings.ReplaceAll(text, "Documentation=man:nodejoin(8) man:nodejoin-config(5) ", "Documentation=")
	path := filepath.Join(dir, unitName)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The shipped unit is one that systemd 252 understands, and that is confined as the README says.
func TestUnitIsSound(t *testing.T) {
	path := analyzable(t, t.TempDir())
	t.Run("verify", func(t *testing.T) { analyze(t, "verify", "--man=no", "--recursive-errors=no", path) })
	t.Run("security", func(t *testing.T) { analyze(t, "security", "--offline=true", "--threshold=15", "--no-pager", path) })
}

// What the agent and the rest of this program rely on.
func TestUnitEssentials(t *testing.T) {
	for _, line := range []string{
		"Type=notify", "NotifyAccess=main", "Restart=on-failure", "RestartPreventExitStatus=2 3 4 5 8 217 226", "WatchdogSec=5min", "StartLimitIntervalSec=0",
		"LoadCredential=token:nodejoin.token", "StateDirectory=nodejoin", "RuntimeDirectory=nodejoin", "LimitCORE=0", `ExecReload=/bin/sh -c "kill -HUP ${MAINPID}"`,
		"ProtectSystem=strict", "CapabilityBoundingSet=", "NoNewPrivileges=yes", "WantedBy=multi-user.target",
	} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("the unit lacks the line %s", line)
		}
	}
	for _, word := range []string{"cloud-init", "cloud-final"} {
		for line := range strings.Lines(unit) {
			if !strings.HasPrefix(line, "#") && strings.Contains(line, word) {
				t.Errorf("the unit is ordered by %s, which starts it: %s", word, line)
			}
		}
	}
}
