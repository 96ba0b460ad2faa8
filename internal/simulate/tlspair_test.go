package simulate_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/simulate"
)

// TestBothEndsOfTLS sends requests through a client's configuration and then the
// server's, simulated, and through the same two in a real Envoy: what the client
// speaks to its target is what the server's listener is asked with.
func TestBothEndsOfTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, stranger := sdstest.NewAuthority(t, "root"), sdstest.NewAuthority(t, "stranger")
	root.Write(t, dir, "ca")
	for _, name := range []string{"front", "strict", "h2", "mutual", "picky"} {
		root.Issue(t, name+".local").Write(t, dir, name)
	}
	root.Issue(t, "somebody.local").Write(t, dir, "other")
	stranger.Issue(t, "foreign.local").Write(t, dir, "foreign")
	certificate := func(name string) string {
		return fmt.Sprintf(`{"file": {"certificateChain": "%[1]s/%[2]s.pem", "privateKey": "%[1]s/%[2]s.key"}}`, dir, name)
	}
	trust := fmt.Sprintf(`{"trust": {"file": {"certificateChain": "%s/ca.pem"}}}`, dir)
	names := func(name string) string {
		return strings.TrimSuffix(trust, "}") + fmt.Sprintf(`, "subjectAlternativeNames": {"match": {"exact": [%q]}}}`, name)
	}
	none := `, "clientPolicy": {}`
	cases := []struct {
		name, protocol, tls, policy string
		byTLS                       bool // spoken to it
		known                       bool // the server's certificate is what the client wants
		arrives                     bool
	}{
		{"plain", "http", "", none, false, true, true},
		{"sealed", "http", "", "", true, false, false},
		{"strict", "http", `"mode": "STRICT", "certificate": ` + certificate("strict"), "", true, true, true},
		{"h2", "http2", `"mode": "STRICT", "certificate": ` + certificate("h2"), "", true, true, true},
		{"other", "http", `"mode": "STRICT", "certificate": ` + certificate("other"), "", true, false, false},
		{"any", "http", `"mode": "STRICT", "certificate": ` + certificate("other"), none, true, true, true},
		{"foreign", "http", `"mode": "STRICT", "certificate": ` + certificate("foreign"), "", true, false, false},
		{"mutual", "http", `"mode": "STRICT", "certificate": ` + certificate("mutual") + `, "validation": ` + names("front.local"), "", true, true, true},
		{"picky", "http2", `"mode": "STRICT", "certificate": ` + certificate("picky") + `, "validation": ` + names("guest.local"), "", true, true, false},
		{"bare", "http", `"mode": "STRICT", "certificate": ` + certificate("mutual") + `, "validation": ` + trust, none, true, true, false},
	}
	resources := []*api.Resource{{Key: keyOf(api.KindMesh, "", ""), Owner: envoytest.Account, Spec: &api.MeshSpec{}}}
	add := func(kind api.Kind, name, spec string) api.Key {
		decoded, err := api.DecodeSpec(kind, []byte(spec))
		if err != nil {
			t.Fatal(err)
		}
		resources = append(resources, &api.Resource{Key: keyOf(kind, "", name), Owner: envoytest.Account, Spec: decoded})
		return resources[len(resources)-1].Key
	}
	var keys []api.Key
	var backends []string
	for i, c := range cases {
		listener := fmt.Sprintf(`{"portMapping": {"port": %d, "protocol": %q}`, 9080+i, c.protocol)
		if c.tls != "" {
			listener += `, "tls": {` + c.tls + `}`
		}
		keys = append(keys, add(api.KindVirtualNode, c.name, fmt.Sprintf(`{"listeners": [%s}], "serviceDiscovery": {"dns": {"hostname": "%s.local"}}}`, listener, c.name)))
		add(api.KindVirtualService, c.name+".local", fmt.Sprintf(`{"provider": {"virtualNode": {"virtualNodeName": %q}}}`, c.name))
		backends = append(backends, fmt.Sprintf(`{"virtualService": {"virtualServiceName": "%s.local"%s}}`, c.name, c.policy))
	}
	keys = append(keys, add(api.KindVirtualNode, "front", fmt.Sprintf(`{"backends": [%s], "backendDefaults": {"clientPolicy": {"tls": {"certificate": %s, "validation": %s}}}}`,
		strings.Join(backends, ", "), certificate("front"), trust)))
	var bundles []*envoy.Bundle
	for _, k := range keys {
		view, problems, _ := mesh.NewSnapshot(1, resources).View(mesh.Client{Key: k})
		b, more := new(envoy.Builder).Build(view, nil)
		for _, p := range append(problems, more...) {
			if !p.Remark() {
				t.Error(p)
			}
		}
		bundles = append(bundles, b)
	}
	front := len(cases)
	batch := envoytest.RunRelayedBatch(t, func(int, *listenerv3.Listener) {}, func(b *envoytest.Batch, i int, c *clusterv3.Cluster) {
		for to, of := range cases {
			if i == front && strings.Contains(c.GetName(), "cds_egress_colors_"+of.name+"_") {
				relay(t, c, filepath.Join(b.Dir, envoytest.BatchListener(to, "lds_ingress_0.0.0.0_15000")))
			}
		}
	}, bundles...)
	client := decode(t, bundles[front])
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			to := netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), uint16(9080+i))
			r := simulate.Request{Destination: to, Authority: c.name + ".local"}
			if c.protocol == "http2" {
				r.Protocol = simulate.HTTP2
			}
			out, err := client.Send(r)
			if err != nil || len(out.Targets) != 1 {
				t.Fatalf("%v, %v", out, err)
			}
			asked := simulate.Request{Direction: simulate.Inbound, Destination: to, Authority: r.Authority, Protocol: r.Protocol}
			if s := out.Targets[0].TLS; s != nil {
				asked.TLS, asked.ServerName = true, s.ServerName
				if s.Certificate.Name != "" {
					asked.Certificate = []string{"DNS:front.local"}
				}
			}
			in, err := decode(t, bundles[i]).Send(asked)
			if err != nil {
				t.Fatal(err)
			}
			if asked.TLS != c.byTLS || (c.known && in.End == simulate.Forwarded) != c.arrives {
				t.Errorf("by TLS %t, want %t; arrival %t, want %t\n%s%s", asked.TLS, c.byTLS, in.End == simulate.Forwarded, c.arrives, out, in)
			}
			got := batch.Send(t, envoytest.BatchListener(front, "lds_egress_0.0.0.0_15001"), to, wire(r))
			switch {
			case c.arrives && (got.Arrival == nil || !strings.HasPrefix(got.Arrival.Cluster, "cds_ingress_colors_"+c.name+"_")):
				t.Errorf("the real Envoys answer %d, and it arrived as %+v\n%s%s", got.Status, got.Arrival, out, in)
			case !c.arrives && (got.Arrival != nil || got.Status != 503):
				t.Errorf("the real Envoys answer %d, and it arrived as %+v\n%s%s", got.Status, got.Arrival, out, in)
			}
		})
	}
}

// relay sends a cluster's connections to a listener of the batch, which learns by
// the PROXY protocol where the client's connection was going.
func relay(t *testing.T, c *clusterv3.Cluster, path string) {
	t.Helper()
	inner := c.GetTransportSocket()
	if inner == nil {
		plain, err := anypb.New(&rawv3.RawBuffer{})
		if err != nil {
			t.Fatal(err)
		}
		inner = &corev3.TransportSocket{Name: "envoy.transport_sockets.raw_buffer", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: plain}}
	}
	packed, err := anypb.New(&proxyprotocolv3.ProxyProtocolUpstreamTransport{Config: &corev3.ProxyProtocolConfig{}, TransportSocket: inner})
	if err != nil {
		t.Fatal(err)
	}
	c.TransportSocket = &corev3.TransportSocket{Name: "envoy.transport_sockets.upstream_proxy_protocol", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed}}
	c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.GetName(), Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: envoytest.Pipe(path)}},
	}}}}}
}
