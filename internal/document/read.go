// Package document reads YAML and JSON files as trees in which every part knows
// its line and column, so that whoever finds a fault can say where it is. JSON
// is read by the same parser, being YAML.
//
// Start with Read. Anchors, aliases and merge keys are resolved, within bounds;
// a key that stands twice in one object is an error, as which one the writer
// meant cannot be known.
package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// MaxDepth is how deeply a document may be nested.
const MaxDepth = 64

// mostCopies bounds the parts that aliases add to a file: a few lines of
// aliases of aliases would fill the memory otherwise.
const mostCopies = 100_000

// Error is why a text could not be read, and where. Line and Column count from
// 1; they are 0 where they are not known.
type Error struct {
	Line, Column int
	Message      string
}

func (e *Error) Error() string { return e.Message }

// Read reads all documents of a text; empty ones are left out. The error is an
// *Error.
func Read(text []byte) ([]*Node, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	dec := yaml.NewDecoder(bytes.NewReader(text))
	r := reader{}
	var out []*Node
	for {
		var root yaml.Node
		err := dec.Decode(&root)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, Syntax(text, err)
		}
		for _, content := range root.Content {
			n, err := r.node(content, 0)
			if err != nil {
				return nil, err
			}
			if n.Kind != Scalar || n.Value != nil {
				out = append(out, n)
			}
		}
	}
}

// reader turns the parser's nodes into ours.
type reader struct {
	copying int // aliases that the reader is inside of
	copies  int // nodes made there
}

func fault(n *yaml.Node, format string, args ...any) *Error {
	return &Error{Line: n.Line, Column: n.Column, Message: fmt.Sprintf(format, args...)}
}

func (r *reader) node(n *yaml.Node, depth int) (*Node, error) {
	if depth > MaxDepth {
		return nil, fault(n, "it is nested too deeply")
	}
	if r.copying > 0 {
		if r.copies++; r.copies > mostCopies {
			return nil, fault(n, "its aliases stand for too much: write out what they mean")
		}
	}
	switch n.Kind {
	case yaml.AliasNode:
		r.copying++
		defer func() { r.copying-- }()
		return r.node(n.Alias, depth+1)
	case yaml.MappingNode:
		return r.object(n, depth)
	case yaml.SequenceNode:
		if err := plainTag(n, "!!seq"); err != nil {
			return nil, err
		}
		out := &Node{Line: n.Line, Column: n.Column, Kind: List, Items: make([]*Node, 0, len(n.Content))}
		for _, item := range n.Content {
			i, err := r.node(item, depth+1)
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, i)
		}
		return out, nil
	}
	return scalar(n)
}

// object reads a mapping. What a merge key brings stands behind the members of
// the mapping itself, which win.
func (r *reader) object(n *yaml.Node, depth int) (*Node, error) {
	if err := plainTag(n, "!!map"); err != nil {
		return nil, err
	}
	out := &Node{Line: n.Line, Column: n.Column, Kind: Object}
	known := map[string]bool{}
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		for key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return nil, fault(key, "a key is no text")
		}
		if key.ShortTag() == "!!merge" {
			merged = append(merged, value)
			continue
		}
		if known[key.Value] {
			return nil, fault(n.Content[i], "key %q stands twice in one object", key.Value)
		}
		known[key.Value] = true
		v, err := r.node(value, depth+1)
		if err != nil {
			return nil, err
		}
		out.Members = append(out.Members, Member{Name: key.Value, Line: n.Content[i].Line, Column: n.Content[i].Column, Value: v})
	}
	for _, m := range merged {
		from, err := r.node(m, depth+1)
		if err != nil {
			return nil, err
		}
		all := []*Node{from}
		if from.Kind == List {
			all = from.Items
		}
		for _, one := range all {
			if one.Kind != Object {
				return nil, fault(m, "a merge key takes an object, or a list of objects")
			}
			for _, member := range one.Members {
				if !known[member.Name] {
					known[member.Name] = true
					out.Members = append(out.Members, member)
				}
			}
		}
	}
	return out, nil
}

// plainTag refuses a tag that means something to others only.
func plainTag(n *yaml.Node, want string) error {
	if tag := n.ShortTag(); tag != want {
		return fault(n, "the tag %s means nothing here", tag)
	}
	return nil
}

func scalar(n *yaml.Node) (*Node, error) {
	out := &Node{Line: n.Line, Column: n.Column, Kind: Scalar, Value: n.Value}
	switch n.ShortTag() {
	case "!!str", "!!timestamp", "!!binary": // a plain date is a text to everyone here
	case "!!null":
		out.Value = nil
	case "!!bool":
		var b bool
		if err := n.Decode(&b); err != nil {
			return nil, fault(n, "%q is neither true nor false", n.Value)
		}
		out.Value = b
	case "!!int", "!!float":
		out.Value = number(n)
	default:
		return nil, fault(n, "the tag %s means nothing here", n.ShortTag())
	}
	return out, nil
}

// number is a number as JSON writes it; one that JSON cannot write stays a text.
func number(n *yaml.Node) any {
	if json.Valid([]byte(n.Value)) {
		return json.Number(n.Value)
	}
	var whole int64
	if n.Decode(&whole) == nil && n.ShortTag() == "!!int" {
		return json.Number(strconv.FormatInt(whole, 10))
	}
	var real float64
	if n.Decode(&real) == nil && !math.IsInf(real, 0) && !math.IsNaN(real) {
		return json.Number(strconv.FormatFloat(real, 'g', -1, 64))
	}
	return n.Value
}
