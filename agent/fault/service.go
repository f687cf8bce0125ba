package fault

import (
	"os"
	"runtime"
)

// Commands of remedies that are not the same with every service manager. For nodejoin's own service it is `nodejoin service`, which
// knows them all.

// Log returns where this machine has the log of the agent that runs as a service: the command that shows it.
func Log() string { return logOn(runtime.GOOS, isThere) }

// Restart returns the command that restarts a service of this machine that is not nodejoin's.
func Restart(service string) string { return restartOn(runtime.GOOS, isThere, service) }

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

const (
	systemdRuns = "/run/systemd/system"
	openRCRuns  = "/run/openrc"
	upstartRuns = "/sbin/upstart-udev-bridge"
)

func logOn(system string, there func(path string) bool) string {
	switch {
	case system == "windows":
		return "powershell Get-EventLog Application -Source nodejoin -Newest 20"
	case system == "darwin":
		return "tail /var/log/nodejoin.err.log"
	case !there(systemdRuns) && there(openRCRuns):
		return "tail /var/log/nodejoin.log"
	case !there(systemdRuns) && there(upstartRuns):
		return "tail /var/log/nodejoin.err"
	}
	return "journalctl -u nodejoin"
}

func restartOn(system string, there func(path string) bool, service string) string {
	switch {
	case system == "windows":
		return "powershell Restart-Service " + Word(service)
	case system == "darwin":
		return "launchctl kickstart -k system/" + Word(service)
	case !there(systemdRuns) && there(openRCRuns):
		return "rc-service " + Word(service) + " restart"
	case !there(systemdRuns) && there(upstartRuns):
		return "initctl restart " + Word(service)
	}
	return "systemctl restart " + Word(service)
}
