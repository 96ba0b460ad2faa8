package lastgood

import (
	"crypto/sha256"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// traitKeys are the metadata that a node's configuration depends on, beside those that begin with traitPrefix;
// instanceKey tells only proxies apart.
const (
	traitPrefix = "evermesh."
	instanceKey = "evermesh.instance"
	metricKey   = "aws.appmesh.metric_filter"
)

// deepest bounds how deep metadata are nested.
const deepest = 64

// traitsOf is the fingerprint of what of a node's metadata its configuration depends on, "" without any. The metadata
// are a google.protobuf.Struct, whose maps come in another order from each Envoy.
func traitsOf(metadata []byte) (string, error) {
	all, err := entries(metadata, deepest)
	if err != nil {
		return "", err
	}
	maps.DeleteFunc(all, func(key, _ string) bool {
		return key == instanceKey || (key != metricKey && !strings.HasPrefix(key, traitPrefix))
	})
	if len(all) == 0 {
		return "", nil
	}
	sum := sha256.Sum256(inOrder(all))
	return string(sum[:]), nil
}

// entries are those of an encoded google.protobuf.Struct, each value in the one form that does not depend on the order of
// maps in it.
func entries(b []byte, depth int) (map[string]string, error) {
	if depth == 0 {
		return nil, errMessage
	}
	out := map[string]string{}
	err := fields(b, func(n protowire.Number, entry []byte) error {
		if n != 1 {
			return nil
		}
		key, of := "", []byte(nil)
		if err := fields(entry, func(n protowire.Number, v []byte) error {
			switch n {
			case 1:
				key = string(v)
			case 2:
				of = v
			}
			return nil
		}); err != nil {
			return err
		}
		text, err := value(of, depth)
		out[key] = string(text)
		return err
	})
	return out, err
}

// value is an encoded google.protobuf.Value in that form: a struct's entries in order, a list's elements, and all else as
// it is.
func value(b []byte, depth int) ([]byte, error) {
	var out []byte
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeField(b)
		if n < 0 {
			return nil, errMessage
		}
		field := b[:n]
		b = b[n:]
		if typ != protowire.BytesType || (number != 5 && number != 6) {
			out = append(out, field...)
			continue
		}
		_, _, head := protowire.ConsumeTag(field)
		inner, _ := protowire.ConsumeBytes(field[head:])
		text, err := nested(inner, number == 6, depth-1)
		if err != nil {
			return nil, err
		}
		out = appendBytes(out, number, text)
	}
	return out, nil
}

// nested is a google.protobuf.ListValue or Struct inside of a value, in that form.
func nested(b []byte, list bool, depth int) ([]byte, error) {
	if !list {
		all, err := entries(b, depth)
		return inOrder(all), err
	}
	if depth == 0 {
		return nil, errMessage
	}
	var out []byte
	err := fields(b, func(n protowire.Number, v []byte) error {
		text, err := value(v, depth)
		out = appendBytes(out, n, text)
		return err
	})
	return out, err
}

// inOrder is a map as bytes, by key.
func inOrder(of map[string]string) (out []byte) {
	for _, key := range slices.Sorted(maps.Keys(of)) {
		out = protowire.AppendString(protowire.AppendString(out, key), of[key])
	}
	return out
}
