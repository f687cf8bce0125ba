package systemd

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc/mgr"
)

// newNative returns what this package does with Windows' service control manager by itself.
func newNative() native { return scm{} }

type scm struct{}

// recovery is when the manager starts again a service whose process is gone; the last goes on. It counts anew after an hour
// without one.
var recovery = []mgr.RecoveryAction{
	{Type: mgr.ServiceRestart, Delay: 5 * time.Second},
	{Type: mgr.ServiceRestart, Delay: 30 * time.Second},
	{Type: mgr.ServiceRestart, Delay: 5 * time.Minute},
}

const recoveryReset = 3600 // seconds

// open opens the service with no more rights than are wanted: everybody may ask how it is.
func (scm) open(access uint32) (windows.Handle, func(), error) {
	manager, err := windows.OpenSCManager(nil, nil, windows.SC_MANAGER_CONNECT)
	if err != nil {
		return 0, nil, err
	}
	defer windows.CloseServiceHandle(manager) //nolint:errcheck // nothing was changed
	name, err := windows.UTF16PtrFromString(Name)
	if err != nil {
		return 0, nil, err
	}
	service, err := windows.OpenService(manager, name, access)
	return service, func() { _ = windows.CloseServiceHandle(service) }, err
}

// Status implements [native].
func (s scm) Status() (*Report, error) {
	report := &Report{Manager: "windows", State: NotInstalled}
	handle, closed, err := s.open(windows.SERVICE_QUERY_STATUS | windows.SERVICE_QUERY_CONFIG)
	if errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST) {
		return report, nil
	} else if err != nil {
		return nil, fmt.Errorf("cannot ask for the service: %w", err)
	}
	defer closed()
	now, err := (&mgr.Service{Name: Name, Handle: handle}).Query()
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the service: %w", err)
	}
	command, start, err := configured(handle)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the service: %w", err)
	}
	scmStatus{uint32(now.State), now.Win32ExitCode, now.ServiceSpecificExitCode, start == windows.SERVICE_DISABLED}.tell(report)
	report.Executable, report.AtBoot = command, start == windows.SERVICE_AUTO_START
	return report, nil
}

// configured returns the command line of a service, and when it is started.
func configured(service windows.Handle) (command string, start uint32, err error) {
	const most = 8 << 10 // QueryServiceConfig returns no more
	buffer := make([]uint64, most/8)
	config := (*windows.QUERY_SERVICE_CONFIG)(unsafe.Pointer(&buffer[0])) //nolint:gosec // the system call's way to return a structure
	var needed uint32
	if err := windows.QueryServiceConfig(service, config, most, &needed); err != nil {
		return "", 0, err
	}
	return windows.UTF16PtrToString(config.BinaryPathName), config.StartType, nil
}

// Stop implements [native]. kardianos/service's waits without end for a service that does not stop.
func (s scm) Stop() error {
	handle, closed, err := s.open(windows.SERVICE_STOP)
	if err != nil {
		return err
	}
	defer closed()
	var now windows.SERVICE_STATUS
	err = windows.ControlService(handle, windows.SERVICE_CONTROL_STOP, &now)
	if errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) { // it has ended by itself
		return nil
	}
	return err
}

// Settle implements [native]: the service is started after the others, whose network it needs, and again when it has failed.
func (s scm) Settle() (note string, err error) {
	handle, closed, err := s.open(windows.SERVICE_CHANGE_CONFIG | windows.SERVICE_START)
	if err != nil {
		return "", err
	}
	defer closed()
	// Not after an exit status that it reports (SERVICE_CONFIG_FAILURE_ACTIONS_FLAG is off), see hosted.leave.
	err = (&mgr.Service{Name: Name, Handle: handle}).SetRecoveryActions(recovery, recoveryReset)
	if err == nil {
		delayed := windows.SERVICE_DELAYED_AUTO_START_INFO{IsDelayedAutoStartUp: 1}
		err = windows.ChangeServiceConfig2(handle, windows.SERVICE_CONFIG_DELAYED_AUTO_START_INFO, (*byte)(unsafe.Pointer(&delayed))) //nolint:gosec // the system call's way to take a structure
	}
	if errors.Is(err, windows.ERROR_INVALID_LEVEL) { // wine
		return "this system has no delayed start", nil
	}
	return "", err
}
