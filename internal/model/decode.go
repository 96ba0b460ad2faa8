package model

import (
	"encoding/json"
	"errors"
	"fmt"
)

// MaxDepth is how deeply a document may be nested. The deepest one of the model
// has 13 levels.
const MaxDepth = 64

var errTooDeep = errors.New("it is nested too deeply")

// Decode reads the next JSON value of dec as Check takes it: objects, lists and
// scalars, numbers as they were written when dec uses json.Number. encoding/json
// would take the last of two equal keys in silence; which one the sender meant
// cannot be known, so they are refused, as is what is nested too deeply. io.EOF
// means that there is no further value.
func Decode(dec *json.Decoder) (any, error) { return decode(dec, 0) }

func decode(dec *json.Decoder, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, errTooDeep
	}
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t {
	case json.Delim('{'):
		out := map[string]any{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, err
			}
			key := name.(string) // the decoder takes nothing else for a key
			if _, twice := out[key]; twice {
				return nil, fmt.Errorf("key %q stands twice in one object", key)
			}
			if out[key], err = decode(dec, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = dec.Token()
		return out, err
	case json.Delim('['):
		out := []any{}
		for dec.More() {
			v, err := decode(dec, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		_, err = dec.Token()
		return out, err
	}
	return t, nil
}
