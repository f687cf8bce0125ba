package systemd

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"strings"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/journal"
)

// OnJournal reports whether standard error is the journal's, or leads to Windows' event log, see [Stderr].
func OnJournal() bool {
	is, err := journal.StderrIsJournalStream()
	return is && err == nil || isHosted()
}

// PriorityError is what a line of the severity of an error begins with (sd-daemon(3)).
const PriorityError = "<3>"

// priorities are what the journal takes for the severity of a line that begins with them (sd-daemon(3)), the most severe first.
var priorities = []struct {
	level  slog.Level
	prefix string
}{{slog.LevelError, PriorityError}, {slog.LevelWarn, "<4>"}, {slog.LevelInfo, "<6>"}, {slog.LevelDebug, "<7>"}}

// journalHandler has a handler for each of priorities.
type journalHandler []slog.Handler

// NewJournalHandler returns a handler that gives each line of another its severity, so that `journalctl --priority` can
// choose among them. with makes the other, which must write each record with one Write.
func NewJournalHandler(w io.Writer, with func(io.Writer) slog.Handler) slog.Handler {
	var h journalHandler
	for _, p := range priorities {
		h = append(h, with(&prefixed{w, p.prefix}))
	}
	return h
}

// prefixed writes something before each Write, in one with it.
type prefixed struct {
	w      io.Writer
	prefix string
}

func (p *prefixed) Write(line []byte) (int, error) {
	n, err := p.w.Write(append([]byte(p.prefix), line...))
	return max(n-len(p.prefix), 0), err
}

func (h journalHandler) of(level slog.Level) slog.Handler {
	for i, p := range priorities {
		if level >= p.level {
			return h[i]
		}
	}
	return h[len(h)-1]
}

// Enabled implements [slog.Handler].
func (h journalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.of(level).Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.of(r.Level).Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(one slog.Handler) slog.Handler { return one.WithAttrs(attrs) })
}

// WithGroup implements [slog.Handler].
func (h journalHandler) WithGroup(name string) slog.Handler {
	return h.each(func(one slog.Handler) slog.Handler { return one.WithGroup(name) })
}

func (h journalHandler) each(change func(slog.Handler) slog.Handler) slog.Handler {
	changed := make(journalHandler, len(h))
	for i, one := range h {
		changed[i] = change(one)
	}
	return changed
}

// severity takes from a line what it begins with, as the journal does, and returns the severity. A line without is of no concern.
func severity(line string) (slog.Level, string) {
	for _, p := range priorities {
		if rest, found := strings.CutPrefix(line, p.prefix); found {
			return p.level, rest
		}
	}
	return slog.LevelInfo, line
}

// eventRoom is how long the text of an event may be, in bytes: Windows' ReportEvent refuses more than 31839 UTF-16 units, which
// are never more than the bytes.
const eventRoom = 30_000

// events yields what is to be an event each of a text that is written, with its severity: the lines, and a long one in pieces.
func events(text string) iter.Seq2[slog.Level, string] {
	return func(yield func(slog.Level, string) bool) {
		for line := range strings.Lines(text) {
			level, rest := severity(strings.TrimSpace(line))
			rest = strings.ReplaceAll(rest, "\x00", " ") // which would end it
			for rest != "" {
				end := min(len(rest), eventRoom)
				for end < len(rest) && end > eventRoom-utf8.UTFMax && !utf8.RuneStart(rest[end]) {
					end--
				}
				if !yield(level, rest[:end]) {
					return
				}
				rest = rest[end:]
			}
		}
	}
}
