//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/test/stage"
)

// measureRelay asks an evermeshd for one answer again and again, by turns directly and through the relay of an agent that
// has an Envoy beside and keeps the last good configuration on disk: for the routes of a node of the usual size, and of
// a large one.
func measureRelay(ctx context.Context, r *rig) (out []figure, err error) {
	for _, services := range []int{r.scale.backends, max(2, r.scale.agent/bytesPerBackend)} {
		times, size, err := r.timeRelay(ctx, services)
		if err != nil {
			return out, err
		}
		direct, relayed := median(times[0]), median(times[1])
		added := duration(relayed - direct)
		f := figure{
			name: "added by the relay to an answer with routes", ours: ms(added),
			note: fmt.Sprintf("%.1f KiB for %d backends; medians of %d round trips by turns, %s directly and %s through the relay.", float64(size)/1024, services, len(times[0]), ms(duration(direct)), ms(duration(relayed))),
		}
		if len(out) > 0 {
			f.name = "  of a large node"
		}
		out = append(out, f.must("≤ 1 ms", added <= time.Millisecond))
		if err := r.stopAll(); err != nil {
			return out, err
		}
	}
	return out, nil
}

// timeRelay returns how many milliseconds each round trip took, directly and through the relay, and the size of the
// answer in bytes.
func (r *rig) timeRelay(ctx context.Context, services int) (times [2][]float64, size int, err error) {
	c, err := r.control(ctx, "--auth", "off")
	if err != nil {
		return times, 0, err
	}
	if err := makeLarge(ctx, c, services); err != nil {
		return times, 0, err
	}
	ports, err := r.ports(1)
	if err != nil {
		return times, 0, err
	}
	state, err := r.stateDir()
	if err != nil {
		return times, 0, err
	}
	s, err := r.Sidecar(ctx, r.Home(), stage.SidecarOptions{
		Resource: "mesh/" + meshName + "/virtualNode/caller", Alone: true, XDS: []*stage.Control{c}, AdminPort: ports[0],
		Env: []string{"EVERMESH_STATE_DIR=" + state},
	})
	if s != nil && s.Process != nil {
		r.running = append(r.running, s.Process)
	}
	if err != nil {
		return times, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var asks [2]*asking
	for i, target := range []string{"passthrough:///" + c.XDSAddr, "unix://" + filepath.Join(s.Dir, "xds.sock")} {
		if asks[i], err = askAt(ctx, target); err != nil {
			return times, 0, err
		}
	}
	for turn := range r.scale.turns + 1 {
		for i, a := range asks {
			took, answer, err := a.once()
			if err != nil {
				return times, 0, err
			}
			if size = proto.Size(answer); turn > 0 { // the first one opens the way
				times[i] = append(times[i], took.Seconds()*1000)
			}
		}
	}
	return times, size, nil
}

// asking is a proxy's stream that asks for the same again and again.
type asking struct{ stream deltaStream }

// askAt connects as a proxy of the caller, which has clusters and listeners and ends with ctx.
func askAt(ctx context.Context, target string) (*asking, error) {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() }) // nothing is lost
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return nil, err
	}
	for _, url := range []string{typeCluster, typeListener} {
		if err := stream.Send(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "mesh/" + meshName + "/virtualNode/caller"}, TypeUrl: url}); err != nil {
			return nil, err
		}
		if _, err := next(stream, url); err != nil {
			return nil, fmt.Errorf("ask for %s: %w", url, err)
		}
	}
	return &asking{stream}, nil
}

// once asks for the routes, as a proxy does that has lost them, acknowledges the answer, and says how long it took.
func (a *asking) once() (time.Duration, *discovery.DeltaDiscoveryResponse, error) {
	began := time.Now()
	if err := a.stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: typeRoute, ResourceNamesSubscribe: []string{fmt.Sprintf("rds_egress_http_%d", port)}}); err != nil {
		return 0, nil, err
	}
	answer, err := next(a.stream, typeRoute)
	took := time.Since(began)
	if err == nil && len(answer.GetResources()) != 1 {
		err = fmt.Errorf("got %d resources", len(answer.GetResources()))
	}
	if err != nil {
		return 0, nil, fmt.Errorf("ask for routes: %w", err)
	}
	return took, answer, nil
}
