package rest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"

	"github.com/evermesh/evermesh/internal/service"
)

// Do does an operation of App Mesh for who called a service around it, as if it had
// been called with the same credentials from the same place: checks, policies, rules
// and records are its own. asked is that call; input is a document of the model.
func (s *Server) Do(ctx context.Context, asked *service.Call, operation string, input map[string]any) (any, error) {
	op, run := s.appMesh.Operations[operation], s.own[operation]
	if op == nil || run == nil {
		return nil, fmt.Errorf("operation %s is none of App Mesh", operation)
	}
	c := &call{
		op: operation, action: "appmesh:" + operation, principal: asked.Principal, doc: input, id: asked.ID,
		request: asRequest(asked), at: asked.At, keys: asked.Keys,
		source: s.appMesh.Metadata.EndpointPrefix + ".amazonaws.com", reads: op.HTTP.Method == http.MethodGet,
	}
	var out any
	var err error
	if found := s.appMesh.Check(op.Input.Shape, input); len(found) > 0 {
		err = refusal(found)
	} else {
		known := *c
		err = s.Memory.Decide(ctx, func() (err error) {
			*c = known
			c.doc = maps.Clone(input)
			out, err = run(ctx, c)
			return err
		})
	}
	if err == nil && !c.authorized {
		return nil, fmt.Errorf("operation %s asked no policy", operation) // a fault of the program
	}
	if kept := s.keep(ctx, c, out, err); kept != nil {
		return nil, kept
	}
	return out, err
}

// asRequest is what records want to know of the request that asked came with.
func asRequest(asked *service.Call) *http.Request {
	first := func(key string) string {
		if values := asked.Keys[key]; len(values) > 0 {
			return values[0]
		}
		return ""
	}
	r := &http.Request{Header: http.Header{"User-Agent": {first("aws:useragent")}}}
	if ip := first("aws:sourceip"); ip != "" {
		r.RemoteAddr = net.JoinHostPort(ip, "0")
	}
	return r
}
