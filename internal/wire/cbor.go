package wire

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/evermesh/evermesh/internal/model"
)

// The major types of CBOR (RFC 8949, section 3.1).
const (
	majorUint = iota
	majorNegative
	majorBytes
	majorText
	majorList
	majorMap
	majorTag
	majorSimple
)

var (
	errCut     = errors.New("it ends too early")
	errStrange = errors.New("it has what CBOR does not allow")
)

// readCBOR makes the document of a request of rpc-v2-cbor; an empty body is that of
// an operation without input.
func readCBOR(_ *model.Model, _ *model.Operation, body []byte) (map[string]any, error) {
	if len(body) == 0 {
		return map[string]any{}, nil
	}
	d := &cborReader{rest: body}
	v, err := d.item(0)
	if err == nil && len(d.rest) > 0 {
		err = errors.New("something follows the map")
	}
	if err != nil {
		return nil, malformed(err)
	}
	doc, ok := v.(map[string]any)
	if !ok {
		return nil, malformed(errors.New("it is not a map"))
	}
	return doc, nil
}

// cborReader reads data items: maps with keys of text, no key twice, not deeper than
// model.MaxDepth. It holds no more than was sent, whatever lengths are claimed.
type cborReader struct{ rest []byte }

// head reads the start of an item: its major type, its argument, and the low bits
// that say how the argument was written (31: of no definite length).
func (d *cborReader) head() (major byte, argument uint64, info byte, err error) {
	if len(d.rest) == 0 {
		return 0, 0, 0, errCut
	}
	first := d.rest[0]
	d.rest = d.rest[1:]
	major, info = first>>5, first&31
	switch {
	case info < 24:
		return major, uint64(info), info, nil
	case info == 31:
		return major, 0, info, nil
	case info > 27:
		return 0, 0, 0, errStrange
	}
	size := 1 << (info - 24)
	if len(d.rest) < size {
		return 0, 0, 0, errCut
	}
	var wide [8]byte
	copy(wide[8-size:], d.rest)
	d.rest = d.rest[size:]
	return major, binary.BigEndian.Uint64(wide[:]), info, nil
}

func (d *cborReader) item(depth int) (any, error) {
	if depth > model.MaxDepth {
		return nil, errors.New("it is nested too deeply")
	}
	major, n, info, err := d.head()
	if err != nil {
		return nil, err
	}
	open := info == 31
	switch major {
	case majorUint, majorNegative:
		if open {
			return nil, errStrange
		}
		if major == majorUint {
			return json.Number(strconv.FormatUint(n, 10)), nil
		}
		if n > math.MaxInt64 {
			return nil, errors.New("a number is too low")
		}
		return json.Number(strconv.FormatInt(-1-int64(n), 10)), nil
	case majorBytes:
		b, err := d.chunks(majorBytes, n, open)
		return base64.StdEncoding.EncodeToString(b), err
	case majorText:
		return d.text(n, open)
	case majorList:
		return d.list(n, open, depth)
	case majorMap:
		return d.mapping(n, open, depth)
	case majorTag:
		return d.item(depth + 1) // of times; the number says all
	}
	return simple(n, info)
}

// simple are the values without content, and floating-point numbers.
func simple(n uint64, info byte) (any, error) {
	var f float64
	switch info {
	case 20, 21:
		return info == 21, nil
	case 22, 23:
		return nil, nil
	case 25:
		f = half(uint16(n))
	case 26:
		f = float64(math.Float32frombits(uint32(n)))
	case 27:
		f = math.Float64frombits(n)
	default:
		return nil, errStrange
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, errors.New("a number is not finite")
	}
	return json.Number(strconv.FormatFloat(f, 'f', -1, 64)), nil
}

// half is a number of 16 bits.
func half(bits uint16) float64 {
	exponent, fraction := int(bits>>10&31), float64(bits&1023)
	var f float64
	switch exponent {
	case 0:
		f = math.Ldexp(fraction, -24)
	case 31:
		f = math.Inf(1)
	default:
		f = math.Ldexp(fraction+1024, exponent-25)
	}
	if bits>>15 == 1 {
		f = -f
	}
	return f
}

// ended says whether the break of an open item is next, and takes it.
func (d *cborReader) ended() bool {
	if len(d.rest) > 0 && d.rest[0] == 0xff {
		d.rest = d.rest[1:]
		return true
	}
	return false
}

// chunks reads bytes or text: n of them, or chunks until the break.
func (d *cborReader) chunks(major byte, n uint64, open bool) ([]byte, error) {
	if !open {
		if n > uint64(len(d.rest)) {
			return nil, errCut
		}
		out := d.rest[:n]
		d.rest = d.rest[n:]
		return out, nil
	}
	var all []byte
	for !d.ended() {
		kind, n, info, err := d.head()
		if err != nil {
			return nil, err
		}
		if kind != major || info == 31 {
			return nil, errStrange
		}
		part, err := d.chunks(major, n, false)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	return all, nil
}

func (d *cborReader) text(n uint64, open bool) (string, error) {
	b, err := d.chunks(majorText, n, open)
	if err == nil && !utf8.Valid(b) {
		err = errors.New("a text is not UTF-8")
	}
	return string(b), err
}

func (d *cborReader) list(n uint64, open bool, depth int) (any, error) {
	out := []any{}
	for i := uint64(0); open || i < n; i++ {
		if open && d.ended() {
			break
		}
		v, err := d.item(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (d *cborReader) mapping(n uint64, open bool, depth int) (any, error) {
	out := map[string]any{}
	for i := uint64(0); open || i < n; i++ {
		if open && d.ended() {
			break
		}
		major, length, info, err := d.head()
		if err != nil {
			return nil, err
		}
		if major != majorText {
			return nil, errors.New("a key is not a text")
		}
		key, err := d.text(length, info == 31)
		if err != nil {
			return nil, err
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("key %q stands twice in one map", key)
		}
		if out[key], err = d.item(depth + 1); err != nil {
			return nil, err
		}
	}
	return out, nil
}
