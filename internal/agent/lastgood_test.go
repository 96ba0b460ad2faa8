package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/httpapi"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// whole is a node with TLS whose every part comes by ADS: cluster, endpoints, listener, route, and a certificate with its
// key. The control plane that has it stops and starts; at each start routes say which one it is.
type whole struct {
	of map[string]map[string]*discoveryv3.Resource // by type and name
}

func (w *whole) set(t *testing.T, name, version string, m proto.Message) {
	t.Helper()
	a := typed(t, m)
	if w.of[a.TypeUrl] == nil {
		w.of[a.TypeUrl] = map[string]*discoveryv3.Resource{}
	}
	w.of[a.TypeUrl][name] = &discoveryv3.Resource{Name: name, Version: version, Resource: a}
}

// serve answers delta streams: of clusters and listeners all, of the rest what is asked for, but for what Envoy has.
func (w *whole) serve(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	opened := map[string]bool{}
	for n := 0; ; n++ {
		r, err := s.Recv()
		if err != nil {
			return nil
		}
		answer := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.TypeUrl, Nonce: strconv.Itoa(n)}
		for name, one := range w.of[r.TypeUrl] {
			all := !opened[r.TypeUrl] && len(r.ResourceNamesSubscribe) == 0
			if (all || slices.Contains(r.ResourceNamesSubscribe, name)) && r.InitialResourceVersions[name] != one.Version {
				answer.Resources = append(answer.Resources, one)
			}
		}
		first := !opened[r.TypeUrl] && len(r.InitialResourceVersions) == 0
		opened[r.TypeUrl] = true
		if len(answer.Resources) == 0 && !first {
			continue
		}
		if err := s.Send(answer); err != nil {
			return err
		}
	}
}

func byADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

func at(port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

func newWhole(t *testing.T, listen, application int) *whole {
	t.Helper()
	w := &whole{of: map[string]map[string]*discoveryv3.Resource{}}
	w.set(t, "app", "1", &clusterv3.Cluster{
		Name: "app", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: byADS()},
	})
	w.set(t, "app", "1", &endpointv3.ClusterLoadAssignment{ClusterName: "app", Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: at(application)}}}},
	}}})
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:     "in",
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "in", ConfigSource: byADS()}},
		HttpFilters:    []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: typed(t, &routerv3.Router{})}}},
	}
	secure := typed(t, &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: "issued", SdsConfig: byADS()}},
	}})
	w.set(t, "in", "1", &listenerv3.Listener{
		Name: "in", Address: at(listen), TrafficDirection: corev3.TrafficDirection_INBOUND,
		FilterChains: []*listenerv3.FilterChain{{
			Filters:         []*listenerv3.Filter{{Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: typed(t, manager)}}},
			TransportSocket: &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: secure}},
		}},
	})
	w.route(t, "first")
	certificate, key := selfSigned(t)
	source := func(text []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: text}}
	}
	w.set(t, "issued", "1", &tlsv3.Secret{Name: "issued", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: source(certificate), PrivateKey: source(key),
	}}})
	return w
}

// route has answers say which configuration they went by.
func (w *whole) route(t *testing.T, which string) {
	t.Helper()
	w.set(t, "in", which, &routev3.RouteConfiguration{Name: "in", VirtualHosts: []*routev3.VirtualHost{{
		Name: "all", Domains: []string{"*"},
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "x-which", Value: which}}},
		Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: "app"}}},
		}},
	}}})
}

func selfSigned(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"in"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, of, of, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

// alone is an agent in process, with all that a test asks of it.
type alone struct {
	t             *testing.T
	admin, listen int
	log           *testenv.Output
	server        settings.Server
	stop          func() // at once
}

func newAlone(t *testing.T, envoy, control, state, dir string, admin, listen int) *alone {
	t.Helper()
	s, err := settings.Parse(agenttest.Environment(
		"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT=http://"+control, "AWS_REGION=us-east-1", "EVERMESH_STATE_DIR="+state,
		"ENVOY_PATH="+envoy, "ENVOY_LOG_LEVEL=warning", "ENVOY_CONCURRENCY=1", "ENVOY_ADMIN_ACCESS_PORT="+strconv.Itoa(admin),
		"ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH=/dev/null", "LISTENER_DRAIN_WAIT_TIME_S=5",
		"APPNET_AGENT_ADMIN_MODE=uds", "APPNET_AGENT_ADMIN_UDS_PATH="+filepath.Join(dir, "agent.sock"), "HC_POLL_INTERVAL_MS=2000",
	), settings.Flags{}, os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	log, out := agenttest.Log(t)
	ctx, cancel := context.WithCancel(t.Context())
	hurry, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- Run(ctx, s, Program{Version: "test", Stdout: os.Stdout, Stderr: os.Stderr, Log: log, Hurry: hurry})
	}()
	var once sync.Once
	stop := func() { once.Do(func() { cancel(); close(hurry); <-ended }) }
	t.Cleanup(stop)
	return &alone{t: t, admin: admin, listen: listen, log: out, server: s.Server, stop: stop}
}

func (a *alone) live() bool {
	_, text := askHTTP(a.t, http.DefaultClient, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/ready", a.admin))
	return strings.TrimSpace(text) == "LIVE"
}

// which is the configuration that a request over TLS went by, "" when it was not answered 200.
func (a *alone) which(client *http.Client) string {
	r, err := http.NewRequestWithContext(a.t.Context(), http.MethodPost, fmt.Sprintf("https://127.0.0.1:%d/", a.listen), strings.NewReader("x"))
	if err != nil {
		return ""
	}
	answer, err := client.Do(r)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		return ""
	}
	return answer.Header.Get("X-Which")
}

func (a *alone) connectedState() string {
	_, text := askEnvoy(a.t, a.admin, "/stats?filter=control_plane.connected_state")
	return strings.TrimSpace(text)
}

func trusting() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // whose certificate it is does not matter here
}

// An agent and an Envoy that start while there is no control plane serve what the Envoy before them had, over TLS whose
// key came from the control plane; and they go on without a failed request when it is back with something else.
func TestStartWithoutControlPlane(t *testing.T) {
	agenttest.Signed(t)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	t.Cleanup(app.Close)
	_, port, _ := strings.Cut(app.Listener.Addr().String(), ":")
	for _, envoy := range agenttest.Envoys(t) {
		version := versionOf(t, envoy)
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			t.Logf("real envoy: %s", version)
			state, dir := t.TempDir(), agenttest.ShortDir(t)
			listen, admin := testenv.FreePort(t), testenv.FreePort(t)
			w := newWhole(t, listen, number(t, port))
			c := agenttest.NewControlPlane(t, "", grpc.WaitForHandlers(true))
			c.ServeDelta(w.serve)
			client := trusting()
			defer client.CloseIdleConnections()

			before := newAlone(t, envoy, c.Addr, state, dir, admin, listen)
			testenv.Eventually(t, "it serves", func() bool { return before.which(client) == "first" })
			testenv.Eventually(t, "what it has is on disk", func() bool { f, _ := filepath.Glob(filepath.Join(state, "*.lastgood")); return len(f) == 1 })
			before.stop()
			client.CloseIdleConnections()
			c.Stop()

			a := newAlone(t, envoy, c.Addr, state, dir, admin, listen)
			t.Run("live, and serves with TLS", func(t *testing.T) {
				testenv.Eventually(t, "it serves", func() bool { return a.which(client) == "first" })
				if !a.live() {
					t.Error("it serves and is not live")
				}
				if !strings.Contains(a.log.String(), "no control plane answers: the last good configuration is served") || !strings.Contains(a.log.String(), "resources=5") {
					t.Error("the log does not say so")
				}
				if strings.Contains(a.log.String(), "PRIVATE KEY") {
					t.Error("the log tells the key")
				}
				text, err := filepath.Glob(filepath.Join(state, "*.lastgood"))
				if err != nil || len(text) != 1 {
					t.Fatal(text, err)
				}
				if b, err := os.ReadFile(text[0]); err != nil || strings.Contains(string(b), "PRIVATE KEY") {
					t.Errorf("the key is on disk, or %v", err)
				}
			})
			t.Run("EMS-049 and nobody believes that the control plane is there", func(t *testing.T) {
				zero := 0
				testenv.Eventually(t, "connected_state is and stays 0, but for moments", func() bool {
					if zero++; a.connectedState() != "control_plane.connected_state: 0" {
						zero = 0
					}
					return zero >= 10
				})
				if _, text := askHTTP(t, patient(a.server), http.MethodGet, "http://agent/status"); !strings.Contains(text, "NOT_CONNECTED") || !strings.Contains(text, "LAST_GOOD") {
					t.Errorf("status: %s", text)
				}
			})
			t.Run("an Envoy that is killed starts again with it", func(t *testing.T) {
				var process int
				testenv.Eventually(t, "it is known", func() bool { process = a.process(); return process > 0 })
				if err := syscall.Kill(process, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				testenv.Eventually(t, "another one is live", func() bool { now := a.process(); return now > 0 && now != process && a.live() })
				testenv.Eventually(t, "it serves", func() bool { return a.which(client) == "first" })
			})
			t.Run("gives way without a failed request", func(t *testing.T) {
				var failed, done atomic.Int64
				var wg sync.WaitGroup
				ctx, cancel := context.WithCancel(t.Context())
				for range 4 {
					wg.Go(func() {
						mine := trusting()
						defer mine.CloseIdleConnections()
						for ctx.Err() == nil {
							if a.which(mine) == "" {
								failed.Add(1)
							}
							done.Add(1)
						}
					})
				}
				w.route(t, "second")
				back := agenttest.NewControlPlane(t, c.Addr)
				back.ServeDelta(w.serve)
				testenv.Eventually(t, "it has what the control plane has now", func() bool { return a.which(client) == "second" })
				testenv.Eventually(t, "connected", func() bool { return a.connectedState() == "control_plane.connected_state: 1" })
				many := done.Load()
				testenv.Eventually(t, "load", func() bool { return done.Load() > many+200 })
				cancel()
				wg.Wait()
				t.Logf("drops: control plane returns to a last good configuration: %d requests, %d failed", done.Load(), failed.Load())
				if failed.Load() > 0 {
					t.Errorf("%d of %d requests failed", failed.Load(), done.Load())
				}
				back.Stop()
			})
			a.stop()
		})
	}
}

// process is Envoy's, 0 for none.
func (a *alone) process() int {
	var s httpapi.Status
	if _, text := askHTTP(a.t, patient(a.server), http.MethodGet, "http://agent/status"); json.Unmarshal([]byte(text), &s) != nil {
		return 0
	}
	n, err := strconv.Atoi(s.Pid)
	if err != nil {
		return 0
	}
	return n
}

func versionOf(t *testing.T, envoy string) string {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), envoy, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(regexp.MustCompile(`\d+\.\d+\.\d+`).Find(text))
}
