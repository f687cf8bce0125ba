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

// Journal shows the log of the service on a machine that runs systemd.
const Journal = "journalctl -u nodejoin"

// What tells of a service manager. Scripts are for sysvinit and BusyBox' init, which leave no other trace; OpenRC and procd have
// them as well.
const (
	systemdRuns = "/run/systemd/system"
	openRCRuns  = "/run/openrc"
	upstartRuns = "/sbin/upstart-udev-bridge"
	procdRuns   = "/sbin/procd"
	scripts     = "/etc/init.d/"
)

func logOn(system string, there func(path string) bool) string {
	switch {
	case system == "windows":
		return "powershell Get-EventLog Application -Source nodejoin -Newest 20"
	case system == "darwin":
		return "tail /var/log/nodejoin.err.log"
	case there(systemdRuns):
		return Journal
	case there(openRCRuns):
		return "tail /var/log/nodejoin.log"
	case there(procdRuns):
		return "logread -e nodejoin"
	case there(upstartRuns) || there(scripts+"nodejoin"):
		return "tail /var/log/nodejoin.err"
	}
	return Journal
}

func restartOn(system string, there func(path string) bool, service string) string {
	switch {
	case system == "windows":
		return "powershell Restart-Service " + Word(service)
	case system == "darwin":
		return "launchctl kickstart -k system/" + Word(service)
	case there(systemdRuns):
	case there(openRCRuns):
		return "rc-service " + Word(service) + " restart"
	case there(upstartRuns):
		return "initctl restart " + Word(service)
	case there(scripts + service):
		return Word(scripts+service) + " restart"
	}
	return "systemctl restart " + Word(service)
}
