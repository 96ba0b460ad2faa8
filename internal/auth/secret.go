package auth

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a value that must not be seen: String, GoString, Format, JSON, text
// and slog all show [redacted]. Convert it to a string where the value itself
// is needed.
//
// Hold it in an exported field or behind a pointer: package fmt calls no
// methods on values that it reached through an unexported field.
type Secret string

// String returns [redacted].
func (Secret) String() string { return redacted }

// GoString returns [redacted], for %#v.
func (Secret) GoString() string { return redacted }

// Format writes [redacted] for every verb, so that not even %x or %d show it.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText returns [redacted], for encoding/json, keys of maps and others.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns [redacted], for log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
