//go:build !unix

package systemd

// mayInstall leaves it to the system to say who may.
func mayInstall(string) error { return nil }

// checkExecutable leaves it to whoever installs what the service runs: access control lists are not looked at.
func checkExecutable(string) error { return nil }
