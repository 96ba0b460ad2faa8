package properties

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	// What anypb.Any may hold has to be known to be read.
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/envoy"
)

// dangling lists what a bundle refers to and does not hold, and what it holds that
// nothing in it refers to.
func dangling(b *envoy.Bundle) ([]string, error) {
	var r references
	for _, of := range envoy.Types() {
		for _, x := range b.List(of).Resources {
			m, err := (&anypb.Any{TypeUrl: of.URL(), Value: x.Append(nil)}).UnmarshalNew()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", x.Name, err)
			}
			if err := r.read(m.ProtoReflect()); err != nil {
				return nil, fmt.Errorf("%s: %w", x.Name, err)
			}
		}
	}
	var out []string
	in := func(of envoy.Type) map[string]bool {
		names := map[string]bool{}
		for _, x := range b.List(of).Resources {
			if names[x.Name] {
				out = append(out, fmt.Sprintf("%s stands twice in %s", x.Name, of.URL()))
			}
			names[x.Name] = true
		}
		return names
	}
	lacks := func(what string, wanted []string, held map[string]bool) {
		for _, name := range wanted {
			if !held[name] {
				out = append(out, what+" "+name)
			}
		}
	}
	set := func(names []string) map[string]bool {
		out := map[string]bool{}
		for _, n := range names {
			out[n] = true
		}
		return out
	}
	clusters, routes, assignments := in(envoy.Cluster), in(envoy.Route), in(envoy.LoadAssignment)
	in(envoy.Listener)
	lacks("no cluster", r.clusters, clusters)
	lacks("no route configuration", r.routes, routes)
	lacks("nothing asks for the route configuration", keysOf(routes), set(r.routes))
	lacks("no cluster has the endpoints", keysOf(assignments), set(r.endpoints))
	lacks("the bundle does not say that it uses the secret", r.secrets, set(b.Secrets()))
	lacks("nothing uses the secret", b.Secrets(), set(r.secrets))
	return out, nil
}

func keysOf(m map[string]bool) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// references are the names that messages refer to.
type references struct{ clusters, routes, endpoints, secrets []string }

// read looks into a message and all that it holds.
func (r *references) read(m protoreflect.Message) error {
	switch m := m.Interface().(type) {
	case *anypb.Any:
		inner, err := m.UnmarshalNew()
		if err != nil {
			return err
		}
		return r.read(inner.ProtoReflect())
	case *routev3.RouteAction:
		r.cluster(m.GetCluster())
	case *routev3.WeightedCluster_ClusterWeight:
		r.cluster(m.GetName())
	case *tcpv3.TcpProxy:
		r.cluster(m.GetCluster())
	case *tcpv3.TcpProxy_WeightedCluster_ClusterWeight:
		r.cluster(m.GetName())
	case *hcmv3.Rds:
		r.routes = append(r.routes, m.GetRouteConfigName())
	case *clusterv3.Cluster:
		if m.GetType() == clusterv3.Cluster_EDS {
			name := m.GetName()
			if other := m.GetEdsClusterConfig().GetServiceName(); other != "" {
				name = other
			}
			r.endpoints = append(r.endpoints, name)
		}
	case *tlsv3.SdsSecretConfig:
		if m.GetSdsConfig().GetAds() != nil {
			r.secrets = append(r.secrets, m.GetName())
		}
	}
	var failed error
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		look := func(v protoreflect.Value) {
			if err := r.read(v.Message()); err != nil {
				failed = err
			}
		}
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { look(v); return true })
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				look(v.List().Get(i))
			}
		default:
			look(v)
		}
		return failed == nil
	})
	return failed
}

func (r *references) cluster(name string) {
	if name != "" {
		r.clusters = append(r.clusters, name)
	}
}

// differences compares two bundles, resource by resource and byte by byte.
func differences(got, want *envoy.Bundle) []string {
	var out []string
	for _, of := range envoy.Types() {
		a, b := got.List(of), want.List(of)
		names := map[string]bool{}
		for _, l := range []*envoy.List{a, b} {
			for _, x := range l.Resources {
				names[x.Name] = true
			}
		}
		for _, name := range keysOf(names) {
			switch x, y := a.Get(name), b.Get(name); {
			case x == nil || y == nil:
				out = append(out, fmt.Sprintf("%s %s: there is %v, there should be %v", of.URL(), name, x != nil, y != nil))
			case !bytes.Equal(x.Append(nil), y.Append(nil)):
				out = append(out, fmt.Sprintf("%s %s is\n%s\nand should be\n%s", of.URL(), name, text(of, x), text(of, y)))
			case x.Hash != y.Hash:
				out = append(out, fmt.Sprintf("%s %s has hash %s, and should have %s", of.URL(), name, x.Hash, y.Hash))
			case fmt.Sprint(x.Clusters, x.Secrets) != fmt.Sprint(y.Clusters, y.Secrets):
				out = append(out, fmt.Sprintf("%s %s says that it uses %v, and should say %v", of.URL(), name, x.Clusters, y.Clusters))
			}
		}
		if len(out) == 0 && a.Hash != b.Hash {
			out = append(out, fmt.Sprintf("%s has hash %s, and should have %s", of.URL(), a.Hash, b.Hash))
		}
	}
	if !slices.Equal(got.Secrets(), want.Secrets()) {
		out = append(out, fmt.Sprintf("secrets are %q, and should be %q", got.Secrets(), want.Secrets()))
	}
	return out
}

func text(of envoy.Type, r *envoy.Resource) string {
	m, err := (&anypb.Any{TypeUrl: of.URL(), Value: r.Append(nil)}).UnmarshalNew()
	if err != nil {
		return err.Error()
	}
	out, err := envoy.JSON(m)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}
