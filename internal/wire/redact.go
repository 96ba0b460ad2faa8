package wire

import (
	"maps"
	"slices"

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

// Redactor takes secrets out of documents of a model. It is safe for concurrent use.
type Redactor struct {
	m *model.Model
	// holds are the shapes that have something secret in them.
	holds map[string]bool
}

// NewRedactor looks for what is secret in a model.
func NewRedactor(m *model.Model) Redactor {
	r := Redactor{m: m, holds: map[string]bool{}}
	for changed := true; changed; {
		changed = false
		for name, s := range m.Shapes {
			if !r.holds[name] && r.secretBelow(s) {
				r.holds[name], changed = true, true
			}
		}
	}
	return r
}

func (r Redactor) secretBelow(s *model.Shape) bool {
	if s.Sensitive {
		return true
	}
	for member, ref := range s.Members {
		if r.holds[ref.Shape] || slices.Contains(secret, member) {
			return true
		}
	}
	return s.Member != nil && r.holds[s.Member.Shape] || s.Value != nil && r.holds[s.Value.Shape] || s.Key != nil && r.holds[s.Key.Shape]
}

// Redact returns a document of the shape without its secrets: itself when the shape
// has none, or else a copy as far as that differs.
func (r Redactor) Redact(shape string, doc any) any { return r.redact(shape, doc) }

func (r Redactor) redact(name string, v any) any {
	if !r.holds[name] || v == nil {
		return v
	}
	shape := r.m.Shapes[name]
	if shape.Sensitive {
		return Hidden
	}
	switch v := v.(type) {
	case map[string]any:
		out := maps.Clone(v)
		for member, inner := range v {
			if shape.Type == "map" {
				out[member] = r.redact(shape.Value.Shape, inner)
				continue
			}
			ref, known := shape.Members[member]
			switch {
			case !known:
				delete(out, member)
			case slices.Contains(secret, member):
				out[member] = Hidden
			default:
				out[member] = r.redact(ref.Shape, inner)
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
