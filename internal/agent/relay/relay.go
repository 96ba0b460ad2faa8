// Package relay stands between Envoy and the control plane. Envoy speaks plain HTTP/2 to the relay's unix socket, and for
// each of its streams the relay opens one to an endpoint of the control plane, over TLS and signed.
//
// Read it in this order: relay.go serves Envoy; call.go is one of its streams; keep.go has what it acknowledges kept;
// upstream.go chooses endpoints and addresses, with fail-over and back-off, and ready.go has a connection for the first stream; dial.go makes connections; sign.go, clock.go,
// credentials.go and proof.go say who the agent is. Why there is no stream is a Failure (report.go), which explain.go and
// capture.go find out and reports.go remembers; preflight.go tries the way without an Envoy, request.go makes single
// requests on it.
package relay

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/evermesh/evermesh/internal/agent/lastgood"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/agent/socket"
)

const (
	adsService      = "envoy.service.discovery.v3.AggregatedDiscoveryService"
	stateOfTheWorld = "StreamAggregatedResources"
	delta           = "DeltaAggregatedResources"
)

// Relay serves ADS on a unix socket and answers each stream with one to the control plane: the same method, the
// messages untouched, the same end. A living stream is never moved; when it ends Envoy opens the next one, which finds
// another endpoint if there is one. While no endpoint answers Envoy's streams end with UNAVAILABLE and the reason; an
// Envoy without a configuration is given the last good one.
type Relay struct {
	upstreams *upstreams
	server    *grpc.Server
	listener  net.Listener
	kept      *lastgood.Store
	patience  time.Duration // answerWait
	first     time.Duration // firstWait
	lasting   time.Duration // standWait
	log       *slog.Logger
	ctx       context.Context // ends with Close
	stop      context.CancelFunc
	wg        sync.WaitGroup // the serving goroutine, the one that keeps, and those of each stream

	mu    sync.Mutex
	live  int       // streams on which the control plane has spoken, or that stand
	since time.Time // of the last change between none and some
}

// newRelay listens on path, where a socket without an owner is taken over.
func newRelay(path string, u *upstreams, kept *lastgood.Store, log *slog.Logger) (*Relay, error) {
	l, err := socket.Listen(path)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Relay{upstreams: u, listener: l, kept: kept, log: log, patience: answerWait, first: firstWait, lasting: standWait, ctx: ctx, stop: stop, since: time.Now()}
	r.server = grpc.NewServer(append(u.serverWindows(),
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.WaitForHandlers(true),
		// Envoy pings every 10 s, with and without streams.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)...)
	desc := grpc.ServiceDesc{ServiceName: adsService, HandlerType: (*any)(nil)}
	for _, name := range []string{stateOfTheWorld, delta} {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName: name, ClientStreams: true, ServerStreams: true,
			Handler: func(_ any, down grpc.ServerStream) error { return r.relay("/"+adsService+"/"+name, down) },
		})
	}
	r.server.RegisterService(&desc, r)
	r.wg.Go(func() { kept.Run(ctx) })
	r.wg.Go(func() {
		if err := r.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			log.Error("relay stopped", "err", err)
		}
	})
	return r, nil
}

// Connected says whether the control plane serves a stream, and since when that is so.
func (r *Relay) Connected() (connected bool, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live > 0, r.since
}

func (r *Relay) count(by int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.live > 0
	r.live += by
	if after := r.live > 0; after != before {
		r.since = time.Now()
	}
}

// Close ends all streams and waits for them, and for what Envoy has to be on disk.
func (r *Relay) Close() {
	r.server.Stop()
	r.stop()
	r.wg.Wait()
}

// LastGood says whether Envoy runs on the last good configuration because the control plane has not answered since it
// started, and how long ago the control plane stood by that.
func (r *Relay) LastGood() (serving bool, age time.Duration) { return r.kept.LastGood() }

// Start checks what can be checked without the control plane, and listens on s.SocketPath. Streams are proven with what
// the search finds, which goes on meanwhile. version is the program's, for the user agent. What is wrong with a setting is a *settings.ConfigError.
func Start(s settings.Settings, found *Search, version string, log *slog.Logger) (*Relay, error) {
	if s.CAFile != "" {
		if _, err := readRoots(s.CAFile); err != nil {
			return nil, settings.Wrong("APPMESH_XDS_CA_FILE", "%v", err)
		}
	}
	if _, err := certificates(s.Proof); err != nil {
		return nil, settings.Wrong("APPMESH_XDS_CLIENT_CERT_FILE", "%v", err)
	}
	u := newUpstreams(s, found, "evermesh-agent/"+version, log)
	kept, err := keeper(s, u, log)
	if err != nil {
		return nil, err
	}
	relay, err := newRelay(s.SocketPath, u, kept, log)
	if err != nil {
		return nil, settings.Wrong("APPNET_RELAY_LISTENER_UDS_PATH", "%v", err)
	}
	return relay, nil
}

// newUpstreams prepares the way to the control plane; nothing is connected yet.
func newUpstreams(s settings.Settings, found *Search, userAgent string, log *slog.Logger) *upstreams {
	found.signer.region = s.Region // the machine's, where nobody named one
	if s.RelayOnly && len(s.RelayBounds.Curves) == 0 {
		s.RelayBounds.Curves = settings.CurvesOf(s.Region)
	}
	return &upstreams{
		endpoints: s.Endpoints, caFile: s.CAFile, userAgent: userAgent, dialer: found.dialer,
		signer: found.signer, log: log, node: s.Resource.ID, reports: newReports(), capture: newCapture(), pingWait: pingWait, readyFor: readyFor,
		faulty: map[string]fault{}, behind: map[settings.Endpoint]time.Time{}, heads: map[settings.Endpoint]bool{},
		bounds: s.RelayBounds,
	}
}
