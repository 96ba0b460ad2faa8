package rest

import (
	"context"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// Drains takes proxies out of what others are sent, and brings them back; *drain.Drains
// is one.
type Drains interface {
	// Find is the connected proxy of that instance among those of the account's nodes and
	// gateways, and of those in its meshes; arn says of which, and may be empty. Only
	// such count that may allows; nil allows all. Its errors are *api.Error.
	Find(ctx context.Context, account, instance, arn string, may func(api.Key) error) (api.Proxy, api.Key, error)
	// Drain returns when nobody is sent the proxy's endpoints any more, or cannot wait
	// any longer.
	Drain(ctx context.Context, p api.Proxy, key api.Key) (api.Drain, error)
	// Resume undoes Drain.
	Resume(ctx context.Context, p api.Proxy, key api.Key) (api.Drain, error)
	// Since is since when the proxy drains; false when it does not.
	Since(p api.Proxy) (time.Time, bool)
}

// drainProxy takes a proxy out of what its clients are sent, until it is another
// process or is resumed.
func (s *Server) drainProxy(ctx context.Context, c *call) (any, error) {
	p, key, err := s.drainable(ctx, c)
	if err != nil {
		return nil, err
	}
	return s.Drains.Drain(ctx, p, key)
}

// resumeProxy undoes drainProxy.
func (s *Server) resumeProxy(ctx context.Context, c *call) (any, error) {
	p, key, err := s.drainable(ctx, c)
	if err != nil {
		return nil, err
	}
	return s.Drains.Resume(ctx, p, key)
}

// drainable is the proxy that a call names, if the caller may do with it what it asks.
func (s *Server) drainable(ctx context.Context, c *call) (api.Proxy, api.Key, error) {
	if s.Drains == nil {
		return api.Proxy{}, api.Key{}, api.Errorf(api.CodeServiceUnavailable, "This control plane drains no proxies.")
	}
	arn := text(c.doc, "resourceArn")
	p, key, err := s.Drains.Find(ctx, c.principal.Account, text(c.doc, "instance"), arn, nil)
	if err != nil {
		return p, key, err
	}
	if err := s.allow(c, key); err != nil {
		return p, key, err
	}
	found, err := s.Store.Get(ctx, key)
	if err != nil {
		return p, key, err
	}
	if err := s.authorize(ctx, c, key, found); err != nil {
		return p, key, err
	}
	if found == nil {
		return p, key, s.absent(ctx, key)
	}
	return p, key, nil
}

// drains adds since when each of the proxies drains.
func (s *Server) drains(proxies []api.Proxy) {
	if s.Drains == nil {
		return
	}
	for i, p := range proxies {
		if at, ok := s.Drains.Since(p); ok {
			proxies[i].DrainingSince = &api.Timestamp{Time: at}
		}
	}
}
