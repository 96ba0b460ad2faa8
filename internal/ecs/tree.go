package ecs

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/evermesh/evermesh/internal/document"
)

// JSON is the definition as register-task-definition takes it, its members in the order of the file.
func (d *Definition) JSON() []byte {
	var raw, out bytes.Buffer
	write(&raw, d.node)
	_ = json.Indent(&out, raw.Bytes(), "", "  ") // what write writes is valid
	return out.Bytes()
}

func write(w *bytes.Buffer, n *document.Node) {
	switch n.Kind {
	case document.Object:
		w.WriteByte('{')
		for i, m := range n.Members {
			if i > 0 {
				w.WriteByte(',')
			}
			writeScalar(w, m.Name)
			w.WriteByte(':')
			write(w, m.Value)
		}
		w.WriteByte('}')
	case document.List:
		w.WriteByte('[')
		for i, item := range n.Items {
			if i > 0 {
				w.WriteByte(',')
			}
			write(w, item)
		}
		w.WriteByte(']')
	default:
		writeScalar(w, n.Value)
	}
}

// writeScalar writes a text, number, truth value or null, without the escapes that only HTML needs.
func writeScalar(w *bytes.Buffer, v any) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		w.WriteString("null") // a number that JSON does not have, such as YAML's .inf
		return
	}
	w.Truncate(w.Len() - 1) // the encoder's line end
}

// clone copies a tree, so that what is made of it leaves it alone.
func clone(n *document.Node) *document.Node {
	out := *n
	out.Members, out.Items = nil, nil
	for _, m := range n.Members {
		m.Value = clone(m.Value)
		out.Members = append(out.Members, m)
	}
	for _, item := range n.Items {
		out.Items = append(out.Items, clone(item))
	}
	return &out
}

// set gives an object a member, in the place of one of that name.
func set(n *document.Node, name string, value *document.Node) {
	for i := range n.Members {
		if n.Members[i].Name == name {
			n.Members[i].Value = value
			return
		}
	}
	n.Members = append(n.Members, document.Member{Name: name, Value: value})
}

func remove(n *document.Node, name string) {
	for i := range n.Members {
		if n.Members[i].Name == name {
			n.Members = append(n.Members[:i:i], n.Members[i+1:]...)
			return
		}
	}
}

// list is the member of that name as a list, made if it is not there.
func list(n *document.Node, name string) *document.Node {
	if l := n.Get(name); l != nil && l.Kind == document.List {
		return l
	}
	l := &document.Node{Kind: document.List}
	set(n, name, l)
	return l
}

// item is the item of a list whose member has that text; nil without it.
func item(l *document.Node, member, text string) *document.Node {
	if l == nil {
		return nil
	}
	for _, n := range l.Items {
		if got, ok := n.Get(member).Text(); ok && got == text {
			return n
		}
	}
	return nil
}

// text, number and truth are values; object is one of names and values in turn.
func text(s string) *document.Node { return &document.Node{Value: s} }

func number(n int) *document.Node { return &document.Node{Value: json.Number(strconv.Itoa(n))} }

func truth(b bool) *document.Node { return &document.Node{Value: b} }

func object(pairs ...any) *document.Node {
	n := &document.Node{Kind: document.Object}
	for i := 0; i+1 < len(pairs); i += 2 {
		name, _ := pairs[i].(string)
		value, _ := pairs[i+1].(*document.Node)
		n.Members = append(n.Members, document.Member{Name: name, Value: value})
	}
	return n
}

func items(all ...*document.Node) *document.Node {
	return &document.Node{Kind: document.List, Items: all}
}
