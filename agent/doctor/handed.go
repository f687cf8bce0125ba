package doctor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// tokenCredential is the name that a credential has for the service that is its bootstrap token.
const tokenCredential = "token"

// findHanded returns the directive of the unit with which systemd hands a token to the service when it starts (systemd.exec(5),
// "Credentials"), "" if none does. The tokens themselves are not looked at: some are encrypted, some are in another program.
func (e *examination) findHanded(ctx context.Context) string {
	if e.elsewhere() {
		return ""
	}
	if _, err := os.Stat(e.host.systemd); err != nil {
		return ""
	}
	text, err := e.systemctl(ctx, "cat")
	if err != nil { // the check of the service says so
		return ""
	}
	found := map[string]string{} // the directive that is in force of each list with a token
	for line := range strings.Lines(text) {
		directive, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		directive, value = strings.TrimSpace(directive), strings.TrimSpace(value)
		list, known := lists[directive]
		name, source, _ := strings.Cut(value, ":")
		switch {
		case !known:
		case value == "": // the directives so far do not count
			delete(found, list)
		case name != tokenCredential:
		case list == "set" || e.hasCredential(directive, source):
			found[list] = directive + "="
		default:
			delete(found, list)
		}
	}
	if found["load"] != "" {
		return found["load"]
	}
	return found["set"]
}

// lists are the directives that give a service a credential, and which of the two lists they add to.
var lists = map[string]string{"LoadCredential": "load", "LoadCredentialEncrypted": "load", "SetCredential": "set", "SetCredentialEncrypted": "set"}

// hasCredential reports whether there is what a directive loads: a file or socket, or a credential by its name.
func (e *examination) hasCredential(directive, source string) bool {
	if source == "" {
		source = tokenCredential
	}
	if filepath.IsAbs(source) {
		_, err := os.Stat(source)
		return err == nil
	}
	dirs := e.host.credentials
	if directive == "LoadCredentialEncrypted" {
		dirs = slices.Concat(dirs, e.host.encrypted)
	}
	return slices.ContainsFunc(dirs, func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, source))
		return err == nil
	})
}
