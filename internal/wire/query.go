package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/model"
)

// mostParameters bounds a form: the largest input of a model has a few hundred.
const mostParameters = 10_000

// readQuery makes the document of a form such as
// Action=TagUser&UserName=ann&Tags.member.1.Key=team: members by name, lists as
// NAME.member.N, maps as NAME.entry.N.key and .value. What the model does not know
// is left out.
func readQuery(m *model.Model, op *model.Operation, body []byte) (map[string]any, error) {
	form, err := Form(string(body))
	if err != nil {
		return nil, err
	}
	if op.Input.Shape == "" {
		return map[string]any{}, nil
	}
	root := &branch{}
	for name, value := range form {
		if err := root.set(name, value); err != nil {
			return nil, malformed(err)
		}
	}
	doc, _ := root.value(m, model.Ref{Shape: op.Input.Shape}, 0).(map[string]any)
	return doc, nil
}

// Form reads a form in which no name stands twice.
func Form(text string) (map[string]string, error) {
	values, err := url.ParseQuery(text)
	if err != nil {
		return nil, malformed(err)
	}
	if len(values) > mostParameters {
		return nil, malformed(fmt.Errorf("it has more than %d parameters", mostParameters))
	}
	out := make(map[string]string, len(values))
	for name, all := range values {
		if len(all) > 1 {
			return nil, malformed(fmt.Errorf("the parameter %q stands %d times", name, len(all)))
		}
		out[name] = all[0]
	}
	return out, nil
}

// branch is what the names of a form lead to, dot by dot.
type branch struct {
	leaf bool
	text string
	of   map[string]*branch
}

func (b *branch) set(name, value string) error {
	for depth := 0; ; depth++ {
		if depth > 2*model.MaxDepth {
			return errors.New("it is nested too deeply")
		}
		step, rest, more := strings.Cut(name, ".")
		if b.of == nil {
			b.of = map[string]*branch{}
		}
		next := b.of[step]
		if next == nil {
			next = &branch{}
			b.of[step] = next
		}
		if b = next; !more {
			break
		}
		name = rest
	}
	b.leaf, b.text = true, value
	return nil
}

// value makes what a shape has of a branch; nil when there is nothing.
func (b *branch) value(m *model.Model, ref model.Ref, depth int) any {
	if b == nil || depth > model.MaxDepth {
		return nil
	}
	shape := m.Shapes[ref.Shape]
	switch shape.Type {
	case "structure":
		out := map[string]any{}
		for member, ref := range shape.Members {
			name := member
			if ref.LocationName != "" {
				name = ref.LocationName
			}
			if v := b.of[name].value(m, ref, depth+1); v != nil {
				out[member] = v
			}
		}
		return out
	case "list":
		step := "member"
		if shape.Member.LocationName != "" {
			step = shape.Member.LocationName
		}
		out := []any{}
		for _, item := range b.of[step].numbered() {
			out = append(out, item.value(m, *shape.Member, depth+1))
		}
		return out
	case "map":
		out := map[string]any{}
		for _, entry := range b.of["entry"].numbered() {
			if key := entry.of["key"]; key != nil {
				out[key.text] = entry.of["value"].value(m, *shape.Value, depth+1)
			}
		}
		return out
	}
	if !b.leaf {
		return nil
	}
	return Scalar(shape, b.text)
}

// numbered are the branches 1, 2, 3 … in that order.
func (b *branch) numbered() []*branch {
	if b == nil {
		return nil
	}
	numbers := make([]int, 0, len(b.of))
	for step := range b.of {
		if n, err := strconv.Atoi(step); err == nil && n > 0 && strconv.Itoa(n) == step {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	out := make([]*branch, len(numbers))
	for i, n := range numbers {
		out[i] = b.of[strconv.Itoa(n)]
	}
	return out
}

// Scalar gives a text, of a form or of a query, the type that its shape has. What does not parse stays a
// text, and the check names it.
func Scalar(shape *model.Shape, text string) any {
	switch shape.Type {
	case "integer", "long", "double", "float":
		return json.Number(text)
	case "boolean":
		switch text {
		case "true":
			return true
		case "false":
			return false
		}
	case "timestamp":
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return json.Number(strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', -1, 64))
		}
		if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds > -1e12 && seconds < 1e12 {
			return json.Number(strconv.FormatFloat(seconds, 'f', -1, 64))
		}
	}
	return text
}
