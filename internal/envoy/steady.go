package envoy

import (
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/evermesh/evermesh/internal/api"
)

// steady are parts of messages that are the same wherever they are. A builder
// makes them once; goroutines read them side by side, and nobody writes to them.
type steady struct {
	once sync.Once

	ads       *corev3.ConfigSource
	second    *durationpb.Duration
	unlimited *clusterv3.CircuitBreakers
	http2     map[string]*anypb.Any // protocolOptions
	retry     *routev3.RetryPolicy  // App Mesh's hidden default
	timeout   *durationpb.Duration  // defaultTimeout
}

// steady returns the parts.
func (o *Builder) steady() *steady {
	s := &o.parts
	s.once.Do(func() {
		s.ads, s.second, s.timeout = fromADS(), durationpb.New(time.Second), durationpb.New(defaultTimeout)
		s.unlimited, s.http2 = breakers(limits()), protocolOptions(api.PortProtocolHTTP2)
		s.retry = hiddenRetry()
	})
	return s
}

// protocolOptions are those of the function of that name.
func (s *steady) protocolOptions(p api.PortProtocol) map[string]*anypb.Any {
	if !isHTTP2(p) {
		return nil
	}
	return s.http2
}
