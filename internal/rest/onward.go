package rest

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/evermesh/evermesh/internal/wire"
)

// onward is the request that goes to a service elsewhere: it is made anew of the
// checked document, in the protocol that it came in. Nothing of a request that was not
// read, such as a query beside a form, can mean something there.
type onward struct {
	method, uri string
	header      http.Header
	body        []byte
}

func (t *target) onward(r *http.Request, doc map[string]any) onward {
	m, op := t.service.Model, t.op
	out := onward{method: http.MethodPost, uri: "/", header: http.Header{}}
	if accept := r.Header.Get("Accept"); accept != "" {
		out.header.Set("Accept", accept)
	}
	switch t.protocol.Name {
	case wire.RESTJSON:
		return t.onwardREST(out, doc)
	case wire.CBOR:
		out.uri = "/service/" + m.Metadata.TargetPrefix + "/operation/" + op.Name
		out.header.Set("Smithy-Protocol", "rpc-v2-cbor")
		out.header.Set("Content-Type", t.protocol.ContentType(m))
	case wire.Query:
		out.header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	default:
		out.header.Set("X-Amz-Target", m.Metadata.TargetPrefix+"."+op.Name)
		out.header.Set("Content-Type", t.protocol.ContentType(m))
	}
	out.body = t.protocol.Body(m, op, doc)
	return out
}

// onwardREST puts each member where the model has it: path, query and body.
func (t *target) onwardREST(out onward, doc map[string]any) onward {
	out.method, out.uri = t.op.HTTP.Method, t.op.HTTP.RequestURI
	for name, member := range t.binder.uri {
		value, _ := doc[member].(string)
		out.uri = strings.Replace(out.uri, "{"+name+"}", url.PathEscape(value), 1)
	}
	query := url.Values{}
	for name, member := range t.binder.query {
		if v, ok := doc[member]; ok {
			query.Set(name, plain(v))
		}
	}
	if len(query) > 0 {
		out.uri += "?" + query.Encode()
	}
	if len(t.binder.body) > 0 {
		body := map[string]any{}
		for name, member := range t.binder.body {
			if v, ok := doc[member]; ok {
				body[name] = v
			}
		}
		out.header.Set("Content-Type", t.protocol.ContentType(t.service.Model))
		out.body = wire.Encode(body)
	}
	return out
}
