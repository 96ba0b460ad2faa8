// Package wire is the protocols in which AWS's services speak: what a client sends
// becomes the one kind of document that package model checks, and an answer or a
// refusal becomes what the client reads.
//
// A document has members by their names in the model, numbers as json.Number, times
// as seconds since the epoch, bytes in base64. Nothing here knows HTTP beyond the
// names of its content types, nor any service beyond its model: a Protocol is a row
// of a table (Named), and rest chooses the row.
//
// Start with Protocol; query.go and xml.go are the two halves of query, cbor.go is
// that of rpc-v2-cbor.
package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// The protocols' names, as models have them.
const (
	Query    = "query"
	JSON     = "json"
	RESTJSON = "rest-json"
	CBOR     = "smithy-rpc-v2-cbor"
)

// Protocol is how one protocol reads and writes.
type Protocol struct {
	Name string
	// Read makes the document of a request's body, which is not checked yet.
	Read func(m *model.Model, op *model.Operation, body []byte) (map[string]any, error)
	// Answer writes what an operation returned; doc is nil when it returned nothing.
	Answer func(m *model.Model, op *model.Operation, doc map[string]any, requestID string) []byte
	// Refusal writes an error: its code as Fault made it, and its text.
	Refusal func(m *model.Model, f Fault, requestID string) []byte
	// ContentType is that of answers and refusals.
	ContentType func(m *model.Model) string
	// names is what it calls the codes that no model has, by api's names.
	names map[string]Fault
	// denied is the status of who may not.
	denied int
}

// Named returns the protocol of that name.
func Named(name string) (Protocol, bool) {
	for _, p := range []Protocol{
		{
			Name: Query, Read: readQuery, Answer: answerXML, Refusal: refuseXML,
			ContentType: func(*model.Model) string { return "text/xml" }, names: queryNames(), denied: 403,
		},
		{
			Name: JSON, Read: readJSON, Answer: answerJSON, Refusal: refuseJSON,
			ContentType: func(m *model.Model) string { return "application/x-amz-json-" + m.Metadata.JSONVersion }, names: jsonNames(), denied: 400,
		},
		{
			Name: RESTJSON, Read: readJSON, Answer: answerJSON, Refusal: refuseREST,
			ContentType: func(*model.Model) string { return "application/json" }, names: jsonNames(), denied: 403,
		},
		{
			Name: CBOR, Read: readCBOR, Answer: answerCBOR, Refusal: refuseCBOR,
			ContentType: func(*model.Model) string { return "application/cbor" }, names: jsonNames(), denied: 400,
		},
	} {
		if p.Name == name {
			return p, true
		}
	}
	return Protocol{}, false
}

// errNoObject is of a body that is something else than what members are in.
var errNoObject = errors.New("it is not a JSON object")

func readJSON(_ *model.Model, _ *model.Operation, body []byte) (map[string]any, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return map[string]any{}, nil
	}
	v, err := model.DecodeText(body)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ends too early")
	}
	if err != nil {
		return nil, malformed(err)
	}
	doc, ok := v.(map[string]any)
	if !ok {
		return nil, malformed(errNoObject)
	}
	return doc, nil
}

// malformed is the refusal of a body that cannot be read.
func malformed(err error) error {
	return api.Errorf(codeSerialization, "The request's body is not valid: %v.", err)
}

func answerJSON(_ *model.Model, _ *model.Operation, doc map[string]any, _ string) []byte {
	if doc == nil {
		doc = map[string]any{}
	}
	return Encode(doc)
}

func refuseJSON(_ *model.Model, f Fault, _ string) []byte {
	return Encode(map[string]any{"__type": f.Code, "message": f.Message})
}

// refuseREST leaves the code to the header.
func refuseREST(_ *model.Model, f Fault, _ string) []byte {
	return Encode(map[string]any{"message": f.Message})
}

// Encode writes a document as JSON, without HTML escapes: a text comes back as it
// was sent.
func Encode(doc any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return []byte("{}") // documents are of what JSON can write
	}
	return bytes.TrimRight(buf.Bytes(), "\n")
}

// Document makes the document of what an operation returned, a pointer to a type
// that was generated from the model; nil of nothing. Lists that the outermost
// structure has and the operation left out are empty ones, as AWS's are: clients
// look for them.
func Document(m *model.Model, op *model.Operation, out any) (map[string]any, error) {
	shape := m.Shapes[op.Output.Shape]
	if shape == nil {
		return nil, nil
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	v, err := model.DecodeText(text)
	if err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	doc, _ := v.(map[string]any)
	if doc == nil {
		doc = map[string]any{}
	}
	for name, ref := range shape.Members {
		if v, ok := doc[name]; (!ok || v == nil) && m.Shapes[ref.Shape].Type == "list" {
			doc[name] = []any{}
		}
	}
	return doc, nil
}
