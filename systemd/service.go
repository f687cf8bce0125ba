package systemd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/kardianos/service"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Service is the agent as a service of this machine. With systemd it is our own unit and systemctl; with OpenRC our own
// script, and with upstart, launchd and Windows what kardianos/service writes, and its verbs for all of them.
type Service struct {
	// Manager is what manages services here: systemd, openrc, upstart, launchd, windows, or what else kardianos/service knows.
	Manager string

	root      string                               // before every path; "" but in tests
	booted    bool                                 // systemd runs here; else its files alone are changed, for the next boot
	systemctl func(args ...string) (string, error) // nil but with systemd
	inner     func(executable string) (service.Service, error)
	native    native // nil but on Windows
}

// State is whether the service runs.
type State string

// The states.
const (
	Starting     State = "starting" // it was started, and has not said yet that it is ready
	Running      State = "running"
	Stopped      State = "stopped" // it is installed
	Failed       State = "failed"  // it ended by itself; the detail says where it is started again
	NotInstalled State = "not-installed"
)

// Report is what was found, or done.
type Report struct {
	Manager    string `json:"manager"`
	State      State  `json:"state,omitempty"`
	File       string `json:"file,omitempty"`       // the unit, or the script
	Executable string `json:"executable,omitempty"` // what the service runs
	Packaged   bool   `json:"packaged,omitempty"`   // a package has the unit: it is not touched
	Changed    bool   `json:"changed,omitempty"`    // the file was written or removed
	AtBoot     bool   `json:"atBoot"`               // it is started at boot
	Detail     string `json:"detail,omitempty"`     // what the service manager says of it
	Note       string `json:"note,omitempty"`       // what to know, or to do next

	pid      string // of what runs, with systemd
	exit     int    // the exit status of one that has ended with one that is not 0
	stopping bool   // it runs, and was told to stop; known on Windows alone, as is the next
	again    bool   // it has failed, and its manager is about to start it again
}

// Find returns the service with the service manager of this machine. In a chroot or an image that has systemd but does not
// run it, its files are what can be changed.
func Find() (*Service, error) {
	s := &Service{native: newNative(), inner: func(executable string) (service.Service, error) {
		return service.New(notRun{}, settings(executable, []string{"run"}))
	}}
	system := service.ChosenSystem()
	switch {
	case exists("/run/systemd/system"):
		s.Manager, s.booted, s.systemctl = "systemd", true, systemctl
		return s, nil
	case exists("/run/openrc"):
		for _, other := range service.AvailableSystems() {
			if other.String() == "linux-openrc" {
				service.ChooseSystem(other)
				system = other
			}
		}
	}
	if system == nil {
		return nil, fault.New(fault.Usage, "start \"nodejoin run\" in the way of this system", "no service manager was found on this machine")
	}
	name := system.String()
	s.Manager = name[strings.LastIndexByte(name, '-')+1:]
	if s.Manager == "systemd" || s.Manager == "systemv" && hasSystemctl() {
		s.Manager, s.systemctl = "systemd", systemctl
	}
	if s.Manager == "service" {
		s.Manager = "windows"
	}
	return s, nil
}

// notRun is the program as kardianos/service wants it, which is here to install and control the service, not to run it.
type notRun struct{}

// Start implements [service.Interface].
func (notRun) Start(service.Service) error { return errors.ErrUnsupported }

// Stop implements [service.Interface].
func (notRun) Stop(service.Service) error { return errors.ErrUnsupported }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

const description = "Kubernetes node join agent"

// settings are what kardianos/service is told.
func settings(executable string, arguments []string) *service.Config {
	return &service.Config{
		Name: Name, DisplayName: Name, Description: description, Executable: executable, Arguments: arguments,
		Option: service.KeyValue{
			"OpenRCScript": script(executable),
			"LogOutput":    true, "LogDirectory": "/var/log", // launchd, upstart
			"KeepAlive": true, "RunAtLoad": true, // launchd
		},
	}
}

// Install makes a program the service, or again what it should be. It is started at boot from then on; it is not started
// now.
func (s *Service) Install(executable string) (*Report, error) {
	if s.Manager == "systemd" {
		return s.installUnit(executable)
	}
	file := s.scriptPath()
	if s.Manager == "openrc" && !plainPath.MatchString(executable) {
		_, err := Unit(executable)
		return nil, err
	}
	if err := s.makeRoom(file); err != nil {
		return nil, err
	}
	inner, err := s.inner(executable)
	if err != nil {
		return nil, s.failed("install", err)
	}
	if err := inner.Install(); err != nil {
		return nil, s.failed("install", err)
	}
	note := "it will be started at boot; now: nodejoin service start"
	if s.native != nil {
		lack, err := s.native.Settle()
		if err != nil {
			return nil, s.failed("install", errors.Join(err, inner.Uninstall()))
		}
		if lack != "" {
			note = lack + "; " + note
		}
	}
	if s.Manager == "openrc" { // kardianos/service adds it to the runlevel of this moment, which may be that of the boot
		if _, err := command("rc-update", "add", Name, "default"); err != nil {
			return nil, s.failed("install", err)
		}
	}
	return &Report{Manager: s.Manager, File: file, Executable: executable, Changed: true, AtBoot: true, Note: note}, nil
}

// scriptPath is where a service manager other than systemd has what it knows of the service; "" where that is no file.
func (s *Service) scriptPath() string {
	switch s.Manager {
	case "openrc":
		return filepath.Join(s.root, "/etc/init.d", Name)
	case "upstart":
		return filepath.Join(s.root, "/etc/init", Name+".conf")
	case "launchd":
		return filepath.Join(s.root, "/Library/LaunchDaemons", Name+".plist")
	}
	return ""
}

// makeRoom removes a file that an earlier install has written. kardianos/service writes none where there is one.
func (s *Service) makeRoom(file string) error {
	found, err := s.findScript(file)
	if s.native != nil {
		var now *Report
		now, err = s.native.Status()
		found, file = err == nil && now.State != NotInstalled, Name
	}
	switch {
	case err != nil:
		return s.failed("install", err)
	case !found:
		return nil
	case s.Manager != "openrc": // the service would go on under its manager without the file
		return fault.New(fault.Files, "to write it anew: nodejoin service uninstall, then install again", "the service is installed already: %s", file)
	}
	return os.Remove(file)
}

// findScript reports whether there is the file of a service manager other than systemd; it is an error where it is somebody
// else's, or was edited.
func (s *Service) findScript(file string) (bool, error) {
	if file == "" {
		return false, nil
	}
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !s.wrote(string(text)):
		return false, s.foreign(file, string(text))
	}
	return true, nil
}

// ownJob is what kardianos/service writes for launchd: it bears no mark of ours but the label and what is run.
var ownJob = regexp.MustCompile(`<key>Label</key>\s*<string>` + Name + `</string>\s*<key>ProgramArguments</key>\s*<array>\s*<string>[^<]+</string>\s*<string>run</string>\s*</array>`)

// wrote reports whether this program has made a file of its service manager, if through kardianos/service.
func (s *Service) wrote(text string) bool {
	switch {
	case text == "":
		return true
	case s.Manager == "upstart":
		return strings.HasPrefix(text, "# "+description+"\n")
	case s.Manager == "launchd":
		return ownJob.MatchString(text)
	}
	return isOurs(text)
}

// foreign is the error of a file that this program did not write as it is.
func (s *Service) foreign(file, text string) error {
	if !bearsHead(text) {
		return fault.New(fault.Files, "look at it, and move it away if it is of no use", "%s was not written by nodejoin", file)
	}
	first, change := "systemctl disable --now "+Name, "a drop-in: systemctl edit "+Name
	if s.Manager == "openrc" {
		first, change = "rc-service "+Name+" stop; rc-update delete "+Name, "/etc/conf.d/"+Name
	}
	return fault.New(fault.Files, "move it away (to be rid of the service, before that: "+first+"); changes belong in "+change, "%s is not as nodejoin wrote it: somebody edited or copied it", file)
}

// Uninstall stops the service and takes it out. What a package has installed is stopped and not started at boot any more.
func (s *Service) Uninstall() (*Report, error) {
	if s.Manager == "systemd" {
		return s.uninstallUnit()
	}
	state, err := s.Status()
	if err != nil {
		return nil, err
	}
	report := &Report{Manager: s.Manager, State: NotInstalled, File: s.scriptPath()}
	if state.State == NotInstalled {
		report.Note = "there is nothing to uninstall"
		return report, nil
	}
	if _, err := s.findScript(report.File); err != nil {
		return nil, s.failed("uninstall", err)
	}
	inner, err := s.inner("")
	if err != nil {
		return nil, s.failed("uninstall", err)
	}
	if s.native != nil {
		if err := s.halt("uninstall", state); err != nil {
			return nil, err
		}
	} else if state.State == Running {
		if err := inner.Stop(); err != nil {
			return nil, s.failed("stop", err)
		}
	}
	if err := inner.Uninstall(); err != nil {
		return nil, s.failed("uninstall", err)
	}
	if s.Manager == "openrc" && s.root == "" {
		_, _ = command("rc-update", "--all", "delete", Name) // of the other runlevels, which it need not be in
	}
	report.Changed = true
	return report, nil
}

// Start starts the service, Stop stops it, and Restart does both. With systemd it is waited until that is done.
func (s *Service) Start() error { return s.act("start", service.Service.Start) }

// Stop stops the service, see [Service.Start].
func (s *Service) Stop() error { return s.act("stop", service.Service.Stop) }

// Restart stops the service and starts it, see [Service.Start].
func (s *Service) Restart() error { return s.act("restart", service.Service.Restart) }

func (s *Service) act(verb string, by func(service.Service) error) error {
	if s.Manager == "systemd" {
		return s.actOnUnit(verb)
	}
	state, err := s.Status()
	if err != nil {
		return err
	}
	if state.State == NotInstalled {
		return notInstalled(verb)
	}
	if verb == "start" && state.State == Running && !state.stopping || verb == "stop" && state.State == Stopped {
		return nil
	}
	if s.Manager == "openrc" { // kardianos/service does the same, and keeps to itself what is said of a failure
		_, err := command("rc-service", Name, verb)
		return s.failed(verb, err)
	}
	inner, err := s.inner("")
	if err != nil {
		return s.failed(verb, err)
	}
	if s.native != nil {
		return s.actNatively(verb, state, inner.Start)
	}
	return s.failed(verb, by(inner))
}

func notInstalled(verb string) error {
	return fault.New(fault.Files, "nodejoin service install", "cannot %s the service: it is not installed", verb)
}

// failed returns the error of a verb; nil for nil.
func (s *Service) failed(verb string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrPermission):
		return fault.New(fault.Usage, "run it as root", "cannot %s the service: %w", verb, err)
	}
	return fmt.Errorf("cannot %s the service with %s: %w", verb, s.Manager, err)
}

// Status returns whether the service runs.
func (s *Service) Status() (*Report, error) {
	if s.Manager == "systemd" {
		return s.unitStatus()
	}
	if s.native != nil {
		return s.native.Status()
	}
	inner, err := s.inner("")
	if err != nil {
		return nil, s.failed("ask for", err)
	}
	report := &Report{Manager: s.Manager, File: s.scriptPath()}
	if report.File != "" && !exists(report.File) {
		report.State, report.File = NotInstalled, ""
		return report, nil
	}
	status, err := inner.Status()
	switch {
	case errors.Is(err, service.ErrNotInstalled):
		report.State = NotInstalled
	case status == service.StatusRunning:
		report.State, report.AtBoot = Running, true
	case status == service.StatusStopped:
		report.State, report.AtBoot = Stopped, true
	default: // it is there, and its manager does not know how it is: OpenRC's supervised program has crashed
		report.State, report.AtBoot, report.Detail = Failed, true, fmt.Sprint(err)
	}
	return report, nil
}
