package envoytest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Envoy is a running Envoy with the HTTP chains, route configurations and
// clusters of a bundle. Only addresses are others: every chain listens on a
// socket of its own, every cluster has two endpoints that tell what arrived
// where, and a gateway's first hop finds its second.
type Envoy struct {
	Dir     string                  // its socket files
	Secrets []*tlsv3.Secret         // that Start gives it
	clients map[string]*http.Client // by route configuration and protocol
	served  int                     // endpoints

	mu    sync.Mutex
	tries map[string][]string // endpoints that a request was tried at, by its id
	check map[string][]string // health checks that arrived, by cluster
}

// Arrival is what an endpoint answers with: what it was asked.
type Arrival struct {
	Cluster, Endpoint, Method, Host, Path string
	Header                                http.Header
}

// Run starts an Envoy that has the HTTP chains of a bundle; it ends with the test.
// Each chain may be changed.
func Run(t testing.TB, bundle *envoy.Bundle, change ...func(*hcmv3.HttpConnectionManager)) *Envoy {
	t.Helper()
	e := Prepare(t)
	e.Start(t, e.chains(t, bundle, change), e.Endpoints(t, bundle))
	return e
}

// Prepare makes a place for an Envoy that Start then runs.
func Prepare(t testing.TB) *Envoy {
	t.Helper()
	dir, err := os.MkdirTemp("", "envoy") // short: sockets have at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &Envoy{Dir: dir, clients: map[string]*http.Client{}, tries: map[string][]string{}, check: map[string][]string{}}
}

// Start runs the Envoy and waits until it is ready.
func (e *Envoy) Start(t testing.TB, listeners []*listenerv3.Listener, clusters []*clusterv3.Cluster) {
	t.Helper()
	binary := testenv.Envoy(t)
	LogVersion(t, binary)
	config := &bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: "test", Cluster: "test"},
		Admin:           &bootstrapv3.Admin{Address: Pipe(filepath.Join(e.Dir, "admin"))},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Listeners: listeners, Clusters: clusters, Secrets: e.Secrets},
	}
	text, err := envoy.JSON(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(e.Dir, "envoy.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(binary, "-c", path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		how := <-ended
		if t.Failed() {
			t.Logf("Envoy ended (%v) and said:\n%s", how, &log)
		}
	})
	admin := socketClient(filepath.Join(e.Dir, "admin"), false)
	for deadline := time.Now().Add(30 * time.Second); ; {
		resp, err := admin.Get("http://admin/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("Envoy ended: %v\n%s", err, &log)
		case <-time.After(20 * time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatalf("Envoy is not ready: %v", err)
			}
		}
	}
}

// Pipe is the address of a socket file.
func Pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}

// chains are the bundle's HTTP chains, each in a listener named after its route
// configuration, which is put inside.
func (e *Envoy) chains(t testing.TB, bundle *envoy.Bundle, change []func(*hcmv3.HttpConnectionManager)) []*listenerv3.Listener {
	var out []*listenerv3.Listener
	for _, r := range bundle.List(envoy.Listener).Resources {
		l := &listenerv3.Listener{}
		if err := r.UnmarshalTo(l); err != nil {
			t.Fatal(err)
		}
		for _, chain := range l.GetFilterChains() {
			hcm := &hcmv3.HttpConnectionManager{}
			if chain.GetFilters()[0].GetTypedConfig().UnmarshalTo(hcm) != nil {
				continue
			}
			name := hcm.GetRds().GetRouteConfigName()
			routes := &routev3.RouteConfiguration{}
			if err := bundle.List(envoy.Route).Get(name).UnmarshalTo(routes); err != nil {
				t.Fatal(err)
			}
			hcm.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes}
			hcm.AccessLog = nil
			for _, f := range change {
				f(hcm)
			}
			packed, err := anypb.New(hcm)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, &listenerv3.Listener{Name: name, Address: Pipe(filepath.Join(e.Dir, name)), FilterChains: []*listenerv3.FilterChain{{
				Filters: []*listenerv3.Filter{{Name: chain.GetFilters()[0].GetName(), ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed}}},
			}}})
		}
	}
	return out
}

// Endpoints are the bundle's clusters with endpoints of the test.
func (e *Envoy) Endpoints(t testing.TB, bundle *envoy.Bundle) []*clusterv3.Cluster {
	var second []*corev3.Address // where a gateway's first hop leads
	for _, route := range bundle.List(envoy.Route).Resources {
		if strings.HasPrefix(route.Name, "rds_egress") {
			second = append(second, Pipe(filepath.Join(e.Dir, route.Name)))
		}
	}
	var out []*clusterv3.Cluster
	for _, r := range bundle.List(envoy.Cluster).Resources {
		c := &clusterv3.Cluster{}
		if err := r.UnmarshalTo(c); err != nil {
			t.Fatal(err)
		}
		e.endpoints(t, c, second)
		out = append(out, c)
	}
	return out
}

// endpoints gives a cluster endpoints of the test. One of wherever the connection
// was going keeps it, and a node without endpoints keeps none.
func (e *Envoy) endpoints(t testing.TB, c *clusterv3.Cluster, second []*corev3.Address) {
	if c.GetType() == clusterv3.Cluster_ORIGINAL_DST {
		return
	}
	addresses := second
	if !strings.Contains(c.GetName(), "self_redirect") {
		addresses = nil
		for _, endpoint := range []string{"one", "two"} {
			e.served++
			path := filepath.Join(e.Dir, fmt.Sprint(endpoint, e.served))
			e.serve(t, path, c.GetName(), endpoint)
			addresses = append(addresses, Pipe(path))
		}
	}
	group := &endpointv3.LocalityLbEndpoints{}
	for _, a := range addresses {
		group.LbEndpoints = append(group.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a}},
		})
	}
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	c.LbPolicy, c.EdsClusterConfig = clusterv3.Cluster_ROUND_ROBIN, nil
	if c.GetLoadAssignment() == nil || len(c.GetLoadAssignment().GetEndpoints()) > 0 {
		c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.GetName(), Endpoints: []*endpointv3.LocalityLbEndpoints{group}}
	}
}

// serve is an endpoint. Headers of a request tell it what to do: x-fail answers
// its first tries with these statuses, x-break names an endpoint that answers 500, x-wait delays every answer, x-grpc makes
// it a gRPC answer with that status.
func (e *Envoy) serve(t testing.TB, path, cluster, endpoint string) {
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	both := &http.Protocols{}
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: both, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.UserAgent() == "Envoy/HC" {
			e.mu.Lock()
			e.check[cluster] = append(e.check[cluster], fmt.Sprint(endpoint, " ", r.URL.Path, " ", r.Host))
			e.mu.Unlock()
			return
		}
		if r.Header.Get("x-break") == endpoint {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		id := r.Header.Get("x-id")
		e.mu.Lock()
		e.tries[id] = append(e.tries[id], endpoint)
		try := len(e.tries[id])
		e.mu.Unlock()
		if r.Header.Get("upgrade") == "websocket" {
			echo(w)
			return
		}
		if d, err := time.ParseDuration(r.Header.Get("x-wait")); err == nil {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
				return
			}
		}
		fail := strings.Fields(r.Header.Get("x-fail"))
		if try <= len(fail) {
			if fail[try-1] == "reset" {
				panic(http.ErrAbortHandler)
			}
			if name, ok := strings.CutPrefix(fail[try-1], "grpc:"); ok {
				w.Header().Set("content-type", "application/grpc")
				w.Header().Set("grpc-status", name) // with the headers: trailers only
				return
			}
			status, _ := strconv.Atoi(fail[try-1])
			w.WriteHeader(status)
			return
		}
		_ = json.NewEncoder(w).Encode(Arrival{cluster, endpoint, r.Method, r.Host, r.RequestURI, r.Header})
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

func socketClient(path string, http2 bool) *http.Client {
	one := &http.Protocols{}
	one.SetHTTP1(!http2)
	one.SetUnencryptedHTTP2(http2)
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			Protocols: one,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			},
		},
	}
}

// echo takes the connection over and sends back what comes.
func echo(w http.ResponseWriter) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_, _ = io.Copy(conn, buffered)
}

// Upgrade opens a byte stream and wants an echo on it.
func (e *Envoy) Upgrade(t testing.TB, config, host string) {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(e.Dir, config))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", host)
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v %v", resp, err)
	}
	for _, word := range []string{"ping\n", "pong\n"} {
		if _, err := io.WriteString(conn, word); err != nil {
			t.Fatal(err)
		}
		if got, err := reader.ReadString('\n'); got != word {
			t.Fatalf("echo of %q: %q, %v", word, got, err)
		}
	}
}

// Checks are the health checks that arrived at a cluster's endpoints.
func (e *Envoy) Checks(cluster string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.check[cluster])
}

// AdminPage reads a page of Envoy's admin interface.
func (e *Envoy) AdminPage(t testing.TB, page string) string {
	t.Helper()
	resp, err := socketClient(filepath.Join(e.Dir, "admin"), false).Get("http://admin" + page)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Ask is a request to one of the route configurations.
type Ask struct {
	Method, Host, Path string
	Header             string // "name: value" lines separated by "; "
	HTTP2              bool
}

// Do sends the request and returns the status and, if an endpoint answered,
// what arrived there; and at which endpoints it was tried.
func (e *Envoy) Do(t testing.TB, config string, a Ask) (status int, got *Arrival, tries []string) {
	t.Helper()
	e.mu.Lock()
	key := fmt.Sprint(config, a.HTTP2)
	client := e.clients[key]
	if client == nil {
		client = socketClient(filepath.Join(e.Dir, config), a.HTTP2)
		e.clients[key] = client
		t.Cleanup(client.CloseIdleConnections)
	}
	id := fmt.Sprint(len(e.tries), time.Now().UnixNano())
	e.tries[id] = nil
	e.mu.Unlock()
	method := a.Method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+a.Host+a.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(a.Header, "; ") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			req.Header.Add(name, value)
		}
	}
	req.Header.Set("x-id", id)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s%s: %v", method, a.Host, a.Path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK && len(body) > 0 {
		got = &Arrival{}
		if err := json.Unmarshal(body, got); err != nil {
			t.Fatalf("%v in %q", err, body)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return resp.StatusCode, got, e.tries[id]
}

// LogVersion says which Envoy runs for the test; the count of requirements looks
// for it.
func LogVersion(t testing.TB, binary string) {
	t.Helper()
	t.Logf("real envoy: %s", Version(t, binary))
}

// Version is what the program says of itself: three numbers.
func Version(t testing.TB, binary string) string {
	t.Helper()
	out, err := exec.Command(binary, "--version").Output()
	m := regexp.MustCompile(`/(\d+\.\d+\.\d+)`).FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("%s --version: %v\n%s", binary, err, out)
	}
	return string(m[1])
}
