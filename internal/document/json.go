package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// ReadJSON reads the JSON value with which a text begins, by the rules of JSON
// alone: a text of JSON need not be one of YAML. line and column are where the
// text begins in its file, from 1. Of a key that stands twice both are members.
func ReadJSON(text []byte, line, column int) (*Node, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	r := jsonReader{text: text, dec: dec, line: line, column: column}
	return r.value(0)
}

type jsonReader struct {
	text         []byte
	dec          *json.Decoder
	at           int // an offset
	line, column int // of at
}

// next is the next token, and where it begins.
func (r *jsonReader) next() (token json.Token, line, column int, err error) {
	if token, err = r.dec.Token(); err != nil {
		return nil, 0, 0, fmt.Errorf("read JSON: %w", err)
	}
	end := int(r.dec.InputOffset())
	for r.at < end && bytes.IndexByte([]byte(" \t\r\n,:"), r.text[r.at]) >= 0 {
		r.step()
	}
	line, column = r.line, r.column
	for r.at < end {
		r.step()
	}
	return token, line, column, nil
}

// step goes a character further.
func (r *jsonReader) step() {
	_, n := utf8.DecodeRune(r.text[r.at:])
	r.column++
	if r.text[r.at] == '\n' {
		r.line, r.column = r.line+1, 1
	}
	r.at += n
}

func (r *jsonReader) value(depth int) (*Node, error) {
	token, line, column, err := r.next()
	if err != nil {
		return nil, err
	}
	if depth > MaxDepth {
		return nil, errors.New("read JSON: it is nested too deeply")
	}
	out := &Node{Line: line, Column: column, Kind: Scalar, Value: token}
	if token == json.Delim('{') {
		out.Kind, out.Value = Object, nil
	} else if token == json.Delim('[') {
		out.Kind, out.Value, out.Items = List, nil, []*Node{}
	}
	for out.Kind != Scalar && r.dec.More() {
		var m Member
		if out.Kind == Object {
			name, line, column, err := r.next()
			if err != nil {
				return nil, err
			}
			m.Name, m.Line, m.Column = fmt.Sprint(name), line, column
		}
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if m.Value = v; out.Kind == Object {
			out.Members = append(out.Members, m)
		} else {
			out.Items = append(out.Items, v)
		}
	}
	if out.Kind != Scalar {
		_, _, _, err = r.next() // its end
	}
	return out, err
}
