package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/model"
)

// request is an operation with its input laid out as the model says. It can be
// sent many times.
type request struct {
	method, path string // path with its query, escaped
	body         []byte // nil for none
	service      string // signing name
	payload      string // member of the output that is the body; empty when the body is the output
}

// bind lays an input out over path, query and body.
func (c *Client) bind(operation string, in any) (*request, error) {
	m, op := c.operation(operation)
	if op == nil {
		return nil, errors.New("there is no such operation")
	}
	doc, err := document(in)
	if err != nil {
		return nil, fmt.Errorf("encode input: %w", err)
	}
	for member, ref := range m.Shapes[op.Input.Shape].Members {
		if _, set := doc[member]; ref.IdempotencyToken && !set {
			doc[member] = uuid.NewString()
		}
	}
	r := &request{method: op.HTTP.Method, path: op.HTTP.RequestURI, service: m.Metadata.SigningName}
	if out := m.Shapes[op.Output.Shape]; out != nil {
		r.payload = out.Payload
	}
	for name, member := range m.In(op, "uri") {
		value, _ := doc[member].(string)
		if value == "" {
			return nil, fmt.Errorf("input has no %s", member)
		}
		r.path = strings.ReplaceAll(r.path, "{"+name+"}", url.PathEscape(value))
	}
	query := url.Values{}
	for name, member := range m.In(op, "querystring") {
		if value, set := doc[member]; set {
			query.Set(name, fmt.Sprint(value))
		}
	}
	if len(query) > 0 {
		r.path += "?" + query.Encode()
	}
	return r, r.encode(m.In(op, "body"), doc)
}

// encode makes the body of the members that travel there; without any there is
// no body.
func (r *request) encode(members map[string]string, doc map[string]any) error {
	if len(members) == 0 {
		return nil
	}
	body := map[string]any{}
	for name, member := range members {
		if value, set := doc[member]; set {
			body[name] = value
		}
	}
	var err error
	if r.body, err = json.Marshal(body); err != nil {
		return fmt.Errorf("encode body: %w", err)
	}
	return nil
}

func (c *Client) operation(name string) (*model.Model, *model.Operation) {
	for _, m := range c.models {
		if op := m.Operations[name]; op != nil {
			return m, op
		}
	}
	return nil, nil
}

// document is an input as the model speaks of it.
func document(in any) (map[string]any, error) {
	doc := map[string]any{}
	if in == nil {
		return doc, nil
	}
	text, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	return doc, nil
}

// http makes the request for an endpoint and the hash of its body.
func (r *request) http(ctx context.Context, endpoint string) (req *http.Request, sum string, err error) {
	req, err = http.NewRequestWithContext(ctx, r.method, endpoint+r.path, bytes.NewReader(r.body))
	if err != nil {
		return nil, "", fmt.Errorf("make request: %w", err)
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", "evermesh")
	hash := sha256.Sum256(r.body)
	return req, hex.EncodeToString(hash[:]), nil
}

// decode reads an answer's body into an operation's output.
func (r *request) decode(body []byte, out any) error {
	if out == nil {
		return nil
	}
	if r.payload != "" {
		wrapped, err := json.Marshal(map[string]json.RawMessage{r.payload: body})
		if err != nil {
			return fmt.Errorf("decode answer: %w", err)
		}
		body = wrapped
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}
