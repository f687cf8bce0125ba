// Package systemd is what this program says to the service manager that runs it: that it is ready, what it does, and that
// it reads its configuration anew or ends.
//
// # The protocol
//
// sd_notify(3): one datagram of NAME=VALUE lines to the socket that $NOTIFY_SOCKET names. A unit of Type=notify is
// started when [Ready] was said for the first time. Every [Reloading] is followed by a [Ready] when it is over, whether
// or not the new configuration was accepted: until then systemd takes the service for reloading. It carries the time that
// Type=notify-reload (systemd 253) wants in the same datagram; a unit of Type=notify, which systemd 252 knows too, can
// say it as well and is reloaded with an ExecReload= of its own.
//
// # What it promises, and how it fails
//
// Without $NOTIFY_SOCKET nothing happens. Nothing here can stop the program: every function reports whether something
// was sent and the error for a debug log, and there is no need to look at either. The variable stays in the
// environment, since the status changes for as long as the program runs: whoever starts another program takes it out of
// that one's environment.
package systemd
