package systemd

import (
	"io"
	"log/slog"
	"strings"
	"testing"
)

func TestJournalHandler(t *testing.T) {
	var out strings.Builder
	log := slog.New(NewJournalHandler(&out, func(w io.Writer) slog.Handler {
		return slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})
	}))
	log.Debug("d")
	log.Info("i", "a", 1)
	log.With("node", "worker-1").WithGroup("g").Warn("w", "b", 2)
	log.Error("two\nlines")
	log.Log(t.Context(), slog.LevelError+4, "worse")
	const want = `<7>level=DEBUG msg=d
<6>level=INFO msg=i a=1
<4>level=WARN msg=w node=worker-1 g.b=2
<3>level=ERROR msg="two\nlines"
<3>level=ERROR+4 msg=worse
`
	if out.String() != want {
		t.Errorf("logged\n%s\ninstead of\n%s", out.String(), want)
	}
}

func TestJournalHandlerKeepsTheLevel(t *testing.T) {
	var out strings.Builder
	log := slog.New(NewJournalHandler(&out, func(w io.Writer) slog.Handler {
		return slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn})
	}))
	log.Info("not asked for")
	if out.Len() != 0 || log.Enabled(t.Context(), slog.LevelInfo) {
		t.Errorf("logged %q", out.String())
	}
}
