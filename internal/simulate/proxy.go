package simulate

import (
	"fmt"
	"regexp"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/envoy"
)

// Config is all that a proxy has, in Envoy's own messages: of a bundle, or of an
// Envoy that somebody else configured.
type Config struct {
	Listeners []*listenerv3.Listener
	Routes    []*routev3.RouteConfiguration
	Clusters  []*clusterv3.Cluster
	Endpoints []*endpointv3.ClusterLoadAssignment
	// Queries find the endpoints of clusters by EDS, by the cluster's name; may be
	// absent.
	Queries map[string]envoy.EndpointQuery
}

// Decode is what a bundle has.
func Decode(b *envoy.Bundle) (Config, error) {
	c := Config{Queries: map[string]envoy.EndpointQuery{}}
	for _, r := range b.List(envoy.Cluster).Resources {
		if q, ok := r.Query(); ok {
			c.Queries[r.Name] = q
		}
	}
	var err error
	if c.Listeners, err = decodeAll[listenerv3.Listener](b, envoy.Listener); err != nil {
		return Config{}, err
	}
	if c.Routes, err = decodeAll[routev3.RouteConfiguration](b, envoy.Route); err != nil {
		return Config{}, err
	}
	if c.Clusters, err = decodeAll[clusterv3.Cluster](b, envoy.Cluster); err != nil {
		return Config{}, err
	}
	if c.Endpoints, err = decodeAll[endpointv3.ClusterLoadAssignment](b, envoy.LoadAssignment); err != nil {
		return Config{}, err
	}
	return c, nil
}

func decodeAll[M any, P interface {
	*M
	proto.Message
}](b *envoy.Bundle, of envoy.Type) ([]P, error) {
	var out []P
	for _, r := range b.List(of).Resources {
		m := P(new(M))
		if err := r.UnmarshalTo(m); err != nil {
			return nil, fmt.Errorf("decode %s: %w", r.Name, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// Proxy is a configuration that is understood. It is immutable.
type Proxy struct {
	listeners []*listener
	routes    map[string]*routev3.RouteConfiguration
	clusters  map[string]*clusterv3.Cluster
	endpoints map[string]*endpointv3.ClusterLoadAssignment
	queries   map[string]envoy.EndpointQuery
	tls       map[string]*TLS           // of clusters that have it
	patterns  map[string]*regexp.Regexp // as they are, and as they match whole texts
}

// New reads a bundle; it fails as Read does.
func New(b *envoy.Bundle) (*Proxy, error) {
	c, err := Decode(b)
	if err != nil {
		return nil, err
	}
	return Read(c)
}

// Read makes a proxy of a configuration, whose messages nobody changes from then
// on. It fails with an [UnknownError] when there is something in it that this
// package does not understand, and when filter chains stand in each other's way,
// so that nobody could say which is taken.
func Read(c Config) (*Proxy, error) {
	p := &Proxy{
		routes: map[string]*routev3.RouteConfiguration{}, clusters: map[string]*clusterv3.Cluster{},
		endpoints: map[string]*endpointv3.ClusterLoadAssignment{}, queries: c.Queries, patterns: map[string]*regexp.Regexp{},
		tls: map[string]*TLS{},
	}
	s := &survey{patterns: p.patterns}
	for _, m := range c.Clusters {
		if err := s.check("cluster "+m.GetName(), m); err != nil {
			return nil, err
		}
		t, err := tlsOf(m.GetTransportSocket())
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", m.GetName(), err)
		}
		p.clusters[m.GetName()], p.tls[m.GetName()] = m, t
	}
	for _, m := range c.Endpoints {
		if err := s.check("load assignment "+m.GetClusterName(), m); err != nil {
			return nil, err
		}
		p.endpoints[m.GetClusterName()] = m
	}
	for _, m := range c.Routes {
		if err := s.check("route configuration "+m.GetName(), m); err != nil {
			return nil, err
		}
		if err := checkFormats(m); err != nil {
			return nil, fmt.Errorf("route configuration %s: %w", m.GetName(), err)
		}
		p.routes[m.GetName()] = m
	}
	for _, m := range c.Listeners {
		if err := s.check("listener "+m.GetName(), m); err != nil {
			return nil, err
		}
		l, err := newListener(m)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", m.GetName(), err)
		}
		p.listeners = append(p.listeners, l)
	}
	return p, nil
}
