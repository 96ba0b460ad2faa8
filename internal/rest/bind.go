package rest

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/wire"
)

// binder makes one document of a request's path, query and body, as the model
// lays them out, and checks it.
type binder struct {
	m      *model.Model
	op     *model.Operation
	action string            // appmesh:CreateMesh
	uri    map[string]string // wire name: member
	query  map[string]string
	body   map[string]string
	// strict refuses unknown members of the body. App Mesh drops them; a setting
	// that is dropped would look as if it acted.
	strict bool
	// code is that of what breaks the model.
	code string
}

func newBinder(m *model.Model, op *model.Operation) *binder {
	return &binder{
		m: m, op: op, action: m.Metadata.EndpointPrefix + ":" + op.Name,
		uri: m.In(op, "uri"), query: m.In(op, "querystring"), body: m.In(op, "body"),
		code:   api.CodeBadRequest,
		strict: op.Name == "UpdateMeshSettings",
	}
}

// bind returns the checked document of a request: it has no member that the
// model does not know, and none that is null.
func (b *binder) bind(r *http.Request, body []byte) (map[string]any, error) {
	doc := map[string]any{}
	if len(b.body) > 0 {
		sent, err := parseBody(r, body)
		if err != nil {
			return nil, err
		}
		if b.strict {
			for _, name := range slices.Sorted(maps.Keys(sent)) {
				if _, known := b.body[name]; !known {
					return nil, api.Errorf(api.CodeBadRequest, "The member %q at '/%s' is not known.", name, name)
				}
			}
		}
		for name, member := range b.body {
			if v, ok := sent[name]; ok {
				doc[member] = v
			}
		}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, api.Errorf(api.CodeBadRequest, "The query string could not be read: %v.", err)
	}
	for name, member := range b.query {
		values := query[name]
		if len(values) > 1 {
			return nil, api.Errorf(api.CodeBadRequest, "The query parameter %s stands %d times in the request.", name, len(values))
		}
		if len(values) == 1 {
			doc[member] = wire.Scalar(b.m.Shapes[b.m.Shapes[b.op.Input.Shape].Members[member].Shape], values[0])
		}
	}
	for name, member := range b.uri {
		doc[member] = r.PathValue(name)
	}
	if found := b.m.Check(b.op.Input.Shape, doc); len(found) > 0 {
		if b.code != api.CodeBadRequest {
			return nil, api.Errorf(b.code, "%s", model.Message(found))
		}
		return nil, refusal(found)
	}
	for _, member := range b.uri {
		if member == "instance" {
			continue // of a proxy: it may be the ARN of a task
		}
		if err := checkName(member, doc[member].(string)); err != nil {
			return nil, err
		}
	}
	return doc, nil
}

// refusal is the answer to a document that breaks the model: the sentence that
// App Mesh is known to have had for it, or else all violations.
func refusal(found []model.Violation) error {
	for _, v := range found {
		if strings.HasSuffix(v.Shape, "ValidationContextTrust") {
			return api.Errorf(api.CodeBadRequest, "One type of TLS Validation Context Trust must be set.")
		}
	}
	return api.Errorf(api.CodeBadRequest, "%s", model.Message(found))
}

// maxName is the length of the longest name in characters (API-035). The model
// has it for all names but those of virtual services.
const maxName = 255

// checkName refuses names that no path of the API could carry (API-045).
func checkName(member, name string) error {
	if name == "" {
		return api.Errorf(api.CodeBadRequest, "The %s is empty: no path of the API could name the resource again.", member)
	}
	if !utf8.ValidString(name) {
		return api.Errorf(api.CodeBadRequest, "The %s %q is not UTF-8.", member, name)
	}
	if utf8.RuneCountInString(name) > maxName {
		return api.Errorf(api.CodeBadRequest, "The %s is longer than %d characters.", member, maxName)
	}
	if strings.Contains(name, "/") {
		return api.Errorf(api.CodeBadRequest, "The %s %q holds a slash: give the resource's name, not its ARN.", member, name)
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		return api.Errorf(api.CodeBadRequest, "The %s %q holds a control character.", member, name)
	}
	if name == "." || name == ".." {
		return api.Errorf(api.CodeBadRequest, "The %s %q cannot be used: '.' and '..' have another meaning in paths.", member, name)
	}
	return nil
}

// parseBody reads a JSON object, strictly: one object, no key twice, not deeper
// than model.MaxDepth. An absent body is an empty object.
func parseBody(r *http.Request, body []byte) (map[string]any, error) {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		media, _, err := mime.ParseMediaType(ct)
		if err != nil || (media != contentType && !strings.HasPrefix(media, "application/x-amz-json-")) {
			return nil, api.Errorf(codeMediaType, "The content type %q is not understood: send application/json.", ct)
		}
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return map[string]any{}, nil
	}
	v, err := model.DecodeText(body)
	if err != nil {
		return nil, malformed(err)
	}
	doc, ok := v.(map[string]any)
	if !ok {
		return nil, malformed(errors.New("it is not a JSON object"))
	}
	return doc, nil
}

func malformed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ends too early")
	}
	return api.Errorf(api.CodeBadRequest, "The request's body is not valid: %v.", err)
}

func unescape(segment string) string {
	if plain, err := url.PathUnescape(segment); err == nil {
		return plain
	}
	return segment
}
