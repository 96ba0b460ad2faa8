package ads

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/testenv"
)

// colors is a small mesh: front calls color.local, which a router splits over
// blue (found by DNS) and, when asked for, green (found by Cloud Map, so that its
// endpoints come by EDS).
type colors struct {
	weight    int64 // of blue, of 100
	green     bool
	endpoints []envoy.Endpoint // of green
	known     bool
	builder   *envoy.Builder
}

func (c *colors) bundle(t *testing.T, previous *envoy.Bundle) *envoy.Bundle {
	t.Helper()
	targets := `{"virtualNode":"blue","weight":` + jsonOf(t, c.weight) + `}`
	if c.green {
		targets += `,{"virtualNode":"green","weight":` + jsonOf(t, 100-c.weight) + `}`
	}
	listener := `"listeners":[{"portMapping":{"port":8080,"protocol":"http"}}]`
	var resources []*api.Resource
	for _, r := range []struct {
		kind         api.Kind
		parent, name string
		spec         string
	}{
		{api.KindMesh, "", "m", `{}`},
		{api.KindVirtualNode, "", "a", `{` + listener + `,"serviceDiscovery":{"dns":{"hostname":"a.local"}},"backends":[{"virtualService":{"virtualServiceName":"color.local"}}]}`},
		{api.KindVirtualNode, "", "blue", `{` + listener + `,"serviceDiscovery":{"dns":{"hostname":"blue.local"}}}`},
		{api.KindVirtualNode, "", "green", `{` + listener + `,"serviceDiscovery":{"awsCloudMap":{"namespaceName":"ns","serviceName":"green"}}}`},
		{api.KindVirtualService, "", "color.local", `{"provider":{"virtualRouter":{"virtualRouterName":"r"}}}`},
		{api.KindVirtualRouter, "", "r", `{` + listener + `}`},
		{api.KindRoute, "r", "all", `{"httpRoute":{"match":{"prefix":"/"},"action":{"weightedTargets":[` + targets + `]}}}`},
	} {
		decoded, err := api.DecodeSpec(r.kind, []byte(r.spec))
		adstest.Must(t, err)
		key := api.Key{Owner: account, Mesh: "m", Kind: r.kind, Parent: r.parent, Name: r.name}
		resources = append(resources, &api.Resource{Key: key, Owner: account, Version: 1, Spec: decoded})
	}
	view, problems, _ := mesh.NewSnapshot(1, resources).View(client("a"))
	if view == nil || len(problems) > 0 {
		t.Fatalf("view %v has problems %v", view, problems)
	}
	b, problems := c.builder.Build(view, previous)
	for _, p := range problems {
		if p.Key.Name != "green" || p.Reason != envoy.ReasonNoSource { // the test is the source of its endpoints
			t.Fatalf("bundle has a problem: %v", p)
		}
	}
	return b.WithEndpoints(func(envoy.EndpointQuery) ([]envoy.Endpoint, bool) { return c.endpoints, c.known })
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	adstest.Must(t, err)
	return string(b)
}

// realRig is a server on a unix socket, with a real Envoy.
type realRig struct {
	*rig
	socket string
	// stopSocket ends the service on the socket.
	stopSocket func()
	colors     colors
	last       *envoy.Bundle
}

// endAll ends all streams as their lifetime does.
func (r *realRig) endAll() {
	r.Server.mu.Lock()
	defer r.Server.mu.Unlock()
	for _, g := range r.groups {
		for p := range g.members {
			p.endBy(p.connected)
		}
	}
}

// since is when the client's proxy connected; zero without one.
func (r *realRig) since(name string) time.Time {
	row, _ := r.Row(client(name))
	if len(row.Members) == 0 {
		return time.Time{}
	}
	return row.Members[0].ConnectedAt.Time
}

func newRealRig(t *testing.T, change func(*Config)) *realRig {
	t.Helper()
	patient := func(c *Config) {
		c.EndpointsWait = testenv.Patience // a busy machine is not a source that does not answer
		if change != nil {
			change(c)
		}
	}
	r := &realRig{rig: newRig(t, patient), socket: adstest.Socket(t), colors: colors{weight: 100, builder: &envoy.Builder{}}}
	r.listen(t)
	r.publish(t)
	return r
}

// listen serves the socket until stopSocket is called.
func (r *realRig) listen(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", r.socket)
	adstest.Must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Serve(ctx, l, nil)
	}()
	r.stopSocket = func() { cancel(); <-done }
	t.Cleanup(r.stopSocket)
}

// publish makes the colors what Envoy is to have.
func (r *realRig) publish(t *testing.T) {
	t.Helper()
	r.last = r.colors.bundle(t, r.last)
	r.putGoal("a", goalOf(r.last, 1))
}

func (r *realRig) current(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, "the ledger says that Envoy is current", func() bool { return r.state("a") == api.ProxyStateCurrent })
}

func (r *realRig) envoy(t *testing.T, delta bool) *adstest.Envoy {
	t.Helper()
	return adstest.StartEnvoy(t, adstest.Options{Node: nodeID("a"), Instance: "i-1", Delta: delta, NodeAlways: !delta}, r.socket)
}

func TestRealEnvoy(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRealRig(t, nil)
		e := r.envoy(t, delta)
		updates := func() (cds, lds, rds int) {
			return e.Stat(t, "cluster_manager.cds.update_success"), e.Stat(t, "listener_manager.lds.update_success"), r.routeUpdates(t, e)
		}
		t.Run("EMS-001 EMS-048 EMS-049 is configured", func(t *testing.T) {
			adstest.LogEnvoy(t)
			r.current(t)
			e.Wait(t, "its first listeners", func() bool { return e.Stat(t, "listener_manager.lds.update_success") >= 1 })
			if n := e.Stat(t, "control_plane.connected_state"); n != 1 {
				t.Errorf("connected_state is %d", n)
			}
			if n := e.Stat(t, "cluster_manager.cds.update_success"); n < 1 {
				t.Errorf("cds.update_success is %d", n)
			}
			if code, text := adstest.Status(askV2(t, r.address)); code != codes.Unimplemented || !strings.Contains(text, "xDS v3") {
				t.Errorf("a v2 client is told %v, %q", code, text)
			}
			listeners, clusters := e.Get(t, "/listeners"), e.Get(t, "/clusters")
			for _, l := range r.last.List(envoy.Listener).Resources {
				if !strings.Contains(listeners, l.Name) {
					t.Errorf("listener %s is not among\n%s", l.Name, listeners)
				}
			}
			for _, c := range r.last.List(envoy.Cluster).Resources {
				if !strings.Contains(clusters, c.Name+"::") {
					t.Errorf("cluster %s is not among\n%s", c.Name, clusters)
				}
			}
		})
		t.Run("a new target waits until Envoy has its endpoints", func(t *testing.T) {
			_, _, routes := updates()
			r.colors.green, r.colors.weight = true, 75
			r.publish(t)
			e.Wait(t, "the new cluster, warming", func() bool { return strings.Contains(e.Get(t, "/config_dump"), "m_green_http_8080") })
			if _, _, now := updates(); now != routes {
				t.Error("the route went out before Envoy had acknowledged the cluster")
			}
			if got := r.state("a"); got != api.ProxyStatePending {
				t.Errorf("state is %s", got)
			}
			r.colors.known, r.colors.endpoints = true, []envoy.Endpoint{{Address: "10.0.0.1", Port: 8080}}
			r.publish(t)
			r.current(t)
			if _, _, now := updates(); now != routes+1 {
				t.Errorf("%d route updates, want one", now-routes)
			}
			if !strings.Contains(e.Get(t, "/clusters"), "10.0.0.1:8080") {
				t.Error("Envoy has no endpoint of the new target")
			}
		})
		t.Run("a weight change is one route update and nothing else", func(t *testing.T) {
			cds, lds, rds := updates()
			r.colors.weight = 50
			r.publish(t)
			r.current(t)
			if c, l, x := updates(); c != cds || l != lds || x != rds+1 {
				t.Errorf("updates: cds %d, lds %d, rds %d; want 0, 0, 1", c-cds, l-lds, x-rds)
			}
		})
		t.Run("EMS-047 refuses a listener and keeps the last one", func(t *testing.T) {
			adstest.LogEnvoy(t)
			good := goalOf(r.last, 1)
			r.putGoal("a", withBadListener(t, good))
			testenv.Eventually(t, "the ledger says that Envoy refused", func() bool { return r.state("a") == api.ProxyStateRefused })
			if n := e.Stat(t, "listener_manager.lds.update_rejected"); n != 1 {
				t.Errorf("lds.update_rejected is %d, want 1", n)
			}
			row, _ := r.Row(client("a"))
			var text string
			for _, typ := range row.Members[0].Types {
				if typ.Refusal != nil {
					text = typ.Refusal.Message
				}
			}
			if !strings.Contains(text, "broken") {
				t.Errorf("the ledger says %q", text)
			}
			if got := e.Get(t, "/listeners"); strings.Contains(got, "broken") || !strings.Contains(got, good.list(envoy.Listener)[0].Name) {
				t.Errorf("listeners are\n%s", got)
			}
			r.publish(t)
			r.current(t)
			if n := e.Stat(t, "listener_manager.lds.update_rejected"); n != 1 {
				t.Errorf("lds.update_rejected is %d after the fault was mended, want 1", n)
			}
		})
		t.Run("a removed target leaves", func(t *testing.T) {
			r.colors.green, r.colors.weight = false, 100
			r.publish(t)
			r.current(t)
			e.Wait(t, "the cluster's end", func() bool { return !strings.Contains(e.Get(t, "/clusters"), "m_green_http_8080") })
		})
	})
}

// routeUpdates is how many route configurations Envoy has accepted.
func (r *realRig) routeUpdates(t *testing.T, e *adstest.Envoy) int {
	t.Helper()
	n := 0
	for line := range strings.SplitSeq(e.Get(t, "/stats?filter=rds.*config_reload$"), "\n") {
		if i := strings.LastIndex(line, ": "); i > 0 {
			var v int
			adstest.Must(t, json.Unmarshal([]byte(line[i+2:]), &v))
			n += v
		}
	}
	return n
}

// withBadListener is the goal with a listener beside the others that Envoy
// refuses: its filter does not exist.
func withBadListener(t *testing.T, g *goal) *goal {
	t.Helper()
	encoded, err := proto.Marshal(&listenerv3.Listener{Name: "broken", FilterChains: []*listenerv3.FilterChain{{
		Filters: []*listenerv3.Filter{{Name: "there.is.no.such.filter"}},
	}}})
	adstest.Must(t, err)
	out := *g
	bad := []*envoy.Resource{{Name: "broken", Hash: "1", Encoded: encoded}}
	l := union(bad, g.list(envoy.Listener))
	out.lists[envoy.Listener] = &envoy.List{Resources: l, Hash: digest(l)}
	out.version = out.digest()
	return &out
}

func TestRealEnvoyOutlivesItsStreams(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newRealRig(t, nil)
		e := r.envoy(t, delta)
		r.current(t)
		before := e.Get(t, "/config_dump?resource=dynamic_listeners&mask=name")
		updates := func() [2]int {
			return [2]int{e.Stat(t, "cluster_manager.cds.update_success"), e.Stat(t, "listener_manager.lds.update_success")}
		}
		t.Run("EMS-007 EMS-008 a graceful end changes nothing", func(t *testing.T) {
			adstest.LogEnvoy(t)
			counts := updates()
			for range 3 {
				before := r.since("a")
				r.endAll()
				testenv.Eventually(t, "Envoy has come back", func() bool { return r.since("a").After(before) })
				r.current(t)
			}
			if got := updates(); got != counts {
				t.Errorf("updates of clusters and listeners went from %v to %v", counts, got)
			}
			r.colors.weight = 80
			r.publish(t)
			r.current(t)
		})
		t.Run("EMS-051 keeps its configuration without a management service", func(t *testing.T) {
			adstest.LogEnvoy(t)
			counts := updates()
			r.stopSocket()
			e.Wait(t, "the lost connection", func() bool { return e.Stat(t, "control_plane.connected_state") == 0 })
			if after := e.Get(t, "/config_dump?resource=dynamic_listeners&mask=name"); after != before {
				t.Errorf("listeners went from\n%s\nto\n%s", before, after)
			}
			r.listen(t)
			r.current(t)
			if got := updates(); got != counts {
				t.Errorf("updates of clusters and listeners went from %v to %v", counts, got)
			}
		})
	})
}

func TestRealEnvoyLogsWhyItsStreamEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		node   string
		delta  bool
		want   string
	}{
		{"EMS-009 EMS-013 unknown node", nil, nodeID("nobody"), true, "3, mesh/m/virtualNode/nobody does not exist"},
		{
			"EMS-010 EMS-054 not authorised", func(c *Config) {
				c.Authorize = func(auth.Principal, From, api.Key) error { return api.Errorf(api.CodeAccessDenied, "no") }
			}, nodeID("a"), false, "7, Unauthorized to perform appmesh:StreamAggregatedResources for arn:aws:appmesh:us-east-1:" + account + ":mesh/m/virtualNode/a.",
		},
		{
			"EMS-006 EMS-012 no credentials", func(c *Config) {
				c.Authenticate = func(context.Context, string, metadata.MD) (auth.Principal, error) {
					return auth.Principal{}, api.Errorf(api.CodeMissingAuthenticationToken, "Missing Authentication Token")
				}
			}, nodeID("a"), false, "16, Missing Authentication Token",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRealRig(t, c.change)
			e := adstest.StartEnvoy(t, adstest.Options{Node: c.node, Delta: c.delta}, r.socket)
			e.Wait(t, "the reason in its log", func() bool { return strings.Contains(e.Log(), "closed: "+c.want) })
			if c.node == nodeID("a") && strings.HasPrefix(c.want, "16") {
				probe(t, r.socket)
			}
		})
	}
}

// probe is what operators send to see whether the service is there.
func probe(t *testing.T, socket string) {
	t.Helper()
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		"http://ads/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources", http.NoBody)
	adstest.Must(t, err)
	req.Header.Set("Content-Type", "application/grpc")
	resp, err := (&http.Client{Transport: transport, Timeout: adstest.Patience}).Do(req)
	adstest.Must(t, err)
	defer resp.Body.Close()
	if code, text := resp.Header.Get("grpc-status"), resp.Header.Get("grpc-message"); code != "16" || text != "Missing Authentication Token" {
		t.Errorf("an empty POST is answered with grpc-status %q, grpc-message %q", code, text)
	}
}
