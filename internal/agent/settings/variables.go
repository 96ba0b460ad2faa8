package settings

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ConfigError is wrong configuration: the variable or flag at fault, and what it takes.
type ConfigError struct {
	Variable string // the variable's name; of several the first
	Text     string // one line, names Variable
}

// Error returns Text.
func (e *ConfigError) Error() string { return e.Text }

// Wrong is a *ConfigError about a variable.
func Wrong(variable, format string, args ...any) error {
	return &ConfigError{Variable: variable, Text: variable + ": " + fmt.Sprintf(format, args...)}
}

// variables reads the environment and keeps the first problem.
//
// There are two ways of reading, as in App Mesh's agent: what steers the agent falls back to the default when it
// cannot be read (soft…), what goes into Envoy's bootstrap is refused (hard…). Values are trimmed; an empty one is
// as good as none.
type variables struct {
	getenv   func(string) string
	err      error
	warnings []string
}

func (v *variables) text(name, fallback string) string {
	if s := strings.TrimSpace(v.getenv(name)); s != "" {
		return s
	}
	return fallback
}

func (v *variables) has(name string) bool { return v.text(name, "") != "" }

func (v *variables) fail(name, format string, args ...any) {
	if v.err == nil {
		v.err = Wrong(name, format, args...)
	}
}

func (v *variables) warn(format string, args ...any) {
	v.warnings = append(v.warnings, fmt.Sprintf(format, args...))
}

// softInt takes values from low to high.
func (v *variables) softInt(name string, fallback, low, high int) int {
	return int(v.softInt64(name, int64(fallback), int64(low), int64(high)))
}

// softInt64 is softInt for what an int of 32 bits does not hold.
func (v *variables) softInt64(name string, fallback, low, high int64) int64 {
	s := v.text(name, "")
	if s == "" {
		return fallback
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < low || n > high {
		v.warn("%s=%q is not a number from %d to %d: %d is used", name, s, low, high, fallback)
		return fallback
	}
	return n
}

func (v *variables) softBool(name string, fallback bool) bool {
	s := v.text(name, "")
	if s == "" {
		return fallback
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		v.warn("%s=%q is not a boolean value: %t is used", name, s, fallback)
		return fallback
	}
	return b
}

func (v *variables) softMillis(name string, fallback, low, high time.Duration) time.Duration {
	ms := v.softInt(name, int(fallback/time.Millisecond), int(low/time.Millisecond), int(high/time.Millisecond))
	return time.Duration(ms) * time.Millisecond
}

func (v *variables) softSeconds(name string, fallback, low, high time.Duration) time.Duration {
	s := v.softInt(name, int(fallback/time.Second), int(low/time.Second), int(high/time.Second))
	return time.Duration(s) * time.Second
}

// softChoice takes one of the words, in any case.
func (v *variables) softChoice(name, fallback string, words ...string) string {
	s := strings.ToLower(v.text(name, fallback))
	if !slices.Contains(words, s) {
		v.warn("%s=%q is none of %s: %s is used", name, s, strings.Join(words, ", "), fallback)
		return fallback
	}
	return s
}

func (v *variables) hardInt(name string, fallback, low, high int) int {
	s := v.text(name, "")
	if s == "" {
		return fallback
	}
	n, err := strconv.Atoi(s)
	switch {
	case err != nil:
		v.fail(name, "%q must be an integer value", s)
		return fallback
	case n < low || n > high:
		v.fail(name, "%d is not from %d to %d", n, low, high)
		return fallback
	}
	return n
}

func (v *variables) hardPort(name string, fallback int) int {
	return v.hardInt(name, fallback, 1, 65535)
}

func (v *variables) hardBool(name string) bool {
	s := v.text(name, "")
	if s == "" {
		return false
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		v.fail(name, "%q must be a boolean value", s)
	}
	return b
}
