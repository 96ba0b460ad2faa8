package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// DecodeText reads a text that is one JSON value, as Decode does, with numbers as they
// were written. It is what a request's body goes through: a text that is JSON is
// read in one pass, and any other is given to Decode, which says what is wrong.
func DecodeText(text []byte) (any, error) {
	if !json.Valid(text) {
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		if _, err := Decode(dec); err != nil {
			return nil, err
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return nil, errors.New("something follows the JSON object")
		}
		return nil, errors.New("it is not JSON")
	}
	p := parser{rest: text}
	return p.value(0)
}

// parser reads a text that is known to be JSON.
type parser struct{ rest []byte }

// next skips white space and returns the first byte of what follows.
func (p *parser) next() byte {
	for i, c := range p.rest {
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			p.rest = p.rest[i:]
			return c
		}
	}
	return 0 // never in JSON
}

// skip takes the next byte.
func (p *parser) skip() byte {
	c := p.next()
	p.rest = p.rest[1:]
	return c
}

func (p *parser) value(depth int) (any, error) {
	if depth > MaxDepth {
		return nil, errTooDeep
	}
	switch c := p.next(); c {
	case '{':
		return p.object(depth)
	case '[':
		return p.list(depth)
	case '"':
		return p.text()
	case 't', 'f', 'n':
		n := 4
		if c == 'f' {
			n = 5
		}
		p.rest = p.rest[n:]
		if c == 'n' {
			return nil, nil
		}
		return c == 't', nil
	}
	n := bytes.IndexFunc(p.rest, func(r rune) bool { return !strings.ContainsRune("+-0123456789.eE", r) })
	if n < 0 {
		n = len(p.rest)
	}
	number := json.Number(p.rest[:n])
	p.rest = p.rest[n:]
	return number, nil
}

func (p *parser) object(depth int) (any, error) {
	out := map[string]any{}
	p.skip()
	if p.next() == '}' {
		p.skip()
		return out, nil
	}
	for {
		p.next()
		key, err := p.text()
		if err != nil {
			return nil, err
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("key %q stands twice in one object", key)
		}
		p.skip() // the colon
		if out[key], err = p.value(depth + 1); err != nil {
			return nil, err
		}
		if p.skip() == '}' {
			return out, nil
		}
	}
}

func (p *parser) list(depth int) (any, error) {
	out := []any{}
	p.skip()
	if p.next() == ']' {
		p.skip()
		return out, nil
	}
	for {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
		if p.skip() == ']' {
			return out, nil
		}
	}
}

// text reads a string; one with escapes, or that may not be UTF-8, is left to
// encoding/json.
func (p *parser) text() (string, error) {
	plain := true
	for i := 1; ; i++ {
		switch c := p.rest[i]; {
		case c == '"':
			quoted := p.rest[:i+1]
			p.rest = p.rest[i+1:]
			if plain {
				return string(quoted[1:i]), nil
			}
			var out string
			err := json.Unmarshal(quoted, &out)
			return out, err
		case c == '\\':
			plain = false
			i++ // a quote after it ends nothing
		case c >= 0x80:
			plain = false
		}
	}
}
