package bootstrap

import (
	"fmt"
	"log/slog"
	"unique"
)

// redacted stands in the place of every secret that somebody tries to print.
const redacted = "[redacted]"

// Secret is a string that must not be seen: however it is printed, logged or marshalled, [redacted] comes out. Only
// Reveal gives the value, so that every use of it can be found. Secrets of the same value are equal.
//
// The value is behind a handle because fmt calls no method on an unexported field of a struct that it prints: it
// prints what is in it, and of a handle that is an address.
type Secret struct{ handle unique.Handle[string] }

// NewSecret returns value as a Secret.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{unique.Make(value)}
}

// Reveal returns the secret itself.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return s.handle.Value()
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s == Secret{} }

// Format implements [fmt.Formatter] for every verb, %#v and %x included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String implements [fmt.Stringer].
func (s Secret) String() string { return redacted }

// GoString implements [fmt.GoStringer].
func (s Secret) GoString() string { return redacted }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler], which covers JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
