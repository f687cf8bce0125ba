package fault

import (
	"slices"
	"testing"
)

// A machine without systemd is not told of its commands.
func TestCommandsOfServiceManagers(t *testing.T) {
	of := func(paths ...string) []string { return paths }
	scripted := of("/etc/init.d/nodejoin", "/etc/init.d/kubelet")
	for _, test := range []struct {
		system       string
		has          []string
		log, restart string
	}{
		{"linux", of(systemdRuns), "journalctl -u nodejoin", "systemctl restart kubelet"},
		{"linux", nil, "journalctl -u nodejoin", "systemctl restart kubelet"}, // in a container or a chroot: what most machines have
		{"linux", of(openRCRuns), "tail /var/log/nodejoin.log", "rc-service kubelet restart"},
		{"linux", of(upstartRuns), "tail /var/log/nodejoin.err", "initctl restart kubelet"},
		{"linux", scripted, "tail /var/log/nodejoin.err", "/etc/init.d/kubelet restart"},
		{"linux", append(of(systemdRuns), scripted...), "journalctl -u nodejoin", "systemctl restart kubelet"},
		{"linux", append(of(openRCRuns), scripted...), "tail /var/log/nodejoin.log", "rc-service kubelet restart"},
		{"linux", append(of(procdRuns), scripted...), "logread -e nodejoin", "/etc/init.d/kubelet restart"},
		{"darwin", nil, "tail /var/log/nodejoin.err.log", "launchctl kickstart -k system/kubelet"},
		{"windows", nil, "powershell Get-EventLog Application -Source nodejoin -Newest 20", "powershell Restart-Service kubelet"},
	} {
		there := func(path string) bool { return slices.Contains(test.has, path) }
		if got := logOn(test.system, there); got != test.log {
			t.Errorf("%s with %q: %s", test.system, test.has, got)
		}
		if got := restartOn(test.system, there, "kubelet"); got != test.restart {
			t.Errorf("%s with %q: %s", test.system, test.has, got)
		}
	}
}
