package csr

import (
	"bytes"
	stdlog "log"
	"log/slog"
	"strings"
	"testing"

	"github.com/cloudflare/cfssl/log"
)

// logTo sends cfssl's log to a log of a level, and that of the standard library, which is cfssl's own choice, to another
// text. It is undone when the test ends.
func logTo(t *testing.T, level slog.Level) (ours, others *bytes.Buffer) {
	t.Helper()
	ours, others = new(bytes.Buffer), new(bytes.Buffer)
	before, writer := log.Level, stdlog.Writer()
	t.Cleanup(func() {
		log.Level = before
		log.SetLogger(nil)
		stdlog.SetOutput(writer)
	})
	stdlog.SetOutput(others)
	LogTo(slog.New(slog.NewTextHandler(ours, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
	return ours, others
}

// TestLogTo: whatever cfssl says comes as a message of one name, at the level that it has for whoever reads this program's
// log. It does not run in parallel: cfssl's log is the process's.
func TestLogTo(t *testing.T) {
	const text = `says "this"`
	for _, test := range []struct {
		name  string
		say   func()
		level string
	}{
		{"debug", func() { log.Debug(text) }, "DEBUG"},
		{"info", func() { log.Infof("says %q", "this") }, "DEBUG"},
		{"warning", func() { log.Warning(text) }, "WARN"},
		{"error", func() { log.Error(text) }, "ERROR"},
		{"critical", func() { log.Criticalf("says %q", "this") }, "ERROR"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ours, others := logTo(t, slog.LevelDebug)
			test.say()
			if want := "level=" + test.level + ` msg=cfssl text="says \"this\""` + "\n"; ours.String() != want {
				t.Errorf("got %s, want %s", ours, want)
			}
			if others.Len() != 0 {
				t.Errorf("to the standard library's log: %s", others)
			}
		})
	}
	// After it, cfssl ends the process.
	var ours bytes.Buffer
	cfsslLog{slog.New(slog.NewTextHandler(&ours, nil))}.Emerg(text)
	if !strings.HasSuffix(ours.String(), `level=ERROR msg=cfssl text="says \"this\""`+"\n") {
		t.Errorf("got %s", &ours)
	}
}

// TestLogToLevel: what a log leaves out by its level does not come.
func TestLogToLevel(t *testing.T) {
	ours, _ := logTo(t, slog.LevelWarn)
	log.Debug("x")
	log.Info("x")
	log.Warning("this")
	if got, want := ours.String(), "level=WARN msg=cfssl text=this\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestLogOfRequest: cfssl tells of the making of a key and of a request, and not of the key.
func TestLogOfRequest(t *testing.T) {
	ours, others := logTo(t, slog.LevelDebug)
	key, err := GenerateKey(DefaultAlgorithm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := KubeletClient("node-1", 0).pkcs10(key); err != nil {
		t.Fatal(err)
	}
	const want = "level=DEBUG msg=cfssl text=\"generate key from request: algo=ecdsa, size=256\"\nlevel=DEBUG msg=cfssl text=\"encoded CSR\"\n"
	if ours.String() != want {
		t.Errorf("got %s, want %s", ours, want)
	}
	if others.Len() != 0 {
		t.Errorf("to the standard library's log: %s", others)
	}
}

// TestSilent: nothing is heard of cfssl where nobody asked for it.
func TestSilent(t *testing.T) {
	var others bytes.Buffer
	writer := stdlog.Writer()
	stdlog.SetOutput(&others)
	defer stdlog.SetOutput(writer)
	log.Debug("x")
	log.Info("x")
	log.Warning("x")
	log.Error("x")
	log.Critical("x")
	if others.Len() != 0 {
		t.Errorf("got %s", &others)
	}
}
