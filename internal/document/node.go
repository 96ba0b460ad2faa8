package document

import (
	"encoding/json"
	"strconv"
)

// Kind is what a node is.
type Kind int

// The kinds of nodes.
const (
	Scalar Kind = iota
	Object
	List
)

// Node is a part of a document. Line and Column, from 1, say where it begins; of
// what an alias stands for, where that is written.
type Node struct {
	Line, Column int
	Kind         Kind
	Members      []Member // of an Object, in their order
	Items        []*Node  // of a List
	// Value of a Scalar is a string, json.Number, bool or nil.
	Value any
}

// Member is a named part of an object. Line and Column are those of its name.
type Member struct {
	Name         string
	Line, Column int
	Value        *Node
}

// Get is the member of that name; nil when n is nil, is no object or has none,
// and when the member is null.
func (n *Node) Get(name string) *Node {
	if n == nil {
		return nil
	}
	for _, m := range n.Members {
		if m.Name == name && !m.Value.Null() {
			return m.Value
		}
	}
	return nil
}

// Null says whether the node is null, or is not there.
func (n *Node) Null() bool { return n == nil || n.Kind == Scalar && n.Value == nil }

// Text is the node's text; ok is false when it is none.
func (n *Node) Text() (text string, ok bool) {
	if n == nil {
		return "", false
	}
	text, ok = n.Value.(string)
	return text, ok
}

// Plain is a text, a number or a truth value as a text; ok is false for anything
// else.
func (n *Node) Plain() (text string, ok bool) {
	if n == nil {
		return "", false
	}
	switch v := n.Value.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// Any is the node as encoding/json would have decoded it, numbers as
// json.Number.
func (n *Node) Any() any {
	switch n.Kind {
	case Object:
		out := make(map[string]any, len(n.Members))
		for _, m := range n.Members {
			out[m.Name] = m.Value.Any()
		}
		return out
	case List:
		out := make([]any, len(n.Items))
		for i, item := range n.Items {
			out[i] = item.Any()
		}
		return out
	}
	return n.Value
}
