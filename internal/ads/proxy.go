package ads

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// proxy is one connected Envoy. At rest it costs the goroutine that waits for its
// requests and nothing else: what is new for it is brought to it by whoever
// knows, one goroutine at a time.
type proxy struct {
	s         *Server
	group     *group // since it joined
	client    mesh.Client
	arn       string
	principal auth.Principal
	instance  string
	peer      string
	secure    bool     // by TLS
	envoy     *string  // its version
	said      []string // notes on what it said of itself
	delta     bool     // its dialect
	addresses []string // that it told of itself
	connected time.Time
	stream    grpc.ServerStream
	ender     *ender

	stale   atomic.Bool // something is new beside requests
	suspect atomic.Bool // it is to be authorised again
	serves  atomic.Bool // it has answered to all that it was sent at first
	allowed int64       // Server.reauthorized when it was authorised first
	queued  bool        // guarded by the queue's mutex

	turn    sync.Mutex // held by the one goroutine that takes in and sends
	headed  bool       // its stream's head is what it is to be, or on its way
	checked int64      // state of Server.policies at the last authorisation
	timer   *time.Timer
	armed   time.Time // when the timer fires

	mu     sync.Mutex // lets others look in
	m      *machine   // nil until there is a goal
	end    time.Time
	doubts doubts // left by its stream before, for m
}

// calm is how much may be on its way to a proxy for a send not to wait: gRPC
// takes what it is given while less than 64 KiB of a stream are unwritten.
const calm = 48 << 10

// ender ends a stream, also while its goroutine waits for a request: gRPC then
// sends the status at once and wakes whoever waits for the stream.
type ender struct {
	stream interface {
		WriteStatus(st *status.Status) error
	}
	mu     sync.Mutex
	ended  bool
	status error
}

// enderOf finds what gRPC itself ends a stream with. It is not in the interface
// that the library documents for it; without, no stream is served, and every
// test of this package fails.
func enderOf(ctx context.Context) (*ender, error) {
	e := &ender{}
	var ok bool
	if e.stream, ok = grpc.ServerTransportStreamFromContext(ctx).(interface {
		WriteStatus(st *status.Status) error
	}); !ok {
		return nil, status.Error(codes.Internal, "The stream cannot be ended.")
	}
	return e, nil
}

// end ends the stream with this status; nil is a planned end. The first counts.
func (e *ender) end(err error) {
	e.mu.Lock()
	if e.ended {
		e.mu.Unlock()
		return
	}
	e.ended, e.status = true, err
	e.mu.Unlock()
	st := status.New(codes.OK, "")
	if err != nil {
		st = status.Convert(err)
	}
	_ = e.stream.WriteStatus(st) // fails where the stream has ended by itself
}

// because is the status of the stream when err has ended it: none when the proxy
// closed it.
func (e *ender) because(err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.ended:
		return e.status
	case errors.Is(err, io.EOF):
		return nil
	}
	return statusOf(err)
}

// serve serves one stream from its first byte to its status.
func (v service) serve(stream grpc.ServerStream, method string, delta bool) error {
	s, ctx := v.s, stream.Context()
	ender, err := enderOf(ctx)
	if err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(ctx)
	var principal auth.Principal
	err = s.Memory.Decide(ctx, func() (err error) {
		principal, err = s.Authenticate(ctx, method, md)
		return err
	})
	if err != nil {
		return s.refuse(Connection{}, statusOf(err))
	}
	in := &incoming{delta: delta, anonymous: true}
	if err := v.first(stream, in, ender); err != nil {
		return err
	}
	known := Connection{Principal: principal, Node: in.node.GetId()}
	p, err := s.identify(ctx, in.node, principal)
	if p != nil {
		known.Node = p.arn
	}
	if err != nil {
		return s.refuse(known, statusOf(err))
	}
	p.delta, p.stream, p.ender = delta, stream, ender
	if err := s.join(p, s.room(ctx, p)); err != nil {
		return s.refuse(known, err)
	}
	defer s.leave(p)
	s.open(&known)
	s.dirty(p.client)
	if s.Joined != nil {
		s.Joined()
	}
	s.streamed(p.dialect(), 1)
	defer s.streamed(p.dialect(), -1)
	s.Log.Info("proxy connected", "mesh", p.client.Key.Mesh, "key", p.client.Key.String(), "proxy", p.instance, "dialect", string(p.dialect()), "peer", p.peer)
	err = p.run(v, in)
	_ = s.end(known, err)
	if err != nil {
		s.Log.Info("proxy disconnected", "mesh", p.client.Key.Mesh, "key", p.client.Key.String(), "proxy", p.instance, "err", err)
		return err
	}
	s.Log.Info("proxy disconnected", "mesh", p.client.Key.Mesh, "key", p.client.Key.String(), "proxy", p.instance)
	return nil
}

// first waits for the first request, but not for ever.
func (v service) first(stream grpc.ServerStream, in *incoming, ender *ender) error {
	forget, err := v.s.meet(ender)
	if err != nil {
		return err
	}
	defer forget()
	late := time.AfterFunc(firstWait, func() {
		ender.end(status.Errorf(codes.DeadlineExceeded, "No request came within %v.", firstWait))
	})
	defer late.Stop()
	if err := v.receive(stream, in); err != nil {
		return ender.because(err)
	}
	return nil
}

// identify finds out whose proxy this is, and whether it may have what it asks
// for (EMS-009, EMS-010, EMS-015).
func (s *Server) identify(ctx context.Context, node *corev3.Node, principal auth.Principal) (*proxy, error) {
	if err := s.acceptable(node.GetId()); err != nil {
		return nil, err
	}
	p := &proxy{
		s: s, principal: principal, envoy: versionOf(node), connected: s.Now(),
		end: s.Now().Add(someTime(s.Lifetime)), checked: s.policies.Load(),
	}
	if from, ok := peer.FromContext(ctx); ok {
		p.peer = from.Addr.String()
		_, p.secure = from.AuthInfo.(credentials.TLSInfo)
	}
	s.mu.Lock()
	p.allowed = s.reauthorized
	s.mu.Unlock()
	p.instance, p.addresses = instanceOf(node, p.peer), addressesOf(node)
	resolving, cancel := context.WithTimeout(ctx, resolveWait)
	defer cancel()
	client, owner, err := s.Clients.Resolve(resolving, node.GetId(), principal.Account)
	if err != nil {
		return nil, p.untold(ctx, node.GetId(), err)
	}
	// Whatever form the node id has, others see the one name of the resource.
	p.client, p.arn = client, s.Realm.ARN(client.Key, owner)
	p.client.Traits, p.said = traitsOf(node)
	refused := p.admitted(ctx)
	if status.Code(refused) == codes.PermissionDenied && client.Key.Owner != principal.Account && owner != principal.Account {
		_, named, _ := s.asked(node.GetId(), principal.Account)
		refused = unauthorized(named)
	}
	return p, refused
}

// untold is why Resolve found nothing, unless that is not for the principal to know:
// what another account has not is refused as what it has.
func (p *proxy) untold(ctx context.Context, id string, absent error) error {
	key, named, ok := p.s.asked(id, p.principal.Account)
	if known, refusal := errors.AsType[*api.Error](absent); !ok || !refusal || known.Code != api.CodeNotFound || key.Owner == p.principal.Account {
		return absent
	}
	p.client.Key, p.arn = key, named
	if refused := p.admitted(ctx); refused != nil {
		return refused
	}
	return absent
}

// admitted is authorized for a stream that is opened: it is not refused for what this
// replica has not heard yet.
func (p *proxy) admitted(ctx context.Context) error {
	return p.refusal(p.s.Memory.Decide(ctx, p.may))
}

// authorized says whether the proxy may still have its configuration; its error is a
// status.
func (p *proxy) authorized() error { return p.refusal(p.may()) }

func (p *proxy) may() error {
	if p.s.Authorize == nil {
		return nil
	}
	return p.s.Authorize(p.principal, From{Address: p.peer, TLS: p.secure}, p.client.Key)
}

// refusal is what the proxy is told of an answer of Authorize.
func (p *proxy) refusal(err error) error {
	var known *api.Error
	if errors.As(err, &known) && (known.Code == api.CodeAccessDenied || known.Code == api.CodeForbidden) {
		return unauthorized(p.arn)
	}
	if err != nil {
		return statusOf(err)
	}
	return nil
}

func (p *proxy) dialect() api.Dialect {
	if p.delta {
		return api.DialectDelta
	}
	return api.DialectStateOfTheWorld
}

// run serves the stream from its first request on, which in holds. A nil error is
// status 0: a planned end. Nobody is at work on the stream when it returns.
func (p *proxy) run(v service, in *incoming) error {
	err := p.answer(v, in)
	p.ender.end(err) // wakes whoever waits for the proxy
	p.turn.Lock()    // and nobody gets it again
	if p.timer != nil {
		p.timer.Stop()
	}
	return err
}

// answer answers requests until the stream ends.
func (p *proxy) answer(v service, in *incoming) error {
	ctx := p.stream.Context()
	select {
	case <-p.group.ready:
	case <-ctx.Done():
		return p.ender.because(status.FromContextError(ctx.Err()).Err())
	}
	in.anonymous, in.node = false, nil
	for told := false; ; told = true {
		r := &in.request
		if r.typ == noType { // the first one, which said whose stream it is
			r = nil
		}
		p.turn.Lock()
		_, err := p.advance(ctx, r, true)
		if err == nil && !told {
			_ = p.stream.SendHeader(served) // in vain after a message, with which the head went
		}
		p.turn.Unlock()
		if err != nil {
			return err
		}
		p.follow(true)
		if err := v.receive(p.stream, in); err != nil {
			return p.ender.because(err)
		}
	}
}

// poke says that something is new for the proxy; it returns at once.
func (p *proxy) poke() {
	p.stale.Store(true)
	p.s.queue.add(p)
}

// follow takes in what is new, unless another goroutine is at it, which then
// does so before it leaves. Without patience it leaves what may take time to
// another goroutine.
func (p *proxy) follow(patient bool) {
	ctx := p.stream.Context()
	for p.stale.Load() && p.turn.TryLock() {
		p.stale.Store(false)
		done, err := p.advance(ctx, nil, patient)
		p.turn.Unlock()
		switch {
		case err != nil:
			p.ender.end(err)
			return
		case !done:
			p.stale.Store(true)
			p.s.queue.apart(p)
			return
		}
	}
}

// renewAll has all secrets of the stream asked for again.
func (p *proxy) renewAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m != nil {
		p.m.renew(func(string) bool { return true })
	}
}

// advance takes in what is new and sends what may be sent. It says false when
// the rest takes patience. Its error is the stream's status. turn is held.
func (p *proxy) advance(ctx context.Context, r *request, patient bool) (done bool, err error) {
	goal, err := p.s.current(p)
	if err != nil {
		return false, err
	}
	if p.suspect.Swap(false) {
		if err := p.authorized(); err != nil {
			return false, err
		}
		p.renewAll() // what it may have of secrets is asked again, too (D9)
	}
	end := p.endsAt()
	if !p.s.Now().Before(end) {
		p.ender.end(nil)
		return true, nil
	}
	if goal == nil {
		return true, nil
	}
	if now := p.s.policies.Load(); now != p.checked {
		if !patient {
			return false, nil
		}
		if err := p.authorized(); err != nil {
			return false, err
		}
		p.checked = now
		p.renewAll()
	}
	if err := p.take(goal, r); err != nil {
		return false, err
	}
	p.ask(ctx)
	for {
		p.mu.Lock()
		if !patient && p.m.unanswered() > calm {
			p.mu.Unlock()
			return false, nil
		}
		f, again := p.m.next(p.s.Now())
		p.mu.Unlock()
		if f == nil {
			p.arm(sooner(again, end))
			return true, nil
		}
		if p.s.Meter.Sent != nil {
			p.s.Meter.Sent(discoveryType(f.typ))
		}
		if !p.headed {
			p.headed = true
			_ = p.stream.SetHeader(served) // it goes with the message, unless it went before
		}
		if err := p.stream.SendMsg(outgoingOf(f, p.delta)); err != nil {
			return false, p.ender.because(err)
		}
		if f.typ == envoy.Secret {
			p.mu.Lock()
			p.m.seal(f)
			p.mu.Unlock()
		}
	}
}

func (p *proxy) take(goal *goal, r *request) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		p.m = &machine{delta: p.delta, goal: goal, silence: p.s.PublishWait, patience: p.s.EndpointsWait, again: p.s.RefusedWait, vary: someTime, doubts: p.doubts}
	} else if goal != p.m.goal {
		p.m.aim(goal)
	}
	if r == nil {
		return nil
	}
	if r.refused && !p.m.known(*r) && !p.m.repeated(*r) {
		p.s.Log.Warn("proxy refused configuration", "mesh", p.client.Key.Mesh, "key", p.client.Key.String(), "proxy", p.instance,
			"revision", goal.revision, "type", string(discoveryType(r.typ)), "err", oneLine(r.reason))
		if p.s.Meter.Refused != nil {
			p.s.Meter.Refused(discoveryType(r.typ))
		}
	}
	defer p.s.dirty(p.client)
	if err := p.m.receive(p.s.Now(), *r); err != nil {
		return err
	}
	if !p.serves.Load() && p.state(goal) != api.ProxyStatePending {
		p.serves.Store(true)
		if p.s.Joined != nil {
			p.s.Joined()
		}
	}
	return nil
}

// arm has the proxy looked at again at a time; turn is held.
func (p *proxy) arm(at time.Time) {
	now := p.s.Now()
	if at.Equal(p.armed) && now.Before(at) {
		return
	}
	p.armed = at
	if p.timer == nil {
		p.timer = time.AfterFunc(at.Sub(now), p.due)
		return
	}
	p.timer.Reset(at.Sub(now))
}

// due is called when time has come for something: what the ledger says of the
// proxy may be another, although nothing was sent or answered.
func (p *proxy) due() {
	p.poke()
	p.s.dirty(p.client)
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
