// Package relay stands between Envoy and the control plane. Envoy speaks plain HTTP/2 to the relay's unix socket, and for
// each of its streams the relay opens one to an endpoint of the control plane, over TLS and signed.
//
// Read it in this order: relay.go passes messages on; upstream.go chooses endpoints and addresses, with fail-over and
// back-off; dial.go makes connections; sign.go, credentials.go and proof.go say who the agent is.
package relay

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/agent/socket"
)

const (
	adsService      = "envoy.service.discovery.v3.AggregatedDiscoveryService"
	stateOfTheWorld = "StreamAggregatedResources"
	delta           = "DeltaAggregatedResources"
)

// Relay serves ADS on a unix socket and answers each stream with one to the control plane: the same method, the
// messages unread, the same end. A living stream is never moved; when it ends Envoy opens the next one, which finds
// another endpoint if there is one. While no endpoint answers Envoy's stream stays open and waits.
type Relay struct {
	upstreams *upstreams
	server    *grpc.Server
	listener  net.Listener
	log       *slog.Logger
	wg        sync.WaitGroup // the serving goroutine, and one for each stream

	mu    sync.Mutex
	live  int       // streams on which the control plane has spoken
	since time.Time // of the last change between none and some
}

// newRelay listens on path, where a socket without an owner is taken over.
func newRelay(path string, u *upstreams, log *slog.Logger) (*Relay, error) {
	l, err := socket.Listen(path)
	if err != nil {
		return nil, err
	}
	r := &Relay{upstreams: u, listener: l, log: log, since: time.Now()}
	r.server = grpc.NewServer(
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.WaitForHandlers(true),
		// Envoy pings every 10 s, with and without streams.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	desc := grpc.ServiceDesc{ServiceName: adsService, HandlerType: (*any)(nil)}
	for _, name := range []string{stateOfTheWorld, delta} {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName: name, ClientStreams: true, ServerStreams: true,
			Handler: func(_ any, down grpc.ServerStream) error { return r.relay("/"+adsService+"/"+name, down) },
		})
	}
	r.server.RegisterService(&desc, r)
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

// Close ends all streams and waits for them.
func (r *Relay) Close() {
	r.server.Stop()
	r.wg.Wait()
}

// relay is one stream of Envoy, from its first to its last message.
func (r *Relay) relay(method string, down grpc.ServerStream) error {
	up, err := r.upstreams.open(down.Context(), method)
	if _, ok := errors.AsType[*noAnswer](err); ok {
		return status.Error(codes.Unavailable, err.Error())
	} else if err != nil {
		return status.FromContextError(err).Err()
	}
	defer up.close()
	// It ends with the stream: after this function returns nothing can be received from Envoy any more.
	r.wg.Go(func() { ascend(down, up) })
	spoke, err := r.descend(down, up)
	switch {
	case down.Context().Err() != nil: // Envoy left
	case err != nil || !spoke:
		r.upstreams.ended(down.Context(), up, spoke, err)
	}
	if spoke {
		r.count(-1)
	}
	level := slog.LevelInfo
	if err != nil && !spoke && down.Context().Err() == nil {
		level = slog.LevelWarn // refused: why is what a person looks for
	}
	r.log.Log(down.Context(), level, "management server stream ended", "endpoint", up.endpoint.String(), "code", status.Code(err).String(), "err", err)
	return err
}

// ascend passes Envoy's messages on. Why the control plane takes no more is learned by receiving from it.
func ascend(down grpc.ServerStream, up *upstream) {
	for {
		f := &frame{}
		if err := down.RecvMsg(f); err != nil {
			if errors.Is(err, io.EOF) {
				_ = up.CloseSend()
			}
			return
		}
		if up.SendMsg(f) != nil {
			return
		}
	}
}

// descend passes the control plane's messages on until its stream ends, and returns that end: nil for status 0.
// spoke says that there was a message.
func (r *Relay) descend(down grpc.ServerStream, up *upstream) (spoke bool, err error) {
	for {
		f := &frame{}
		err := up.RecvMsg(f)
		switch {
		case errors.Is(err, io.EOF):
			return spoke, nil
		case err != nil:
			return spoke, err
		}
		if !spoke {
			spoke = true
			r.count(1)
			r.upstreams.served(up.address)
			r.upstreams.reports.served(up.endpoint, time.Now())
			r.log.Info("management server connected", "endpoint", up.endpoint.String(), "address", up.address)
		}
		if err := down.SendMsg(f); err != nil {
			return spoke, status.Error(codes.Canceled, "Envoy's stream is gone")
		}
	}
}

// Start checks what can be checked without the control plane, and listens on s.SocketPath. version is the program's, for
// the user agent. What is wrong with a setting is a *settings.ConfigError.
func Start(ctx context.Context, s settings.Settings, version string, log *slog.Logger) (*Relay, error) {
	if s.CAFile != "" {
		if _, err := readRoots(s.CAFile); err != nil {
			return nil, settings.Wrong("APPMESH_XDS_CA_FILE", "%v", err)
		}
	}
	if _, err := certificates(s.Proof); err != nil {
		return nil, settings.Wrong("APPMESH_XDS_CLIENT_CERT_FILE", "%v", err)
	}
	u, err := newUpstreams(ctx, s, "evermesh-agent/"+version, log)
	if err != nil {
		return nil, err
	}
	relay, err := newRelay(s.SocketPath, u, log)
	if err != nil {
		return nil, settings.Wrong("APPNET_RELAY_LISTENER_UDS_PATH", "%v", err)
	}
	return relay, nil
}

// newUpstreams prepares the way to the control plane; nothing is connected yet.
func newUpstreams(ctx context.Context, s settings.Settings, userAgent string, log *slog.Logger) (*upstreams, error) {
	dialer := newDialer(s.Mark)
	signer := newSigner(newChain(dialer), s.Region, s.SigningName, log)
	signer.proof = s.Proof
	return &upstreams{
		endpoints: s.Endpoints, caFile: s.CAFile, userAgent: userAgent, dialer: dialer,
		signer: signer, log: log, node: s.Resource.ID, reports: newReports(), capture: newCapture(), faulty: map[string]fault{}, behind: map[settings.Endpoint]time.Time{},
	}, nil
}
