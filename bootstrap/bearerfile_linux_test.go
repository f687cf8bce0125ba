package bootstrap

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// To open a pipe that nobody writes to is to wait for ever.
func TestReadBearerFileDoesNotWaitForAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := ReadBearerFile(path)
		done <- err
	}()
	select {
	case err := <-done:
		wantFault(t, err, fault.Usage, path+" is not a regular file")
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for a writer")
	}
}
