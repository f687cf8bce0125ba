//go:build unix

package monitor

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
	"github.com/nodejoin/nodejoin/test/expect"
)

// Nobody but this user can connect, whatever the umask.
func TestSocketMode(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077} {
		before := unix.Umask(umask)
		r := run(t, &Server{Source: source(healthy()), Socket: filepath.Join(t.TempDir(), "run", SocketName)})
		r.listening(t)
		unix.Umask(before)
		info, err := os.Lstat(r.Socket)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("umask %#o: the socket is %s", umask, info.Mode())
		}
		r.stop()
	}
}

// A directory where others can write is not used; when it is mended, the server goes on by itself.
func TestUnsafeDirectory(t *testing.T) {
	for _, mode := range []fs.FileMode{0o777, 0o775, 0o757, fs.ModeSticky | 0o777} {
		dir := t.TempDir()
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		r := run(t, &Server{Source: source(healthy()), Socket: filepath.Join(dir, SocketName)})
		expect.Eventually(t, "it complains", func() bool { return strings.Contains(r.log.String(), "is writable by others") })
		if _, err := os.Lstat(r.Socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("mode %s: there is a socket: %v", mode, err)
		}
		if !strings.Contains(r.log.String(), "chmod go-w") {
			t.Errorf("there is no remedy: %s", r.log)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		r.listening(t)
		r.stop()
	}
}

func TestDirectoryOfAnother(t *testing.T) {
	expect.Root(t)
	dir := t.TempDir()
	if err := os.Chown(dir, 4711, -1); err != nil {
		t.Fatal(err)
	}
	if err := checkDir(dir); fault.ClassOf(err) != fault.Files || !strings.Contains(err.Error(), "belongs to another user (uid 4711)") {
		t.Errorf("it is %v", err)
	}
}

// leaveStale leaves a socket as a process that was killed does.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	leaveStale(t, path)
	r := run(t, &Server{Source: source(healthy()), Socket: path, every: time.Hour})
	r.listening(t)
	if _, err := Ask(t.Context(), path); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoSocketStays(t *testing.T) {
	for _, create := range []func(path string) error{
		func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) },
		func(path string) error { return os.Mkdir(path, 0o700) },
		func(path string) error { return os.Symlink("/nonexistent", path) },
		func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		path := filepath.Join(t.TempDir(), SocketName)
		if err := create(path); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		r := run(t, &Server{Source: source(healthy()), Socket: path})
		expect.Eventually(t, "it complains", func() bool { return strings.Contains(r.log.String(), "in the place of the socket") })
		r.stop()
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s is gone: %v", before.Mode(), err)
		}
	}
}

// Of two servers the first keeps the socket, and the second takes over when the first ends.
func TestTwoServers(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	first := run(t, &Server{Source: source(status.Status{Node: "first"}), Socket: path})
	first.listening(t)
	second := run(t, &Server{Source: source(status.Status{Node: "second"}), Socket: path})
	expect.Eventually(t, "the second complains", func() bool { return strings.Contains(second.log.String(), "another process answers there") })
	for range 5 {
		if s, err := Ask(t.Context(), path); err != nil || s.Node != "first" {
			t.Fatalf("it is %v: %v", s, err)
		}
		time.Sleep(quick)
	}
	if lines := strings.Count(second.log.String(), "\n"); lines != 1 {
		t.Errorf("the same reason is logged %d times: %s", lines, second.log)
	}
	first.stop()
	second.listening(t)
	if s, err := Ask(t.Context(), path); err != nil || s.Node != "second" {
		t.Errorf("it is %v: %v", s, err)
	}
}

// What was put in the place of a socket is not removed with it.
func TestCloseLeavesAnothersSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	r := run(t, &Server{Source: source(healthy()), Socket: path, every: time.Hour})
	r.listening(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	leaveStale(t, path)
	r.stop()
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

func TestDeletedSocketIsMadeAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", SocketName)
	r := run(t, &Server{Source: source(healthy()), Socket: path})
	r.listening(t)
	for range 3 {
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		r.listening(t)
		if _, err := Ask(t.Context(), path); err != nil {
			t.Error(err)
		}
	}
}

// A path that is longer than the kernel takes works, too.
func TestLongPath(t *testing.T) {
	for _, name := range []string{strings.Repeat("d", 200) + "/" + strings.Repeat("e", 200), strings.Repeat("d", maxPath)} {
		path := filepath.Join(t.TempDir(), name, SocketName)
		leave := run(t, &Server{Source: source(healthy()), Socket: path})
		leave.listening(t)
		if _, err := Ask(t.Context(), path); err != nil {
			t.Error(err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("the socket is %v: %v", info, err)
		}
		leave.stop()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	}
	// The longest path that the kernel takes, and the first that it does not.
	dir := t.TempDir()
	for _, length := range []int{maxPath, maxPath + 1} {
		path := filepath.Join(dir, strings.Repeat("s", length-len(dir)-1))
		r := run(t, &Server{Source: source(healthy()), Socket: path, every: time.Hour})
		r.listening(t)
		r.stop()
	}
}
