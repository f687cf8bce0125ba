package csr

import (
	"context"
	"log/slog"

	"github.com/cloudflare/cfssl/log"
)

func init() {
	// cfssl logs through a global, to standard error. Nothing that it says is news to a caller that gets the error; it is
	// silenced before any goroutine can use it.
	log.Level = log.LevelFatal
}

// LogTo sends what cfssl logs to a log of the program's. It is called before anything else of this package is used: cfssl's
// log is a global variable.
func LogTo(to *slog.Logger) {
	log.SetLogger(cfsslLog{to})
	log.Level = log.LevelDebug
}

// cfsslLog is cfssl's log as it wants it. What is no more than its progress is for whoever asked for everything.
type cfsslLog struct{ to *slog.Logger }

func (l cfsslLog) say(level slog.Level, text string) {
	l.to.Log(context.Background(), level, "cfssl", "text", text)
}

func (l cfsslLog) Debug(text string)   { l.say(slog.LevelDebug, text) }
func (l cfsslLog) Info(text string)    { l.say(slog.LevelDebug, text) }
func (l cfsslLog) Warning(text string) { l.say(slog.LevelWarn, text) }
func (l cfsslLog) Err(text string)     { l.say(slog.LevelError, text) }
func (l cfsslLog) Crit(text string)    { l.say(slog.LevelError, text) }
func (l cfsslLog) Emerg(text string)   { l.say(slog.LevelError, text) }
