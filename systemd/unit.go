package systemd

import (
	"crypto/sha256"
	_ "embed" // the unit
	"encoding/hex"
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

// script returns OpenRC's script that runs a program under a plain path.
func script(executable string) string {
	return sealed(strings.ReplaceAll(openRCScript, `"`+packaged+`"`, `"`+executable+`"`))
}

// head begins the first comment of our files, seal the line after it in those that this program has written.
const (
	head = "# The node join agent."
	seal = "# Written by \"nodejoin service install\", which replaces and removes this file only as it wrote it: SHA-256 "
)

// sealed returns a file of ours with the hash of its text in it: so it is known later, by any version, to be as it was written.
func sealed(text string) string {
	before, after, _ := strings.Cut(text, head)
	rest, after, _ := strings.Cut(after, "\n")
	return before + head + rest + "\n" + seal + hash(text) + "\n" + after
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// isOurs reports whether a file is as this program has written it: neither that of somebody with a service of the same name,
// nor one of ours that was edited, nor a copy of what a package ships, which systemctl edit --full makes. An empty file is
// nobody's: it may be what a power cut has left of ours.
func isOurs(text string) bool {
	if text == "" {
		return true
	}
	before, after, found := strings.Cut(text, seal)
	sum, after, ended := strings.Cut(after, "\n")
	return found && ended && sum == hash(before+after)
}

// bearsHead reports whether the first comment of a file is that of ours, whoever has edited the rest.
func bearsHead(text string) bool {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#!") {
			return strings.HasPrefix(line, head)
		}
	}
	return false
}
