package rest

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/wire"
)

// keys are the condition keys that a request has by itself, made once. Nobody may
// change the map.
func (s *Server) keys(c *call) map[string][]string {
	if c.keys != nil {
		return c.keys
	}
	r := c.request
	values := [...]string{
		from(r), strconv.FormatBool(r.TLS != nil), r.UserAgent(),
		c.at.UTC().Format(time.RFC3339), strconv.FormatInt(c.at.Unix(), 10), s.Realm.Region,
	}
	c.keys = make(map[string][]string, len(values))
	for i, name := range [...]string{"aws:sourceip", "aws:securetransport", "aws:useragent", "aws:currenttime", "aws:epochtime", "aws:requestedregion"} {
		if values[i] != "" {
			c.keys[name] = values[i : i+1 : i+1]
		}
	}
	return c.keys
}

// record is what is kept of a call that was answered with out, or refused with err.
func (s *Server) record(c *call, out any, err error) service.Record {
	r := service.Record{
		ID: c.id, Source: c.source, Operation: c.op, Principal: c.principal, At: c.at,
		SourceIP: from(c.request), UserAgent: c.request.UserAgent(), ReadOnly: c.reads,
	}
	if c.doc != nil {
		r.Request = c.doc
	}
	if raw, ok := out.(json.RawMessage); out != nil && !c.reads && err == nil && (!ok || string(raw) != "{}") {
		r.Response = out
	}
	switch {
	case c.to != nil:
		m, op := c.to.service.Model, c.to.op
		if r.Request != nil {
			r.Request = c.to.service.redact.Redact(op.Input.Shape, r.Request)
		}
		if r.Response != nil {
			doc, err := wire.Document(m, op, out)
			if err != nil || doc == nil {
				r.Response = nil
			} else {
				r.Response = c.to.service.redact.Redact(op.Output.Shape, doc)
			}
		}
		r.Resources = c.about
		if c.asked != nil {
			r.Resources = c.asked.Resources()
			r.Principal = c.asked.Principal
		}
	case c.key.Mesh != "":
		r.Resources = []string{s.Realm.ARN(c.key, c.key.Owner)}
	}
	if err != nil {
		var known *api.Error
		if !errors.As(err, &known) {
			known = api.Errorf(api.CodeInternalServerError, "The request failed.")
		}
		r.Code, r.Message = known.Code, known.Message
		if c.to != nil {
			r.Code = c.to.protocol.Fault(c.to.service.Model, c.to.op, known).Code
		}
	}
	return r
}

// keep has the record kept of a call that no transaction carries. Calls of nobody
// who is known, and those of no operation, are not kept: what a stranger sends must
// not fill a disk.
func (s *Server) keep(ctx context.Context, c *call, out any, err error) error {
	if s.Audit == nil || c.op == operationUnresolved || c.principal == (auth.Principal{}) || (c.committed && err == nil) {
		return nil
	}
	if kept := s.Audit.Append(context.WithoutCancel(ctx), s.record(c, out, err)); kept != nil {
		s.Log.Error("call was not recorded, so it fails", "request_id", c.id, "err", kept)
		return api.Errorf(api.CodeServiceUnavailable, "The call could not be recorded for the audit trail, so it is not answered: try again.")
	}
	return nil
}

// with joins condition keys of a resource to those of the request.
func with(keys, more map[string][]string) map[string][]string {
	if len(more) == 0 {
		return keys
	}
	out := maps.Clone(keys)
	maps.Copy(out, more)
	return out
}
