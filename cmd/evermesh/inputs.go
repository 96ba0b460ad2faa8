package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/document"
	"github.com/evermesh/evermesh/internal/model"
)

// input is one create call's input, as a file holds it.
type input struct {
	where string // file:line
	row   api.KindRow
	doc   map[string]any
	// at, where it is known, is the place of the part of doc with a path of
	// model.Violation.
	at func(path string) string
	// name, where it is known, is the place of the name of a member with such a
	// path, which the model need not know.
	name func(path string) string
}

// place is where the part of the input with that path stands, as well as it is
// known.
func (in input) place(path string) string {
	if in.at == nil {
		return in.where
	}
	return in.at(path)
}

// member is where the name of the member with that path stands.
func (in input) member(path string) string {
	if in.name == nil {
		return in.place(path)
	}
	return in.name(path)
}

// standsIn has the input's parts stand in a tree.
func (in *input) standsIn(file string, tree func() *document.Node) {
	in.at = func(path string) string {
		n := partOf(tree(), path)
		if n == nil {
			return in.where
		}
		return fmt.Sprintf("%s:%d:%d", file, n.Line, n.Column)
	}
	in.name = func(path string) string {
		of, name := "", path
		if i := strings.LastIndexByte(path, '.'); i >= 0 {
			of, name = path[:i], path[i+1:]
		}
		if n := partOf(tree(), of); n != nil {
			for _, m := range n.Members {
				if m.Name == name {
					return fmt.Sprintf("%s:%d:%d", file, m.Line, m.Column)
				}
			}
		}
		return in.place(path)
	}
}

// parseJSON reads a text of JSON values, each an input or a list of inputs.
func parseJSON(name string, text []byte) ([]input, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var out []input
	for len(bytes.TrimSpace(text[dec.InputOffset():])) > 0 {
		line := lineAt(text, dec.InputOffset())
		from := dec.InputOffset()
		v, err := model.Decode(dec)
		if err != nil {
			return nil, usagef("%s:%d: not valid JSON: %s", name, lineAt(text, dec.InputOffset()), plainSyntax(err))
		}
		// What is right needs no places.
		tree := sync.OnceValue(func() *document.Node {
			n, _ := document.ReadJSON(text[from:], lineOf(text, from), columnOf(text, from)) // nil without
			return n
		})
		items, isList := v.([]any)
		if !isList {
			items = []any{v}
		}
		for i, item := range items {
			where := fmt.Sprintf("%s:%d", name, line)
			if isList {
				where += fmt.Sprintf(": item %d", i+1)
			}
			in, err := inputOf(where, item)
			if err != nil {
				return nil, err
			}
			in.standsIn(name, func() *document.Node {
				n := tree()
				if isList && n != nil {
					n = n.Items[i]
				}
				return n
			})
			out = append(out, in)
		}
	}
	return out, nil
}

// parseYAML reads a text of YAML documents, each an input or a list of inputs.
func parseYAML(name string, text []byte) ([]input, error) {
	all, err := document.Read(text)
	if err != nil {
		hint := ""
		if bytes.Contains(text, []byte("{{")) {
			hint = document.Rendered
		}
		return nil, usagef("%s: not valid YAML: %v%s", lineIn(name, err), err, hint)
	}
	var out []input
	for _, n := range all {
		items := []*document.Node{n}
		if n.Kind == document.List {
			items = n.Items
		}
		for _, item := range items {
			in, err := inputOf(fmt.Sprintf("%s:%d", name, item.Line), item.Any())
			if err != nil {
				return nil, err
			}
			in.standsIn(name, func() *document.Node { return item })
			out = append(out, in)
		}
	}
	return out, nil
}

// lineIn is the place of an error of document.Read, as well as it is known.
func lineIn(file string, err error) string {
	if e, ok := errors.AsType[*document.Error](err); ok && e.Line > 0 {
		return fmt.Sprintf("%s:%d", file, e.Line)
	}
	return file
}

// partOf is the part of a document with a path of model.Violation, or what
// should hold it; nil when there is no document.
func partOf(n *document.Node, path string) *document.Node {
	for _, step := range strings.Split(path, ".") {
		next := n.Get(step)
		if i, err := strconv.Atoi(step); err == nil && n != nil && n.Kind == document.List && i >= 1 && i <= len(n.Items) {
			next = n.Items[i-1]
		}
		if next == nil && step != "member" {
			break
		}
		n = cmp.Or(next, n)
	}
	return n
}

func lineOf(text []byte, offset int64) int { return 1 + bytes.Count(text[:offset], []byte("\n")) }

// columnOf counts characters from 1.
func columnOf(text []byte, offset int64) int {
	return 1 + utf8.RuneCount(text[bytes.LastIndexByte(text[:offset], '\n')+1:offset])
}

// lineAt is the line of the first thing at or after an offset.
func lineAt(text []byte, offset int64) int {
	rest := text[offset:]
	blank := len(rest) - len(bytes.TrimLeft(rest, " \t\r\n,"))
	return 1 + bytes.Count(text[:int(offset)+blank], []byte("\n"))
}

func plainSyntax(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it ends too early"
	}
	return err.Error()
}

// inputOf tells what kind of resource a value is the create input of.
func inputOf(where string, v any) (input, error) {
	doc, ok := v.(map[string]any)
	if !ok {
		return input{}, usagef("%s: is not a JSON object: want the input of an aws appmesh create-… call", where)
	}
	if kind := foreignObject(doc); kind != "" {
		return input{}, foreign(where, kind)
	}
	named := map[api.Kind]bool{}
	for _, row := range api.Kinds() {
		if _, ok := doc[row.Name].(string); ok {
			named[row.Kind] = true
		}
	}
	// A route names its router and its mesh, too: what lives under another is
	// what is meant, and its parents are not.
	var meant []api.KindRow
	for _, row := range api.Kinds() {
		under := func(other api.KindRow) bool { return named[other.Kind] && other.Parent == row.Kind }
		if named[row.Kind] && !slices.ContainsFunc(api.Kinds(), under) {
			meant = append(meant, row)
		}
	}
	switch len(meant) {
	case 1:
		return input{where: where, row: meant[0], doc: doc}, nil
	case 0:
		return input{}, usagef("%s: has none of the members that name a resource%s: want one of %s", where, misspelt(doc), strings.Join(nameMembers(), ", "))
	}
	return input{}, usagef("%s: names both a %s and a %s: give each resource an object of its own", where, meant[0].Type, meant[1].Type)
}

func nameMembers() []string {
	var out []string
	for _, row := range api.Kinds() {
		out = append(out, row.Name)
	}
	return out
}

// misspelt names a member that only its letter case keeps from naming a
// resource.
func misspelt(doc map[string]any) string {
	for member := range doc {
		for _, name := range nameMembers() {
			if member != name && strings.EqualFold(member, name) {
				return fmt.Sprintf(" (%q is written %q)", member, name)
			}
		}
	}
	return ""
}
