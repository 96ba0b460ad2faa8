package envoy_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// tlsLab is a mesh of real Envoys: one with the inbound listeners of all nodes,
// one for each client, all with listeners, clusters and secrets by ADS. Only
// addresses are others than in a bundle. Where a connection was going is where
// it arrives: each node has an address of its own, with the node's ports, and so
// has each client, with the ports of what it calls.
type tlsLab struct {
	dir      string
	binary   string
	net      [3]byte
	last     byte
	nodes    map[string]netip.Addr // servers
	of       map[string]*envoy.Bundle
	spire    *sdstest.Server // the SDS server of all workloads
	root     *sdstest.Authority
	stranger *sdstest.Authority // trusted by few
	proxies  map[string]*proxy
	secrets  []*tlsv3.Secret // by ADS
}

// proxy is one Envoy of the lab.
type proxy struct {
	address netip.Addr
	ads     *sdstest.Server
	admin   *http.Client
	log     *testenv.Output
}

// newTLSLab has the nodes of a case. It is filled by client and servers.
func newTLSLab(t *testing.T, binary, file string) *tlsLab {
	t.Helper()
	dir, err := os.MkdirTemp("", "tls") // short: sockets have at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &tlsLab{
		dir: dir, binary: binary, nodes: map[string]netip.Addr{}, of: map[string]*envoy.Bundle{}, proxies: map[string]*proxy{},
		root: sdstest.NewAuthority(t, "root"), stranger: sdstest.NewAuthority(t, "other root"),
	}
	if _, err := rand.Read(l.net[1:]); err != nil {
		t.Fatal(err)
	}
	l.net[0] = 127
	l.spire = sdstest.Serve(t, filepath.Join(dir, "sds"))
	for _, c := range envoytest.Cases(t) {
		if c.Name != file {
			continue
		}
		for _, key := range c.Clients(t) {
			b, _ := c.Bundle(t, key)
			l.of[key.Name] = b
			if key.Kind == api.KindVirtualNode && b.List(envoy.Listener).Get("lds_ingress_0.0.0.0_15000") != nil {
				l.nodes[key.Name] = l.newAddress()
			}
		}
	}
	if len(l.nodes) == 0 {
		t.Fatalf("no nodes in case %s", file)
	}
	return l
}

func (l *tlsLab) newAddress() netip.Addr {
	l.last++
	return netip.AddrFrom4([4]byte{l.net[0], l.net[1], l.net[2], l.last})
}

// certificate, issued and trust are what files and ARNs hold.
func (l *tlsLab) certificate(name string, c sdstest.Certificate) {
	l.secret("file-certificate:/certs/"+name+".pem:/certs/"+name+".key", c, nil)
}

func (l *tlsLab) secret(name string, c sdstest.Certificate, trust *sdstest.Authority) {
	inline := func(text []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: text}}
	}
	s := &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(c.Chain), PrivateKey: inline(c.Key)}}}
	if trust != nil {
		s.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(trust.PEM)}}
	}
	l.secrets = append(l.secrets, s)
}

// files is a secret of files, as Envoy reads them itself.
func (l *tlsLab) files(name, chain, key string) {
	of := func(path string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
	}
	s := &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: of(chain), PrivateKey: of(key)}}}
	if key == "" {
		s.Type = &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: of(chain)}}
	}
	l.secrets = append(l.secrets, s)
}

// servers runs the Envoy of all nodes' inbound listeners.
func (l *tlsLab) servers(t *testing.T) *proxy {
	t.Helper()
	p := l.newProxy(t, "servers", netip.Addr{})
	for name, address := range l.nodes {
		for _, r := range l.of[name].List(envoy.Cluster).Resources {
			if strings.HasPrefix(r.Name, "cds_ingress_") {
				p.ads.PutResource(t, r.Name, l.application(t, r, name))
			}
		}
		p.ads.PutResource(t, name, l.inbound(t, name, address))
	}
	l.start(t, "servers", p)
	return p
}

// inbound is a node's listener at an address of its own.
func (l *tlsLab) inbound(t *testing.T, name string, at netip.Addr) *listenerv3.Listener {
	out := l.listener(t, l.of[name], "lds_ingress_0.0.0.0_15000")
	out.Name, out.StatPrefix = name, name
	l.bind(out, at)
	return out
}

// listener is one of a bundle with its routes inside.
func (l *tlsLab) listener(t *testing.T, bundle *envoy.Bundle, name string) *listenerv3.Listener {
	t.Helper()
	out := &listenerv3.Listener{}
	if err := bundle.List(envoy.Listener).Get(name).UnmarshalTo(out); err != nil {
		t.Fatal(err)
	}
	for _, chain := range out.GetFilterChains() {
		hcm := &hcmv3.HttpConnectionManager{}
		if chain.GetFilters()[0].GetTypedConfig().UnmarshalTo(hcm) != nil {
			continue
		}
		routes := decoded(t, bundle.List(envoy.Route).Get(hcm.GetRds().GetRouteConfigName()))
		hcm.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes}
		chain.GetFilters()[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed(t, hcm)}
	}
	return out
}

// bind puts a listener onto the ports that its chains are for.
func (l *tlsLab) bind(out *listenerv3.Listener, at netip.Addr) {
	var ports []uint32
	for _, chain := range out.GetFilterChains() {
		if p := chain.GetFilterChainMatch().GetDestinationPort().GetValue(); p != 0 && p != 443 && !slices.Contains(ports, p) {
			ports = append(ports, p)
		}
	}
	out.Address, out.AdditionalAddresses = socket(at, ports[0]), nil
	for _, p := range ports[1:] {
		out.AdditionalAddresses = append(out.AdditionalAddresses, &listenerv3.AdditionalAddress{Address: socket(at, p)})
	}
}

func socket(at netip.Addr, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: at.String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// application is the cluster of a node's application, which runs in the test.
func (l *tlsLab) application(t *testing.T, r *envoy.Resource, node string) *clusterv3.Cluster {
	t.Helper()
	c := &clusterv3.Cluster{}
	if err := r.UnmarshalTo(c); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(l.dir, node)
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.Name, "_tcp_") {
		serveTCP(t, listener, node)
	} else {
		serveHTTP(t, listener, node)
	}
	c.LoadAssignment = assigned(r.Name, envoytest.Pipe(path))
	return c
}

func assigned(name string, to *corev3.Address) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: to}},
	}}}}}
}

// serveHTTP answers with the node's name, and whether the application saw TLS.
func serveHTTP(t *testing.T, listener net.Listener, node string) {
	both := &http.Protocols{}
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: both, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait, err := time.ParseDuration(r.Header.Get("x-wait")); err == nil {
			select {
			case <-time.After(wait):
			case <-r.Context().Done():
			}
		}
		if fail := r.Header.Get("x-fail"); fail != "" {
			w.Header().Set("x-envoy-immediate-health-check-fail", fail)
		}
		fmt.Fprintf(w, "%s %s tls=%t", node, r.Proto, r.TLS != nil)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

// serveTCP speaks first, with the node's name, and then sends back what comes.
func serveTCP(t *testing.T, listener net.Listener, node string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection, which ends with Envoy
				defer conn.Close()
				fmt.Fprintln(conn, node)
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
}

// client runs the Envoy of a node that calls others, or of a gateway.
func (l *tlsLab) client(t *testing.T, name string) *proxy {
	t.Helper()
	b := l.of[name]
	p := l.newProxy(t, name, l.newAddress())
	for _, r := range b.List(envoy.Cluster).Resources {
		if !strings.HasPrefix(r.Name, "cds_ingress_") || strings.Contains(r.Name, "self_redirect") {
			p.ads.PutResource(t, r.Name, l.toServers(t, r, p))
		}
	}
	for _, r := range b.List(envoy.Listener).Resources {
		if r.Name == "lds_ingress_0.0.0.0_15000" {
			continue
		}
		out := l.listener(t, b, r.Name)
		l.bind(out, p.address)
		p.ads.PutResource(t, r.Name, out)
	}
	l.start(t, name, p)
	return p
}

// toServers is a cluster of a bundle that leads to the lab's nodes.
func (l *tlsLab) toServers(t *testing.T, r *envoy.Resource, p *proxy) *clusterv3.Cluster {
	t.Helper()
	c := &clusterv3.Cluster{}
	if err := r.UnmarshalTo(c); err != nil {
		t.Fatal(err)
	}
	to := func(a netip.Addr, port uint32) {
		c.ClusterDiscoveryType, c.EdsClusterConfig = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, nil
		c.LoadAssignment = assigned(r.Name, socket(a, port))
	}
	if strings.Contains(r.Name, "self_redirect") {
		to(p.address, 15001)
	}
	for _, check := range c.GetHealthChecks() {
		check.Timeout = durationpb.New(testenv.Patience) // a busy machine does not make a target fail
	}
	for name, address := range l.nodes {
		rest, ok := strings.CutPrefix(r.Name, "cds_egress_colors_"+name+"_")
		_, port, _ := strings.Cut(rest, "_")
		if n, err := strconv.ParseUint(port, 10, 16); ok && err == nil && strings.Count(rest, "_") == 1 {
			to(address, uint32(n))
		}
	}
	return c
}

func (l *tlsLab) newProxy(t *testing.T, name string, at netip.Addr) *proxy {
	t.Helper()
	p := &proxy{address: at, ads: sdstest.Serve(t, filepath.Join(l.dir, name+".ads")), log: &testenv.Output{}}
	for _, s := range l.secrets {
		p.ads.Put(t, s)
	}
	l.proxies[name] = p
	return p
}

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	out, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// start runs the Envoy and waits until it has its listeners.
func (l *tlsLab) start(t *testing.T, name string, p *proxy) {
	t.Helper()
	envoytest.LogVersion(t, l.binary)
	cluster := func(name, path string) *clusterv3.Cluster {
		return &clusterv3.Cluster{
			Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, LoadAssignment: assigned(name, envoytest.Pipe(path)),
			TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(t, &httpv3.HttpProtocolOptions{
				UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
					ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
				}},
			})},
		}
	}
	ads := &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}, ResourceApiVersion: corev3.ApiVersion_V3,
		InitialFetchTimeout: durationpb.New(0), // as an agent's Envoy, it is ready with its configuration alone
	}
	config := &bootstrapv3.Bootstrap{
		Node:  &corev3.Node{Id: name, Cluster: name},
		Admin: &bootstrapv3.Admin{Address: envoytest.Pipe(filepath.Join(l.dir, name+".admin"))},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{
			cluster("ads", filepath.Join(l.dir, name+".ads")), cluster("static_cluster_sds_unix_socket", filepath.Join(l.dir, "sds")),
		}},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{LdsConfig: ads, CdsConfig: ads, AdsConfig: &corev3.ApiConfigSource{
			ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3, SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "ads"}}}},
		}},
	}
	text, err := envoy.JSON(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(l.dir, name+".json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(l.binary, "-c", path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "--drain-time-s", "3", "--drain-strategy", "immediate", "--file-flush-interval-msec", "100")
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.log.String())
		}
	})
	p.admin = overSocket(filepath.Join(l.dir, name+".admin"))
	testenv.Eventually(t, name+" is ready", func() bool { return p.page("/ready") == "LIVE\n" })
}

// page reads a page of the Envoy's admin interface; empty when it does not
// answer.
func (p *proxy) page(path string) string {
	resp, err := p.admin.Get("http://admin" + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}

// stat is a counter or gauge; absent ones are 0.
func (p *proxy) stat(t *testing.T, name string) int {
	t.Helper()
	var out struct {
		Stats []struct {
			Name  string
			Value any // texts have one too
		}
	}
	if err := json.Unmarshal([]byte(p.page("/stats?format=json")), &out); err != nil {
		t.Fatal(err)
	}
	for _, s := range out.Stats {
		if s.Name == name {
			n, _ := s.Value.(float64)
			return int(n)
		}
	}
	return 0
}

// overSocket is a client of a server at a socket file.
func overSocket(path string) *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
}
