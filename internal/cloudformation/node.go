package cloudformation

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/evermesh/evermesh/internal/document"
)

// maxDepth is how deeply a template may be nested. The deepest document of the
// model has 13 levels, and each may stand in a few functions.
const maxDepth = 100

// mostNodes bounds a template, with what its aliases stand for. CloudFormation
// takes 500 resources in a mebibyte of text, which is far less.
const mostNodes = 1 << 18

// form is what a node is.
type form int

const (
	isText form = iota
	isObject
	isList
	// isNothing is AWS::NoValue: what holds it is as if it were not there.
	isNothing
	// isUnknown is a value that cannot be known here; text says why.
	isUnknown
	// isBroken is a value whose fault is told already.
	isBroken
)

// node is a part of a template, or a value made of it. It does not change once
// it is read.
type node struct {
	form form
	at   Position
	// text of a scalar is as it is written: what it is a number or a word for is
	// up to where it stands, as CloudFormation has it.
	text string
	// plain says that a scalar is written without quotes.
	plain   bool
	items   []*node
	members []member
	// secret says that the text is made of a parameter with NoEcho.
	secret bool
	// arn says that a value that is not known here would be an ARN.
	arn bool
}

// member is a named part of an object.
type member struct {
	name  string
	at    Position
	value *node
}

// get is the member of that name, or nil.
func (n *node) get(name string) *node {
	if n != nil {
		for _, m := range n.members {
			if m.name == name {
				return m.value
			}
		}
	}
	return nil
}

// named are the members of an object by their names.
func (n *node) named() map[string]*node {
	out := make(map[string]*node, len(n.members))
	for _, m := range n.members {
		out[m.name] = m.value
	}
	return out
}

// what names the node's form for a message.
func (n *node) what() string {
	switch n.form {
	case isObject:
		return "an object"
	case isList:
		return "a list"
	}
	return "a text"
}

// read reads a template's text; ok is false when it is none.
func read(name string, data []byte, p *faults) (root *node, ok bool) {
	at := Position{File: name}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	text := data
	if start := bytes.TrimLeft(data, " \t\r\n"); len(start) > 0 && start[0] == '{' {
		data = yamlEscapes(data)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		p.add(at, "", "is empty")
		return nil, false
	} else if err != nil {
		syntax(at, text, err, p)
		return nil, false
	}
	if err := dec.Decode(&more); err == nil {
		p.add(Position{File: name, Line: more.Line, Column: more.Column}, "", "a second document begins: a template is one")
		return nil, false
	} else if !errors.Is(err, io.EOF) {
		syntax(at, text, err, p)
		return nil, false
	}
	r := reader{file: name, faults: p}
	root = r.node(doc.Content[0], 0)
	if r.given {
		return nil, false
	}
	if root.form != isObject {
		p.add(root.at, "", "is %s: want the sections of a template", root.what())
		return nil, false
	}
	return root, true
}

func syntax(at Position, text []byte, err error, p *faults) {
	e := document.Syntax(text, err)
	at.Line = e.Line
	hint := ""
	if bytes.Contains(text, []byte("{{")) && !bytes.Contains(text, []byte("{{resolve:")) {
		hint = document.Rendered
	}
	p.add(at, "", "neither YAML nor JSON: %s%s", e.Message, hint)
}

// escapes are the escapes of JSON, characters of two halves as one, and what YAML
// wants escaped and JSON does not.
var escapes = regexp.MustCompile(`[\x7f-\x{9f}\x{2028}\x{2029}\x{fffe}\x{ffff}]|\\(?:[^u]|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u)`)

// yamlEscapes writes what the parser takes in another form than JSON: halves of
// characters, the slash, controls, and breaks of lines that JSON does not know.
func yamlEscapes(data []byte) []byte {
	return escapes.ReplaceAllFunc(data, func(escape []byte) []byte {
		switch {
		case escape[0] != '\\':
			r, _ := utf8.DecodeRune(escape)
			return fmt.Appendf(nil, `\u%04x`, r)
		case string(escape) == `\/`:
			return escape[1:]
		case len(escape) != 12:
			return escape
		}
		high, _ := strconv.ParseUint(string(escape[2:6]), 16, 32) // four hexadecimal digits
		low, _ := strconv.ParseUint(string(escape[8:12]), 16, 32)
		return fmt.Appendf(nil, `\U%08x`, 0x10000+(high-0xd800)<<10+(low-0xdc00))
	})
}

// reader turns the parser's nodes into ours.
type reader struct {
	file   string
	faults *faults
	nodes  int
	at     []string // the path to where the reader is
	given  bool     // up: the rest is not looked at
}

func (r *reader) position(n *yaml.Node) Position {
	return Position{File: r.file, Line: n.Line, Column: n.Column}
}

func (r *reader) broken(n *yaml.Node, format string, args ...any) *node {
	at := r.position(n)
	r.faults.add(at, strings.TrimPrefix(strings.Join(r.at, ""), "."), format, args...)
	return &node{form: isBroken, at: at}
}

// giveUp ends reading.
func (r *reader) giveUp(n *yaml.Node, text string) *node {
	if r.given {
		return &node{form: isBroken, at: r.position(n)}
	}
	r.given, r.at = true, nil // the way to it is as long as it is deep
	return r.broken(n, "%s", text)
}

func (r *reader) node(n *yaml.Node, depth int) *node {
	r.nodes++
	switch {
	case r.given:
		return &node{form: isBroken, at: r.position(n)}
	case depth > maxDepth:
		return r.giveUp(n, "is nested too deeply")
	case r.nodes > mostNodes:
		return r.giveUp(n, "the template is too large, with what its aliases stand for")
	case n.Kind == yaml.AliasNode:
		return r.node(n.Alias, depth+1)
	}
	value := r.bare(n, depth)
	tag := n.ShortTag()
	if strings.HasPrefix(tag, "!!") {
		return value
	}
	name, known := functionOfTag[tag]
	if !known {
		return r.broken(n, "%s is no function of CloudFormation", tag)
	}
	return &node{form: isObject, at: value.at, members: []member{{name, value.at, value}}}
}

// functionOfTag are the short forms of functions.
var functionOfTag = map[string]string{
	"!Ref": "Ref", "!Condition": "Condition", "!GetAtt": "Fn::GetAtt", "!Sub": "Fn::Sub", "!Join": "Fn::Join",
	"!Select": "Fn::Select", "!Split": "Fn::Split", "!FindInMap": "Fn::FindInMap", "!If": "Fn::If",
	"!ImportValue": "Fn::ImportValue", "!Equals": "Fn::Equals", "!And": "Fn::And", "!Or": "Fn::Or", "!Not": "Fn::Not",
	"!Base64": "Fn::Base64", "!GetAZs": "Fn::GetAZs", "!Cidr": "Fn::Cidr", "!Transform": "Fn::Transform",
	"!Length": "Fn::Length", "!ToJsonString": "Fn::ToJsonString",
}

// below reads a part of the node that the reader is at.
func (r *reader) below(step string, n *yaml.Node, depth int) *node {
	from := len(r.at)
	r.at = append(r.at, step)
	out := r.node(n, depth+1)
	r.at = r.at[:min(from, len(r.at))]
	return out
}

// bare is a node without its tag.
func (r *reader) bare(n *yaml.Node, depth int) *node {
	out := &node{at: r.position(n)}
	switch n.Kind {
	case yaml.MappingNode:
		out.form = isObject
		r.members(n, out, depth)
	case yaml.SequenceNode:
		out.form = isList
		for i, item := range n.Content {
			out.items = append(out.items, r.below(fmt.Sprintf("[%d]", i), item, depth))
		}
	default:
		if n.ShortTag() == "!!null" {
			return r.broken(n, "is null: give a value, or leave the member out (AWS::NoValue leaves out what a condition decides)")
		}
		out.text, out.plain = n.Value, n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	}
	return out
}

func (r *reader) members(n *yaml.Node, out *node, depth int) {
	known := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := key
		if key.Kind == yaml.AliasNode {
			name = key.Alias
		}
		switch {
		case name.Kind != yaml.ScalarNode || !strings.HasPrefix(name.ShortTag(), "!!"):
			r.broken(key, "a member's name is no text")
			continue
		case name.ShortTag() == "!!merge":
			r.broken(key, "merges of YAML (<<) are not read: write the members out")
			continue
		case known[name.Value]:
			r.broken(key, "%q stands twice in one object", name.Value)
			continue
		}
		known[name.Value] = true
		out.members = append(out.members, member{name.Value, r.position(key), r.below("."+name.Value, value, depth)})
	}
}
