package adstest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Proxy behaves as Envoy: it opens CDS, then EDS for the clusters that need it,
// then LDS, then RDS for what the listeners name; it acknowledges, or refuses
// what Refuse says, and connects again when its stream ends, with what it has.
type Proxy struct {
	Options
	// Refuse returns why a response is refused, or nothing. It may be changed
	// with SetRefuse.
	refuse func(Response) string

	mu        sync.Mutex
	changed   chan struct{}
	responses []Response
	ends      []error
	has       map[string]map[string]*anypb.Any
	versions  map[string]map[string]string // delta
	version   map[string]string            // state of the world
}

// Connect starts a Proxy; it ends with the test.
func Connect(t testing.TB, conn *grpc.ClientConn, o Options) *Proxy {
	t.Helper()
	p := &Proxy{
		Options: o, changed: make(chan struct{}), has: map[string]map[string]*anypb.Any{},
		versions: map[string]map[string]string{}, version: map[string]string{},
	}
	for u := range urls {
		p.has[u], p.versions[u] = map[string]*anypb.Any{}, map[string]string{}
	}
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(context.Background(), metadata.New(o.Headers)))
	var running sync.WaitGroup
	running.Go(func() { p.run(ctx, conn) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return p
}

// SetRefuse sets what is refused; nil: nothing.
func (p *Proxy) SetRefuse(refuse func(Response) string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// Responses are all responses so far, as texts.
func (p *Proxy) Responses() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, r := range p.responses {
		out = append(out, r.String())
	}
	return out
}

// Has are the names that the proxy has of a type.
func (p *Proxy) Has(short string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.has[short]))
}

// Ends are the errors with which its streams ended.
func (p *Proxy) Ends() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ends)
}

// Routes are the proxy's route configurations by name.
func (p *Proxy) Routes(t testing.TB) map[string]*routev3.RouteConfiguration {
	t.Helper()
	return decoded[routev3.RouteConfiguration](t, p, RDS)
}

// Clusters are the proxy's clusters by name.
func (p *Proxy) Clusters(t testing.TB) map[string]*clusterv3.Cluster {
	t.Helper()
	return decoded[clusterv3.Cluster](t, p, CDS)
}

// Listeners are the proxy's listeners by name.
func (p *Proxy) Listeners(t testing.TB) map[string]*listenerv3.Listener {
	t.Helper()
	return decoded[listenerv3.Listener](t, p, LDS)
}

// Endpoints are the proxy's endpoint sets by cluster.
func (p *Proxy) Endpoints(t testing.TB) map[string]*endpointv3.ClusterLoadAssignment {
	t.Helper()
	return decoded[endpointv3.ClusterLoadAssignment](t, p, EDS)
}

func decoded[T any, M interface {
	*T
	proto.Message
}](t testing.TB, p *Proxy, short string) map[string]M {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]M{}
	for n, a := range p.has[short] {
		m := M(new(T))
		if err := a.UnmarshalTo(m); err != nil {
			t.Fatalf("decode %s: %v", n, err)
		}
		out[n] = m
	}
	return out
}

// Wait waits until ok holds; what says what was awaited.
func (p *Proxy) Wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(Patience)
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: waited in vain for %s; got %q, ends %v", p.Node, what, p.Responses(), p.Ends())
		}
	}
}

func (p *Proxy) note(f func()) {
	p.mu.Lock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
}

func (p *Proxy) run(ctx context.Context, conn *grpc.ClientConn) {
	for ctx.Err() == nil {
		err := p.live(ctx, conn)
		if ctx.Err() != nil {
			return
		}
		p.note(func() { p.ends = append(p.ends, err) })
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// live is one stream.
func (p *Proxy) live(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := open(ctx, conn, p.Options)
	if err != nil {
		return err
	}
	l := &life{Proxy: p, s: s, asked: map[string][]string{}, open: map[string]bool{}, nonce: map[string]string{}}
	if err := l.follow(); err != nil {
		return err
	}
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		refusal := ""
		p.mu.Lock()
		refuse := p.refuse
		p.mu.Unlock()
		if refuse != nil {
			refusal = refuse(r)
		}
		l.nonce[r.Type] = r.Nonce
		p.note(func() {
			p.responses = append(p.responses, r)
			if refusal == "" {
				p.apply(r)
			}
		})
		if err := l.answer(r, refusal); err != nil {
			return err
		}
		if err := l.follow(); err != nil {
			return err
		}
	}
}

func (p *Proxy) apply(r Response) {
	if !p.Delta && (r.Type == CDS || r.Type == LDS) {
		clear(p.has[r.Type])
	}
	for i, n := range r.Names {
		p.has[r.Type][n] = r.Resources[i]
		p.versions[r.Type][n] = r.Versions[n]
	}
	for _, n := range r.Removed {
		delete(p.has[r.Type], n)
		delete(p.versions[r.Type], n)
	}
	p.version[r.Type] = r.Version
}

// life is what a stream knows.
type life struct {
	*Proxy
	s     *Stream
	asked map[string][]string
	open  map[string]bool
	nonce map[string]string
}

func (l *life) answer(r Response, refusal string) error {
	a := Request{Type: r.Type, Nonce: r.Nonce, Refusal: refusal}
	if !l.Delta {
		a.Names, a.Version = l.asked[r.Type], l.version[r.Type]
	}
	return l.s.Send(a)
}

// follow brings the subscriptions in line with what the proxy has.
func (l *life) follow() error {
	eds, err := l.clustersWithEDS()
	if err != nil {
		return err
	}
	rds, err := l.routesOfListeners()
	if err != nil {
		return err
	}
	if err := l.ask(CDS, nil); err != nil {
		return err
	}
	if err := l.ask(EDS, eds); err != nil {
		return err
	}
	// Envoy asks for listeners when its clusters are warm, or when it has some.
	if _, ok := l.version[CDS]; !ok || !l.warm(eds) {
		return nil
	}
	if err := l.ask(LDS, nil); err != nil {
		return err
	}
	return l.ask(RDS, rds)
}

func (l *life) warm(eds []string) bool {
	return !slices.ContainsFunc(eds, func(n string) bool { return l.has[EDS][n] == nil })
}

func (l *life) ask(short string, names []string) error {
	wild := short == CDS || short == LDS
	old := l.asked[short]
	if (l.open[short] && slices.Equal(old, names)) || (!l.open[short] && !wild && len(names) == 0) {
		return nil
	}
	r := Request{Type: short}
	if l.Delta {
		for _, n := range names {
			if !slices.Contains(old, n) {
				r.Subscribe = append(r.Subscribe, n)
			}
		}
		for _, n := range old {
			if !slices.Contains(names, n) {
				r.Unsubscribe = append(r.Unsubscribe, n)
			}
		}
		if !l.open[short] {
			r.Versions = maps.Clone(l.versions[short])
		}
	} else {
		r.Names, r.Version, r.Nonce = names, l.version[short], l.nonce[short]
	}
	l.note(func() {
		for n := range l.has[short] {
			if !wild && !slices.Contains(names, n) {
				delete(l.has[short], n)
				delete(l.versions[short], n)
			}
		}
	})
	l.asked[short], l.open[short] = names, true
	return l.s.Send(r)
}

func (l *life) clustersWithEDS() ([]string, error) {
	var out []string
	for n, a := range l.has[CDS] {
		c := &clusterv3.Cluster{}
		if err := a.UnmarshalTo(c); err != nil {
			return nil, fmt.Errorf("cluster %s: %w", n, err)
		}
		if c.GetType() == clusterv3.Cluster_EDS {
			name := c.GetEdsClusterConfig().GetServiceName()
			if name == "" {
				name = c.GetName()
			}
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (l *life) routesOfListeners() ([]string, error) {
	var out []string
	for n, a := range l.has[LDS] {
		m := &listenerv3.Listener{}
		if err := a.UnmarshalTo(m); err != nil {
			return nil, fmt.Errorf("listener %s: %w", n, err)
		}
		chains := m.GetFilterChains()
		if d := m.GetDefaultFilterChain(); d != nil {
			chains = append(chains, d)
		}
		for _, c := range chains {
			for _, f := range c.GetFilters() {
				h := &hcmv3.HttpConnectionManager{}
				if f.GetTypedConfig().MessageIs(h) && f.GetTypedConfig().UnmarshalTo(h) == nil && h.GetRds() != nil {
					out = append(out, h.GetRds().GetRouteConfigName())
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
