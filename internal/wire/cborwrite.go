package wire

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/evermesh/evermesh/internal/model"
)

// answerCBOR writes an output; an operation without one answers nothing at all.
func answerCBOR(m *model.Model, op *model.Operation, doc map[string]any, _ string) []byte {
	if op.Output.Shape == "" {
		return nil
	}
	return appendCBOR(nil, m, m.Shapes[op.Output.Shape], doc)
}

func refuseCBOR(_ *model.Model, f Fault, _ string) []byte {
	b := appendHead(nil, majorMap, 2)
	for _, text := range []string{"__type", f.Code, "message", f.Message} {
		b = appendText(b, text)
	}
	return b
}

// appendHead writes the start of an item with the shortest argument.
func appendHead(b []byte, major byte, n uint64) []byte {
	major <<= 5
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n <= math.MaxUint8:
		return append(b, major|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

func appendText(b []byte, text string) []byte {
	return append(appendHead(b, majorText, uint64(len(text))), text...)
}

func appendFloat(b []byte, f float64) []byte {
	return binary.BigEndian.AppendUint64(append(b, majorSimple<<5|27), math.Float64bits(f))
}

// appendCBOR writes a value as its shape says: times with their tag, bytes as bytes.
func appendCBOR(b []byte, m *model.Model, shape *model.Shape, v any) []byte {
	switch v := v.(type) {
	case map[string]any:
		keys := slices.DeleteFunc(slices.Sorted(maps.Keys(v)), func(k string) bool {
			if v[k] == nil {
				return true
			}
			_, known := shape.Members[k]
			return shape.Type == "structure" && !known
		})
		b = appendHead(b, majorMap, uint64(len(keys)))
		for _, k := range keys {
			ref := shape.Value
			if shape.Type == "structure" {
				member := shape.Members[k]
				ref = &member
			}
			b = appendCBOR(appendText(b, k), m, m.Shapes[ref.Shape], v[k])
		}
		return b
	case []any:
		b = appendHead(b, majorList, uint64(len(v)))
		for _, item := range v {
			b = appendCBOR(b, m, m.Shapes[shape.Member.Shape], item)
		}
		return b
	case bool:
		if v {
			return append(b, majorSimple<<5|21)
		}
		return append(b, majorSimple<<5|20)
	case json.Number:
		return appendNumber(b, shape, v)
	case string:
		if shape.Type == "blob" {
			if plain, err := base64.StdEncoding.DecodeString(v); err == nil {
				return append(appendHead(b, majorBytes, uint64(len(plain))), plain...)
			}
		}
		return appendText(b, v)
	}
	return append(b, majorSimple<<5|22)
}

func appendNumber(b []byte, shape *model.Shape, n json.Number) []byte {
	if shape.Type == "timestamp" {
		b = appendHead(b, majorTag, 1)
	}
	if whole, err := n.Int64(); err == nil && shape.Type != "double" && shape.Type != "float" {
		if whole < 0 {
			return appendHead(b, majorNegative, uint64(-1-whole))
		}
		return appendHead(b, majorUint, uint64(whole))
	}
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil {
		return append(b, majorSimple<<5|22)
	}
	return appendFloat(b, f)
}
