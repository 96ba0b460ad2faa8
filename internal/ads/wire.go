package ads

import (
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

const (
	// maxNames bounds the resources that a proxy may name in one type, and
	// maxName the length of each: what a stream costs is bounded.
	maxNames = 10_000
	maxName  = 1024
	// maxReason bounds the text of a refusal (D8).
	maxReason = 1024
	// maxRequest bounds a request.
	maxRequest = 4 << 20
)

// dialect is one of the protocol's two forms on a stream.
type dialect struct {
	name api.Dialect
	recv func() (*corev3.Node, request, error)
	send func(*flight) error
}

func delta(stream grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]) dialect {
	return dialect{
		name: api.DialectDelta,
		recv: func() (*corev3.Node, request, error) {
			in, err := stream.Recv()
			if err != nil {
				return nil, request{}, err
			}
			r := request{
				nonce: in.GetResponseNonce(), subscribe: in.GetResourceNamesSubscribe(),
				unsubscribe: in.GetResourceNamesUnsubscribe(), versions: in.GetInitialResourceVersions(),
			}
			r.refused, r.reason = refusal(in.GetErrorDetail())
			r.typ, err = typeOf(in.GetTypeUrl())
			return in.GetNode(), r, err
		},
		send: func(f *flight) error {
			out := &discoveryv3.DeltaDiscoveryResponse{
				SystemVersionInfo: f.system, TypeUrl: f.typ.URL(), Nonce: f.nonce, RemovedResources: f.removed,
				Resources: make([]*discoveryv3.Resource, len(f.sent)),
			}
			for i, r := range f.sent {
				out.Resources[i] = &discoveryv3.Resource{Name: r.Name, Version: r.Hash, Resource: &anypb.Any{TypeUrl: f.typ.URL(), Value: r.Append(nil)}}
			}
			return stream.Send(out)
		},
	}
}

func stateOfTheWorld(stream grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]) dialect {
	return dialect{
		name: api.DialectStateOfTheWorld,
		recv: func() (*corev3.Node, request, error) {
			in, err := stream.Recv()
			if err != nil {
				return nil, request{}, err
			}
			r := request{nonce: in.GetResponseNonce(), names: in.GetResourceNames(), version: in.GetVersionInfo()}
			r.refused, r.reason = refusal(in.GetErrorDetail())
			r.typ, err = typeOf(in.GetTypeUrl())
			return in.GetNode(), r, err
		},
		send: func(f *flight) error {
			out := &discoveryv3.DiscoveryResponse{
				VersionInfo: f.version, TypeUrl: f.typ.URL(), Nonce: f.nonce, Resources: make([]*anypb.Any, len(f.sent)),
			}
			for i, r := range f.sent {
				out.Resources[i] = &anypb.Any{TypeUrl: f.typ.URL(), Value: r.Append(nil)}
			}
			return stream.Send(out)
		},
	}
}

func refusal(detail *rpcstatus.Status) (bool, string) {
	return detail != nil, detail.GetMessage()
}

// unserved is a type that this server never answers; a proxy may ask for it
// beside the others.
type unserved struct{ url string }

func (e *unserved) Error() string { return fmt.Sprintf("type %q is not served", e.url) }

func typeOf(url string) (envoy.Type, error) {
	t, ok := envoy.TypeOf(url)
	switch {
	case ok:
		return t, nil
	case strings.Contains(url, "/envoy.api.v2."):
		return 0, status.Errorf(codes.InvalidArgument, "%s is of the xDS v2 API, which is not supported: use Envoy 1.17 or newer with v3.", oneLine(url))
	}
	return 0, &unserved{url}
}

// bounded refuses what would cost too much memory; had is how many names of the
// type the stream has already.
func bounded(r request, had int) error {
	if len(r.names) > 0 || len(r.versions) > 0 {
		had = 0
	}
	if n := max(had+len(r.subscribe), len(r.names), len(r.versions), len(r.unsubscribe)); n > maxNames {
		return status.Errorf(codes.ResourceExhausted, "The proxy names %d resources of %s: at most %d are served.", n, r.typ.URL(), maxNames)
	}
	for _, names := range [][]string{r.names, r.subscribe} {
		for _, n := range names {
			if len(n) > maxName {
				return status.Errorf(codes.InvalidArgument, "A resource name has %d bytes: at most %d are served.", len(n), maxName)
			}
		}
	}
	for n, v := range r.versions {
		if len(n) > maxName || len(v) > maxName {
			return status.Errorf(codes.InvalidArgument, "A resource name or version has more than %d bytes.", maxName)
		}
	}
	return nil
}

func shortened(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason]
	}
	return strings.ToValidUTF8(s, "?")
}

// oneLine makes text fit for a gRPC message, which Envoy prints in one line of
// its log (EMS-013).
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, shortened(s))
}
