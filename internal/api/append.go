package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// AppendDocument appends a document's JSON in one line, as package json writes it:
// members in the order of their names, numbers as they are, but for HTML's escapes, which
// it does without. A json.RawMessage is taken to be such a line and is not looked at again,
// unless it has line breaks. Documents are what calls are made of (model.DecodeText); what
// else is in them package json writes, and its errors are returned.
//
// Every call is written several times, to be kept, told apart and recorded, and
// reflection is most of what package json takes for that.
func AppendDocument(b []byte, doc any) ([]byte, error) {
	switch v := doc.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case string:
		return AppendString(b, v), nil
	case json.Number:
		// What is valid, begins as a number and ends as one has no white space around it.
		if v != "" && (v[0] == '-' || isDigit(v[0])) && isDigit(v[len(v)-1]) && json.Valid([]byte(v)) {
			return append(b, v...), nil
		}
	case json.RawMessage:
		if len(v) > 0 && bytes.IndexByte(v, '\n') < 0 {
			return append(b, v...), nil
		}
	case []any:
		if v != nil {
			return appendList(b, v)
		}
	case map[string]any:
		if v != nil {
			return appendObject(b, v)
		}
	}
	return appendAny(b, doc)
}

func appendList(b []byte, list []any) (_ []byte, err error) {
	b = append(b, '[')
	for i, item := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = AppendDocument(b, item); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendObject(b []byte, object map[string]any) (_ []byte, err error) {
	names := make([]string, 0, 16) // few objects have more
	for name := range object {
		names = append(names, name)
	}
	slices.Sort(names)
	b = append(b, '{')
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(AppendString(b, name), ':')
		if b, err = AppendDocument(b, object[name]); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// AppendString appends a text in quotes, as AppendDocument does.
func AppendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			b, _ = appendAny(b, s) // a text always can be written
			return b
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

func appendAny(b []byte, v any) ([]byte, error) {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("write document: %w", err)
	}
	return append(b, bytes.TrimSuffix(text.Bytes(), []byte("\n"))...), nil
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
