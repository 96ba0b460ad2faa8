package policy

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep a policy nests: document, statements, statement, condition,
// operator, values.
const maxDepth = 8

// Position is a place in a policy's text; both count from 1, columns in characters.
type Position struct{ Line, Column int }

// node is a value of JSON that knows where it stands.
type node struct {
	start, end int // offsets in bytes
	kind       kind
	value      any    // a string, a json.Number, a bool, or nil
	names      []name // of an object
	members    []*node
}

// name is that of an object's member.
type name struct {
	text  string
	start int
}

type kind uint8

const (
	isValue kind = iota
	isObject
	isList
)

// reader makes nodes of a text.
type reader struct {
	text    string
	decoder *json.Decoder
}

// read makes the one node that text has to be.
func read(text string) (*node, error) {
	r := &reader{text, json.NewDecoder(strings.NewReader(text))}
	r.decoder.UseNumber()
	if !utf8.ValidString(text) {
		return nil, r.fault(0, "the text is not UTF-8")
	}
	n, err := r.next(0)
	if err != nil {
		return nil, err
	}
	after := r.at()
	if _, err := r.decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, r.fault(after, "there is more after the policy")
	}
	return n, nil
}

// at is the offset of what comes next.
func (r *reader) at() int {
	at := int(r.decoder.InputOffset())
	for at < len(r.text) && strings.IndexByte(" \t\r\n,:", r.text[at]) >= 0 {
		at++
	}
	return at
}

func (r *reader) next(depth int) (*node, error) {
	n := &node{start: r.at()}
	token, err := r.decoder.Token()
	if err != nil {
		return nil, r.broken(err)
	}
	switch token {
	case json.Delim('{'), json.Delim('['):
		if depth == maxDepth {
			return nil, r.fault(n.start, "it is nested too deep")
		}
		n.kind = isObject
		if token == json.Delim('[') {
			n.kind = isList
		}
		if err := r.fill(n, depth+1); err != nil {
			return nil, err
		}
	default:
		n.value = token
	}
	n.end = int(r.decoder.InputOffset())
	return n, nil
}

// fill reads what is in an object or a list, and its end.
func (r *reader) fill(n *node, depth int) error {
	seen := map[string]bool{}
	for r.decoder.More() {
		if n.kind == isObject {
			at := r.at()
			token, err := r.decoder.Token()
			if err != nil {
				return r.broken(err)
			}
			text, ok := token.(string)
			switch {
			case !ok:
				return r.fault(at, "a name must be a string")
			case seen[text]:
				return r.fault(at, "%q is there twice", text)
			}
			seen[text] = true
			n.names = append(n.names, name{text, at})
		}
		member, err := r.next(depth)
		if err != nil {
			return err
		}
		n.members = append(n.members, member)
	}
	if _, err := r.decoder.Token(); err != nil {
		return r.broken(err)
	}
	return nil
}

// broken is the fault of a text that is no JSON.
func (r *reader) broken(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return r.fault(r.at(), "%s", syntax.Error())
	}
	return r.fault(len(r.text), "the text ends too early")
}

// position is the place of an offset.
func position(text string, offset int) Position {
	before := text[:min(offset, len(text))]
	line := strings.LastIndexByte(before, '\n') + 1
	return Position{strings.Count(before, "\n") + 1, utf8.RuneCountInString(before[line:]) + 1}
}
