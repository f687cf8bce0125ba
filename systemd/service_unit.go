package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/rotate/pending"
)

// ownUnits is where an administrator's units are, and this program's; unitDirs are where packages have theirs.
const ownUnits = "/etc/systemd/system"

var unitDirs = []string{"/usr/lib/systemd/system", "/lib/systemd/system"}

// commandLimit is for a service manager that does not answer. A start takes no longer than the unit's loop needs to begin.
const commandLimit = 2 * time.Minute

func hasSystemctl() bool {
	_, err := exec.LookPath("systemctl")
	return err == nil
}

func systemctl(args ...string) (string, error) { return command("systemctl", args...) }

// command runs a program of the service manager and returns what it prints. An error is what it says.
func command(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // both are this package's
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	switch text := statusLine(said.String()); {
	case ctx.Err() != nil:
		err = fmt.Errorf("%s %s: no answer within %s", name, args[0], commandLimit)
	case err != nil && text != "":
		err = errors.New(text)
	}
	return out.String(), err
}

// ownUnit is the path of the unit that this program writes.
func (s *Service) ownUnit() string { return filepath.Join(s.root, ownUnits, unitName) }

// packagedUnit returns the path of the unit that a package has installed; "" where none has.
func (s *Service) packagedUnit() string {
	for _, dir := range unitDirs {
		if path := filepath.Join(s.root, dir, unitName); exists(path) {
			return path
		}
	}
	return ""
}

// foundUnit returns what there is of our unit: its text, or an error where it is somebody else's, or was edited.
func (s *Service) foundUnit() (text string, found bool, err error) {
	path := s.ownUnit()
	if target, err := os.Readlink(path); err == nil {
		if target == os.DevNull {
			return "", false, fault.New(fault.Files, "systemctl unmask "+Name, "the service is masked: %s leads to %s", path, target)
		}
		return "", false, s.foreign(path, "")
	}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", false, nil
	case err != nil:
		return "", false, s.failed("find", err)
	case !isOurs(string(data)):
		return "", false, s.foreign(path, string(data))
	}
	return string(data), true, nil
}

func (s *Service) installUnit(executable string) (*Report, error) {
	want, err := Unit(executable)
	if err != nil {
		return nil, err
	}
	want = sealed(want)
	text, found, err := s.foundUnit()
	if err != nil {
		return nil, err
	}
	report := &Report{Manager: s.Manager, File: s.ownUnit(), Executable: executable}
	switch shipped := s.packagedUnit(); {
	case shipped != "" && found:
		return nil, fault.New(fault.Files, "rm "+report.File+" && systemctl daemon-reload", "%s hides the unit that a package has installed, %s", report.File, shipped)
	case shipped != "":
		report.File, report.Packaged, report.Executable = shipped, true, packaged
	case text != want:
		if err := writeUnit(report.File, want); err != nil {
			return nil, s.failed("install", err)
		}
		report.Changed = true
	}
	if err := s.enable("enable"); err != nil {
		return nil, s.failed("install", err)
	}
	report.AtBoot = true
	report.Note = s.next(report)
	return report, nil
}

// next says what there is to do after an install. A start does nothing where an earlier unit or program still runs.
func (s *Service) next(installed *Report) string {
	if !s.booted {
		return "systemd does not run here: the service is started at boot"
	}
	note := "it is started at boot"
	if installed.Packaged {
		note = "a package has installed the unit, which is enabled"
	}
	now, err := s.unitStatus()
	switch runs := err == nil && (now.State == Running || now.State == Starting); {
	case !runs:
		return note + "; start it now: nodejoin service start"
	case installed.Changed || !s.isProgramOf(now.pid, installed.Executable):
		return note + ", and runs as it was before; to run what is installed: nodejoin service restart"
	}
	return note + ", and runs already"
}

// isProgramOf reports whether a process runs what is now under the program's name.
func (s *Service) isProgramOf(pid, executable string) bool {
	runs, err := os.Stat(filepath.Join(s.root, "/proc", pid, "exe"))
	if err != nil {
		return false
	}
	is, err := os.Stat(filepath.Join(s.root, executable))
	return err == nil && os.SameFile(runs, is)
}

// writeUnit writes a unit, which is the old or the new one at every moment, and also after a power cut.
func writeUnit(path, text string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // units are for everybody to read
		return err
	}
	f, err := pending.New(path, 0o644) // its name until then begins with a dot: systemd does not read it
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.CloseAtomicallyReplace()
	}
	if err == nil {
		err = pending.SyncDir(dir)
	}
	return errors.Join(err, f.Cleanup())
}

// enable enables or disables the unit: with the systemd that runs, else in its files.
func (s *Service) enable(verb string) error {
	if !s.booted {
		root := s.root
		if root == "" {
			root = "/"
		}
		_, err := s.systemctl("--root="+root, verb, unitName)
		return err
	}
	if _, err := s.systemctl("daemon-reload"); err != nil {
		return err
	}
	_, err := s.systemctl(verb, unitName)
	return err
}

func (s *Service) uninstallUnit() (*Report, error) {
	_, found, err := s.foundUnit()
	if err != nil {
		return nil, err
	}
	report := &Report{Manager: s.Manager, State: NotInstalled, File: s.ownUnit()}
	shipped := s.packagedUnit()
	if !found && shipped == "" {
		report.File, report.Note = "", "there is nothing to uninstall"
		return report, nil
	}
	if s.booted {
		if _, err := s.systemctl("stop", unitName); err != nil {
			return nil, s.failed("stop", err)
		}
	}
	if err := s.enable("disable"); err != nil {
		return nil, s.failed("uninstall", err)
	}
	if shipped != "" {
		report.State, report.File, report.Packaged = Stopped, shipped, true
		report.Note = "a package has installed the unit: it is stopped and not started at boot any more; remove the package to remove it"
	}
	if found {
		if err := os.Remove(s.ownUnit()); err != nil {
			return nil, s.failed("uninstall", err)
		}
		report.Changed = true
	}
	if s.booted {
		if _, err := s.systemctl("daemon-reload"); err != nil {
			return nil, s.failed("uninstall", err)
		}
	}
	return report, nil
}

func (s *Service) actOnUnit(verb string) error {
	if !s.booted {
		return fault.New(fault.Usage, "do it on the machine, once it has booted", "cannot %s the service: systemd does not run here", verb)
	}
	state, err := s.unitStatus()
	if err != nil {
		return err
	}
	if state.State == NotInstalled {
		return notInstalled(verb)
	}
	const look = "look at its last words: " + fault.Journal + " -n 20"
	if _, err := s.systemctl(verb, unitName); err != nil {
		class := fault.Unexpected
		if state, unknown := s.unitStatus(); unknown == nil && state.exit > int(class) && state.exit <= int(fault.Files) {
			class = fault.Class(state.exit) // the agent's own, which ended at once
		}
		return fault.New(class, look, "cannot %s the service: %w", verb, err)
	}
	if state, err = s.unitStatus(); err != nil || verb == "stop" {
		return err
	}
	switch {
	case state.State == Running:
		return nil
	case strings.Contains(state.Detail, "exec-condition"):
		return fault.New(fault.Usage, "write it (see nodejoin-config(5)), then: nodejoin service start", "the service was not started: there is nothing in /etc/nodejoin/config.yaml")
	}
	return fault.New(fault.Unexpected, look, "the service was started, and does not run: %s", state.Detail)
}

func (s *Service) unitStatus() (*Report, error) {
	report := &Report{Manager: s.Manager, State: NotInstalled}
	if !s.booted {
		report.File = s.packagedUnit()
		if report.Packaged = report.File != ""; !report.Packaged && exists(s.ownUnit()) {
			report.File = s.ownUnit()
		}
		if report.File != "" {
			report.State = Stopped
			out, _ := s.systemctl("--root="+filepath.Join("/", s.root), "is-enabled", unitName) // it fails where it is not
			report.AtBoot = strings.TrimSpace(out) == "enabled"
		}
		return report, nil
	}
	out, err := s.systemctl("show", unitName, "--property=LoadState,ActiveState,SubState,UnitFileState,FragmentPath,Result,StatusText,ExecMainStatus,MainPID")
	if err != nil {
		return nil, s.failed("ask for", err)
	}
	properties := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		properties[name] = value
	}
	if properties["LoadState"] == "not-found" {
		return report, nil
	}
	report.File, report.AtBoot = properties["FragmentPath"], properties["UnitFileState"] == "enabled"
	report.Packaged = report.File != "" && report.File != s.ownUnit()
	report.pid = properties["MainPID"]
	tellState(report, properties)
	return report, nil
}

// tellState puts into a report how the unit is. One that waits for systemd to start it again after a failure has failed: it
// does not run.
func tellState(report *Report, properties map[string]string) {
	result := properties["Result"]
	if result == "exit-code" { // else the status is the number of a signal
		report.exit, _ = strconv.Atoi(properties["ExecMainStatus"]) // what is no number is no status either
		if report.exit != 0 {                                       // else it was another program of the unit
			result += " " + strconv.Itoa(report.exit)
		}
	}
	switch active := properties["ActiveState"]; {
	case active == "activating" && strings.HasPrefix(properties["SubState"], "auto-restart"):
		report.State, report.Detail = Failed, "it ended with "+result+", and is started again"
	case active == "activating":
		report.State, report.Detail = Starting, properties["StatusText"]
	case active == "active" || active == "reloading" || active == "refreshing":
		report.State, report.Detail = Running, properties["StatusText"]
	case active == "failed":
		report.State, report.Detail = Failed, "it ended with "+result
	default:
		report.State = Stopped
		if result != "success" && result != "" {
			report.Detail = "its last start ended with " + result
		}
	}
}
