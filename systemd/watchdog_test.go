//go:build unix

package systemd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// watched runs a watchdog of 200 ms and returns what systemd hears, with what makes the program's slowest part get on.
func watched(t *testing.T) (conn *net.UnixConn, advance func()) {
	t.Helper()
	conn = listen(t, filepath.Join(t.TempDir(), "notify"))
	t.Setenv("WATCHDOG_USEC", "200000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	var beat atomic.Pointer[time.Time]
	advance = func() { beat.Store(new(time.Now())) }
	advance()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Watchdog{Beat: func() time.Time { return *beat.Load() }}.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return conn, advance
}

// silent reports whether systemd hears nothing for as long as the watchdog allows.
func silent(t *testing.T, conn *net.UnixConn) bool {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(400 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Read(make([]byte, 64))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// A program whose slowest part stands still is not kept alive by the goroutine that feeds the watchdog.
func TestWatchdogIsFedByProgressAlone(t *testing.T) {
	conn, advance := watched(t)
	for range 3 {
		if got := heard(t, conn); got != "WATCHDOG=1" {
			t.Fatalf("systemd heard %q", got)
		}
		if !silent(t, conn) {
			t.Fatal("the watchdog is fed although nothing has got on since")
		}
		advance()
	}
}

// A beat that cannot be told now is told when it can be.
func TestWatchdogTriesAgain(t *testing.T) {
	conn, advance := watched(t)
	heard(t, conn)
	name := conn.LocalAddr().String()
	if err := os.Rename(name, name+".away"); err != nil {
		t.Fatal(err)
	}
	advance()
	if !silent(t, conn) {
		t.Error("it was heard")
	}
	if err := os.Rename(name+".away", name); err != nil {
		t.Fatal(err)
	}
	heard(t, conn)
}

func TestNoWatchdog(t *testing.T) {
	for _, test := range []struct {
		name, usec, pid string
		failed          bool
	}{
		{"none", "", "", false},
		{"another process's", "200000", "1", false},
		{"no number", "soon", "", true},
		{"no time", "0", "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("WATCHDOG_USEC", test.usec)
			t.Setenv("WATCHDOG_PID", test.pid)
			if err := (Watchdog{}).Run(t.Context()); (err != nil) != test.failed {
				t.Error(err)
			}
		})
	}
}
