package relay

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// The back-off per address: doubled from the first to the last, of which a random half to whole is waited.
const (
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 10 * time.Second
	// behindFor is how long an endpoint that failed comes after those that did not: one that swallows packets costs
	// connectWait each time that it is tried before the one that serves. It is less than a stream's life, so that a
	// replica that has come back gets its share of streams again.
	behindFor = 10 * time.Minute
)

// upstreams opens streams to the control plane: endpoints and their addresses in a random order, but those that failed
// after the others, the next one after a failure, and each failed one left alone for a while.
type upstreams struct {
	endpoints []settings.Endpoint
	caFile    string
	userAgent string
	dialer    *net.Dialer
	signer    *signer
	log       *slog.Logger
	node      string // whose configuration is asked for
	reports   *reports
	capture   capture
	pingWait  time.Duration
	readyFor  time.Duration
	bounds    settings.RelayBounds

	mu     sync.Mutex
	faulty map[string]fault                // by address
	behind map[settings.Endpoint]time.Time // until when an endpoint whose addresses all failed comes after the others
	heads  map[settings.Endpoint]bool      // whether an endpoint has ever said by a stream's head that it serves
	ready  *ready                          // nil, or what waits for the first stream
}

// fault is what an address did last, when that was a failure.
type fault struct {
	count  int
	until  time.Time // not tried before
	reason string    // of the last one, in plain words
}

// noAnswer says that no address of any endpoint took a stream.
type noAnswer struct {
	reasons []string  // one for each address: what it did last
	next    time.Time // when it is of use to try again
	tried   []attempt // those that failed just now
}

// attempt is one that failed.
type attempt struct {
	endpoint settings.Endpoint
	failure  *Failure
}

// of is why the address has just failed; nil when it was not tried.
func (e *noAnswer) of(endpoint settings.Endpoint, address string) *Failure {
	for _, a := range e.tried {
		if a.endpoint == endpoint && a.failure.Address == address {
			return a.failure
		}
	}
	return nil
}

// Error is one line.
func (e *noAnswer) Error() string {
	return "no control plane takes a stream: " + strings.Join(e.reasons, "; ")
}

// upstream is one open stream.
type upstream struct {
	grpc.ClientStream
	endpoint settings.Endpoint
	address  string
	cancel   context.CancelFunc
	conn     *grpc.ClientConn
}

func (u *upstream) close() {
	u.cancel()
	_ = u.conn.Close()
}

// open opens a stream to the first address that takes one. Each that is not to be left alone is tried once; when none
// takes it the error is a *noAnswer. When ctx ends it is ctx's.
func (u *upstreams) open(ctx context.Context, method string) (*upstream, error) {
	none := &noAnswer{next: time.Now().Add(lastBackoff)}
	order := u.order()
	if r := u.prepared(); r != nil {
		up, failure := u.openOn(ctx, r, method)
		if failure == nil {
			return up, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		u.failed(r.address, failure.what())
		none.tried = append(none.tried, attempt{r.endpoint, failure})
		// Its turn was now: where it has no other address it comes after the others from here on.
		i := slices.Index(order, r.endpoint)
		order = slices.Insert(slices.Delete(order, i, i+1), 0, r.endpoint)
	}
	for _, e := range order {
		up := u.tryEndpoint(ctx, e, method, none)
		if up != nil || ctx.Err() != nil {
			for _, a := range none.tried {
				u.tell(ctx, a.endpoint, a.failure, false)
			}
			if up != nil {
				return up, nil
			}
			return nil, ctx.Err()
		}
	}
	for _, a := range none.tried {
		u.tell(ctx, a.endpoint, a.failure, true)
	}
	return nil, none
}

// order is the endpoints in a random order, those that failed not long ago after the others.
func (u *upstreams) order() []settings.Endpoint {
	var out []settings.Endpoint
	for _, i := range rand.Perm(len(u.endpoints)) {
		out = append(out, u.endpoints[i])
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	rank := func(e settings.Endpoint) int {
		if time.Now().Before(u.behind[e]) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b settings.Endpoint) int { return rank(a) - rank(b) })
	return out
}

// tryEndpoint tries the addresses of e that are not to be left alone; without success it notes in none why, and when to
// try again.
func (u *upstreams) tryEndpoint(ctx context.Context, e settings.Endpoint, method string, none *noAnswer) *upstream {
	addresses := []string{e.Address}
	var unknown *Failure // why the name has no address
	if time.Now().After(u.fault(e.Address).until) {
		addresses, unknown = u.addresses(ctx, e)
	}
	for _, address := range addresses {
		f := u.fault(address)
		if tried := none.of(e, address); tried != nil { // once, even if this took longer than it is left alone
			f.reason = tried.what()
		} else if time.Now().After(f.until) {
			up, failure := (*upstream)(nil), unknown
			if unknown == nil {
				up, failure = u.tryAddress(ctx, e, address, method)
			}
			if failure == nil {
				u.putBehind(e, time.Time{})
				return up
			}
			if ctx.Err() != nil {
				return nil
			}
			f = u.failed(address, failure.what())
			none.tried = append(none.tried, attempt{e, failure})
		}
		place := e.String()
		if address != e.Address {
			place += " at " + address
		}
		none.reasons = append(none.reasons, place+": "+f.reason)
		if f.until.Before(none.next) {
			none.next = f.until
		}
	}
	u.putBehind(e, time.Now().Add(behindFor))
	return nil
}

// tell says why an address cannot be used: when that is news or was not said for a while, so that people see it;
// else for those who look closely. Where no address served, interception may be why.
func (u *upstreams) tell(ctx context.Context, e settings.Endpoint, f *Failure, alone bool) {
	level := slog.LevelDebug
	if u.reports.failed(e, f, time.Now()) {
		level = slog.LevelWarn
		if alone && f.suspect != "" {
			f = u.suspect(ctx, e, f)
		}
	}
	u.log.Log(ctx, level, "control plane does not answer", "endpoint", f.Endpoint, "address", f.Address, "step", string(f.Step),
		"err", f.Reason, "tried", f.Tried, "do", f.Do)
}

// ended notes the end of a stream that broke, or that its control plane never served: err is what Envoy is told, nil for
// status 0. A stream that breaks is nothing to warn of: why the next one fails is, if it does.
func (u *upstreams) ended(ctx context.Context, up *upstream, spoke bool, err error) {
	again := false
	if s := status.Convert(err); s.Code() == codes.Unauthenticated {
		again = u.signer.refused(up.endpoint, s.Message())
	}
	failure := u.refusal(up, err)
	if !again {
		u.failed(up.address, failure.what())
	}
	if !spoke {
		u.tell(ctx, up.endpoint, failure, false)
	}
}

// putBehind notes until when the endpoint comes after the others; zero is not at all.
func (u *upstreams) putBehind(e settings.Endpoint, until time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.behind[e] = until
}

// addresses are those of e, in a random order; those without failure come first. When the name cannot be resolved it is
// its own address, and the failure says why.
func (u *upstreams) addresses(ctx context.Context, e settings.Endpoint) ([]string, *Failure) {
	host, port, err := net.SplitHostPort(e.Address)
	if e.Network == "unix" || err != nil || net.ParseIP(host) != nil {
		return []string{e.Address}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	resolver := u.dialer.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	found, err := resolver.LookupHost(ctx, host)
	if err != nil {
		f := &Failure{Endpoint: e.String(), Address: e.Address, Step: StepDNS, Reason: reason([]byte(err.Error()))}
		u.adviseDNS(e, f)
		return []string{e.Address}, f
	}
	var out []string
	for _, i := range rand.Perm(len(found)) {
		out = append(out, net.JoinHostPort(found[i], port))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	slices.SortStableFunc(out, func(a, b string) int { return u.faulty[a].count - u.faulty[b].count })
	return out, nil
}

func (u *upstreams) tryAddress(ctx context.Context, e settings.Endpoint, address, method string) (*upstream, *Failure) {
	t := &trail{}
	conn, err := u.connect(e, address, t)
	if err != nil {
		return nil, &Failure{
			Endpoint: e.String(), Address: address, Step: StepTLS, Reason: reason([]byte(err.Error())),
			Do: "put a readable file in PEM form there",
		}
	}
	return u.openOn(ctx, &ready{e, address, conn, t, time.Now()}, method)
}

// openOn opens a stream on a connection that has none, and that is closed when it takes none.
func (u *upstreams) openOn(ctx context.Context, r *ready, method string) (*upstream, *Failure) {
	e, address := r.endpoint, r.address
	md, err := u.signer.sign(ctx, e, method)
	if err != nil {
		_ = r.conn.Close() // it has no stream
		return nil, &Failure{
			Endpoint: e.String(), Address: address, Step: StepCredentials, Reason: reason([]byte(err.Error())),
			Tried: u.signer.words(), Do: "have the source of the credentials answer",
		}
	}
	within, cancel := context.WithCancelCause(metadata.NewOutgoingContext(ctx, md))
	up := &upstream{endpoint: e, address: address, conn: r.conn, cancel: func() { cancel(nil) }}
	late := time.AfterFunc(connectWait, func() { cancel(errLate) })
	up.ClientStream, err = r.conn.NewStream(within, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if !late.Stop() && err == nil {
		err = errLate
	}
	if err != nil {
		if time.Since(r.began) >= connectWait { // gRPC's own limit is the same, and has other words
			err = errLate
		}
		up.close()
		return nil, u.explain(e, address, r.trail, err)
	}
	return up, nil
}

var errLate = fmt.Errorf("no connection within %s", connectWait)

func (u *upstreams) fault(address string) fault {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.faulty[address]
}

// failed notes a failure and its reason: the address is left alone for a while.
func (u *upstreams) failed(address, reason string) fault {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	// Addresses come and go with the name's resolution: forget those that were long not tried.
	for a, f := range u.faulty {
		if now.Sub(f.until) > 10*lastBackoff {
			delete(u.faulty, a)
		}
	}
	f := u.faulty[address]
	wait := min(firstBackoff<<min(f.count, 10), lastBackoff)
	f.count++
	f.until, f.reason = now.Add(wait/2+rand.N(wait/2+1)), reason
	u.faulty[address] = f
	return f
}

func (u *upstreams) served(address string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.faulty, address)
}
