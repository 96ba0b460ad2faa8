package envoy_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// BenchmarkWeightChange is View and Build of one client with 20 backends after
// the weights of one of them have changed.
func BenchmarkWeightChange(b *testing.B) {
	resources, client, route := shop(20)
	weightChange(b, resources, client, route)
}

// BenchmarkSecureWeightChange is the same where all speak TLS, check health and
// have several listeners. At most 150 µs of CPU.
func BenchmarkSecureWeightChange(b *testing.B) {
	resources, client, route := secure(shop(20))
	weightChange(b, resources, client, route)
}

func weightChange(b *testing.B, resources []*api.Resource, client mesh.Client, route *api.Resource) {
	b.Helper()
	snapshot := mesh.NewSnapshot(1, resources)
	builder := &envoy.Builder{}
	view, _, _ := snapshot.View(client)
	bundle, _ := builder.Build(view, nil)
	weight := int64(0)
	b.ReportAllocs()
	before := spent(b)
	for b.Loop() {
		weight = (weight + 1) % 100
		snapshot = reweighted(snapshot, route, weight)
		view, _, _ := snapshot.View(client)
		bundle, _ = builder.Build(view, bundle)
	}
	b.ReportMetric(float64((spent(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// spent is the processor time of this process, the collector's included, which
// the load of others does not lengthen as it does the time on the clock.
func spent(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// secure turns on TLS, health checks and two more listeners in all nodes, and a
// policy in the client.
func secure(resources []*api.Resource, client mesh.Client, route *api.Resource) ([]*api.Resource, mesh.Client, *api.Resource) {
	for _, r := range resources {
		spec := r.VirtualNodeSpec()
		if spec == nil {
			continue
		}
		name := r.Key.Name
		l := &spec.Listeners[0]
		l.TLS = &api.ListenerTLS{
			Mode: api.ListenerTLSModeStrict,
			Certificate: api.ListenerTLSCertificate{File: &api.ListenerTLSFileCertificate{
				CertificateChain: "/certs/" + name + ".pem", PrivateKey: "/certs/" + name + ".key",
			}},
			Validation: &api.ListenerTLSValidationContext{Trust: api.ListenerTLSValidationContextTrust{
				File: &api.TLSValidationContextFileTrust{CertificateChain: "/certs/ca.pem"},
			}},
		}
		path := "/ping"
		l.HealthCheck = &api.HealthCheckPolicy{
			Protocol: api.PortProtocolHTTP, Path: &path, HealthyThreshold: 2, UnhealthyThreshold: 2, IntervalMillis: 5000, TimeoutMillis: 2000,
		}
		for i, protocol := range []api.PortProtocol{api.PortProtocolGRPC, api.PortProtocolTCP} {
			more := *l
			more.PortMapping, more.HealthCheck = api.PortMapping{Port: int64(81 + i), Protocol: protocol}, nil
			spec.Listeners = append(spec.Listeners, more)
			l = &spec.Listeners[0]
		}
		if r.Key == client.Key {
			spec.BackendDefaults = &api.BackendDefaults{ClientPolicy: &api.ClientPolicy{TLS: &api.ClientPolicyTLS{
				Certificate: &api.ClientTLSCertificate{File: &api.ListenerTLSFileCertificate{CertificateChain: "/certs/front.pem", PrivateKey: "/certs/front.key"}},
				Validation:  api.TLSValidationContext{Trust: api.TLSValidationContextTrust{File: &api.TLSValidationContextFileTrust{CertificateChain: "/certs/ca.pem"}}},
			}}}
		}
	}
	return resources, client, route
}

// BenchmarkWideChange is View and Build of 1,000 clients with 20 backends each
// after the weights of a service that all call have changed.
func BenchmarkWideChange(b *testing.B) {
	resources, clients := town(1000, 20)
	for _, r := range resources {
		if spec := r.VirtualNodeSpec(); spec != nil {
			spec.Backends[0].VirtualService = &api.VirtualServiceBackend{VirtualServiceName: "s0"}
		}
	}
	route := &api.Resource{Key: keyOf(api.KindRoute, "s0", "split"), Owner: account}
	snapshot := mesh.NewSnapshot(1, resources)
	builder := &envoy.Builder{}
	bundles := make([]*envoy.Bundle, len(clients))
	build := func() {
		for i, c := range clients {
			view, _, _ := snapshot.View(c)
			bundles[i], _ = builder.Build(view, bundles[i])
		}
	}
	build()
	weight := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		weight = (weight + 1) % 100
		snapshot = reweighted(snapshot, route, weight)
		build()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(clients)), "µs/client")
}

// BenchmarkBuildFromNothing is the same client without anything to take over.
func BenchmarkBuildFromNothing(b *testing.B) {
	resources, client, _ := shop(20)
	fromNothing(b, resources, client)
}

// BenchmarkSecureBuildFromNothing is that of BenchmarkSecureWeightChange. At most
// 2 ms of CPU.
func BenchmarkSecureBuildFromNothing(b *testing.B) {
	resources, client, _ := secure(shop(20))
	fromNothing(b, resources, client)
}

func fromNothing(b *testing.B, resources []*api.Resource, client mesh.Client) {
	b.Helper()
	view, _, _ := mesh.NewSnapshot(1, resources).View(client)
	b.ReportAllocs()
	before := spent(b)
	for b.Loop() {
		new(envoy.Builder).Build(view, nil)
	}
	b.ReportMetric(float64((spent(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// BenchmarkRebuildAll is a control plane that starts with 1,000 nodes of 20
// backends each, all connected.
func BenchmarkRebuildAll(b *testing.B) {
	resources, clients := town(1000, 20)
	b.ReportAllocs()
	for b.Loop() {
		snapshot := mesh.NewSnapshot(1, resources)
		builder := &envoy.Builder{}
		held := make([]*envoy.Bundle, 0, len(clients))
		for _, c := range clients {
			view, _, _ := snapshot.View(c)
			bundle, _ := builder.Build(view, nil)
			held = append(held, bundle)
		}
		hosts, _ := builder.Held()
		b.ReportMetric(float64(hosts), "resources")
		_ = held
	}
}

// BenchmarkRebuildAllOwnCertificates is the same where all speak TLS and each node
// has certificate files of its own, so that no two share a policy.
func BenchmarkRebuildAllOwnCertificates(b *testing.B) {
	resources, clients := town(1000, 20)
	for _, r := range resources {
		if r.VirtualNodeSpec() != nil {
			ownCertificate(r)
		}
	}
	b.ReportAllocs()
	before := spent(b)
	for b.Loop() {
		snapshot := mesh.NewSnapshot(1, resources)
		builder := &envoy.Builder{}
		held := make([]*envoy.Bundle, 0, len(clients))
		for _, c := range clients {
			view, _, _ := snapshot.View(c)
			bundle, _ := builder.Build(view, nil)
			held = append(held, bundle)
		}
		_ = held
	}
	b.ReportMetric(float64((spent(b)-before).Microseconds())/float64(b.N*len(clients)), "cpu-µs/client")
}

// ownCertificate gives a node TLS, and a policy, by files that are called after it.
func ownCertificate(r *api.Resource) {
	spec := r.VirtualNodeSpec()
	files := &api.ListenerTLSFileCertificate{CertificateChain: "/certs/" + r.Key.Name + ".pem", PrivateKey: "/certs/" + r.Key.Name + ".key"}
	spec.Listeners[0].TLS = &api.ListenerTLS{Mode: api.ListenerTLSModeStrict, Certificate: api.ListenerTLSCertificate{File: files}}
	spec.BackendDefaults = &api.BackendDefaults{ClientPolicy: &api.ClientPolicy{TLS: &api.ClientPolicyTLS{
		Certificate: &api.ClientTLSCertificate{File: files},
		Validation:  api.TLSValidationContext{Trust: api.TLSValidationContextTrust{File: &api.TLSValidationContextFileTrust{CertificateChain: "/certs/ca.pem"}}},
	}}}
}

// town is n nodes that call each other, each k of the n services that they
// provide through routers.
func town(n, k int) (resources []*api.Resource, clients []mesh.Client) {
	listener := api.PortMapping{Port: 80, Protocol: api.PortProtocolHTTP}
	add := func(kind api.Kind, parent, name string, spec any) {
		resources = append(resources, &api.Resource{Key: keyOf(kind, parent, name), Owner: account, Spec: spec})
	}
	add(api.KindMesh, "", "", &api.MeshSpec{})
	for i := range n {
		name := fmt.Sprint("s", i)
		for _, version := range []string{"-v1", "-v2"} {
			spec := &api.VirtualNodeSpec{
				Listeners:        []api.Listener{{PortMapping: listener}},
				ServiceDiscovery: &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: name + version + ".local"}},
			}
			for j := range k {
				spec.Backends = append(spec.Backends, api.Backend{VirtualService: &api.VirtualServiceBackend{VirtualServiceName: fmt.Sprint("s", (i+7*j+1)%n)}})
			}
			add(api.KindVirtualNode, "", name+version, spec)
		}
		add(api.KindVirtualService, "", name, &api.VirtualServiceSpec{Provider: &api.VirtualServiceProvider{VirtualRouter: &api.VirtualRouterServiceProvider{VirtualRouterName: name}}})
		add(api.KindVirtualRouter, "", name, &api.VirtualRouterSpec{Listeners: []api.VirtualRouterListener{{PortMapping: listener}}})
		add(api.KindRoute, name, "split", split(name, 50))
		clients = append(clients, mesh.Client{Key: keyOf(api.KindVirtualNode, "", name+"-v1")})
	}
	return resources, clients
}
