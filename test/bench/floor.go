//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path"
	"runtime"
	"strconv"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// frames are the encoded answers that one proxy got, by type, and what a change sent it.
type frames struct {
	Answers map[string][]byte
	Push    []byte
}

func (f *frames) String() string {
	size := 0
	for _, a := range f.Answers {
		size += len(a)
	}
	text := fmt.Sprintf("%.1f KiB of configuration for each", float64(size)/1024)
	if len(f.Push) > 0 {
		text += fmt.Sprintf(", %.1f KiB for a change", float64(len(f.Push))/1024)
	}
	return text
}

const (
	typeCluster   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	typeEndpoints = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	typeListener  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	typeRoute     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	typeSecret    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// capture connects as a proxy that the narrow service concerns and keeps what it is sent, and what a change sends it.
func capture(ctx context.Context, c *stage.Control) (*frames, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, stream, err := connectAs(ctx, c, nodePrefix+"0", proxyNames())
	if err != nil {
		return nil, err
	}
	if err := c.Evermesh.Call(ctx, "UpdateRoute", route(meshName, narrow, nodePrefix+"0", nodePrefix+"1", 100), nil); err != nil {
		return nil, err
	}
	got, err := next(stream, typeRoute)
	if err != nil {
		return nil, err
	}
	out.Push, err = encoded(got)
	return out, err
}

func encoded(answer *discovery.DeltaDiscoveryResponse) ([]byte, error) { return proto.Marshal(answer) }

// proxyNames are the resources that a proxy asks for by name, by type.
func proxyNames() map[string][]string {
	certificate := envoy.SecretName{Kind: envoy.FileCertificate, Path: certificates + ".pem", Key: certificates + ".key"}
	trust := envoy.SecretName{Kind: envoy.FileTrust, Path: path.Dir(certificates) + "/ca.pem"}
	return map[string][]string{
		typeSecret: {certificate.String(), trust.String()},
		typeRoute:  {fmt.Sprintf("rds_egress_http_%d", port), fmt.Sprintf("rds_ingress_http_%d", port), fmt.Sprintf("rds_ingress_grpc_%d", port+1)},
	}
}

// captureNode connects as a proxy of a node without a listener and keeps what it is sent.
func captureNode(ctx context.Context, c *stage.Control, node string) (*frames, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, _, err := connectAs(ctx, c, node, map[string][]string{typeRoute: {fmt.Sprintf("rds_egress_http_%d", port)}})
	return out, err
}

// deltaStream is a proxy's stream.
type deltaStream = discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

// connectAs connects as a proxy of the node and takes its whole configuration: all clusters and listeners, and of other
// types what is named. The stream ends with ctx.
func connectAs(ctx context.Context, c *stage.Control, node string, named map[string][]string) (*frames, deltaStream, error) {
	conn, err := grpc.NewClient("passthrough:///"+c.XDSAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() }) // nothing is lost
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return nil, nil, err
	}
	out := &frames{Answers: map[string][]byte{}}
	for _, url := range []string{typeCluster, typeEndpoints, typeSecret, typeListener, typeRoute} {
		if url != typeCluster && url != typeListener && len(named[url]) == 0 {
			continue
		}
		if err := stream.Send(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: "mesh/" + meshName + "/virtualNode/" + node}, TypeUrl: url, ResourceNamesSubscribe: named[url]}); err != nil {
			return nil, nil, err
		}
		all := &discovery.DeltaDiscoveryResponse{TypeUrl: url, Nonce: "1"}
		for len(all.Resources) < max(1, len(named[url])) {
			got, err := next(stream, url)
			if err != nil {
				return nil, nil, err
			}
			all.Resources = append(all.Resources, got.Resources...)
		}
		if out.Answers[url], err = encoded(all); err != nil {
			return nil, nil, err
		}
	}
	return out, stream, nil
}

// next is the next answer of the type; answers are acknowledged as they come.
func next(stream deltaStream, url string) (*discovery.DeltaDiscoveryResponse, error) {
	for {
		got, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: got.TypeUrl, ResponseNonce: got.Nonce}); err != nil {
			return nil, err
		}
		if got.TypeUrl == url {
			return got, nil
		}
	}
}

// floorOf is a running floor of the management service.
type floorOf struct {
	*ground.Process
	what      string // "floor" or "cache"
	addr, url string
}

// floorConfig is what the floor's process is told.
type floorConfig struct {
	Listen, Control string
	Frames          string // file
	Nodes           int    // of the mesh
}

// floorUp starts a sender of the frames: "floor" is the floor, "cache" the comparison.
func (r *rig) floorUp(ctx context.Context, what string, f *frames, nodes int) (*floorOf, error) {
	ports, err := r.ports(2)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	c := floorConfig{
		Listen: fmt.Sprintf("127.0.0.1:%d", ports[0]), Control: fmt.Sprintf("127.0.0.1:%d", ports[1]),
		Frames: r.Dir() + "/" + r.name("frames"), Nodes: nodes,
	}
	if err := os.WriteFile(c.Frames, text, 0o600); err != nil {
		return nil, err
	}
	out := &floorOf{what: what, addr: c.Listen, url: "http://" + c.Control}
	if out.Process, err = r.part(what, c); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return out, stage.Until(ctx, what+" listens", func(ctx context.Context) bool {
		return call(ctx, http.MethodGet, out.url+"/", nil, nil) == nil
	})
}

// floor is a bare sender: it answers each type of a stream once, with bytes of the stream's own, and pushes when it is
// told to.
type floor struct {
	frames frames

	mu      sync.Mutex
	streams []*floorStream
}

type floorStream struct {
	stream  grpc.ServerStream
	answers map[string][]byte
	push    []byte
	sending sync.Mutex
}

func playFloor(config string) error {
	var c floorConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	text, err := os.ReadFile(c.Frames)
	if err != nil {
		return err
	}
	f := &floor{}
	if err := json.Unmarshal(text, &f.frames); err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}), grpc.UnknownServiceHandler(f.serve),
		grpc.WriteBufferSize(0), grpc.ReadBufferSize(0))
	go func() { _ = server.Serve(l) }() // ends with the process
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) })
	mux.HandleFunc("POST /push", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err == nil {
			err = f.pushTo(n)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return http.ListenAndServe(c.Control, mux)
}

func (f *floor) serve(_ any, stream grpc.ServerStream) error {
	s := &floorStream{stream: stream, answers: map[string][]byte{}, push: bytes.Clone(f.frames.Push)}
	for url, answer := range f.frames.Answers {
		s.answers[url] = bytes.Clone(answer)
	}
	f.mu.Lock()
	f.streams = append(f.streams, s)
	f.mu.Unlock()
	answered := map[string]bool{}
	for {
		var request []byte
		if err := stream.RecvMsg(&request); err != nil {
			return nil // the load generator has ended
		}
		url, acknowledges := skim(request)
		if acknowledges || answered[url] || s.answers[url] == nil {
			continue
		}
		answered[url] = true
		if err := s.send(s.answers[url]); err != nil {
			return err
		}
	}
}

func (s *floorStream) send(frame []byte) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.stream.SendMsg(frame)
}

// pushTo sends the change to the first n streams.
func (f *floor) pushTo(n int) error {
	f.mu.Lock()
	streams := f.streams[:min(n, len(f.streams))]
	f.mu.Unlock()
	if len(streams) < n {
		return fmt.Errorf("only %d streams are open", len(streams))
	}
	workers := runtime.GOMAXPROCS(0)
	errs := make([]error, workers)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := w; i < n; i += workers {
				if err := streams[i].send(streams[i].push); err != nil {
					errs[w] = err
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// skim finds a request's type and whether it acknowledges an answer: fields 2 and 6 of a DeltaDiscoveryRequest.
func skim(request []byte) (url string, acknowledges bool) {
	for len(request) > 0 {
		number, kind, n := protowire.ConsumeTag(request)
		if n < 0 {
			return url, acknowledges
		}
		request = request[n:]
		if n = protowire.ConsumeFieldValue(number, kind, request); n < 0 {
			return url, acknowledges
		}
		if value, _ := protowire.ConsumeBytes(request); kind == protowire.BytesType {
			switch number {
			case 2:
				url = string(value)
			case 6:
				acknowledges = len(value) > 0
			}
		}
		request = request[n:]
	}
	return url, acknowledges
}

// bytesCodec passes messages on as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("cannot marshal %T", v)
	}
	return b, nil
}

func (bytesCodec) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("cannot unmarshal into %T", v)
	}
	*b = bytes.Clone(data)
	return nil
}
