// Package systemd is what this program and the service manager have to do with each other: the service itself, which it
// installs, starts and stops ([Service]), the loop that runs as one ([Run]), and what it says to systemd: that it is ready,
// what it does, that it makes progress ([Watchdog]), and that it reads its configuration anew or ends.
//
// # The service
//
// With systemd it is a unit of our own, nodejoin.service, which is embedded here and which the packages ship; with OpenRC a
// script of our own; with upstart, launchd and Windows what github.com/kardianos/service makes. Where a package has installed
// the unit no second one is written, which would hide it: it is enabled and disabled. A file of the service's name is
// replaced and removed only as this program has written it, which a hash in it shows: not one that somebody else has written, edited
// or copied (systemctl edit --full). No service is made of a program that somebody other than root could replace.
//
// A service dies with its loop and has its exit status: a service manager sees a failure as what it is.
//
// Windows' service control manager can start a service again when it fails, but not tell one exit status from another. What it
// can tell is a process that is gone from a service that reports that it has stopped, and with which status. So the exits for
// which the unit has RestartPreventExitStatus= are reported, as ERROR_SERVICE_SPECIFIC_ERROR and the exit status, and the service
// stays stopped until a person starts it; with every other failure the process ends without a report, and is started again after
// 5 seconds, 30 seconds and then every 5 minutes, until it has run for an hour. The manager then shows ERROR_PROCESS_ABORTED in
// place of the exit status. What the program would write to standard error is in the event log, an event a line. Not there is what
// Go's runtime says of a crash, such as a panic: it writes to standard error itself, which a service does not have.
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
