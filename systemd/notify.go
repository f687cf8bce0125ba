package systemd

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/daemon"
)

// maxStatus is the most that a status is long, in bytes. systemd drops a datagram above 4096 bytes (NOTIFY_BUFFER_MAX in
// its src/core/manager.c) as a whole, READY=1 included, and nobody reads more than this on a line of systemctl status.
const maxStatus = 1024

// Ready says that the program does its work: it started, or it is done with reloading. status is what it does, as for
// [Status]; "" says nothing of it. Windows' service control manager is told of the start, too.
func Ready(status string) (sent bool, err error) {
	begin()
	message := daemon.SdNotifyReady
	if line := statusLine(status); line != "" {
		message += "\nSTATUS=" + line
	}
	return daemon.SdNotify(false, message)
}

// Status says what the program does or waits for, for `systemctl status`. The text is put on one line and shortened
// where it is too long for one; "" takes back what was said.
func Status(text string) (sent bool, err error) {
	return daemon.SdNotify(false, "STATUS="+statusLine(text))
}

// Reloading says that the program begins to read its configuration anew. [Ready] ends it.
func Reloading() (sent bool, err error) {
	return daemon.SdNotify(false, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
}

// Stopping says that the program begins to end.
func Stopping() (sent bool, err error) {
	return daemon.SdNotify(false, daemon.SdNotifyStopping)
}

// statusLine makes one line of valid UTF-8 of any text: a line break would begin another assignment, and systemd drops a
// status that is not UTF-8.
func statusLine(text string) string {
	words := strings.FieldsFunc(strings.ToValidUTF8(text, string(utf8.RuneError)), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r)
	})
	line := strings.Join(words, " ")
	if len(line) <= maxStatus {
		return line
	}
	const ellipsis = "..."
	end := maxStatus - len(ellipsis)
	for !utf8.RuneStart(line[end]) {
		end--
	}
	return line[:end] + ellipsis
}
