package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/agent/pause"
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

	mu     sync.Mutex
	faulty map[string]fault                // by address
	behind map[settings.Endpoint]time.Time // until when an endpoint whose addresses all failed comes after the others
}

// fault is what an address did last, when that was a failure.
type fault struct {
	count int
	until time.Time // not tried before
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

// open opens a stream to the first address that takes one. It goes on until ctx ends, whose error it returns.
func (u *upstreams) open(ctx context.Context, method string) (*upstream, error) {
	for {
		next := time.Now().Add(lastBackoff)
		for _, e := range u.order() {
			up, at := u.tryEndpoint(ctx, e, method)
			if up != nil {
				return up, nil
			}
			if at.Before(next) {
				next = at
			}
		}
		if err := pause.For(ctx, time.Until(next)); err != nil {
			return nil, err
		}
	}
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

// tryEndpoint tries the addresses of e that are not to be left alone; without success it returns when to try again.
func (u *upstreams) tryEndpoint(ctx context.Context, e settings.Endpoint, method string) (*upstream, time.Time) {
	next := time.Now().Add(lastBackoff)
	for _, address := range u.addresses(ctx, e) {
		until := u.until(address)
		if time.Now().After(until) {
			up, err := u.tryAddress(ctx, e, address, method)
			if err == nil {
				u.putBehind(e, time.Time{})
				return up, time.Time{}
			}
			if ctx.Err() != nil {
				return nil, next
			}
			until = u.failed(address)
			u.log.Warn("management server does not answer", "endpoint", e.String(), "address", address, "err", err)
		}
		if until.Before(next) {
			next = until
		}
	}
	u.putBehind(e, time.Now().Add(behindFor))
	return nil, next
}

// putBehind notes until when the endpoint comes after the others; zero is not at all.
func (u *upstreams) putBehind(e settings.Endpoint, until time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.behind[e] = until
}

// addresses are those of e, in a random order; those without failure come first. When the name cannot be resolved
// it is its own address, and connecting tells why.
func (u *upstreams) addresses(ctx context.Context, e settings.Endpoint) []string {
	host, port, err := net.SplitHostPort(e.Address)
	if e.Network == "unix" || err != nil || net.ParseIP(host) != nil {
		return []string{e.Address}
	}
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	resolver := u.dialer.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	found, err := resolver.LookupHost(ctx, host)
	if err != nil {
		return []string{e.Address}
	}
	var out []string
	for _, i := range rand.Perm(len(found)) {
		out = append(out, net.JoinHostPort(found[i], port))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	slices.SortStableFunc(out, func(a, b string) int { return u.faulty[a].count - u.faulty[b].count })
	return out
}

func (u *upstreams) tryAddress(ctx context.Context, e settings.Endpoint, address, method string) (*upstream, error) {
	md, err := u.signer.sign(ctx, e, method)
	if err != nil {
		return nil, err
	}
	conn, err := connect(u.dialer, e, address, u.caFile, u.signer.proof, u.userAgent)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(metadata.NewOutgoingContext(ctx, md))
	up := &upstream{endpoint: e, address: address, conn: conn, cancel: func() { cancel(nil) }}
	late := time.AfterFunc(connectWait, func() { cancel(errLate) })
	up.ClientStream, err = conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if !late.Stop() && err == nil {
		err = errLate
	}
	if err != nil {
		reason := status.Convert(err).Message()
		if errors.Is(context.Cause(ctx), errLate) {
			reason = errLate.Error()
		}
		up.close()
		return nil, fmt.Errorf("open stream: %s", reason)
	}
	return up, nil
}

var errLate = fmt.Errorf("no connection within %s", connectWait)

func (u *upstreams) until(address string) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.faulty[address].until
}

// failed notes a failure and returns until when the address is left alone.
func (u *upstreams) failed(address string) time.Time {
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
	f.until = now.Add(wait/2 + rand.N(wait/2+1))
	u.faulty[address] = f
	return f.until
}

func (u *upstreams) served(address string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.faulty, address)
}
