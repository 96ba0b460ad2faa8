package ads

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// proxy is one connected Envoy. Its stream's goroutine owns it and is the only
// one that sends; mu lets the ledger look in.
type proxy struct {
	s         *Server
	client    mesh.Client
	arn       string
	principal auth.Principal
	instance  string
	peer      string
	envoy     *string // its version
	dialect   dialect
	connected time.Time
	wake      chan struct{}

	checked int64 // state of Server.policies at the last authorisation

	mu     sync.Mutex
	m      *machine // nil until there is a goal
	end    time.Time
	denied map[string]string // secrets that are not delivered, and why
	doubts doubts            // left by its stream before, for m
}

// incoming is what the reader got.
type incoming struct {
	node *corev3.Node
	request
	err error
}

// stream serves one stream from its first byte to its status.
func (v service) stream(ctx context.Context, method string, d dialect) error {
	s := v.s
	md, _ := metadata.FromIncomingContext(ctx)
	principal, err := s.Authenticate(ctx, method, md)
	if err != nil {
		return statusOf(err)
	}
	requests := v.read(ctx, d)
	late := time.NewTimer(firstWait)
	defer late.Stop()
	var first incoming
	select {
	case first = <-requests:
	case <-late.C:
		return status.Errorf(codes.DeadlineExceeded, "No request came within %v.", firstWait)
	case <-s.ending:
		return errDraining
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	if first.err != nil {
		return ended(first.err)
	}
	p, err := s.identify(ctx, d, first.node, principal)
	if err != nil {
		return statusOf(err)
	}
	if err := s.join(p); err != nil {
		return err
	}
	defer s.leave(p)
	s.streamed(d.name, 1)
	defer s.streamed(d.name, -1)
	log := s.Log.With("mesh", p.client.Key.Mesh, "key", p.client.Key.String(), "proxy", p.instance)
	log.Info("proxy connected", "dialect", string(d.name), "peer", p.peer)
	err = p.run(ctx, requests, first.request)
	if err != nil {
		log.Info("proxy disconnected", "err", err)
		return err
	}
	log.Info("proxy disconnected")
	return nil
}

// read passes the stream's requests on, one at a time: a proxy that asks faster
// than it is answered waits. Its goroutine ends with the stream.
func (v service) read(ctx context.Context, d dialect) <-chan incoming {
	requests := make(chan incoming)
	v.readers.Go(func() {
		for {
			var in incoming
			in.node, in.request, in.err = d.recv()
			if _, ok := errors.AsType[*unserved](in.err); ok {
				v.s.Log.Debug("proxy asked for a type that is not served", "err", in.err)
				continue
			}
			select {
			case requests <- in:
			case <-ctx.Done():
				return
			}
			if in.err != nil {
				return
			}
		}
	})
	return requests
}

// ended is the status for a stream whose reader failed: none when the proxy
// closed it.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return statusOf(err)
}

// identify finds out whose proxy this is, and whether it may have what it asks
// for (EMS-009, EMS-010, EMS-015).
func (s *Server) identify(ctx context.Context, d dialect, node *corev3.Node, principal auth.Principal) (*proxy, error) {
	if err := s.acceptable(node.GetId()); err != nil {
		return nil, err
	}
	p := &proxy{
		s: s, principal: principal, dialect: d, envoy: versionOf(node), connected: s.Now(),
		wake: make(chan struct{}, 1), end: s.Now().Add(someTime(s.Lifetime)), checked: s.policies.Load(),
	}
	if from, ok := peer.FromContext(ctx); ok {
		p.peer = from.Addr.String()
	}
	p.instance = instanceOf(node, p.peer)
	resolving, cancel := context.WithTimeout(ctx, resolveWait)
	defer cancel()
	client, owner, err := s.Clients.Resolve(resolving, node.GetId(), principal.Account)
	if err != nil {
		return nil, err
	}
	// Whatever form the node id has, others see the one name of the resource.
	p.client, p.arn = client, s.Realm.ARN(client.Key, owner)
	return p, p.authorized()
}

func (p *proxy) authorized() error {
	if p.s.Authorize == nil {
		return nil
	}
	err := p.s.Authorize(p.principal, p.client.Key)
	var known *api.Error
	if errors.As(err, &known) && (known.Code == api.CodeAccessDenied || known.Code == api.CodeForbidden) {
		return unauthorized(p.arn)
	}
	if err != nil {
		return statusOf(err)
	}
	return nil
}

// run answers requests and follows the goal until the stream ends. A nil error
// is status 0: a planned end.
func (p *proxy) run(ctx context.Context, requests <-chan incoming, first request) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	waiting := &first // until there is something to answer from
	for {
		goal, err := p.s.current(p)
		if err != nil {
			return err
		}
		var next time.Time
		var more <-chan incoming
		if goal != nil {
			if next, err = p.advance(ctx, goal, waiting); err != nil {
				return err
			}
			waiting, more = nil, requests
		}
		end := p.endsAt()
		now := p.s.Now()
		if !now.Before(end) {
			return nil
		}
		timer.Reset(sooner(next, end).Sub(now))
		select {
		case in := <-more:
			if in.err != nil {
				return ended(in.err)
			}
			waiting = &in.request
		case <-p.wake:
		case <-timer.C:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// advance takes in what is new and sends what may be sent. It returns when to
// look again.
func (p *proxy) advance(ctx context.Context, goal *goal, r *request) (time.Time, error) {
	if now := p.s.policies.Load(); now != p.checked {
		if err := p.authorized(); err != nil {
			return time.Time{}, err
		}
		p.checked = now
		if err := p.fetch(ctx, true); err != nil {
			return time.Time{}, err
		}
	}
	if err := p.take(goal, r); err != nil {
		return time.Time{}, err
	}
	if r != nil && r.typ == envoy.Secret {
		if err := p.fetch(ctx, false); err != nil {
			return time.Time{}, err
		}
	}
	for {
		p.mu.Lock()
		f, again := p.m.next(p.s.Now())
		p.mu.Unlock()
		if f == nil {
			return again, nil
		}
		p.s.dirty(p.client)
		if p.s.Meter.Sent != nil {
			p.s.Meter.Sent(discoveryType(f.typ))
		}
		if err := p.dialect.send(f); err != nil {
			return time.Time{}, ended(err)
		}
	}
}

func (p *proxy) take(goal *goal, r *request) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		p.m = &machine{delta: p.dialect.name == api.DialectDelta, goal: goal, silence: p.s.PublishWait, patience: patience, doubts: p.doubts}
	} else if goal != p.m.goal {
		p.m.aim(goal)
	}
	if r == nil {
		return nil
	}
	if r.refused {
		p.s.Log.Warn("proxy refused configuration", "mesh", p.client.Key.Mesh, "key", p.client.Key.String(), "proxy", p.instance,
			"revision", goal.revision, "type", string(discoveryType(r.typ)), "err", oneLine(r.reason))
		if p.s.Meter.Refused != nil {
			p.s.Meter.Refused(discoveryType(r.typ))
		}
	}
	defer p.s.dirty(p.client)
	return p.m.receive(p.s.Now(), *r)
}

func (p *proxy) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// endBy makes the stream end at t, with status 0.
func (p *proxy) endBy(t time.Time) {
	p.mu.Lock()
	if t.Before(p.end) {
		p.end = t
	}
	p.mu.Unlock()
	p.poke()
}

func (p *proxy) endsAt() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

func (s *Server) streamed(d api.Dialect, change int) {
	if s.Meter.Streams != nil {
		s.Meter.Streams(d, change)
	}
}
