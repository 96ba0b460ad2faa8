package model

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Violation is one constraint of the model that a document does not keep. Path
// is AWS's form, such as
// spec.httpRoute.action.weightedTargets.1.member.weight (list positions count
// from 1).
type Violation struct {
	Path       string
	Value      string // as it was sent, shortened; empty when absent
	Constraint string
	// Shape is the shape whose constraint it is, such as ListenerTlsValidationContextTrust;
	// of a required member that is absent, the structure's.
	Shape string
}

// String is the sentence that AWS services use.
func (v Violation) String() string {
	return fmt.Sprintf("Value %sat '%s' failed to satisfy constraint: %s", v.Value, v.Path, v.Constraint)
}

// Message joins violations the way AWS services do.
func Message(vs []Violation) string {
	texts := make([]string, len(vs))
	for i, v := range vs {
		texts[i] = v.String()
	}
	noun := "validation error"
	if len(vs) != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s detected: %s", len(vs), noun, strings.Join(texts, "; "))
}

// mostViolations is how many violations Check looks for: a mebibyte of faults
// must not become an answer of a hundred.
const mostViolations = 100

// Check validates doc, a document decoded with json.Decoder.UseNumber, against
// a shape and returns all violations in a fixed order, or the first hundred.
// What breaks the model is not to be used any further. Members that the shape
// does not know and members that are null are removed from doc: what is decoded
// afterwards is exactly what was checked (encoding/json would match LISTENERS
// to listeners), and unknown members are ignored as AWS ignores them.
func (m *Model) Check(shape string, doc any) []Violation {
	c := checker{m: m, at: make([]step, 0, 16)}
	c.check(shape, doc)
	return c.found
}

type checker struct {
	m     *Model
	found []Violation
	at    []step
}

// step is how a part of a document is reached from what is above it: a member of
// that, or an item, counted from 1. The steps become text only where a violation
// names them.
type step struct {
	member string
	item   int
	key    bool // member is the key of a map, and as it was sent
}

func (c *checker) fail(shape string, value any, format string, args ...any) {
	shown := ""
	if value != nil {
		text := fmt.Sprint(value)
		if len(text) > 64 {
			text = strings.ToValidUTF8(text[:64], "") + "..."
		}
		shown = fmt.Sprintf("'%s' ", text)
	}
	c.found = append(c.found, Violation{Path: c.path(), Value: shown, Constraint: fmt.Sprintf(format, args...), Shape: shape})
}

// path is where the checker is.
func (c *checker) path() string {
	var b strings.Builder
	for i, s := range c.at {
		if i > 0 {
			b.WriteByte('.')
		}
		name := s.member
		if !s.key && name != "" { // AWS's sentences have members that way, however a model writes them
			name = strings.ToLower(name[:1]) + name[1:]
		}
		if b.WriteString(name); s.item > 0 {
			b.WriteString(strconv.Itoa(s.item) + ".member")
		}
	}
	return b.String()
}

func (c *checker) enter(s step) { c.at = append(c.at, s) }

func (c *checker) leave() { c.at = c.at[:len(c.at)-1] }

func (c *checker) check(name string, doc any) {
	if len(c.found) >= mostViolations {
		return
	}
	s := c.m.Shapes[name]
	switch s.Type {
	case "structure":
		c.structure(name, s, doc)
	case "list":
		c.list(name, s, doc)
	case "string":
		c.string(name, s, doc)
	case "integer", "long":
		c.integer(name, s, doc)
	case "double", "float":
		c.double(name, s, doc)
	case "map":
		c.mapping(name, s, doc)
	case "blob":
		c.blob(name, s, doc)
	case "boolean":
		if _, ok := doc.(bool); !ok {
			c.fail(name, nil, "Member must be a boolean")
		}
	case "timestamp":
		if _, ok := doc.(json.Number); !ok {
			c.fail(name, nil, "Member must be a number of seconds since the epoch")
		}
	}
}

func (c *checker) structure(name string, s *Shape, doc any) {
	members, ok := doc.(map[string]any)
	if !ok {
		c.fail(name, nil, "Member must be a structure")
		return
	}
	for member, v := range members {
		if _, known := s.Members[member]; !known || v == nil {
			delete(members, member)
		}
	}
	for _, member := range s.Required {
		if _, set := members[member]; !set {
			c.enter(step{member: member})
			c.fail(name, nil, "Member must not be null")
			c.leave()
		}
	}
	if s.Union && len(members) != 1 {
		c.fail(name, nil, "Member must have exactly one of %s set", strings.Join(sortedKeys(s.Members), ", "))
	}
	var few [16]string // on the stack; almost every structure has fewer
	present := few[:0]
	for member := range members {
		present = append(present, member)
	}
	slices.Sort(present)
	for _, member := range present {
		c.enter(step{member: member})
		c.check(s.Members[member].Shape, members[member])
		c.leave()
	}
}

func (c *checker) list(name string, s *Shape, doc any) {
	items, ok := doc.([]any)
	if !ok {
		c.fail(name, nil, "Member must be a list")
		return
	}
	if s.Min != nil && int64(len(items)) < *s.Min {
		c.fail(name, nil, "Member must have length greater than or equal to %d", *s.Min)
	}
	if s.Max != nil && int64(len(items)) > *s.Max {
		c.fail(name, nil, "Member must have length less than or equal to %d", *s.Max)
	}
	for i, item := range items {
		c.enter(step{item: i + 1})
		if item == nil {
			c.fail(name, nil, "Member must not be null")
		} else {
			c.check(s.Member.Shape, item)
		}
		c.leave()
	}
}

func (c *checker) string(name string, s *Shape, doc any) {
	text, ok := doc.(string)
	if !ok {
		c.fail(name, nil, "Member must be a string")
		return
	}
	length := int64(utf8.RuneCountInString(text))
	if s.Min != nil && length < *s.Min {
		c.fail(name, text, "Member must have length greater than or equal to %d", *s.Min)
	}
	if s.Max != nil && length > *s.Max {
		c.fail(name, text, "Member must have length less than or equal to %d", *s.Max)
	}
	if s.Enum != nil && !slices.Contains(s.Enum, text) {
		c.fail(name, text, "Member must satisfy enum value set: [%s]", strings.Join(s.Enum, ", "))
	}
	if s.pattern != nil && !s.pattern.MatchString(text) {
		c.fail(name, text, "Member must satisfy regular expression pattern: %s", s.Pattern)
	}
}

func (c *checker) integer(name string, s *Shape, doc any) {
	num, ok := doc.(json.Number)
	if !ok {
		c.fail(name, nil, "Member must be a number")
		return
	}
	v, err := num.Int64()
	if err != nil {
		c.fail(name, num, "Member must be a whole number")
		return
	}
	low, high := int64(math.MinInt32), int64(math.MaxInt32)
	if s.Type == "long" {
		low, high = math.MinInt64, math.MaxInt64
	}
	if s.Min != nil {
		low = *s.Min
	}
	if s.Max != nil {
		high = *s.Max
	}
	if v < low {
		c.fail(name, num, "Member must have value greater than or equal to %d", low)
	}
	if v > high {
		c.fail(name, num, "Member must have value less than or equal to %d", high)
	}
}

func (c *checker) double(name string, s *Shape, doc any) {
	num, _ := doc.(json.Number)
	v, err := num.Float64()
	if err != nil {
		c.fail(name, nil, "Member must be a number")
		return
	}
	if s.Min != nil && v < float64(*s.Min) {
		c.fail(name, num, "Member must have value greater than or equal to %d", *s.Min)
	}
	if s.Max != nil && v > float64(*s.Max) {
		c.fail(name, num, "Member must have value less than or equal to %d", *s.Max)
	}
}

// mapping checks keys and values. An entry that is null is none.
func (c *checker) mapping(name string, s *Shape, doc any) {
	entries, ok := doc.(map[string]any)
	if !ok {
		c.fail(name, nil, "Member must be a map")
		return
	}
	for k, v := range entries {
		if v == nil {
			delete(entries, k)
		}
	}
	if s.Min != nil && int64(len(entries)) < *s.Min {
		c.fail(name, nil, "Member must have length greater than or equal to %d", *s.Min)
	}
	if s.Max != nil && int64(len(entries)) > *s.Max {
		c.fail(name, nil, "Member must have length less than or equal to %d", *s.Max)
	}
	for _, k := range sortedKeys(entries) {
		c.enter(step{member: "key"})
		c.check(s.Key.Shape, k)
		c.leave()
		c.enter(step{member: k, key: true})
		c.check(s.Value.Shape, entries[k])
		c.leave()
	}
}

// blob checks bytes in base64, whose number the bounds are about.
func (c *checker) blob(name string, s *Shape, doc any) {
	text, ok := doc.(string)
	if !ok {
		c.fail(name, nil, "Member must be base64 text")
		return
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		c.fail(name, nil, "Member must be base64 text")
		return
	}
	if s.Min != nil && int64(len(b)) < *s.Min {
		c.fail(name, nil, "Member must have length greater than or equal to %d", *s.Min)
	}
	if s.Max != nil && int64(len(b)) > *s.Max {
		c.fail(name, nil, "Member must have length less than or equal to %d", *s.Max)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
