package relay

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// preflightName is the user agent name of the node in a preflight's request.
const preflightName = "evermesh-agent-preflight"

// clusterType is the first thing that Envoy asks for, and what the control plane answers first.
const clusterType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

// Report is what the relay knows of the way to the control plane, from the streams that it opened and did not open.
func (r *Relay) Report() Report { return r.upstreams.report() }

func (u *upstreams) report() Report {
	return Report{Node: u.node, Proof: u.signer.words(), Endpoints: u.reports.list(u.endpoints), ClockOffset: u.signer.clock.ahead()}
}

// Preflight goes the whole way to the control plane that a stream of Envoy's goes, once for every address of every
// endpoint, and says how far it came: it asks for the node's clusters, since only an answer shows the permission. To
// the control plane that is a proxy of the node which leaves after its first answer. It ends at the latest when ctx
// does; what was not tried by then is not in the report.
func Preflight(ctx context.Context, s settings.Settings, version string, log *slog.Logger) (Report, error) {
	found := Begin(ctx, s, log)
	defer found.Close()
	u := newUpstreams(s, found, "evermesh-agent/"+version, log)
	for _, e := range u.endpoints {
		addresses, unknown := u.addresses(ctx, e)
		if unknown != nil {
			u.tell(ctx, e, unknown, true)
			continue
		}
		for _, address := range addresses {
			if ctx.Err() != nil {
				return u.report(), nil
			}
			u.preflight(ctx, e, address)
		}
	}
	return u.report(), nil
}

// preflight tries one address. A clock that is off is corrected once, as for Envoy.
func (u *upstreams) preflight(ctx context.Context, e settings.Endpoint, address string) {
	for range 2 {
		up, failure := u.tryAddress(ctx, e, address, "/"+adsService+"/"+delta)
		if failure != nil {
			u.tell(ctx, e, failure, true)
			return
		}
		answered, err := u.firstAnswer(ctx, up)
		up.close()
		if answered {
			u.reports.served(e, time.Now())
			return
		}
		if s := status.Convert(err); s.Code() != codes.Unauthenticated || !u.signer.refused(up.endpoint, s.Message()) {
			u.tell(ctx, e, u.refusal(up, err), true)
			return
		}
	}
}

// firstAnswer asks for the node's clusters and waits for an answer, whatever is in it. Without one err is the end of
// the stream, nil for status 0.
func (u *upstreams) firstAnswer(ctx context.Context, up *upstream) (answered bool, err error) {
	ask, err := proto.Marshal(&discoveryv3.DeltaDiscoveryRequest{
		Node:    &corev3.Node{Id: u.node, Cluster: u.node, UserAgentName: preflightName},
		TypeUrl: clusterType, ResourceNamesSubscribe: []string{"*"},
	})
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, connectWait, errSilent)
	defer cancel()
	defer context.AfterFunc(ctx, up.cancel)()
	// Why it takes no more is learned by receiving.
	if err := up.SendMsg(&frame{data: mem.BufferSlice{mem.SliceBuffer(ask)}}); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	switch first, err := up.answered(); {
	case err == nil:
		if first != nil {
			first.data.Free()
		}
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return false, nil
	default:
		return false, err
	}
}

var errSilent = errors.New("no answer to the first request within " + connectWait.String())
