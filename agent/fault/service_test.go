package fault

import "testing"

// A machine without systemd is not told of its commands.
func TestCommandsOfServiceManagers(t *testing.T) {
	for _, test := range []struct{ system, runs, log, restart string }{
		{"linux", systemdRuns, "journalctl -u nodejoin", "systemctl restart kubelet"},
		{"linux", "", "journalctl -u nodejoin", "systemctl restart kubelet"}, // in a container or a chroot: what most machines have
		{"linux", openRCRuns, "tail /var/log/nodejoin.log", "rc-service kubelet restart"},
		{"linux", upstartRuns, "tail /var/log/nodejoin.err", "initctl restart kubelet"},
		{"darwin", "", "tail /var/log/nodejoin.err.log", "launchctl kickstart -k system/kubelet"},
		{"windows", "", "powershell Get-EventLog Application -Source nodejoin -Newest 20", "powershell Restart-Service kubelet"},
	} {
		there := func(path string) bool { return path == test.runs }
		if got := logOn(test.system, there); got != test.log {
			t.Errorf("%s with %q: %s", test.system, test.runs, got)
		}
		if got := restartOn(test.system, there, "kubelet"); got != test.restart {
			t.Errorf("%s with %q: %s", test.system, test.runs, got)
		}
	}
}
