package simulate_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/simulate"
)

// TestListenersWithTLS connects to a node's ports with and without TLS and
// certificates; a real Envoy takes the same ones.
func TestListenersWithTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := sdstest.NewAuthority(t, "root")
	root.Issue(t, "server.local").Write(t, dir, "server")
	root.Write(t, dir, "ca")
	spec := strings.ReplaceAll(`{"listeners": [
		{"portMapping": {"port": 8080, "protocol": "http"}, "tls": {"mode": "STRICT", "certificate": CERT}},
		{"portMapping": {"port": 8081, "protocol": "http"}, "tls": {"mode": "PERMISSIVE", "certificate": CERT}},
		{"portMapping": {"port": 8082, "protocol": "http"}, "tls": {"mode": "DISABLED", "certificate": CERT}},
		{"portMapping": {"port": 8083, "protocol": "http"}, "tls": {"mode": "STRICT", "certificate": CERT,
			"validation": {"trust": {"file": {"certificateChain": "DIR/ca.pem"}}}}},
		{"portMapping": {"port": 8084, "protocol": "http"}, "tls": {"mode": "STRICT", "certificate": CERT,
			"validation": {"trust": {"file": {"certificateChain": "DIR/ca.pem"}},
				"subjectAlternativeNames": {"match": {"exact": ["front.local", "spiffe://mesh.local/front", "10.0.0.7"]}}}}},
		{"portMapping": {"port": 8086, "protocol": "http"}, "tls": {"mode": "STRICT", "certificate": CERT,
			"validation": {"trust": {"file": {"certificateChain": "DIR/ca.pem"}}, "subjectAlternativeNames": {"match": {"exact": ["front.local"]}}}}},
		{"portMapping": {"port": 8087, "protocol": "http"}, "tls": {"mode": "PERMISSIVE", "certificate": CERT,
			"validation": {"trust": {"file": {"certificateChain": "DIR/ca.pem"}}, "subjectAlternativeNames": {"match": {"exact": ["front.local"]}}}}},
		{"portMapping": {"port": 8085, "protocol": "http"}}]}`,
		"CERT", `{"file": {"certificateChain": "DIR/server.pem", "privateKey": "DIR/server.key"}}`)
	decoded, err := api.DecodeSpec(api.KindVirtualNode, json.RawMessage(strings.ReplaceAll(spec, "DIR", dir)))
	if err != nil {
		t.Fatal(err)
	}
	node := keyOf(api.KindVirtualNode, "", "server")
	view, _, _ := mesh.NewSnapshot(1, []*api.Resource{
		{Key: keyOf(api.KindMesh, "", ""), Owner: envoytest.Account, Spec: &api.MeshSpec{}},
		{Key: node, Owner: envoytest.Account, Spec: decoded},
	}).View(mesh.Client{Key: node})
	bundle, problems := new(envoy.Builder).Build(view, nil)
	if slices.ContainsFunc(problems, func(p mesh.Problem) bool { return !p.Remark() }) {
		t.Fatal(problems)
	}
	c, err := simulate.Decode(bundle)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range c.Listeners {
		demandLess(t, l)
	}
	p := read(t, c)
	batch := envoytest.RunChangedBatch(t, func(_ int, l *listenerv3.Listener) { demandLess(t, l) }, bundle)
	for _, test := range []struct {
		name  string
		port  uint16
		tls   bool
		names []string // of the client's certificate
		taken bool
	}{
		{"TLS-021 STRICT takes TLS", 8080, true, nil, true},
		{"TLS-021 STRICT takes no plaintext", 8080, false, nil, false},
		{"TLS-021 PERMISSIVE takes TLS", 8081, true, nil, true},
		{"TLS-021 PERMISSIVE takes plaintext", 8081, false, nil, true},
		{"TLS-021 DISABLED takes no TLS", 8082, true, nil, false},
		{"TLS-021 DISABLED takes plaintext", 8082, false, nil, true},
		{"TLS-021 without a word no TLS", 8085, true, nil, false},
		{"STRICT looks at no certificate that it did not ask for", 8080, true, []string{"front.local"}, true},
		{"MTLS-004 a client without a certificate", 8083, true, nil, false},
		{"MTLS-004 a client with one, for any name", 8083, true, []string{"anybody.local"}, true},
		{"MTLS-004 names, without a certificate", 8084, true, nil, false},
		{"MTLS-004 names, another one", 8084, true, []string{"other.local"}, false},
		{"MTLS-004 names, DNS", 8084, true, []string{"other.local", "front.local"}, true},
		{"MTLS-004 names, DNS in capitals", 8084, true, []string{"FRONT.local"}, true},
		{"MTLS-004 names, a wildcard that covers it", 8084, true, []string{"*.local"}, true},
		{"MTLS-004 names, a wildcard of another depth", 8084, true, []string{"*.front.local"}, false},
		{"MTLS-004 names, URI", 8084, true, []string{"spiffe://mesh.local/front"}, true},
		{"MTLS-004 names, another URI", 8084, true, []string{"spiffe://mesh.local/frontend"}, false},
		{"MTLS-004 names, IP", 8084, true, []string{"10.0.0.7"}, true},
		{"MTLS-004 names, no plaintext beside them", 8084, false, nil, false},
		{"names, where a certificate is not demanded", 8086, true, nil, false},
		{"PERMISSIVE with authorities, without a certificate", 8087, true, nil, true},
		{"PERMISSIVE with authorities, one for another name", 8087, true, []string{"other.local"}, true},
		{"PERMISSIVE with authorities, plaintext", 8087, false, nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			to := netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), test.port)
			req := simulate.Request{Direction: simulate.Inbound, Destination: to, Authority: "any", TLS: test.tls}
			w := wire(req)
			if test.tls {
				w.TLS = &tls.Config{InsecureSkipVerify: true}
				for _, n := range test.names {
					req.Certificate = append(req.Certificate, kindOf(n)+":"+n)
				}
			}
			if test.names != nil {
				w.TLS.Certificates = []tls.Certificate{root.Issue(t, test.names...).Pair(t)}
			}
			o, err := p.Send(req)
			if err != nil {
				t.Fatal(err)
			}
			if taken := o.End == simulate.Forwarded; taken != test.taken {
				t.Errorf("simulated %v, want %v\n%s", taken, test.taken, o)
			}
			if only := fmt.Sprintf("no filter chain matches: port %d takes TLS only", test.port); !test.tls && !test.taken && o.Why != only {
				t.Errorf("why: %q, want %q", o.Why, only)
			}
			if d := disagreement(o, batch.Send(t, envoytest.BatchListener(0, "lds_ingress_0.0.0.0_15000"), to, w)); d != "" {
				t.Errorf("the real Envoy did otherwise: %s\n%s", d, o)
			}
		})
	}
}

// demandLess has port 8086 ask for names and demand no certificate, which no
// bundle does.
func demandLess(t *testing.T, l *listenerv3.Listener) {
	t.Helper()
	for _, chain := range l.GetFilterChains() {
		if chain.GetFilterChainMatch().GetDestinationPort().GetValue() != 8086 {
			continue
		}
		context := &tlsv3.DownstreamTlsContext{}
		if err := chain.GetTransportSocket().GetTypedConfig().UnmarshalTo(context); err != nil {
			t.Fatal(err)
		}
		context.RequireClientCertificate = nil
		packed, err := anypb.New(context)
		if err != nil {
			t.Fatal(err)
		}
		chain.TransportSocket.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: packed}
	}
}

// kindOf is the kind of an alternative name.
func kindOf(name string) string {
	if _, err := netip.ParseAddr(name); err == nil {
		return "IP"
	}
	if strings.Contains(name, "://") {
		return "URI"
	}
	return "DNS"
}

// TestTargetsWithTLS shows how a client speaks with its targets.
func TestTargetsWithTLS(t *testing.T) {
	t.Parallel()
	p := read(t, configOf(t, "tls_clients virtualNode/front"))
	for _, test := range []struct{ name, host, want string }{
		{"the default policy, with a certificate", "default.local", `, to server name default.local, with certificate file-certificate:/certs/front.pem:/certs/front.key; the other end's certificate must be by file-trust:/certs/ca.pem and for DNS like (?i)default\.local`},
		{"a backend's policy and names", "names.local", `, to server name names.local; the other end's certificate must be by file-trust:/certs/other-ca.pem and for DNS like (?i)names\.local or URI spiffe://mesh.local/names`},
		{"a policy that does not enforce, and a target with TLS", "lax.local", `, to server name lax.local; the other end's certificate must be by file-trust:/certs/ca.pem and for DNS lax.local`},
		{"a policy that does not enforce, and a target without", "lax-plain.local", ""},
		{"a policy for the port, of an address", "ports.local", `; the other end's certificate must be by file-trust:/certs/ca.pem and for IP_ADDRESS 10.0.0.7`},
		{"a policy for other ports", "ports-plain.local", ""},
		{"an empty policy", "overridden.local", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			o, err := p.Send(simulate.Request{Destination: toPort(9080), Authority: test.host})
			if err != nil || len(o.Targets) != 1 {
				t.Fatalf("got %v, %v", o, err)
			}
			got := ""
			if of := o.Targets[0].TLS; of != nil {
				got = of.String()
			}
			if got != test.want {
				t.Errorf("got %s\nwant %s", got, test.want)
			}
			if text := o.String(); strings.Contains(text, "by TLS") != (test.want != "") || !strings.Contains(text, test.want) {
				t.Errorf("it reads\n%s", text)
			}
		})
	}
	t.Run("the workload's own server, and gRPC", func(t *testing.T) {
		o, err := p.Send(simulate.Request{Protocol: simulate.GRPC, Destination: toPort(9081), Authority: "spire.local", Path: "/a.B/C"})
		if err != nil || len(o.Targets) != 1 || o.Targets[0].TLS == nil {
			t.Fatalf("got %v, %v", o, err)
		}
		of := o.Targets[0].TLS
		if of.Certificate.String() != "spiffe://mesh.local/front of static_cluster_sds_unix_socket" || !slices.Equal(of.ALPN, []string{"h2"}) ||
			fmt.Sprint(of.Names) != "[URI spiffe://mesh.local/spire]" {
			t.Errorf("got %+v", of)
		}
	})
}
