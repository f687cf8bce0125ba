package agent

import (
	"os"
	"strings"
	"testing"

	"github.com/nodejoin/nodejoin/agent/fault"
	"github.com/nodejoin/nodejoin/agent/status"
)

// TestReloadRefused has a configuration become one that a running agent cannot go on with: it keeps to the one before, says why, and takes
// the next that is right.
func TestReloadRefused(t *testing.T) {
	for _, test := range []struct {
		name  string
		file  string // what is in it; "" is an empty one, "-" is none
		says  string
		class fault.Class
	}{
		{"it is gone", "-", "is missing or empty", fault.Usage},
		{"it is empty", "", "is missing or empty", fault.Usage},
		{"it is of another node", "node", `is asked to become "node-2"`, fault.Files},
		{"its state directory is another agent's", "state", "another nodejoin", fault.Held},
		{"its state directory cannot be made", "unsafe", "not a directory", fault.Files},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, server := overTLS(t)
			h.joinAt(h.fresh(), server)
			h.write(configPath, "right", 0o644)
			h.write("/var/lib/file", "", 0o644)
			other := h.options()
			other.StateDir = "/var/lib/other"
			config, err := other.Config()
			if err != nil {
				t.Fatal(err)
			}
			lock, err := config.Store().Lock()
			if err != nil {
				t.Fatal(err)
			}
			d := h.daemon(func() (*Config, error) {
				o := h.options()
				data, _ := os.ReadFile(h.path(configPath)) // none is as an empty one
				switch string(data) {
				case "node":
					o.NodeName = "node-2"
				case "state":
					o.StateDir = "/var/lib/other"
				case "unsafe":
					o.StateDir = "/var/lib/file/state"
				}
				return o.Config()
			})
			before := d.until("it is in order", settled)
			if test.file == "-" {
				h.remove(configPath)
			} else {
				h.write(configPath, test.file, 0o644)
			}
			s := d.until("it is refused", func(s *status.Status) bool { return s.Problem != nil })
			if p := s.Problem; p.Class != test.class || !strings.Contains(p.Text, test.says) || p.Remedy == "" || !settled(s) || !s.ConfigLoaded.Equal(before.ConfigLoaded) {
				t.Errorf("the problem is %+v, and the certificate %+v", s.Problem, s.Certificates[0])
			}
			if err := lock.Unlock(); err != nil {
				t.Fatal(err)
			}
			h.write(configPath, "right again", 0o644)
			d.until("it is in order again", func(s *status.Status) bool { return s.Problem == nil && settled(s) })
			d.end()
			if n := h.log.count("is refused"); n > 2 { // the file may be seen half written
				t.Errorf("it was said %d times", n)
			}
		})
	}
}

// TestStateDirectoryMoves goes on with another state directory: it is locked, and the one before is not any more.
func TestStateDirectoryMoves(t *testing.T) {
	h, server := overTLS(t)
	h.joinAt(h.fresh(), server)
	h.write(configPath, "here", 0o644)
	there := func() Options {
		o := h.options()
		o.StateDir = "/var/lib/other"
		return o
	}
	d := h.daemon(func() (*Config, error) {
		if data, err := os.ReadFile(h.path(configPath)); err != nil || string(data) == "here" {
			return h.options().Config()
		}
		return there().Config()
	})
	d.until("it is in order", settled)
	h.write(configPath, "there", 0o644)
	config, err := there().Config()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the configuration is in use", func() bool { return h.log.count("the configuration is read again") != 0 })
	d.until("it goes on", settled)
	if _, err := config.Store().Lock(); fault.ClassOf(err) != fault.Held {
		t.Errorf("the other directory is not locked: %v", err)
	}
	lock, err := h.store().Lock()
	if err != nil {
		t.Fatalf("the directory before is locked still: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	d.end()
}
