package wire

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/evermesh/evermesh/internal/model"
)

// Hidden stands in a record where a secret was, in CloudTrail's words.
const Hidden = "HIDDEN_DUE_TO_SECURITY_REASONS"

// secret are members that prove who somebody is, or open something, and that their
// models do not call sensitive.
var secret = []string{
	"SecretAccessKey", "secretAccessKey", "SessionToken", "sessionToken", "WebIdentityToken", "token", "TokenCode",
	"Password", "NewPassword", "OldPassword", "PrivateKey", "Passphrase",
}

// Redactor makes of a model's documents what records have: without secrets, and with
// names and times as CloudTrail writes them (AUDIT-002). It is safe for concurrent use.
type Redactor struct {
	m *model.Model
	// holds are the shapes that have something in them that a record has otherwise.
	holds map[string]bool
}

// NewRedactor looks for what is secret in a model, or called otherwise.
func NewRedactor(m *model.Model) Redactor {
	r := Redactor{m: m, holds: map[string]bool{}}
	for changed := true; changed; {
		changed = false
		for name, s := range m.Shapes {
			if !r.holds[name] && r.otherBelow(s) {
				r.holds[name], changed = true, true
			}
		}
	}
	return r
}

func (r Redactor) otherBelow(s *model.Shape) bool {
	if s.Sensitive || s.Type == "timestamp" {
		return true
	}
	for member, ref := range s.Members {
		if r.holds[ref.Shape] || recorded(member) != member || slices.Contains(secret, member) {
			return true
		}
	}
	return s.Member != nil && r.holds[s.Member.Shape] || s.Value != nil && r.holds[s.Value.Shape] || s.Key != nil && r.holds[s.Key.Shape]
}

// recorded is a member's name in a record: UserName is userName.
func recorded(member string) string {
	if member == "" || member[0] < 'A' || member[0] > 'Z' {
		return member
	}
	return string(member[0]+'a'-'A') + member[1:]
}

// when is a time in a record: Oct 10, 2024, 1:23:45 PM. What is none stays.
func when(v any) any {
	var at time.Time
	switch v := v.(type) {
	case string:
		var err error
		if at, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return v
		}
	case json.Number:
		seconds, err := v.Float64()
		if err != nil || seconds < 0 || seconds > 253402300799 { // the year 9999
			return v
		}
		at = time.UnixMilli(int64(seconds * 1000))
	default:
		return v
	}
	return at.UTC().Format("Jan 2, 2006, 3:04:05 PM")
}

// Redact returns a document of the shape as a record has it: itself when nothing in the
// shape is other, or else a copy as far as that differs. Members that the model does not
// know are left out of a copy.
func (r Redactor) Redact(shape string, doc any) any { return r.redact(shape, doc) }

func (r Redactor) redact(name string, v any) any {
	if !r.holds[name] || v == nil {
		return v
	}
	shape := r.m.Shapes[name]
	if shape.Sensitive {
		return Hidden
	}
	if shape.Type == "timestamp" {
		return when(v)
	}
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for member, inner := range v {
			if shape.Type == "map" {
				out[member] = r.redact(shape.Value.Shape, inner)
				continue
			}
			ref, known := shape.Members[member]
			switch {
			case !known:
			case slices.Contains(secret, member):
				out[recorded(member)] = Hidden
			default:
				out[recorded(member)] = r.redact(ref.Shape, inner)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, inner := range v {
			out[i] = r.redact(shape.Member.Shape, inner)
		}
		return out
	}
	return v
}
