package simulate

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/evermesh/evermesh/internal/envoy"
)

// Kind is how endpoints are found.
type Kind string

// Kinds.
const (
	Nothing  Kind = "nothing"  // there are no endpoints, and none will be found
	Fixed    Kind = "fixed"    // at addresses of the configuration
	OneName  Kind = "name"     // by DNS; connections go to one address at a time
	AllNames Kind = "names"    // by DNS; every address is an endpoint
	Queried  Kind = "query"    // from a source of endpoints
	Original Kind = "original" // wherever the connection was going
)

// Discovery is where a target's endpoints are.
type Discovery struct {
	Kind Kind
	// Addresses are host:port, sorted: to be resolved by DNS, fixed, what the
	// connection was going to, or what a query has found.
	Addresses []string
	Query     envoy.EndpointQuery // of Queried
	Family    string              // of DNS: which addresses are asked for
}

// Target is a cluster that a request may go to. One that is missing or without
// endpoints answers its share with 503, or closes it by TCP.
type Target struct {
	Cluster string
	Missing bool // there is no such cluster
	Weight  uint32
	Share   float64 // of the requests, from 0 to 1
	HTTP2   bool    // HTTP is spoken to it as HTTP/2
	Discovery
	ConnectTimeout time.Duration
	Limits         Limits
	Outlier        *Outlier // nil: endpoints are never ejected
	Checks         []Check
	TLS            *TLS // nil: plaintext, or whatever the connection carries
}

// Limits are circuit breakers; 0 is no limit.
type Limits struct{ Connections, Pending, Requests, Retries uint32 }

// Outlier says when an endpoint is left alone.
type Outlier struct {
	Errors, MaxPercent uint32 // consecutive ones; of the endpoints
	Interval, Ejection time.Duration
}

// Check is a health check.
type Check struct {
	Protocol           string // http, http2, grpc or tcp
	Host, Path         string
	Port               uint32 // 0: that of the endpoint
	Interval, Timeout  time.Duration
	Healthy, Unhealthy uint32
	ALPN               []string // offered instead of the target's
}

func (t *Target) protocol(of Protocol) Protocol {
	switch {
	case !t.HTTP2:
		return HTTP1
	case of == GRPC:
		return GRPC
	}
	return HTTP2
}

// targets are those of a route.
func (p *Proxy) targets(a *routev3.RouteAction, to netip.AddrPort) []Target {
	if many := a.GetWeightedClusters(); many != nil {
		var out []Target
		for _, w := range many.GetClusters() {
			out = append(out, p.target(w.GetName(), w.GetWeight().GetValue(), to))
		}
		return shared(out)
	}
	return shared([]Target{p.target(a.GetCluster(), 1, to)})
}

func (p *Proxy) tcpTargets(m *tcpv3.TcpProxy, to netip.AddrPort) []Target {
	if many := m.GetWeightedClusters(); many != nil {
		var out []Target
		for _, w := range many.GetClusters() {
			out = append(out, p.target(w.GetName(), w.GetWeight(), to))
		}
		return shared(out)
	}
	return shared([]Target{p.target(m.GetCluster(), 1, to)})
}

// shared works out shares.
func shared(all []Target) []Target {
	total := uint64(0)
	for _, t := range all {
		total += uint64(t.Weight)
	}
	for i := range all {
		if total > 0 {
			all[i].Share = float64(all[i].Weight) / float64(total)
		}
	}
	return all
}

func (p *Proxy) target(name string, weight uint32, to netip.AddrPort) Target {
	c := p.clusters[name]
	if c == nil {
		return Target{Cluster: name, Missing: true, Weight: weight, Discovery: Discovery{Kind: Nothing}}
	}
	out := Target{
		Cluster: name, Weight: weight, Discovery: p.discovery(c, to), HTTP2: speaksHTTP2(c),
		ConnectTimeout: 5 * time.Second, Limits: limits(c), Outlier: outlier(c.GetOutlierDetection()),
		TLS: p.tls[name],
	}
	if d := c.GetConnectTimeout(); d != nil {
		out.ConnectTimeout = d.AsDuration()
	}
	for _, h := range c.GetHealthChecks() {
		x := check(h)
		x.Port = cmp.Or(p.checkPort(c), x.Port)
		out.Checks = append(out.Checks, x)
	}
	return out
}

func (p *Proxy) discovery(c *clusterv3.Cluster, to netip.AddrPort) Discovery {
	out := Discovery{Addresses: addresses(c.GetLoadAssignment())}
	switch c.GetType() {
	case clusterv3.Cluster_STRICT_DNS, clusterv3.Cluster_LOGICAL_DNS:
		out.Kind = AllNames
		if c.GetType() == clusterv3.Cluster_LOGICAL_DNS {
			out.Kind = OneName
		}
		out.Family = map[clusterv3.Cluster_DnsLookupFamily]string{
			clusterv3.Cluster_AUTO: "IPv6, else IPv4", clusterv3.Cluster_V4_PREFERRED: "IPv4, else IPv6",
			clusterv3.Cluster_V4_ONLY: "IPv4", clusterv3.Cluster_V6_ONLY: "IPv6",
		}[c.GetDnsLookupFamily()]
	case clusterv3.Cluster_EDS:
		out.Kind, out.Query, out.Addresses = Queried, p.queries[c.GetName()], addresses(p.endpoints[c.GetName()])
	case clusterv3.Cluster_ORIGINAL_DST:
		out.Kind, out.Addresses = Original, []string{to.String()}
	default:
		if out.Kind = Fixed; len(out.Addresses) == 0 {
			out.Kind = Nothing
		}
	}
	return out
}

// checkPort is the port on which endpoints are checked, where they say one of
// their own; 0 where they do not. It comes before that of the check itself.
func (p *Proxy) checkPort(c *clusterv3.Cluster) uint32 {
	m := c.GetLoadAssignment()
	if m == nil {
		m = p.endpoints[c.GetName()]
	}
	for _, group := range m.GetEndpoints() {
		for _, e := range group.GetLbEndpoints() {
			return e.GetEndpoint().GetHealthCheckConfig().GetPortValue()
		}
	}
	return 0
}

func addresses(m *endpointv3.ClusterLoadAssignment) []string {
	var out []string
	for _, group := range m.GetEndpoints() {
		for _, e := range group.GetLbEndpoints() {
			a := e.GetEndpoint().GetAddress().GetSocketAddress()
			text := fmt.Sprintf("%s:%d", a.GetAddress(), a.GetPortValue())
			if ip, err := netip.ParseAddr(a.GetAddress()); err == nil {
				text = netip.AddrPortFrom(ip, uint16(a.GetPortValue())).String()
			}
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}

func speaksHTTP2(c *clusterv3.Cluster) bool {
	for _, packed := range c.GetTypedExtensionProtocolOptions() {
		m := &httpv3.HttpProtocolOptions{}
		if packed.MessageIs(m) && packed.UnmarshalTo(m) == nil && m.GetExplicitHttpConfig().GetHttp2ProtocolOptions() != nil {
			return true
		}
	}
	return false
}

// unlimited is how the generated configuration says that there is no limit.
const unlimited = 1<<31 - 1

func limits(c *clusterv3.Cluster) Limits {
	// Envoy's own where nothing is said.
	out := Limits{1024, 1024, 1024, 3}
	for _, t := range c.GetCircuitBreakers().GetThresholds() {
		for _, x := range []struct {
			to  *uint32
			say interface{ GetValue() uint32 }
			set bool
		}{
			{&out.Connections, t.GetMaxConnections(), t.GetMaxConnections() != nil},
			{&out.Pending, t.GetMaxPendingRequests(), t.GetMaxPendingRequests() != nil},
			{&out.Requests, t.GetMaxRequests(), t.GetMaxRequests() != nil},
			{&out.Retries, t.GetMaxRetries(), t.GetMaxRetries() != nil},
		} {
			if x.set {
				*x.to = x.say.GetValue()
				if *x.to >= unlimited {
					*x.to = 0
				}
			}
		}
	}
	return out
}

func outlier(m *clusterv3.OutlierDetection) *Outlier {
	if m == nil {
		return nil
	}
	out := &Outlier{Errors: 5, MaxPercent: 10, Interval: 10 * time.Second, Ejection: 30 * time.Second}
	if v := m.GetConsecutive_5Xx(); v != nil {
		out.Errors = v.GetValue()
	}
	if v := m.GetMaxEjectionPercent(); v != nil {
		out.MaxPercent = v.GetValue()
	}
	if d := m.GetInterval(); d != nil {
		out.Interval = d.AsDuration()
	}
	if d := m.GetBaseEjectionTime(); d != nil {
		out.Ejection = d.AsDuration()
	}
	return out
}

func check(h *corev3.HealthCheck) Check {
	out := Check{
		Protocol: "tcp", Port: h.GetAltPort().GetValue(), Interval: h.GetInterval().AsDuration(), Timeout: h.GetTimeout().AsDuration(),
		Healthy: h.GetHealthyThreshold().GetValue(), Unhealthy: h.GetUnhealthyThreshold().GetValue(),
		ALPN: h.GetTlsOptions().GetAlpnProtocols(),
	}
	switch {
	case h.GetHttpHealthCheck() != nil:
		x := h.GetHttpHealthCheck()
		out.Protocol, out.Host, out.Path = "http", x.GetHost(), x.GetPath()
		if x.GetCodecClientType() == typev3.CodecClientType_HTTP2 {
			out.Protocol = "http2"
		}
	case h.GetGrpcHealthCheck() != nil:
		out.Protocol = "grpc"
	}
	return out
}

func retryOf(m *routev3.RetryPolicy) *Retry {
	if m.GetRetryOn() == "" {
		return nil
	}
	out := &Retry{
		On: strings.Split(m.GetRetryOn(), ","), Statuses: m.GetRetriableStatusCodes(), Retries: 1,
		OtherHost: len(m.GetRetryHostPredicate()) > 0, HostPicks: cmp.Or(m.GetHostSelectionRetryMaxAttempts(), 1),
	}
	if n := m.GetNumRetries(); n != nil {
		out.Retries = n.GetValue()
	}
	if out.Retries == 0 {
		return nil
	}
	return out
}
