package envoy

import (
	"bytes"
	"encoding/json"
	"fmt"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// Static returns the bundle as an Envoy bootstrap in JSON that needs no
// management service: route configurations, endpoints and secrets in files are
// put where they are referred to. Endpoints that are not known are none; secrets
// that the management service would have to issue are missing. node and cluster are
// Envoy's node id and cluster. `envoy --mode validate -c` takes the result.
func (b *Bundle) Static(node, cluster string) ([]byte, error) {
	out := &bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: node, Cluster: cluster},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{},
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "static_layer", LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{
				// As in the agent's bootstrap: Envoy's own limit of patterns is lower.
				Fields: map[string]*structpb.Value{"re2.max_program_size.error_level": structpb.NewNumberValue(maxProgramSize)},
			}},
		}}},
	}
	for _, r := range b.List(Listener).Resources {
		l := &listenerv3.Listener{}
		if err := r.UnmarshalTo(l); err != nil {
			return nil, fmt.Errorf("decode listener %s: %w", r.Name, err)
		}
		if err := b.inlineRoutes(l); err != nil {
			return nil, err
		}
		out.StaticResources.Listeners = append(out.StaticResources.Listeners, l)
	}
	for _, r := range b.List(Cluster).Resources {
		c := &clusterv3.Cluster{}
		if err := r.UnmarshalTo(c); err != nil {
			return nil, fmt.Errorf("decode cluster %s: %w", r.Name, err)
		}
		if err := b.inlineEndpoints(c); err != nil {
			return nil, err
		}
		out.StaticResources.Clusters = append(out.StaticResources.Clusters, c)
	}
	if err := inlineSecrets(out); err != nil {
		return nil, err
	}
	return JSON(out)
}

// inlineRoutes puts route configurations into the chains that name them.
func (b *Bundle) inlineRoutes(l *listenerv3.Listener) error {
	for _, chain := range l.GetFilterChains() {
		for _, f := range chain.GetFilters() {
			hcm := &hcmv3.HttpConnectionManager{}
			if !f.GetTypedConfig().MessageIs(hcm) {
				continue
			}
			if err := f.GetTypedConfig().UnmarshalTo(hcm); err != nil {
				return fmt.Errorf("decode a filter of listener %s: %w", l.GetName(), err)
			}
			name := hcm.GetRds().GetRouteConfigName()
			routes := &routev3.RouteConfiguration{Name: name}
			if r := b.List(Route).Get(name); r != nil {
				if err := r.UnmarshalTo(routes); err != nil {
					return fmt.Errorf("decode route configuration %s: %w", name, err)
				}
			}
			hcm.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes}
			f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(hcm)}
		}
	}
	return nil
}

// inlineEndpoints makes a cluster by EDS one with fixed endpoints.
func (b *Bundle) inlineEndpoints(c *clusterv3.Cluster) error {
	if c.GetType() != clusterv3.Cluster_EDS {
		return nil
	}
	known := &endpointv3.ClusterLoadAssignment{ClusterName: c.GetName()}
	if r := b.List(LoadAssignment).Get(c.GetName()); r != nil {
		if err := r.UnmarshalTo(known); err != nil {
			return fmt.Errorf("decode endpoints of cluster %s: %w", c.GetName(), err)
		}
	}
	c.EdsClusterConfig = nil
	c.ClusterDiscoveryType = discoveryType(clusterv3.Cluster_STATIC)
	c.LoadAssignment = known
	return nil
}

// JSON writes an Envoy message as Envoy reads it in configuration files,
// indented, always the same for the same message.
func JSON(m proto.Message) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write %s as json: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return nil, fmt.Errorf("indent json: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
