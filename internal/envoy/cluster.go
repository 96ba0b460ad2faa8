package envoy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// unlimited is App Mesh's hidden default for every circuit breaker (EMS-042).
const unlimited = 2147483647

func limits() *clusterv3.CircuitBreakers_Thresholds {
	most := wrapperspb.UInt32(unlimited)
	return &clusterv3.CircuitBreakers_Thresholds{MaxConnections: most, MaxPendingRequests: most, MaxRequests: most, MaxRetries: most}
}

func breakers(t *clusterv3.CircuitBreakers_Thresholds) *clusterv3.CircuitBreakers {
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t}}
}

// protocolOptions makes a cluster speak HTTP/2; HTTP/1.1 is Envoy's default.
func protocolOptions(p api.PortProtocol) map[string]*anypb.Any {
	if !isHTTP2(p) {
		return nil
	}
	return map[string]*anypb.Any{
		"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(&httpv3.HttpProtocolOptions{
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
				ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
					ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
				},
			},
		}),
	}
}

func assignment(cluster string, endpoints ...*corev3.Address) *endpointv3.ClusterLoadAssignment {
	m := &endpointv3.ClusterLoadAssignment{ClusterName: cluster}
	if len(endpoints) == 0 {
		return m
	}
	group := &endpointv3.LocalityLbEndpoints{}
	for _, a := range endpoints {
		group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a}},
		})
	}
	m.Endpoints = []*endpointv3.LocalityLbEndpoints{group}
	return m
}

// checkedOn makes Envoy run health checks against another port of the endpoints;
// 0 is their own. A health check's alt_port says it too, as App Mesh had it, but
// Envoy does not look there.
func checkedOn(port uint32, m *endpointv3.ClusterLoadAssignment) *endpointv3.ClusterLoadAssignment {
	if port == 0 {
		return m
	}
	for _, group := range m.Endpoints {
		for _, e := range group.LbEndpoints {
			e.GetEndpoint().HealthCheckConfig = &endpointv3.Endpoint_HealthCheckConfig{PortValue: port}
		}
	}
	return m
}

// checkPort is the port of the cluster's health check; 0 is that of the
// endpoints.
func checkPort(c *clusterv3.Cluster) uint32 {
	for _, check := range c.GetHealthChecks() {
		return check.GetAltPort().GetValue()
	}
	return 0
}

func discoveryType(t clusterv3.Cluster_DiscoveryType) *clusterv3.Cluster_Type {
	return &clusterv3.Cluster_Type{Type: t}
}

// finish puts a cluster into the piece. One that Envoy would refuse is made
// without endpoints instead, so that whoever names it answers 503.
func (b *build) finish(p *piece, c *clusterv3.Cluster, secrets []string, query *EndpointQuery, responsible api.Key) {
	r, err := b.owner.resource(c.GetName(), c, references{secrets: secrets}, query)
	if err != nil {
		p.add(responsible, ReasonInvalid, "Envoy would refuse cluster %s, which is left without endpoints: %v", c.GetName(), reason(err))
		r, err = b.owner.resource(c.GetName(), withoutEndpoints(c.GetName()), references{}, nil)
	}
	if err == nil {
		p.resource = r
	}
}

func withoutEndpoints(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: name, ClusterDiscoveryType: discoveryType(clusterv3.Cluster_STATIC), LoadAssignment: assignment(name)}
}

// localCluster is the application, or the gateway's second hop.
func (b *build) localCluster(name string, protocol api.PortProtocol, port uint32, limit *clusterv3.CircuitBreakers_Thresholds) {
	p := b.piece("cluster "+name, b.ip.local, []*api.Resource{b.own}, func(p *piece) {
		b.finish(p, &clusterv3.Cluster{
			Name: name, ClusterDiscoveryType: discoveryType(clusterv3.Cluster_STATIC),
			ConnectTimeout: durationpb.New(250 * time.Millisecond), CircuitBreakers: breakers(limit),
			LoadAssignment:                assignment(name, address(b.ip.local, port)),
			TypedExtensionProtocolOptions: protocolOptions(protocol),
		}, nil, nil, b.own.Key)
	})
	b.put(Cluster, p.resource)
}

// passThrough is a cluster of wherever the connection was going (EMS-025,
// EMS-028).
func (b *build) passThrough(suffix string) string {
	name := fmt.Sprintf("cds_egress_%s_%s", b.mesh, suffix)
	p := b.piece("cluster "+name, "", nil, func(p *piece) {
		b.finish(p, &clusterv3.Cluster{
			Name: name, ClusterDiscoveryType: discoveryType(clusterv3.Cluster_ORIGINAL_DST), LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED,
			ConnectTimeout: durationpb.New(time.Second), CircuitBreakers: breakers(limits()),
		}, nil, nil, b.own.Key.MeshKey())
	})
	b.put(Cluster, p.resource)
	return name
}

func egressCluster(mesh string, node *api.Resource, l *api.Listener) string {
	return "cds_egress_" + mesh + "_" + node.Key.Name + "_" + string(l.PortMapping.Protocol) + "_" + strconv.FormatInt(l.PortMapping.Port, 10)
}

// nodeCluster makes the cluster of a listener of another node, once; for
// gateways.
func (b *build) nodeCluster(node *api.Resource, l *api.Listener, policy *policy) {
	name := egressCluster(b.mesh, node, l)
	if b.clusters[name] {
		return
	}
	if b.clusters == nil {
		b.clusters = map[string]bool{}
	}
	b.clusters[name] = true
	p := b.clusterPiece(node, l, policy)
	b.pieces = append(b.pieces, p)
	b.report(p.problems)
	b.unvalidated(p.unvalidated)
	b.put(Cluster, p.resource)
}

// clusterPiece makes the cluster of a listener of another node, which all
// clients of the mesh share that speak TLS with it in the same way.
func (b *build) clusterPiece(node *api.Resource, l *api.Listener, policy *policy) *piece {
	name, preference, tls := egressCluster(b.mesh, node, l), b.preference(node), policy.toward(node, l)
	return b.shared("cluster "+name+tls.key(), string(preference), []*api.Resource{node}, func(p *piece) {
		p.enforced = tls.enforced
		tls.remark(p, node, l)
		port, steady := uint32(l.PortMapping.Port), b.owner.steady()
		c := &clusterv3.Cluster{
			Name: name, ConnectTimeout: steady.second, CircuitBreakers: steady.unlimited,
			Metadata:                      b.targetTag(targetNode, node.Key.Name),
			OutlierDetection:              outlierDetection(node, l, &p.faults),
			TypedExtensionProtocolOptions: steady.protocolOptions(l.PortMapping.Protocol),
		}
		var query *EndpointQuery
		switch d := node.VirtualNodeSpec().ServiceDiscovery; {
		case d != nil && d.DNS != nil:
			c.ClusterDiscoveryType = discoveryType(clusterv3.Cluster_LOGICAL_DNS)
			if d.DNS.ResponseType == api.DNSResponseTypeEndpoints {
				c.ClusterDiscoveryType = discoveryType(clusterv3.Cluster_STRICT_DNS)
			}
			c.DnsLookupFamily = lookupFamily(preference)
			c.HealthChecks = healthChecks(node, l, d.DNS.Hostname, tls.on, &p.faults)
			c.LoadAssignment = checkedOn(checkPort(c), assignment(name, address(d.DNS.Hostname, port)))
			// What discovery has dropped is gone, whatever its last check said.
			c.IgnoreHealthOnHostRemoval = c.GetType() == clusterv3.Cluster_STRICT_DNS && c.HealthChecks != nil
		case d != nil && d.AWSCloudMap != nil:
			c.ClusterDiscoveryType = discoveryType(clusterv3.Cluster_EDS)
			c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: steady.ads}
			c.HealthChecks = healthChecks(node, l, d.AWSCloudMap.ServiceName+"."+d.AWSCloudMap.NamespaceName, tls.on, &p.faults)
			c.IgnoreHealthOnHostRemoval = true
			query = nodeQuery(node, preference, port, b.owner.CloudMapOfAccounts)
			if b.owner.WithoutCloudMap {
				p.add(node.Key, ReasonNoSource, noCloudMap)
			}
		default:
			// A node without discovery expects no traffic (VN-003).
			c.ClusterDiscoveryType = discoveryType(clusterv3.Cluster_STATIC)
			c.LoadAssignment = assignment(name)
			p.add(node.Key, mesh.ReasonNotFound, "spec.serviceDiscovery is absent, so the node has no endpoints; its callers are answered 503")
		}
		secrets := secretNames(tls.certificate, tls.trust)
		if !tls.originate(c, steady.ads, node, l, &p.faults) {
			c, query, secrets = withoutEndpoints(name), nil, nil
		}
		b.finish(p, c, secrets, query, node.Key)
	})
}

// noCloudMap is said to the node's callers and, as it may have none, to itself.
const noCloudMap = "spec.serviceDiscovery.awsCloudMap: evermeshd was not told where Cloud Map is (--cloudmap-region, or --cloudmap-endpoint), so no new instances are found; callers of a node of which none are known are answered 503"

// attributeKey keeps the sign that ends a key out of it.
var attributeKey = strings.NewReplacer("%", "%25", "=", "%3D")

func cloudMapQuery(d *api.AWSCloudMapServiceDiscovery, p api.IPPreference, port uint32) *EndpointQuery {
	attributes := make([]string, 0, len(d.Attributes))
	for _, a := range d.Attributes {
		attributes = append(attributes, attributeKey.Replace(a.Key)+"="+a.Value)
	}
	slices.Sort(attributes)
	return &EndpointQuery{
		Source: "cloudmap", Namespace: d.NamespaceName, Service: d.ServiceName,
		Attributes: strings.Join(attributes, "\n"), IPPreference: string(p), Port: port,
	}
}
