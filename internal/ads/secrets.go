package ads

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
)

// Secrets gives the secrets that bundles only name (D9).
type Secrets interface {
	// Secret returns the encoded envoy.extensions.transport_sockets.tls.v3.Secret
	// of that name, if the caller may have it; client is the node or gateway whose
	// proxy asks. It is asked at each delivery.
	//
	// form is a number from 0 on: the secret is to be encoded in one way for even
	// ones, and for odd ones in another way that means the same. Envoy does not look
	// again at content that it had last, also if it refused that. What is encoded as
	// it was is not sent again.
	//
	// An *api.Error stands until Renew or Recheck; after others the source is asked
	// again by itself.
	Secret(ctx context.Context, caller auth.Caller, client api.Key, name string, form int) (auth.Secret, error)
}

// Renew has the secrets whose names concern says yes to asked for again, on all
// streams whose proxies want them; call it when they are others. It returns at
// once; concerns is called from this goroutine only.
func (s *Server) Renew(concerns func(name string) bool) {
	s.mu.Lock()
	members := make([]*proxy, 0, s.streams)
	for _, g := range s.groups {
		for p := range g.members {
			members = append(members, p)
		}
	}
	s.mu.Unlock()
	for _, p := range members {
		p.mu.Lock()
		some := p.m != nil && p.m.renew(concerns)
		p.mu.Unlock()
		if some {
			p.poke()
		}
	}
}

// ask gets the secrets that are due, each in a goroutine of its own: nothing else
// on the stream waits for its source. turn is held.
func (p *proxy) ask(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.m.due(p.s.Now()) {
		p.s.queue.run(func() { p.fetch(ctx, w) })
	}
}

// fetch asks the source. What the proxy may not have is left out and noted.
func (p *proxy) fetch(ctx context.Context, w wanted) {
	r, err := p.secret(ctx, w)
	if ctx.Err() != nil {
		return // the stream has ended
	}
	p.mu.Lock()
	delete(p.m.asking, w.name)
	if err == nil {
		p.m.supply(p.s.Now(), r)
	} else {
		reason, final := err.Error(), false
		if known, ok := errors.AsType[*api.Error](err); ok {
			reason, final = known.Message, true
		}
		p.m.deny(p.s.Now(), w.name, oneLine(reason), final)
	}
	p.mu.Unlock()
	p.s.dirty(p.client)
	p.poke()
}

func (p *proxy) secret(ctx context.Context, w wanted) (*envoy.Resource, error) {
	if p.s.Secrets == nil {
		return nil, api.Errorf(api.CodeBadRequest, "no source serves it")
	}
	ctx, cancel := context.WithTimeout(ctx, resolveWait)
	defer cancel()
	caller := auth.Caller{Principal: p.principal}
	if p.s.Keys != nil {
		caller.Keys = p.s.Keys(From{Address: p.peer, TLS: p.secure})
	}
	value, err := p.s.Secrets.Secret(ctx, caller, p.client.Key, w.name, w.form)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(value))
	return &envoy.Resource{Name: w.name, Hash: hex.EncodeToString(sum[:16]), Encoded: []byte(value)}, nil
}
