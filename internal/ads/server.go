// Package ads is the management service: the xDS server that Envoys connect to,
// over one aggregated stream each, in either dialect of the protocol (state of
// the world and delta).
//
// publish.Loop gives it, for every connected virtual node or gateway, the bundle
// that its proxies are to have (Server.Set). What a stream may be sent, and in
// which order, is the work of machine: it is pure, and machine.go (what the proxy
// has) and next.go (what it may get) can be read alone. proxy.go moves a stream
// along, queue.go brings new goals to streams, codec.go is the two dialects on the
// wire, row.go what the ledger is told.
package ads

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/catchup"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

const (
	// lifetime is how long a stream lasts, give or take a tenth: proxies spread
	// over the replicas again (EMS-008, D12).
	lifetime = 30 * time.Minute
	// patience is how long a proxy without endpoints waits for unknown ones (D6.4).
	patience = 5 * time.Second
	// resolveWait bounds how long a fresh stream waits for the store, firstWait
	// how long for the proxy's first request.
	resolveWait = 10 * time.Second
	firstWait   = 30 * time.Second
	// flushWait bounds how long connections stay after the streams' ends.
	flushWait = time.Second
	// maxHeaders bounds what strangers may send before they are known; a signature
	// with a session token takes a few kilobytes.
	maxHeaders = 64 << 10
	// writeBuffer and readBuffer are sizes of gRPC's buffers: most responses are one
	// write, most requests one read.
	writeBuffer, readBuffer = 32 << 10, 2 << 10
)

// Clients is what the server asks of the publishing loop; *publish.Loop is one.
type Clients interface {
	// Resolve tells which client a node id means, from a snapshot at least as
	// new as the store, and which account owns its node or gateway. Its errors
	// are *api.Error.
	Resolve(ctx context.Context, nodeID, account string) (c mesh.Client, owner string, err error)
	// Want says that a client has a first proxy, Unwant that it has none any more.
	Want(c mesh.Client)
	Unwant(c mesh.Client)
}

// Config is what a Server needs. Clients may be set after New, before the first
// stream.
type Config struct {
	Clients Clients
	Realm   api.Realm
	Replica string // this replica's id in the ledger
	// Authenticate says who opened a stream (EMS-012). Its refusals are *api.Error.
	Authenticate func(ctx context.Context, fullMethod string, md metadata.MD) (auth.Principal, error)
	// Authorize says whether the principal may have the client's configuration;
	// nil allows everyone (EMS-010, EMS-054). It answers at once: see Reauthorize.
	Authorize func(p auth.Principal, from From, key api.Key) error
	// Memory is what both refuse by; nil never has to catch up with the store.
	Memory *catchup.Memory
	// Keys are the condition keys of a stream from there, as they are now: who asks for
	// secrets has them. nil has none.
	Keys func(from From) map[string][]string
	// Room says how many proxies a node or gateway may have; nil is no limit.
	Room func(ctx context.Context, key api.Key) Room
	// Secrets may be nil: then no secret is delivered.
	Secrets Secrets
	// Connected is told what happens to streams. It returns at once; nil is allowed.
	Connected func(Connection)
	// Joined is told that a proxy has connected, and is one of Instances, or that one serves now. It returns at
	// once; nil is allowed.
	Joined func()
	// Dirty is told of each client whose Row changed; nil is allowed.
	Dirty func(mesh.Client)
	// PublishWait is how long a proxy's routes wait for its silence about new
	// clusters; Lifetime how long a stream lasts, 0 for 30 minutes; RefusedWait how long
	// listeners that it refused wait until they are sent again, the first time, 0 for 30 s;
	// EndpointsWait how long a proxy without endpoints waits for unknown ones, 0 for 5 s.
	PublishWait, Lifetime, RefusedWait, EndpointsWait time.Duration

	Log   *slog.Logger
	Meter Meter
	Now   func() time.Time
}

// Meter is told what happens; nil functions are allowed.
type Meter struct {
	Streams func(d api.Dialect, change int)
	Sent    func(t api.DiscoveryType)
	Refused func(t api.DiscoveryType)
}

// Server serves the streams. Its exported methods may be called from any
// goroutine.
type Server struct {
	Config
	policies atomic.Int64 // counts Recheck
	queue    queue

	mu      sync.Mutex
	groups  map[mesh.Client]*group
	byKey   map[api.Key][]*group    // the same, of each node or gateway
	strange map[int]*ender          // streams whose first request is awaited
	met     int                     // such streams so far
	doubts  map[instance]remembered // of proxies that left
	streams int                     // joined
	// reauthorized counts Reauthorize, for who is authorised but has not joined yet.
	reauthorized int64
	draining     bool
	left         chan struct{} // receives when a stream left while draining
}

// group is the proxies of one client on this replica.
type group struct {
	goal    *goal         // nil until the loop has built the first
	gone    bool          // its node or gateway does not exist
	ready   chan struct{} // closed when one of both is known
	members map[*proxy]bool
}

// New makes a Server; Serve works it.
func New(c Config) *Server {
	if c.Lifetime == 0 {
		c.Lifetime = lifetime
	}
	if c.RefusedWait == 0 {
		c.RefusedWait = firstAgain
	}
	if c.EndpointsWait == 0 {
		c.EndpointsWait = patience
	}
	s := &Server{
		Config: c, left: make(chan struct{}, 1), groups: map[mesh.Client]*group{}, doubts: map[instance]remembered{},
		byKey: map[api.Key][]*group{}, strange: map[int]*ender{},
	}
	s.queue.init()
	return s
}

// Serve accepts connections until ctx ends; then all streams are cut (Drain
// before that ends them politely). creds is nil for plaintext. Nothing of it is
// left running when it returns.
func (s *Server) Serve(ctx context.Context, l net.Listener, creds credentials.TransportCredentials) error {
	g := grpc.NewServer(s.options(creds)...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, service{s: s})
	stop := context.AfterFunc(ctx, func() { s.stop(g) })
	defer stop()
	err := g.Serve(l)
	g.Stop()
	s.queue.wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// stop cuts all streams. After a Drain the end of the last one may be on its way
// yet: connections are closed when what was said on them is written.
func (s *Server) stop(g *grpc.Server) {
	s.mu.Lock()
	polite := s.draining
	s.mu.Unlock()
	if polite {
		late := time.AfterFunc(flushWait, g.Stop)
		defer late.Stop()
		g.GracefulStop()
	}
	g.Stop()
}

func (s *Server) options(creds credentials.TransportCredentials) []grpc.ServerOption {
	o := []grpc.ServerOption{
		// A stream mostly rests (D7). Buffers for writing, and in plaintext those for
		// reading, are borrowed from a pool while they are in use; a connection with
		// TLS keeps the latter. A proxy's requests are small.
		grpc.WriteBufferSize(writeBuffer), grpc.ReadBufferSize(readBuffer),
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxHeaderListSize(maxHeaders), grpc.WaitForHandlers(true),
		// Envoys ping every 10 s, also without a stream (EMS-062).
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.UnknownServiceHandler(unknownService),
	}
	if creds != nil {
		o = append(o, grpc.Creds(creds))
	}
	return o
}

// unknownService answers, among others, clients of the xDS v2 API (EMS-001).
func unknownService(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	return status.Errorf(codes.Unimplemented, "%s is not served: use the aggregated discovery service of xDS v3 (Envoy 1.17 or newer).", oneLine(method))
}

// service is the gRPC face of a Server. Other methods of the service exist in no
// newer protocol, so the generated default for them is right.
type service struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	s *Server
}

func (v service) StreamAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return v.serve(stream, discoveryv3.AggregatedDiscoveryService_StreamAggregatedResources_FullMethodName, false)
}

func (v service) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return v.serve(stream, discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResources_FullMethodName, true)
}

// Set makes b what the client's proxies are to have; nil says that its node or
// gateway does not exist, which ends their streams (EMS-009). It returns at once.
func (s *Server) Set(c mesh.Client, revision int64, b *envoy.Bundle) {
	var g *goal
	if b != nil {
		g = goalOf(b, revision)
	}
	s.set(c, g)
}

func (s *Server) set(c mesh.Client, goal *goal) {
	s.mu.Lock()
	g := s.groups[c]
	if g == nil {
		s.mu.Unlock()
		return // its last proxy left meanwhile
	}
	if g.goal == nil && !g.gone {
		close(g.ready)
	}
	if g.gone = goal == nil; !g.gone {
		g.goal = goal
	}
	for p := range g.members {
		p.poke()
	}
	s.mu.Unlock()
	s.dirty(c)
}

// Recheck authorises all streams again, and the secrets that they have; call it
// when policies, credentials or secrets changed.
func (s *Server) Recheck() {
	s.policies.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		for p := range g.members {
			p.poke()
		}
	}
}

// From is where a stream comes from, for conditions on that.
type From struct {
	Address string // of the peer, with its port
	TLS     bool
}

// Reauthorize authorises the streams again that concerns says yes to; call it when what
// their principals may do has changed. It returns at once: a few goroutines work
// through them. concerns is called from this goroutine only.
func (s *Server) Reauthorize(concerns func(p auth.Principal, key api.Key) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reauthorized++
	for _, g := range s.groups {
		for p := range g.members {
			if concerns(p.principal, p.client.Key) {
				p.suspect.Store(true)
				p.poke()
			}
		}
	}
}

// EndSince ends the streams of proxies that connected after t, so that they
// connect to another replica: this one cannot say that it has them.
func (s *Server) EndSince(t time.Time) {
	s.mu.Lock()
	var late []*proxy
	for _, g := range s.groups {
		for p := range g.members {
			if p.connected.After(t) {
				late = append(late, p)
			}
		}
	}
	s.mu.Unlock()
	for _, p := range late {
		p.ender.end(errCutOff)
	}
}

// Drain ends all streams with status 0, spread over the time, and refuses new
// ones. It returns when none is left or ctx ends. It is called once.
func (s *Server) Drain(ctx context.Context, spread time.Duration) {
	s.mu.Lock()
	s.draining = true
	for _, e := range s.strange {
		e.end(errDraining)
	}
	i, now := 0, s.Now()
	for _, g := range s.groups {
		for p := range g.members {
			p.endBy(now.Add(spread * time.Duration(i) / time.Duration(s.streams)))
			i++
		}
	}
	s.mu.Unlock()
	for {
		s.mu.Lock()
		n := s.streams
		s.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-s.left:
		case <-ctx.Done():
			return
		}
	}
}

// Close takes no new streams any more; those that are open go on until Drain.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
}

// meet notes a stream whose first request is awaited; forget is called after
// that.
func (s *Server) meet(e *ender) (forget func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil, errDraining
	}
	s.met++
	id := s.met
	s.strange[id] = e
	return func() {
		s.mu.Lock()
		delete(s.strange, id)
		s.mu.Unlock()
	}, nil
}

// join adds a proxy, if there is room for it; the first of a client makes the loop
// build for it.
func (s *Server) join(p *proxy, r Room) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return errDraining
	}
	if err := s.enter(p, r); err != nil {
		return err
	}
	g := s.groups[p.client]
	if g == nil {
		g = &group{members: map[*proxy]bool{}, ready: make(chan struct{})}
		s.groups[p.client] = g
		s.byKey[p.client.Key] = append(s.byKey[p.client.Key], g)
		s.Clients.Want(p.client)
	}
	if s.reauthorized != p.allowed {
		p.suspect.Store(true) // it was authorised before, and not found among the members
		p.poke()
	}
	p.group = g
	g.members[p] = true
	p.doubts = s.recall(p)
	s.streams++
	return nil
}

func (s *Server) leave(p *proxy) {
	doubtful := p.doubtful()
	s.mu.Lock()
	s.remember(p, doubtful)
	g := p.group
	delete(g.members, p)
	if len(g.members) == 0 {
		delete(s.groups, p.client)
		if rest := slices.DeleteFunc(s.byKey[p.client.Key], func(x *group) bool { return x == g }); len(rest) > 0 {
			s.byKey[p.client.Key] = rest
		} else {
			delete(s.byKey, p.client.Key)
		}
		s.Clients.Unwant(p.client)
	}
	s.streams--
	s.mu.Unlock()
	select {
	case s.left <- struct{}{}:
	default:
	}
	s.dirty(p.client)
}

// current is what the proxy is to have now; an error ends its stream.
func (s *Server) current(p *proxy) (*goal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.group.gone {
		return nil, missing(p.arn)
	}
	return p.group.goal, nil
}

func (s *Server) dirty(c mesh.Client) {
	if s.Dirty != nil {
		s.Dirty(c)
	}
}

// someTime is d, give or take a tenth.
func someTime(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

var errCutOff = status.Error(codes.Unavailable, "This replica cannot reach its store: connect to another.")

// served is the head of a stream that is authorised and served: with it a proxy that has all already, and the agent that
// passes its stream on, learns that it is, since no message comes. Else it comes with the first message: the agent learns
// that silence is not how this control plane serves.
var served = metadata.Pairs("evermesh-stream", "served")

var errDraining = status.Error(codes.Unavailable, "This replica is shutting down: connect to another.")
