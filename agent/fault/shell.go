package fault

import (
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

var (
	plainWord = regexp.MustCompile(`^[A-Za-z0-9._:@/=+,-]+$`)
	noName    = regexp.MustCompile(`[^a-z0-9.:-]+`)
)

// Word returns text as one word of the command of a remedy, quoted where a shell would make something else of it: a person
// pastes it, and text may come from a server.
func Word(text string) string {
	if plainWord.MatchString(text) {
		return text
	}
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		text = strconv.Quote(text) // not the same any more, but on one line and harmless
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// Name returns text as a part of the name of an RBAC object in the command of a remedy: what such a name has not is a
// hyphen.
func Name(text string) string { return noName.ReplaceAllString(strings.ToLower(text), "-") }
