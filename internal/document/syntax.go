package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// mostRead is how much text is read again, in bytes, to find the line of a fault.
const mostRead = 16 << 20

// Rendered is what to say of a text with {{ that cannot be read.
const Rendered = "; it looks like a template of a chart: render it first (helm template)"

var atLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// Syntax is the error of a text that the parser of YAML refused with err. Its
// line is where the text begins to be wrong: the parser tells that of the block
// around it. It is 0 when that is not known.
func Syntax(text []byte, err error) *Error {
	out := &Error{Message: err.Error()}
	if found := atLine.FindStringSubmatch(out.Message); found != nil {
		out.Message = out.Message[len(found[0]):]
		out.Line, _ = strconv.Atoi(found[1]) // 0 without one
	}
	if line := jsonLine(text); line > 0 {
		out.Line = line
	} else if line := faultLine(text); line > 0 {
		out.Line = line
	}
	return out
}

// isJSON are the beginnings of JSON texts: objects of YAML need no quotes.
var isJSON = regexp.MustCompile(`^\s*[\[{]\s*["\[{\]}]`)

// jsonLine is the line in which a text in JSON is wrong; 0 for any other text.
func jsonLine(text []byte) int {
	if !isJSON.Match(text) {
		return 0
	}
	var v any
	err := json.Unmarshal(text, &v)
	e, ok := errors.AsType[*json.SyntaxError](err)
	if !ok {
		return 0
	}
	// Offset is behind the character that is wrong, or the end.
	return 1 + bytes.Count(text[:max(0, min(int(e.Offset), len(text))-1)], []byte("\n"))
}

// faultLine is the line after the last with which a text could end and be right,
// of those that the parser read before it gave up. It is the line that is wrong,
// or begins what is never ended; 0 when finding it takes too long.
func faultLine(text []byte) int {
	r := &lines{rest: text}
	if parses(r) {
		return 0
	}
	end := len(text) - len(r.rest)
	for read := 0; end > 0; {
		end = 1 + bytes.LastIndexByte(text[:end-1], '\n')
		if read += end; read > mostRead {
			return 0
		}
		if parses(bytes.NewReader(text[:end])) {
			break
		}
	}
	return 1 + bytes.Count(text[:end], []byte("\n"))
}

func parses(r io.Reader) bool {
	dec := yaml.NewDecoder(r)
	for {
		var n yaml.Node
		if err := dec.Decode(&n); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

// lines reads a text not further than to the end of a line at once, so that what
// is left tells how far the parser came.
type lines struct{ rest []byte }

func (l *lines) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		return 0, io.EOF
	}
	n := len(l.rest)
	if i := bytes.IndexByte(l.rest, '\n'); i >= 0 {
		n = i + 1
	}
	n = copy(p, l.rest[:n])
	l.rest = l.rest[n:]
	return n, nil
}
