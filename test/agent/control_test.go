//go:build linux

package agent

import (
	"context"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"

// words is a mesh of one node, whose only listener answers with a word: it tells which configuration Envoy has.
type words struct {
	port int

	mu       sync.Mutex
	word     string
	changed  chan struct{} // closed when something is to be sent, and made anew
	garbage  *discoveryv3.DeltaDiscoveryResponse
	rejected int
	silent   bool
	end      map[int]context.CancelFunc // of each open stream
	streams  int
}

func newWords(port int, word string) *words {
	return &words{port: port, word: word, changed: make(chan struct{}), end: map[int]context.CancelFunc{}}
}

// change changes what is served, and has all streams look at it.
func (w *words) change(how func(w *words)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	how(w)
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *words) say(word string) { w.change(func(w *words) { w.word = word }) }

func (w *words) silence(silent bool) { w.change(func(w *words) { w.silent = silent }) }

// send has that sent to every stream.
func (w *words) send(garbage *discoveryv3.DeltaDiscoveryResponse) {
	w.change(func(w *words) { w.garbage = garbage })
}

// endStreams breaks what is open.
func (w *words) endStreams() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, end := range w.end {
		end()
	}
}

func (w *words) opened() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.streams
}

func (w *words) refusals() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rejected
}

// serve is the handler of delta streams.
func (w *words) serve(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ctx, end := context.WithCancel(s.Context())
	defer end()
	w.mu.Lock()
	n := w.streams
	w.streams++
	w.end[n] = end
	w.mu.Unlock()
	defer func() { w.mu.Lock(); delete(w.end, n); w.mu.Unlock() }()
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	go func() {
		defer close(requests)
		for {
			r, err := s.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	asked := map[string]bool{} // types that were asked for and not answered yet
	has, wanted := "", false
	var sent *discoveryv3.DeltaDiscoveryResponse // the last garbage
	for {
		w.mu.Lock()
		changed, word, silent, garbage := w.changed, w.word, w.silent, w.garbage
		w.mu.Unlock()
		if garbage != nil && garbage != sent && wanted {
			sent = garbage
			if err := s.Send(garbage); err != nil {
				return err
			}
		}
		for typ := range asked {
			if silent {
				break
			}
			if typ == listenerType && word != has {
				break
			}
			delete(asked, typ)
			if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: typ, Nonce: "none"}); err != nil {
				return err
			}
		}
		if wanted && !silent && word != has && garbage == nil {
			has = word
			delete(asked, listenerType)
			l, err := w.listener(word)
			if err != nil {
				return err
			}
			if err := s.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: listenerType, Nonce: word, Resources: []*discoveryv3.Resource{l}}); err != nil {
				return err
			}
		}
		select {
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			if r.ErrorDetail != nil {
				w.mu.Lock()
				w.rejected++
				w.mu.Unlock()
			}
			if r.ResponseNonce != "" {
				continue
			}
			if r.TypeUrl == listenerType {
				has, wanted = r.InitialResourceVersions["word"], true
				if has != "" && has == word {
					continue // it has it all: there is nothing to say
				}
			}
			asked[r.TypeUrl] = true
		case <-changed:
		case <-ctx.Done():
			return status.Error(codes.Unavailable, "goes away")
		}
	}
}

func typed(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		return nil // never: all of them are registered
	}
	return a
}

func (w *words) listener(word string) (*discoveryv3.Resource, error) {
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: "word",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
					Status: 200, Body: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: word}},
				}},
			}}}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: typed(&routerv3.Router{})}}},
	}
	l, err := anypb.New(&listenerv3.Listener{
		Name: "word",
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(w.port)},
		}}},
		TrafficDirection: corev3.TrafficDirection_INBOUND,
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: typed(manager)},
		}}}},
	})
	return &discoveryv3.Resource{Name: "word", Version: word, Resource: l}, err
}
