package envoy_test

import (
	"cmp"
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// world is a mesh that random edits change. Its documents keep the model's
// constraints and break every rule between resources.
type world struct {
	snapshot *mesh.Snapshot
	made     int64
}

func newWorld() *world { return &world{snapshot: mesh.NewSnapshot(0, nil)} }

func keyOf(kind api.Kind, parent, name string) api.Key {
	k := api.Key{Owner: account, Mesh: "colors", Kind: kind, Parent: parent, Name: name}
	if kind == api.KindMesh {
		k.Name = k.Mesh
	}
	return k
}

func (w *world) apply(changes ...api.Change) {
	w.made++
	w.snapshot = w.snapshot.Apply(w.made, changes)
}

func (w *world) put(key api.Key, spec any) {
	r := &api.Resource{Key: key, Owner: account, Spec: spec, Created: time.Unix(w.made%5, 0)}
	w.apply(api.Change{Key: key, New: r})
}

// fill gives every resource that may exist a first spec, most of the time.
func (w *world) fill(t *rapid.T) {
	for _, key := range worldKeys() {
		if rapid.IntRange(0, 5).Draw(t, "exists") > 0 {
			w.put(key, drawSpec(t, key.Kind))
		}
	}
}

// edit changes or removes one resource.
func (w *world) edit(t *rapid.T) {
	key := rapid.SampledFrom(worldKeys()).Draw(t, "key")
	if rapid.IntRange(0, 5).Draw(t, "what") == 0 {
		w.apply(api.Change{Key: key})
		return
	}
	w.put(key, drawSpec(t, key.Kind))
}

func worldKeys() []api.Key {
	out := []api.Key{keyOf(api.KindMesh, "", "")}
	for i := range 4 {
		out = append(out, keyOf(api.KindVirtualNode, "", fmt.Sprint("n", i)))
	}
	for _, name := range serviceNames {
		out = append(out, keyOf(api.KindVirtualService, "", name))
	}
	for i := range 2 {
		router, gateway := fmt.Sprint("r", i), fmt.Sprint("g", i)
		out = append(out, keyOf(api.KindVirtualRouter, "", router), keyOf(api.KindVirtualGateway, "", gateway))
		for j := range 3 {
			out = append(out, keyOf(api.KindRoute, router, fmt.Sprint("x", j)), keyOf(api.KindGatewayRoute, gateway, fmt.Sprint("x", j)))
		}
	}
	return out
}

var serviceNames = [6]string{"a.local", "A.LOCAL", "*.local", "a.local:80", "odd é/%,*", "[::1]*"}

// views are those of all nodes and gateways that exist, for proxies of each of the
// traits.
func (w *world) views(traits ...mesh.Traits) []*mesh.View {
	var out []*mesh.View
	for _, key := range worldKeys() {
		if key.Kind != api.KindVirtualNode && key.Kind != api.KindVirtualGateway {
			continue
		}
		for _, x := range traits {
			if view, _, _ := w.snapshot.View(mesh.Client{Key: key, Traits: x}); view != nil {
				out = append(out, view)
			}
		}
	}
	return out
}

func pick[T any](t *rapid.T, of ...T) T { return rapid.SampledFrom(of).Draw(t, "pick") }

// maybe is a pointer to one of the values, or nil.
func maybe[T any](t *rapid.T, of ...T) *T {
	if i := rapid.IntRange(0, len(of)).Draw(t, "maybe"); i > 0 {
		return &of[i-1]
	}
	return nil
}

func drawMapping(t *rapid.T) api.PortMapping {
	return api.PortMapping{
		Port:     pick[int64](t, 80, 81, 443, 15000, 15001),
		Protocol: pick(t, api.PortProtocolHTTP, api.PortProtocolHTTP, api.PortProtocolHTTP2, api.PortProtocolGRPC, api.PortProtocolTCP),
	}
}

func drawDuration(t *rapid.T) *api.Duration {
	if rapid.Bool().Draw(t, "no duration") {
		return nil
	}
	return &api.Duration{Unit: pick(t, api.DurationUnitS, api.DurationUnitMs), Value: maybe[int64](t, 0, 1, 1500, 10_000_000_000, 1<<62)}
}

func drawSpec(t *rapid.T, kind api.Kind) any {
	switch kind {
	case api.KindMesh:
		return &api.MeshSpec{
			EgressFilter:     maybe(t, api.EgressFilter{Type: api.EgressFilterTypeAllowAll}, api.EgressFilter{Type: api.EgressFilterTypeDropAll}),
			ServiceDiscovery: maybe(t, api.MeshServiceDiscovery{IPPreference: api.IPPreferenceIPv6Only}, api.MeshServiceDiscovery{IPPreference: api.IPPreferenceIPv4Preferred}),
		}
	case api.KindVirtualNode:
		return drawNode(t)
	case api.KindVirtualService:
		p := &api.VirtualServiceProvider{}
		switch rapid.IntRange(0, 4).Draw(t, "provider") {
		case 0:
			return &api.VirtualServiceSpec{}
		case 1:
			p.VirtualNode = &api.VirtualNodeServiceProvider{VirtualNodeName: pick(t, "n0", "n1", "n2", "n3")}
		default:
			p.VirtualRouter = &api.VirtualRouterServiceProvider{VirtualRouterName: pick(t, "r0", "r1")}
		}
		return &api.VirtualServiceSpec{Provider: p}
	case api.KindVirtualRouter:
		spec := &api.VirtualRouterSpec{}
		for range rapid.IntRange(0, 2).Draw(t, "listeners") {
			spec.Listeners = append(spec.Listeners, api.VirtualRouterListener{PortMapping: drawMapping(t)})
		}
		return spec
	case api.KindRoute:
		return drawRoute(t)
	case api.KindVirtualGateway:
		spec := &api.VirtualGatewaySpec{}
		for i := range rapid.IntRange(1, 3).Draw(t, "listeners") {
			spec.Listeners = append(spec.Listeners, api.VirtualGatewayListener{
				PortMapping: api.VirtualGatewayPortMapping{
					Port:     int64(8080 + i),
					Protocol: pick(t, api.VirtualGatewayPortProtocolHTTP, api.VirtualGatewayPortProtocolHTTP2, api.VirtualGatewayPortProtocolGRPC),
				},
				TLS: drawGatewayTLS(t),
			})
		}
		return spec
	}
	return drawGatewayRoute(t)
}

func drawNode(t *rapid.T) *api.VirtualNodeSpec {
	spec := &api.VirtualNodeSpec{
		ServiceDiscovery: maybe(t,
			api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: "n.local"}},
			api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: pick(t, "10.0.0.1", "::1", "odd é:80", ".", "*.local")}},
			api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: "n.local", ResponseType: api.DNSResponseTypeEndpoints, IPPreference: api.IPPreferenceIPv4Only}},
			api.ServiceDiscovery{AWSCloudMap: &api.AWSCloudMapServiceDiscovery{NamespaceName: "example", ServiceName: "n"}},
		),
		Logging: maybe(t,
			api.Logging{AccessLog: &api.AccessLog{File: &api.FileAccessLog{Path: "/dev/null"}}},
			api.Logging{AccessLog: &api.AccessLog{File: &api.FileAccessLog{Path: "/dev/null", Format: &api.LoggingFormat{JSON: []api.JSONFormatRef{{Key: "code", Value: "%RESPONSE_CODE%"}}}}}},
		),
	}
	ports := map[int64]bool{}
	for range rapid.IntRange(0, 3).Draw(t, "listeners") {
		l := api.Listener{
			PortMapping: drawMapping(t),
			Timeout:     maybe(t, api.ListenerTimeout{HTTP: &api.HTTPTimeout{PerRequest: drawDuration(t)}, TCP: &api.TCPTimeout{Idle: drawDuration(t)}}),
			HealthCheck: maybe(t, api.HealthCheckPolicy{
				Protocol: pick(t, api.PortProtocolHTTP, api.PortProtocolHTTP2, api.PortProtocolGRPC, api.PortProtocolTCP), Port: maybe[int64](t, 9090),
				HealthyThreshold: 2, UnhealthyThreshold: 2, IntervalMillis: 5000, TimeoutMillis: 2000,
			}),
			OutlierDetection: maybe(t, api.OutlierDetection{
				MaxServerErrors: pick[int64](t, 1, 1<<32), MaxEjectionPercent: 50,
				Interval: *cmp.Or(drawDuration(t), &api.Duration{}), BaseEjectionDuration: *cmp.Or(drawDuration(t), &api.Duration{}),
			}),
			TLS: drawTLS(t),
		}
		if !ports[l.PortMapping.Port] {
			ports[l.PortMapping.Port] = true
			spec.Listeners = append(spec.Listeners, l)
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "default policy") == 0 {
		spec.BackendDefaults = &api.BackendDefaults{ClientPolicy: &api.ClientPolicy{TLS: drawPolicy(t)}}
	}
	for range rapid.IntRange(0, 4).Draw(t, "backends") {
		b := api.VirtualServiceBackend{VirtualServiceName: pick(t, serviceNames[:]...)}
		if rapid.IntRange(0, 5).Draw(t, "policy") == 0 {
			b.ClientPolicy = &api.ClientPolicy{TLS: drawPolicy(t)}
		}
		spec.Backends = append(spec.Backends, api.Backend{VirtualService: &b})
	}
	return spec
}

// drawTLS is TLS of a listener; now and then without what the model requires.
func drawTLS(t *rapid.T) *api.ListenerTLS {
	arn := "arn:aws:acm:eu-west-1:123456789012:certificate/" + pick(t, "a", "odd é,%")
	out := maybe(t, api.ListenerTLS{Mode: api.ListenerTLSModeStrict}, api.ListenerTLS{Mode: api.ListenerTLSModePermissive}, api.ListenerTLS{Mode: api.ListenerTLSModeDisabled}, api.ListenerTLS{})
	if out == nil {
		return nil
	}
	out.Certificate = pick(t,
		api.ListenerTLSCertificate{File: &api.ListenerTLSFileCertificate{CertificateChain: "/c.pem", PrivateKey: "/odd é:%.key"}},
		api.ListenerTLSCertificate{SDS: &api.ListenerTLSSDSCertificate{SecretName: "spiffe://mesh.local/n"}},
		api.ListenerTLSCertificate{ACM: &api.ListenerTLSACMCertificate{CertificateARN: arn}},
		api.ListenerTLSCertificate{},
	)
	out.Validation = maybe(t,
		api.ListenerTLSValidationContext{Trust: api.ListenerTLSValidationContextTrust{File: &api.TLSValidationContextFileTrust{CertificateChain: "/ca.pem"}}, SubjectAlternativeNames: drawNames(t)},
		api.ListenerTLSValidationContext{Trust: api.ListenerTLSValidationContextTrust{SDS: &api.TLSValidationContextSDSTrust{SecretName: "spiffe://mesh.local"}}, SubjectAlternativeNames: drawNames(t)},
		api.ListenerTLSValidationContext{},
	)
	return out
}

func drawGatewayTLS(t *rapid.T) *api.VirtualGatewayListenerTLS {
	of := drawTLS(t)
	if of == nil {
		return nil
	}
	out := &api.VirtualGatewayListenerTLS{Mode: api.VirtualGatewayListenerTLSMode(of.Mode), Certificate: api.VirtualGatewayListenerTLSCertificate{
		File: (*api.VirtualGatewayListenerTLSFileCertificate)(of.Certificate.File),
		SDS:  (*api.VirtualGatewayListenerTLSSDSCertificate)(of.Certificate.SDS),
		ACM:  (*api.VirtualGatewayListenerTLSACMCertificate)(of.Certificate.ACM),
	}}
	if v := of.Validation; v != nil {
		out.Validation = &api.VirtualGatewayListenerTLSValidationContext{SubjectAlternativeNames: v.SubjectAlternativeNames, Trust: api.VirtualGatewayListenerTLSValidationContextTrust{
			File: (*api.VirtualGatewayTLSValidationContextFileTrust)(v.Trust.File), SDS: (*api.VirtualGatewayTLSValidationContextSDSTrust)(v.Trust.SDS),
		}}
	}
	return out
}

func drawNames(t *rapid.T) *api.SubjectAlternativeNames {
	return maybe(t, api.SubjectAlternativeNames{Match: api.SubjectAlternativeNameMatchers{Exact: pick(t, []string{"n.local", "spiffe://mesh.local/n"}, []string{"*.local"}, []string{"odd é(", "*.local", "::1"}, nil)}})
}

func drawPolicy(t *rapid.T) *api.ClientPolicyTLS {
	return &api.ClientPolicyTLS{
		Enforce: maybe(t, false, true), Ports: pick(t, nil, []int64{80}),
		Certificate: maybe(t,
			api.ClientTLSCertificate{File: &api.ListenerTLSFileCertificate{CertificateChain: "/c.pem", PrivateKey: "/c.key"}},
			api.ClientTLSCertificate{SDS: &api.ListenerTLSSDSCertificate{SecretName: "spiffe://mesh.local/n"}},
		),
		Validation: api.TLSValidationContext{SubjectAlternativeNames: drawNames(t), Trust: pick(t,
			api.TLSValidationContextTrust{File: &api.TLSValidationContextFileTrust{CertificateChain: "/ca.pem"}},
			api.TLSValidationContextTrust{SDS: &api.TLSValidationContextSDSTrust{SecretName: "spiffe://mesh.local"}},
			api.TLSValidationContextTrust{ACM: &api.TLSValidationContextACMTrust{CertificateAuthorityARNs: []string{"arn:b", "arn:a"}}},
			api.TLSValidationContextTrust{},
		)},
	}
}

func drawHeader(t *rapid.T) *api.HeaderMatchMethod {
	return maybe(t,
		api.HeaderMatchMethod{Exact: "a"}, api.HeaderMatchMethod{Prefix: "a"}, api.HeaderMatchMethod{Suffix: "a"},
		api.HeaderMatchMethod{Regex: "a+"}, api.HeaderMatchMethod{Regex: "a{2}("}, api.HeaderMatchMethod{Range: &api.MatchRange{Start: 1, End: 9}},
	)
}

func drawRoute(t *rapid.T) *api.RouteSpec {
	var targets []api.WeightedTarget
	for range rapid.IntRange(1, 3).Draw(t, "targets") {
		targets = append(targets, api.WeightedTarget{VirtualNode: pick(t, "n0", "n1", "n2", "n3"), Weight: pick[int64](t, 0, 1, 100), Port: maybe[int64](t, 80, 443)})
	}
	http := &api.HTTPRoute{
		Action: api.HTTPRouteAction{WeightedTargets: targets},
		Match: api.HTTPRouteMatch{
			Prefix: maybe(t, "/", "/a", "/a/b/", "odd", "/%zz?#é"), Path: maybe(t, api.HTTPPathMatch{Exact: "/x"}, api.HTTPPathMatch{Exact: "odd ?#é"}, api.HTTPPathMatch{Regex: "/[ab]+"}, api.HTTPPathMatch{Regex: "/("}, api.HTTPPathMatch{Regex: `(?i)é\pL{9}\b`}),
			Port: maybe[int64](t, 80, 81), Method: pick(t, "", api.HTTPMethodGet), Scheme: pick(t, "", api.HTTPSchemeHTTP),
			Headers: []api.HTTPRouteHeader{{Name: pick(t, "X-A", ":path", "odd name/é", "Host"), Invert: maybe(t, true), Match: drawHeader(t)}},
		},
		Timeout: maybe(t, api.HTTPTimeout{PerRequest: drawDuration(t), Idle: drawDuration(t)}),
		RetryPolicy: maybe(t, api.HTTPRetryPolicy{
			MaxRetries: pick[int64](t, 0, 3, 1<<32), PerRetryTimeout: api.Duration{Unit: api.DurationUnitS, Value: maybe[int64](t, 0, 1)},
			HTTPRetryEvents: pick(t, nil, []string{"server-error", "stream-error"}), TCPRetryEvents: pick(t, nil, []api.TCPRetryPolicyEvent{api.TCPRetryPolicyEventConnectionError}),
		}),
	}
	spec := &api.RouteSpec{Priority: maybe[int64](t, 0, 5)}
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0:
		spec.GRPCRoute = &api.GRPCRoute{
			Action: api.GRPCRouteAction{WeightedTargets: targets},
			Match:  api.GRPCRouteMatch{ServiceName: maybe(t, "color.Color"), Metadata: []api.GRPCRouteMetadata{{Name: "tenant", Match: (*api.GRPCRouteMetadataMatchMethod)(drawHeader(t))}}},
		}
	case 1:
		spec.TCPRoute = &api.TCPRoute{Action: api.TCPRouteAction{WeightedTargets: targets}, Timeout: maybe(t, api.TCPTimeout{Idle: drawDuration(t)})}
	case 2:
		spec.HTTP2Route = http
	default:
		spec.HTTPRoute = http
	}
	return spec
}

func drawGatewayRoute(t *rapid.T) *api.GatewayRouteSpec {
	target := api.GatewayRouteTarget{Port: maybe[int64](t, 80, 443), VirtualService: api.GatewayRouteVirtualService{VirtualServiceName: pick(t, serviceNames[:]...)}}
	keep := maybe(t, api.GatewayRouteHostnameRewrite{DefaultTargetHostname: api.DefaultGatewayRouteRewriteDisabled})
	host := maybe(t, api.GatewayRouteHostnameMatch{Exact: "Shop.example.com"}, api.GatewayRouteHostnameMatch{Suffix: ".example.com"},
		api.GatewayRouteHostnameMatch{Exact: "*"}, api.GatewayRouteHostnameMatch{Suffix: "*"}, api.GatewayRouteHostnameMatch{Exact: "a*b*"}, api.GatewayRouteHostnameMatch{Suffix: "odd é:80"})
	http := &api.HTTPGatewayRoute{
		Action: api.HTTPGatewayRouteAction{Target: target, Rewrite: maybe(t, api.HTTPGatewayRouteRewrite{
			Hostname: keep, Path: maybe(t, api.HTTPGatewayRoutePathRewrite{Exact: `/\1`}, api.HTTPGatewayRoutePathRewrite{Exact: "odd ?#é"}),
			Prefix: maybe(t, api.HTTPGatewayRoutePrefixRewrite{Value: "/v/"}, api.HTTPGatewayRoutePrefixRewrite{DefaultPrefix: api.DefaultGatewayRouteRewriteDisabled}),
		})},
		Match: api.HTTPGatewayRouteMatch{
			Prefix: maybe(t, "/", "/a", "/a/b/", "//", "odd", "/%zz?#é"), Path: maybe(t, api.HTTPPathMatch{Exact: "/x"}, api.HTTPPathMatch{Regex: "/("}),
			Hostname: host, Port: maybe[int64](t, 8080, 8081),
			Headers: []api.HTTPGatewayRouteHeader{{Name: "x-a", Match: drawHeader(t)}},
		},
	}
	spec := &api.GatewayRouteSpec{Priority: maybe[int64](t, 0, 5)}
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		spec.GRPCRoute = &api.GRPCGatewayRoute{
			Action: api.GRPCGatewayRouteAction{Target: target, Rewrite: maybe(t, api.GRPCGatewayRouteRewrite{Hostname: keep})},
			Match:  api.GRPCGatewayRouteMatch{ServiceName: maybe(t, "color.Color"), Hostname: host},
		}
	case 1:
		spec.HTTP2Route = http
	default:
		spec.HTTPRoute = http
	}
	return spec
}
