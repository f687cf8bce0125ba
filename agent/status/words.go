package status

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const day = 24 * time.Hour

// words rounds a duration down to what a person wants to know of it.
func words(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{365 * day, "years"}, {day, "days"}, {time.Hour, "hours"}, {time.Minute, "minutes"}} {
		if d >= 2*unit.length {
			return fmt.Sprintf("%d %s", d/unit.length, unit.name)
		}
	}
	switch {
	case d < time.Second:
		return "a moment"
	case d < 2*time.Second:
		return "a second"
	}
	return fmt.Sprintf("%d seconds", d/time.Second)
}

// stamp writes a moment as in the JSON.
func stamp(t time.Time) string {
	return t.UTC().Format(time.RFC3339)
}

// relative says how far away a moment is.
func relative(t, now time.Time) string {
	if t.After(now) {
		return "in " + words(t.Sub(now))
	}
	return words(now.Sub(t)) + " ago"
}

// timekeeping is a way to tell since when something is so, and when something happened: after a space, and nothing if
// that is not known.
type timekeeping struct{ since, at func(t, now time.Time) string }

var (
	inRelation = timekeeping{
		since: known(func(t, now time.Time) string { return " for " + words(now.Sub(t)) }),
		at:    known(func(t, now time.Time) string { return " " + relative(t, now) }),
	}
	inStamps = timekeeping{
		since: known(func(t, _ time.Time) string { return " since " + stamp(t) }),
		at:    known(func(t, _ time.Time) string { return " at " + stamp(t) }),
	}
)

func known(tell func(t, now time.Time) string) func(t, now time.Time) string {
	return func(t, now time.Time) string {
		if t.IsZero() {
			return ""
		}
		return tell(t, now)
	}
}

func skew(d time.Duration) string {
	if d < 0 {
		return words(-d) + " behind the API server's"
	}
	return words(d) + " ahead of the API server's"
}

// oneLine keeps what a server or a file had to say from breaking out of its line, or from changing what is around it.
func oneLine(text string) string {
	return strings.ToValidUTF8(strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
	}), " "), "\ufffd")
}

// clip cuts a text to at most n bytes, between two characters.
func clip(text string, n int) string {
	const more = "…"
	if len(text) <= n {
		return text
	}
	n -= len(more)
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + more
}
