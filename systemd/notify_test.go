//go:build unix

package systemd

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// listen stands in for systemd: a socket of the kind that it gives to a service.
func listen(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return conn
}

// heard returns the next datagram, which is as large as systemd would read it.
func heard(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 8192)
	n, err := conn.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	if n > 4096 {
		t.Errorf("systemd would drop a datagram of %d bytes", n)
	}
	return string(buffer[:n])
}

func TestMessages(t *testing.T) {
	sockets := map[string]string{"file": filepath.Join(t.TempDir(), "notify")}
	if runtime.GOOS == "linux" {
		sockets["abstract"] = fmt.Sprintf("@nodejoin-test-%d-%d", unix.Getpid(), time.Now().UnixNano())
	}
	for kind, name := range sockets {
		t.Run(kind, func(t *testing.T) {
			conn := listen(t, name)
			for _, test := range []struct {
				name string
				say  func() (bool, error)
				want string
			}{
				{"ready", func() (bool, error) { return Ready("valid until tomorrow") }, "READY=1\nSTATUS=valid until tomorrow"},
				{"ready, without a status", func() (bool, error) { return Ready("") }, "READY=1"},
				{"ready, with a status of nothing", func() (bool, error) { return Ready("\n\t") }, "READY=1"},
				{"status", func() (bool, error) { return Status("waits for approval") }, "STATUS=waits for approval"},
				{"status, taken back", func() (bool, error) { return Status("") }, "STATUS="},
				{"stopping", Stopping, "STOPPING=1"},
			} {
				t.Run(test.name, func(t *testing.T) {
					if sent, err := test.say(); !sent || err != nil {
						t.Fatalf("sent: %t, %v", sent, err)
					}
					if got := heard(t, conn); got != test.want {
						t.Errorf("systemd heard %q instead of %q", got, test.want)
					}
				})
			}
		})
	}
}

// Type=notify-reload wants the time in the datagram that says RELOADING=1.
func TestReloadingTellsTheTime(t *testing.T) {
	conn := listen(t, filepath.Join(t.TempDir(), "notify"))
	before := monotonic(t)
	if sent, err := Reloading(); !sent || err != nil {
		t.Fatalf("sent: %t, %v", sent, err)
	}
	after := monotonic(t)
	message := heard(t, conn)
	m := regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=(\d+)\n$`).FindStringSubmatch(message)
	if m == nil {
		t.Fatalf("systemd heard %q", message)
	}
	told, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if told < before || told > after {
		t.Errorf("told %d µs, which is not within %d and %d", told, before, after)
	}
}

func monotonic(t *testing.T) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1000
}

func TestStatusIsOneLine(t *testing.T) {
	long := strings.Repeat("x", maxStatus)
	for _, test := range []struct{ name, text, want string }{
		{"another assignment", "fine\nMAINPID=1\r\nREADY=1", "fine MAINPID=1 READY=1"},
		{"control characters", "a\x00b\x1b[31mc\td\u2028e\u202ef", "a b [31mc d e f"},
		{"not UTF-8", "bad \xff\xfe byte", "bad \uFFFD byte"},
		{"as long as may be", long, long},
		{"too long", long + "y", long[:maxStatus-3] + "..."},
		{"too long, cut in a character", strings.Repeat("x", maxStatus-4) + "äöü", strings.Repeat("x", maxStatus-4) + "..."},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := statusLine(test.text)
			if got != test.want {
				t.Errorf("%q instead of %q", got, test.want)
			}
			if len(got) > maxStatus || !utf8.ValidString(got) {
				t.Errorf("%d bytes, valid UTF-8: %t", len(got), utf8.ValidString(got))
			}
		})
	}
}

func TestNoServiceManager(t *testing.T) {
	for _, test := range []struct {
		name, socket string
		failed       bool
	}{
		{"not run by one", "", false},
		{"its socket is gone", filepath.Join(t.TempDir(), "gone"), true},
		{"a kind of socket that is not known", "vsock:2:1234", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", test.socket)
			for _, say := range []func() (bool, error){func() (bool, error) { return Ready("x") }, func() (bool, error) { return Status("x") }, Reloading, Stopping} {
				if sent, err := say(); sent || (err != nil) != test.failed {
					t.Errorf("sent: %t, %v", sent, err)
				}
			}
		})
	}
}
