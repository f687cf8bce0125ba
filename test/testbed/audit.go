package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"sync"
	"time"
)

// AuditEvent is what a test wants to know of an audit event (audit.k8s.io/v1, level Metadata).
//
// A request has an event for each stage, all with the same AuditID: RequestReceived before it is handled,
// ResponseStarted for a watch, ResponseComplete when it has been answered, Panic. To count requests, keep one
// stage: RequestReceived for all that came in, ResponseComplete for those that have a status.
type AuditEvent struct {
	AuditID    string `json:"auditID"`
	Stage      string `json:"stage"`
	Verb       string `json:"verb"`
	RequestURI string `json:"requestURI"`
	UserAgent  string `json:"userAgent"`
	User       struct {
		Username string   `json:"username"`
		Groups   []string `json:"groups"`
		// Extra tells of a client certificate, in authentication.kubernetes.io/credential-id, "X509SHA256=" and the
		// hexadecimal SHA-256 of it.
		Extra map[string][]string `json:"extra"`
	} `json:"user"`
	SourceIPs      []string `json:"sourceIPs"`
	ResponseStatus struct {
		Code    int    `json:"code"` // 0 in the stage RequestReceived
		Message string `json:"message"`
	} `json:"responseStatus"`
	RequestReceivedTimestamp time.Time `json:"requestReceivedTimestamp"`
	StageTimestamp           time.Time `json:"stageTimestamp"`
}

// AuditEvents returns the events of the audit log that a filter accepts (nil: all), in the order of the log.
//
// The API server writes an event before it goes on with the request, so a request that was answered is in the log with
// the stage RequestReceived. Its ResponseComplete may come a moment after the client has the answer.
func (cp *ControlPlane) AuditEvents(ctx context.Context, filter func(AuditEvent) bool) ([]AuditEvent, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all, err := cp.trail.read(cp.AuditLog)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	if filter == nil {
		return all, nil
	}
	var events []AuditEvent
	for _, event := range all {
		if filter(event) {
			events = append(events, event)
		}
	}
	return events, nil
}

// trail is what was read of an audit log. Tests ask for it again and again while it grows, so that nothing is read twice.
type trail struct {
	mu     sync.Mutex
	events []AuditEvent
	offset int64 // of the first line that was not read
}

// read returns the events of a log from its beginning.
func (t *trail) read(path string) ([]AuditEvent, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	log, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	more, err := io.ReadAll(io.NewSectionReader(log, t.offset, math.MaxInt64-t.offset))
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(more) {
		if line[len(line)-1] != '\n' {
			break // being written
		}
		var event AuditEvent
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, fmt.Errorf("%w in %q", err, line)
		}
		t.events = append(t.events, event)
		t.offset += int64(len(line))
	}
	return slices.Clip(t.events), nil // what others append is theirs
}

// cutTornLine cuts off the end of a log that has no newline: a process that was killed while it wrote has left half a
// line, which the next one would go on with. A log that is not there yet is none.
func cutTornLine(path string) error {
	log, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if whole := bytes.LastIndexByte(log, '\n') + 1; whole < len(log) {
		return os.Truncate(path, int64(whole))
	}
	return nil
}
