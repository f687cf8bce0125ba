package systemd

import (
	_ "embed" // the unit
	"regexp"
	"strings"

	"github.com/nodejoin/nodejoin/agent/fault"
)

// Name is what the service is called, whatever manages it.
const Name = "nodejoin"

const (
	unitName = Name + ".service"
	// packaged is the program's path in the unit as the packages ship it.
	packaged = "/usr/bin/nodejoin"
)

//go:embed nodejoin.service
var unit string

//go:embed nodejoin.openrc
var openRCScript string

// plainPath is a path that needs no quoting: neither for systemd nor for a shell.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9_.+@-]+)+$`)

// Unit returns the unit that runs a program: what the packages ship, with another path.
func Unit(executable string) (string, error) {
	if !plainPath.MatchString(executable) {
		return "", fault.New(fault.Usage, "install it under a plain name: install -m 0755 nodejoin /usr/local/bin/nodejoin", "the path %q cannot stand in a unit", executable)
	}
	return strings.ReplaceAll(unit, "="+packaged+" ", "="+executable+" "), nil
}

// isOurs reports whether a file was written by this program, and not by somebody with a service of the same name. The
// first comment of the unit and of the script says so. An empty file is nobody's: it may be what a power cut has left of ours.
func isOurs(text string) bool {
	if text == "" {
		return true
	}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#!") {
			return strings.HasPrefix(line, "# The node join agent.")
		}
	}
	return false
}
