package csr

import (
	"fmt"
	"strings"
	"unicode"

	certificates "k8s.io/api/certificates/v1"
)

// EndedError is in the chain of every error with which a request ends: those that wrap [ErrGone], [ErrFailed],
// [ErrDenied] or [ErrReplaced]. It says of them what a status shows.
type EndedError struct {
	Name    string // of the API object
	Reason  string // one word of whoever ended it (the condition's reason), or ""
	Message string // in words: the condition's message, or what happened to the object

	cause error
	text  string
}

// Error returns which end it is, of which request, and why, on one line.
func (e *EndedError) Error() string { return e.cause.Error() + ": " + e.Name + e.text }

// Unwrap returns the sentinel.
func (e *EndedError) Unwrap() error { return e.cause }

// ended returns the error of a request to which something happened: the format says what.
func ended(cause error, name, format string, args ...any) *EndedError {
	message := fmt.Sprintf(format, args...)
	return &EndedError{Name: name, Message: message, cause: cause, text: " " + message}
}

// endedBy returns the error of a request that a person or a controller has ended by a condition.
func endedBy(c *certificates.CertificateSigningRequestCondition, cause error, name string) *EndedError {
	e := &EndedError{Name: name, Reason: oneLine(c.Reason), Message: oneLine(c.Message), cause: cause}
	for _, part := range []string{e.Reason, e.Message} {
		if part != "" {
			e.text += ": " + part
		}
	}
	return e
}

// lineError is another's error, on one line.
type lineError struct{ err error }

func (e lineError) Error() string { return oneLine(e.err.Error()) }

func (e lineError) Unwrap() error { return e.err }

// oneLine returns another's words in a form that may stand in a log and on a terminal.
func oneLine(text string) string {
	const most = 1000
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
