package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/bootstrap"
	"github.com/evermesh/evermesh/internal/agent/httpapi"
	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

const (
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
)

// meshOfOne answers real Envoys: no clusters, and one listener that says hello.
type meshOfOne struct {
	listener *anypb.Any
	open     chan struct{} // answers wait until it is closed

	mu       sync.Mutex
	first    []*discoveryv3.DeltaDiscoveryRequest // of each stream
	repeated bool                                 // a node came with a later request
	accepted int
	end      context.CancelFunc // ends the newest stream
}

func (m *meshOfOne) serve(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	go func() {
		defer close(requests)
		for {
			r, err := s.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	answered := map[string]bool{}
	for n := 0; ; n++ {
		select {
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			m.note(n, r, cancel)
			if answered[r.TypeUrl] {
				continue
			}
			answered[r.TypeUrl] = true
			select {
			case <-m.open:
			case <-ctx.Done():
				return nil
			}
			answer := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.TypeUrl, Nonce: r.TypeUrl}
			if r.TypeUrl == listenerType {
				answer.Resources = []*discoveryv3.Resource{{Name: "hello", Version: "1", Resource: m.listener}}
			}
			if err := s.Send(answer); err != nil {
				return err
			}
		case <-ctx.Done():
			return status.Error(codes.Unavailable, "goes away")
		}
	}
}

func (m *meshOfOne) note(n int, r *discoveryv3.DeltaDiscoveryRequest, cancel context.CancelFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n == 0 {
		m.first = append(m.first, r)
		m.end = cancel
	}
	m.repeated = m.repeated || (n > 0 && r.Node.GetId() != "")
	if r.ResponseNonce == listenerType && r.ErrorDetail == nil {
		m.accepted++
	}
}

// counts are the streams opened and the listeners accepted.
func (m *meshOfOne) counts() (streams, accepted int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.first), m.accepted
}

func (m *meshOfOne) stream(i int) *discoveryv3.DeltaDiscoveryRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.first[i]
}

func (m *meshOfOne) endStream() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.end()
}

func typed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func helloListener(t *testing.T, port int) *anypb.Any {
	t.Helper()
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: "hello",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
					Status: 200, Body: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "hello"}},
				}},
			}}}},
		}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: typed(t, &routerv3.Router{})}}},
	}
	return typed(t, &listenerv3.Listener{
		Name: "hello",
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
		}}},
		TrafficDirection: corev3.TrafficDirection_INBOUND,
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: typed(t, manager)},
		}}}},
	})
}

// The whole agent with a real Envoy, from the first start to the end. The parts follow each other.
func TestRealEnvoy(t *testing.T) {
	agenttest.Signed(t)
	option, ca := agenttest.Certificate(t, []string{"localhost"}, net.IPv4(127, 0, 0, 1))
	port, admin, dir := testenv.FreePort(t), testenv.FreePort(t), agenttest.ShortDir(t)
	m := &meshOfOne{listener: helloListener(t, port), open: make(chan struct{})}
	c := agenttest.NewControlPlane(t, "", option, agenttest.Verifying())
	c.ServeDelta(m.serve)
	for name, value := range map[string]string{
		"APPMESH_RESOURCE_ARN": "mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT": c.Addr, "APPMESH_XDS_CA_FILE": ca, "AWS_REGION": "us-east-1",
		"ENVOY_PATH": agenttest.Envoys(t)[0], "ENVOY_LOG_LEVEL": "warning", "ENVOY_CONCURRENCY": "1", "ENVOY_ADMIN_ACCESS_PORT": strconv.Itoa(admin),
		"ENVOY_ADMIN_ACCESS_LOG_FILE": "/dev/null", "ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH": "/dev/null", "LISTENER_DRAIN_WAIT_TIME_S": "5",
		"APPNET_AGENT_ADMIN_MODE": "uds", "APPNET_AGENT_ADMIN_UDS_PATH": filepath.Join(dir, "agent.sock"), "TMPDIR": dir,
		"HC_POLL_INTERVAL_MS": "2000", "APPNET_AGENT_POLL_ENVOY_READINESS_INTERVAL_S": "1",
	} {
		t.Setenv(name, value)
	}
	s, err := settings.Parse(os.Getenv, settings.Flags{}, os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	log, _ := agenttest.Log(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, s, Program{Version: "test", Stdout: os.Stdout, Stderr: os.Stderr, Log: log})
	}()
	defer func() { cancel(); <-ended }()
	client := patient(s.Server)
	ask := func(method, path string) (int, string) { return askHTTP(t, client, method, "http://agent"+path) }
	envoy := func(path string) (int, string) {
		return askHTTP(t, http.DefaultClient, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", admin, path))
	}
	state := func() (s httpapi.Status) {
		if _, text := ask(http.MethodGet, "/status"); json.Unmarshal([]byte(text), &s) != nil {
			return httpapi.Status{}
		}
		return s
	}
	poll := func(what string, ok func() bool) {
		t.Helper()
		deadline := time.Now().Add(agenttest.Wait)
		for !ok() {
			if time.Now().After(deadline) {
				t.Fatalf("not in %s: %s", agenttest.Wait, what)
			}
			if pause.For(t.Context(), 150*time.Millisecond) != nil { // the interface takes 10 requests a second
				return
			}
		}
	}
	hello := func() bool {
		code, text := askHTTP(t, http.DefaultClient, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port))
		return code == 200 && text == "hello"
	}

	t.Run("AGENT-043 not live before the first configuration", func(t *testing.T) {
		poll("Envoy's first request", func() bool { streams, _ := m.counts(); return streams >= 1 })
		poll("Envoy answers", func() bool { return strings.Contains(state().State, "INITIALIZING") })
		got := state()
		if got.Health != "UNHEALTHY" || got.ManagementServer != "NOT_CONNECTED" || got.Readiness != "NOT_INITIALIZED" {
			t.Errorf("got %+v", got)
		}
		once := s
		once.ReadinessInterval = 0
		if err := httpapi.Readiness(t.Context(), once); err == nil {
			t.Error("ready")
		}
	})
	t.Run("AGENT-042 AGENT-043 live after it", func(t *testing.T) {
		close(m.open)
		if err := httpapi.Readiness(agenttest.Within(t), s); err != nil {
			t.Fatal(err)
		}
		got := state()
		if got.State != "LIVE" || got.ManagementServer != "CONNECTED" || got.Readiness != "INITIALIZED" || got.Disconnected != nil {
			t.Errorf("got %+v", got)
		}
		if _, text := envoy("/server_info"); !strings.Contains(text, `"state": "LIVE"`) {
			t.Errorf("server_info: %s", text)
		}
		poll("the listener is open, a moment later", hello)
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.repeated {
			t.Error("Envoy repeats its node")
		}
	})
	instance := func(i int) string {
		return m.stream(i).Node.GetMetadata().GetFields()[bootstrap.InstanceKey].GetStringValue()
	}
	t.Run("the stream's end is no end for traffic, and the proxy stays the same", func(t *testing.T) {
		before, _ := m.counts()
		m.endStream()
		poll("Envoy comes back", func() bool { streams, _ := m.counts(); return streams > before })
		if instance(0) == "" || instance(0) != instance(before) {
			t.Errorf("instances %q and %q", instance(0), instance(before))
		}
		if !hello() {
			t.Error("Envoy does not serve")
		}
		poll("connected", func() bool { return state().ManagementServer == "CONNECTED" })
	})
	t.Run("AGENT-001 AGENT-047 Envoy killed is Envoy started again", func(t *testing.T) {
		old := state().Pid
		if err := syscall.Kill(number(t, old), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		poll("a new Envoy is live", func() bool { now := state(); return now.Pid != old && now.Restarts == "1" && now.Health == "HEALTHY" })
		streams, _ := m.counts()
		if instance(streams-1) != instance(0) {
			t.Error("another instance after a restart of Envoy alone")
		}
	})
	t.Run("AGENT-039 the log level changes, until it is changed back", func(t *testing.T) {
		level := func() string { _, text := askEnvoy(t, admin, "/logging"); return text }
		for _, request := range []struct {
			method, path string
			want         int
		}{
			{http.MethodGet, "/enableLogging?level=debug", 400},
			{http.MethodPost, "/enableLogging?level=critical", 400},
			{http.MethodPost, "/enableLogging?level=debug&for=ever", 400},
			{http.MethodPost, "/enableLogging?level=error", 200},
			{http.MethodPost, "/enableLogging?level=error", 304},
		} {
			if code, text := ask(request.method, request.path); code != request.want {
				t.Errorf("%s %s: got %d %s", request.method, request.path, code, text)
			}
		}
		if got := level(); !strings.Contains(got, "admin: error") {
			t.Errorf("Envoy's levels: %s", got)
		}
	})
	t.Run("AGENT-040 statistics in Prometheus' format", func(t *testing.T) {
		_, all := ask(http.MethodGet, "/stats/prometheus")
		_, used := ask(http.MethodGet, "/stats/prometheus?usedonly")
		if !strings.Contains(all, "# TYPE envoy_server_live gauge") || len(used) == 0 || len(used) >= len(all) {
			t.Errorf("%d bytes of all, %d of those used", len(all), len(used))
		}
		if code, _ := ask(http.MethodGet, "/stats/prometheus?delta"); code != 400 {
			t.Errorf("delta: got %d", code)
		}
	})
	t.Run("AGENT-046 on SIGTERM it drains and ends with 0", func(t *testing.T) {
		asked := time.Now()
		cancel()
		// Envoy asks the clients of a draining listener to come with new connections, ever more of them.
		for !asksToClose(t, port) {
			agenttest.Tick(t)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended <- nil
		if took := time.Since(asked); took < 5*time.Second {
			t.Errorf("drained for %s only", took)
		}
		if code, _ := envoy("/ready"); code != 0 {
			t.Error("Envoy still runs")
		}
	})
}

// asksToClose says whether a served request's answer ends its connection.
func asksToClose(t *testing.T, port int) bool {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport}).Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		t.Fatalf("while draining: %v", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 {
		t.Fatalf("while draining: status %d", answer.StatusCode)
	}
	return answer.Close
}

// patient asks a running agent, and waits for its answer for as long as a busy machine may take.
func patient(s settings.Server) *http.Client {
	client, _ := httpapi.Client(s)
	client.Timeout = 0
	return client
}

func askEnvoy(t *testing.T, admin int, path string) (int, string) {
	t.Helper()
	method := http.MethodGet
	if path == "/logging" {
		method = http.MethodPost
	}
	return askHTTP(t, http.DefaultClient, method, fmt.Sprintf("http://127.0.0.1:%d%s", admin, path))
}

// askHTTP returns code 0 when there is no answer.
func askHTTP(t *testing.T, client *http.Client, method, url string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(agenttest.Within(t), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	answer, err := client.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(text)
}
