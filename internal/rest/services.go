package rest

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/wire"
)

// offered is a service around the mesh that this server serves.
type offered struct {
	*service.Service
	source    string // of events: iam.amazonaws.com
	redact    wire.Redactor
	protocols map[string]wire.Protocol
	paths     *http.ServeMux // of rest-json; nil without
}

// target is where a request goes when it is for one of the offered services.
type target struct {
	service  *offered
	protocol wire.Protocol
	op       *model.Operation // nil when there is none of that name
	name     string           // that the request gave it
	binder   *binder          // of rest-json
	text     []byte           // what the input is read from
	body     []byte           // of the request
}

// route is an operation of rest-json on the mux of its service.
type route struct{ binder *binder }

// ServeHTTP satisfies http.Handler for the mux, which is only asked.
func (route) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "not reachable", http.StatusInternalServerError)
}

// offer makes services ready to be served, by their signing names.
func offer(services []*service.Service) (map[string]*offered, error) {
	out := map[string]*offered{}
	for _, one := range services {
		meta := one.Model.Metadata
		o := &offered{
			Service: one, source: meta.EndpointPrefix + ".amazonaws.com", redact: wire.NewRedactor(one.Model), protocols: map[string]wire.Protocol{},
		}
		for _, name := range append([]string{meta.Protocol}, meta.Protocols...) {
			p, ok := wire.Named(name)
			if !ok {
				return nil, fmt.Errorf("serve %s: protocol %q is not known", meta.ServiceID, name)
			}
			o.protocols[name] = p
		}
		if _, ok := o.protocols[wire.RESTJSON]; ok {
			o.paths = http.NewServeMux()
			for _, op := range one.Model.Operations {
				b := newBinder(one.Model, op)
				b.code = wire.CodeValidation
				o.paths.Handle(op.HTTP.Method+" "+op.HTTP.RequestURI, route{b})
			}
		}
		if out[one.SigningName()] != nil {
			return nil, fmt.Errorf("serve %s: another service is signed for as %s", meta.ServiceID, one.SigningName())
		}
		out[one.SigningName()] = o
	}
	return out, nil
}

// route says which of the offered services a request is for; nil when it is for App
// Mesh or for nobody. What a request is signed for comes first: a path or an action
// of one service cannot be reached with a signature for another.
func (s *Server) route(r *http.Request, body []byte) *target {
	if len(s.offered) == 0 {
		return nil
	}
	if name := signedFor(r); name != "" {
		if o := s.offered[name]; o != nil {
			return o.target(r, body)
		}
		return nil
	}
	if ownPath(r) {
		return nil
	}
	for _, o := range s.offered {
		if t := o.target(r, body); t.op != nil {
			return t
		}
	}
	return nil
}

// ownPath says whether a path can be App Mesh's or Evermesh's alone.
func ownPath(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/v20190125/") || strings.HasPrefix(r.URL.Path, "/evermesh/")
}

// signedFor is the service in the scope of a request's credential; empty when it is
// not signed. Whether the signature holds is not looked at here.
func signedFor(r *http.Request) string {
	credential := ""
	if header := r.Header.Get("Authorization"); header != "" {
		// As the verifier reads it, so that both see the same service.
		_, rest, _ := strings.Cut(strings.TrimSpace(header), " ")
		for pair := range strings.SplitSeq(rest, ",") {
			if name, value, _ := strings.Cut(strings.TrimSpace(pair), "="); name == "Credential" {
				credential = value
				break
			}
		}
	} else if r.URL.RawQuery != "" {
		credential = r.URL.Query().Get("X-Amz-Credential")
	}
	for range 3 {
		_, credential, _ = strings.Cut(credential, "/")
	}
	name, _, _ := strings.Cut(credential, "/")
	return name
}

// target finds protocol and operation of a request to this service.
func (o *offered) target(r *http.Request, body []byte) *target {
	t := &target{service: o, text: body, body: body}
	switch header := r.Header.Get("X-Amz-Target"); {
	case r.Header.Get("Smithy-Protocol") == "rpc-v2-cbor" && o.takes(t, wire.CBOR):
		// /service/NAME/operation/OPERATION; whatever may stand before it.
		_, rest, _ := strings.Cut(r.URL.Path, "/service/")
		of, name, _ := strings.Cut(rest, "/operation/")
		t.name = name
		if of == o.Model.Metadata.TargetPrefix {
			t.op = o.Model.Operations[name]
		}
	case header != "" && o.takes(t, wire.JSON):
		// The name before the last dot may hold dots itself.
		dot := strings.LastIndexByte(header, '.')
		t.name = header[dot+1:]
		if header[:max(dot, 0)] == o.Model.Metadata.TargetPrefix {
			t.op = o.Model.Operations[t.name]
		}
	case o.takes(t, wire.Query):
		if len(body) == 0 && strings.Contains(r.URL.RawQuery, "Action=") { // presigned, say
			t.text = []byte(r.URL.RawQuery)
		} else if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			break
		}
		// What cannot be read is said when the input is.
		form, _ := wire.Form(string(t.text))
		t.name = form["Action"]
		if form["Version"] == o.Model.Metadata.APIVersion {
			t.op = o.Model.Operations[t.name]
		}
	case o.takes(t, wire.RESTJSON):
		h, pattern := o.paths.Handler(r)
		if p, ok := h.(route); ok {
			setPathValues(r, pattern)
			t.op, t.binder = p.binder.op, p.binder
			t.name = t.op.Name
		}
	default:
		o.takes(t, wire.JSON) // in which it is told that no target is given
	}
	return t
}

// foreign is the target of a request for a service that is not offered: none, but in
// the protocol in which the request came, so that its client reads the refusal. It is
// nil for App Mesh's own requests, and for those that show no protocol.
func foreign(r *http.Request) *target {
	if name := signedFor(r); name == "appmesh" || name == "appmesh-preview" || ownPath(r) {
		return nil
	}
	media := r.Header.Get("Content-Type")
	var name string
	switch {
	case r.Header.Get("Smithy-Protocol") == "rpc-v2-cbor":
		name = wire.CBOR
	case r.Header.Get("X-Amz-Target") != "":
		name = wire.JSON
	case strings.HasPrefix(media, "application/x-www-form-urlencoded"):
		name = wire.Query
	default:
		return nil
	}
	version := "1.0"
	if strings.HasPrefix(media, "application/x-amz-json-1.1") {
		version = "1.1"
	}
	protocol, _ := wire.Named(name)
	return &target{protocol: protocol, service: &offered{Service: &service.Service{Model: &model.Model{Metadata: model.Metadata{JSONVersion: version}}}}}
}

// takes sets the target's protocol if the service speaks it.
func (o *offered) takes(t *target, protocol string) bool {
	p, ok := o.protocols[protocol]
	if ok {
		t.protocol = p
	}
	return ok
}

// open says whether anybody may call the operation, and this request is not signed.
func (t *target) open(r *http.Request) bool {
	return t.op != nil && t.service.Operations[t.op.Name].Unsigned && signedFor(r) == ""
}

// input reads and checks the operation's input.
func (t *target) input(r *http.Request) (map[string]any, error) {
	if t.binder != nil {
		return t.binder.bind(r, t.text)
	}
	m := t.service.Model
	doc, err := t.protocol.Read(m, t.op, t.text)
	if err != nil {
		return nil, err
	}
	if t.op.Input.Shape == "" {
		return map[string]any{}, nil
	}
	if found := m.Check(t.op.Input.Shape, doc); len(found) > 0 {
		return nil, api.Errorf(cmp.Or(t.service.Invalid, wire.CodeValidation), "%s", model.Message(found))
	}
	return doc, nil
}

// written is an answer of a service around the mesh, which writes itself and says with
// which status.
type written interface {
	write(w http.ResponseWriter) (status int)
}

// rendered is an answer of a service, in its protocol.
type rendered struct {
	target *target
	body   []byte
}

// run does an operation of an offered service.
func (s *Server) run(ctx context.Context, r *http.Request, c *call) (any, error) {
	t := c.to
	if t.op == nil {
		if t.name == "" {
			return nil, api.Errorf(api.CodeUnknownOperation, "The request names no operation of %s.", t.service.Model.Metadata.ServiceID)
		}
		return nil, api.Errorf(api.CodeUnknownOperation, "Could not find operation %s for version %s of %s.", shortened(t.name), t.service.Model.Metadata.APIVersion, t.service.Model.Metadata.ServiceID)
	}
	operation := t.service.Operations[t.op.Name]
	c.op, c.source, c.reads = t.op.Name, t.service.source, operation.Reads
	doc, err := t.input(r)
	if err != nil {
		return nil, err
	}
	c.doc = doc
	if to := s.Elsewhere[t.service.SigningName()]; to != nil {
		return s.elsewhere(ctx, r, c, to)
	}
	c.asked = &service.Call{
		ID: c.id, Service: t.service.Service, Operation: t.op.Name, Principal: c.principal, At: c.at,
		Input: doc, Keys: s.keys(c), Authorizer: s.Authorizer,
	}
	if s.Audit != nil {
		c.asked.Event = func(out any) []byte { return s.Audit.Event(s.record(c, out, nil)) }
	}
	out, err := operation.Run(ctx, c.asked)
	c.principal = c.asked.Principal // an operation that anybody may call says who it was
	if err != nil {
		return nil, err
	}
	c.committed = c.asked.Committed()
	answer, err := wire.Document(t.service.Model, t.op, out)
	if err != nil {
		return nil, err
	}
	c.out = out
	return rendered{t, t.protocol.Answer(t.service.Model, t.op, answer, c.id)}, nil
}

func (a rendered) write(w http.ResponseWriter) (status int) {
	status = http.StatusOK
	a.target.head(w)
	if len(a.body) == 0 {
		w.Header().Del("Content-Type")
	}
	if code := a.target.op.HTTP.ResponseCode; code != 0 {
		status = code
	}
	w.WriteHeader(status)
	_, _ = w.Write(a.body) // a client that is gone cannot be told
	return status
}

// head sets the headers of every answer in the target's protocol.
func (t *target) head(w http.ResponseWriter) {
	w.Header().Set("Content-Type", t.protocol.ContentType(t.service.Model))
	if t.protocol.Name == wire.CBOR {
		w.Header().Set("Smithy-Protocol", "rpc-v2-cbor")
	}
}

// refuse writes an error in the target's protocol.
func (t *target) refuse(w http.ResponseWriter, id string, e *api.Error) (status int, code string) {
	f := t.protocol.Fault(t.service.Model, t.op, e)
	t.head(w)
	if t.protocol.Name == wire.RESTJSON {
		w.Header().Set(headerErrorType, f.Code)
	}
	w.WriteHeader(f.Status)
	_, _ = w.Write(t.protocol.Refusal(t.service.Model, f, id))
	return f.Status, f.Code
}

// from is the address that a request came from, without its port; empty when it
// came over a socket of this machine.
func from(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return host
}

// verify says who sent the request.
func (s *Server) verify(r *http.Request, body []byte, c *call) error {
	c.principal = s.Anonymous
	switch {
	case c.to != nil && c.to.open(r):
		c.principal = auth.Principal{}
		return nil
	case s.Verify == nil:
		return nil
	}
	var err error
	c.principal, err = s.Verify(r.Context(), auth.Request{
		Method: r.Method, RequestURI: r.RequestURI, Host: r.Host, Header: r.Header, Body: body,
	})
	return err
}

// SigningNames are the names that requests may be signed for, where App Mesh and
// the services are served.
func SigningNames(services []*service.Service) []string {
	out := []string{"appmesh", "appmesh-preview"}
	for _, one := range services {
		out = append(out, one.SigningName())
	}
	return out
}
