//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"strconv"

	routes "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// cacheServer is go-control-plane's snapshot cache with an entry for each node, for comparison: what most control
// planes in Go are made of. It is given the captured resources, decoded once and shared by all nodes, which is kinder
// to it than a mesh would be.
type cacheServer struct {
	cache     cache.SnapshotCache
	resources map[string][]types.Resource
	version   int
}

func playCache(config string) error {
	var c floorConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	text, err := os.ReadFile(c.Frames)
	if err != nil {
		return err
	}
	var f frames
	if err := json.Unmarshal(text, &f); err != nil {
		return err
	}
	s := &cacheServer{cache: cache.NewSnapshotCache(true, cache.IDHash{}, nil), resources: map[string][]types.Resource{}}
	for url, answer := range f.Answers {
		if s.resources[url], err = decode(answer); err != nil {
			return err
		}
	}
	ctx := context.Background()
	if err := s.set(ctx, c.Nodes); err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	grpcServer := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, server.NewServer(ctx, s.cache, nil))
	go func() { _ = grpcServer.Serve(l) }() // ends with the process
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) })
	mux.HandleFunc("POST /push", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Query().Get("n"))
		if err == nil {
			err = s.change(r.Context(), n)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return http.ListenAndServe(c.Control, mux)
}

// decode takes the resources out of a captured answer.
func decode(answer []byte) ([]types.Resource, error) {
	var all discovery.DeltaDiscoveryResponse
	if err := proto.Unmarshal(answer, &all); err != nil {
		return nil, err
	}
	var out []types.Resource
	for _, r := range all.Resources {
		m, err := r.Resource.UnmarshalNew()
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// set gives the first n nodes a snapshot.
func (s *cacheServer) set(ctx context.Context, n int) error {
	s.version++
	for i := range n {
		snapshot, err := cache.NewSnapshot(strconv.Itoa(s.version), s.resources)
		if err != nil {
			return err
		}
		if err := s.cache.SetSnapshot(ctx, fmt.Sprintf("mesh/%s/virtualNode/%s%d", meshName, nodePrefix, i), snapshot); err != nil {
			return err
		}
	}
	return nil
}

// change makes the first route configuration another one and gives it to the first n nodes.
func (s *cacheServer) change(ctx context.Context, n int) error {
	all := s.resources[typeRoute]
	changed, ok := proto.Clone(all[0]).(*routes.RouteConfiguration)
	if !ok {
		return fmt.Errorf("not a route configuration: %T", all[0])
	}
	changed.MaxDirectResponseBodySizeBytes = wrapperspb.UInt32(uint32(s.version))
	s.resources[typeRoute] = append([]types.Resource{changed}, all[1:]...)
	return s.set(ctx, n)
}
