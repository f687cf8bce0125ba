// Package fault is the vocabulary of failures that end the work: each has a class, which is the exit status of the
// program, a cause and a remedy.
//
// The rule that the rest of the code keeps: an error that carries a [Class] is one that waiting cannot mend, so a loop
// stops on it and the person is told what to do. Every other error is passing (a refused connection, an API server
// that restarts), and a loop that meets one backs off and tries again. Between the two is what [Passing] makes: it may
// pass by itself, and a person can end it; it has a class and a remedy for whoever waits no longer.
//
// The package is a leaf: it imports nothing of this module, so that every other package can speak in it.
package fault

import (
	"errors"
	"fmt"
)

// Class says what kind of failure ended the work. Its value is the exit status of the program; the values are stable.
type Class int

// The classes. Zero is success and no class.
const (
	Unexpected Class = 1 // a defect, or a state of the world that nobody foresaw
	Usage      Class = 2 // flags, configuration or input that cannot be right
	Untrusted  Class = 3 // the cluster could not be trusted: pin, signature or CA
	Refused    Class = 4 // the API server refused the credential
	Denied     Class = 5 // the certificate signing request was denied or failed, or what was issued is not acceptable
	Unapproved Class = 6 // nobody approved the request in time
	Held       Class = 7 // another agent holds this machine
	Files      Class = 8 // the machine's files are in a state that needs a person
)

// Error is a failure with its class and its remedy.
type Error struct {
	Class  Class
	Err    error  // the cause, on one line, lower case and without a final period
	Remedy string // what to do about it, on one line, with the command to run where there is one
	Passes bool   // it may pass by itself: a loop tries again
}

// Error returns the cause alone; the remedy is for whoever prints the error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New returns an error of the given class. The cause is formatted as by [fmt.Errorf], so %w wraps.
func New(class Class, remedy, format string, args ...any) error {
	return &Error{Class: class, Err: fmt.Errorf(format, args...), Remedy: remedy}
}

// Passing is [New] for an error that may pass by itself.
func Passing(class Class, remedy, format string, args ...any) error {
	return &Error{Class: class, Err: fmt.Errorf(format, args...), Remedy: remedy, Passes: true}
}

// ClassOf returns the class of the outermost classified error in err's chain, [Unexpected] for an error that carries
// none, and 0 for nil.
func ClassOf(err error) Class {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return Unexpected
}

// IsFinal reports whether err carries a class and does not pass: waiting cannot mend it.
func IsFinal(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && !e.Passes
}

// Is reports whether err is final and of a class. What passes is of none in this sense: nothing may be concluded from it yet.
func Is(err error, class Class) bool { return IsFinal(err) && ClassOf(err) == class }

// HasClass reports whether err carries a class, final or not.
func HasClass(err error) bool {
	_, ok := errors.AsType[*Error](err)
	return ok
}

// Remedy returns what to do about err, or "" where no error in its chain says so.
func Remedy(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Remedy
	}
	return ""
}
