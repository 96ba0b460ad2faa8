//go:build linux

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ecs"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// ecsPort is where the services of the guide's scenario listen, with HTTP/2.
const ecsPort = 80

// taskOf is the guide's task definition for EC2 as `evermesh ecs` makes it run here, for another node and port. The proxy may
// get more variables.
func (c *cluster) taskOf(node string, more ...ecs.Pair) *ecs.Definition {
	c.t.Helper()
	root, err := stage.Root()
	if err != nil {
		c.t.Fatal(err)
	}
	text := read(c.t, filepath.Join(root, "internal/ecs/testdata/guide/ec2.json"))
	for _, edit := range [][2]string{{"virtualNode/serviceB", "virtualNode/" + node}, {"mesh/apps/", "mesh/" + c.name + "/"}, {"9080", fmt.Sprint(ecsPort)}} {
		if !strings.Contains(text, edit[0]) {
			c.t.Fatalf("the sample has no %s", edit[0])
		}
		text = strings.ReplaceAll(text, edit[0], edit[1])
	}
	// Requests under way last for two seconds; the agent's default is 20 s, which each of the tasks that stop would take.
	for _, v := range append(more, ecs.Pair{Name: "LISTENER_DRAIN_WAIT_TIME_S", Value: "6"}) {
		text = strings.Replace(text, `"environment": [`, fmt.Sprintf(`"environment": [{"name": %q, "value": %q},`, v.Name, v.Value), 1)
	}
	all, err := ecs.Read(node, []byte(text))
	if err != nil {
		c.t.Fatal(err)
	}
	d, _, err := all[0].Adapt(ecs.Options{Endpoint: c.control.XDS, CASecret: "arn:ca"})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range d.Check() {
		if !p.Note {
			c.t.Fatal(p)
		}
	}
	return d
}

// run starts tasks beside each other and registers them, as a service of ECS does with those that run.
func (c *cluster) run(r *registry, node, service string, names ...string) []*task {
	c.t.Helper()
	def := c.taskOf(node)
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*wait)
	defer cancel()
	out, errs := make([]*task, len(names)), make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { out[i], errs[i] = c.start(ctx, name, def) })
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			c.t.Fatal(err)
		}
		r.register(service, out[i].host, "AWS_INSTANCE_PORT", fmt.Sprint(ecsPort))
	}
	return out
}

// retire takes tasks out of the registry, which ECS does first, and stops them.
func (c *cluster) retire(r *registry, service string, all ...*task) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*wait)
	defer cancel()
	for _, k := range all {
		r.deregister(service, k.host)
		if err := k.stop(ctx); err != nil {
			c.t.Errorf("task %s: %v", k.id, err)
		}
	}
}

// http2Load is a client that never stops asking over HTTP/2 without TLS; it repeats nothing.
type http2Load struct {
	stop    context.CancelFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	answers []stage.Answer
}

// http2Client is a client on the host that speaks nothing but HTTP/2.
func http2Client(h *ground.Host) *http.Client {
	transport := &http.Transport{DialContext: h.Dial, Protocols: &http.Protocols{}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: transport, Timeout: wait}
}

func newHTTP2Load(t *testing.T, h *ground.Host, url string) *http2Load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &http2Load{stop: cancel}
	for range 4 {
		client := http2Client(h)
		l.workers.Go(func() {
			defer client.CloseIdleConnections()
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				a := stage.Ask(client, url)
				l.mu.Lock()
				l.answers = append(l.answers, a)
				l.mu.Unlock()
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	return l
}

// end stops the workers; requests under way are answered first.
func (l *http2Load) end() {
	l.stop()
	l.workers.Wait()
}

func (l *http2Load) count(from time.Time) stage.Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := stage.Tally{ByApp: map[string]int{}, Faults: map[string]int{}}
	for _, a := range l.answers {
		if a.Began.Before(from) {
			continue
		}
		all.Requests++
		if a.Fault != "" {
			all.Failed++
			all.Faults[a.Fault]++
			continue
		}
		all.ByApp[a.App]++
	}
	return all
}

// after waits for so many more requests.
func (m *mesh) after(l *http2Load, n int) stage.Tally {
	m.t.Helper()
	from := time.Now()
	m.until(fmt.Sprintf("%d requests are answered", n), func(context.Context) bool { return l.count(from).Requests >= n })
	return l.count(from)
}

// byVersion adds a tally's answers up by the beginning of the tasks' names.
func byVersion(all stage.Tally) stage.Tally {
	sums := map[string]int{}
	for app, n := range all.ByApp {
		version, _, _ := strings.Cut(app, "-")
		sums[version] += n
	}
	all.ByApp = sums
	return all
}

// TestECS plays the guide's scenario for Amazon ECS with the guide's own task definition: serviceA calls serviceB, whose traffic
// moves to serviceBv2, and serviceB goes. Then serviceBv2 is deployed anew.
func TestECS(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "apps", "DROP_ALL")
	c := newCluster(t, m)
	r := newRegistry(t, m.control, "apps.local")
	m.DNS().Forward("apps.local", netip.AddrPortFrom(m.Home().Addr(), meshDNSPort))
	services := map[string]string{}
	for _, node := range []string{"serviceA", "serviceB", "serviceBv2"} {
		name := strings.ToLower(node)
		services[node] = r.service(name)
		backends := ""
		if node == "serviceA" {
			backends = `"backends": [{"virtualService": {"virtualServiceName": "serviceb.apps.local"}}], `
		}
		m.create("VirtualNode", node, fmt.Sprintf(`{%s"listeners": [{"portMapping": {"port": %d, "protocol": "http2"}}],
			"serviceDiscovery": {"awsCloudMap": {"namespaceName": "apps.local", "serviceName": %q}}}`, backends, ecsPort, name))
	}
	route := func(weights ...any) string {
		return strings.Replace(weighted("", weights...), "httpRoute", "http2Route", 1)
	}
	m.create("VirtualRouter", "serviceB", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http2"}}]}`, ecsPort))
	m.route("serviceB", "serviceB", route("serviceB", 100))
	m.create("VirtualService", "serviceb.apps.local", `{"provider": {"virtualRouter": {"virtualRouterName": "serviceB"}}}`)
	m.create("VirtualService", "servicea.apps.local", `{"provider": {"virtualNode": {"virtualNodeName": "serviceA"}}}`)

	old := c.run(r, "serviceB", services["serviceB"], "old-1")
	front := c.run(r, "serviceA", services["serviceA"], "front-1")[0]
	m.startedInOrder(t, front)
	url := fmt.Sprintf("http://serviceb.apps.local:%d/", ecsPort)
	load := newHTTP2Load(t, front.host, url)
	defer load.end()
	m.until("serviceA reaches serviceB", func(context.Context) bool { all := load.count(time.Time{}); return all.ByApp["old-1"] > 50 })
	from := time.Now()
	if all := m.after(load, 200); all.ByApp["old-1"] != all.Requests {
		t.Errorf("%v", all)
	}

	v2 := c.run(r, "serviceBv2", services["serviceBv2"], "new-1", "new-2", "new-3", "new-4")
	t.Run("ECS-019 three quarters and one quarter, without another name", func(t *testing.T) {
		m.settle(m.put("Update", "Route", "serviceB", "serviceB", route("serviceB", 75, "serviceBv2", 25)))
		compare(t, byVersion(m.after(load, 2160)), map[string]float64{"old": 0.75, "new": 0.25})
	})
	t.Run("ECS-019 all to the second version, and the first one goes", func(t *testing.T) {
		m.settle(m.put("Update", "Route", "serviceB", "serviceB", route("serviceBv2", 100)))
		compare(t, byVersion(m.after(load, 300)), map[string]float64{"new": 1})
		c.retire(r, services["serviceB"], old...)
		m.delete("VirtualNode", `{"virtualNodeName": "serviceB"}`)
		compare(t, byVersion(m.after(load, 300)), map[string]float64{"new": 1})
		lossless(t, "the whole scenario", load.count(from))
	})
	t.Run("ECS-012 BP-004 BP-005 a deployment at 100 and 125 percent of four", func(t *testing.T) {
		began := time.Now()
		for i, leaving := range v2 {
			v2[i] = c.run(r, "serviceBv2", services["serviceBv2"], fmt.Sprintf("newer-%d", i+1))[0]
			m.until("it is chosen", func(context.Context) bool { return load.count(v2[i].started).ByApp[v2[i].id] > 0 })
			var slow <-chan error
			if i == 0 {
				slow = m.slowOverHTTP2(front.host, url, leaving, slowRequests)
			}
			c.retire(r, services["serviceBv2"], leaving)
			for n := 0; slow != nil && n < slowRequests; n++ {
				if err := <-slow; err != nil {
					t.Errorf("a request under way while %s stopped: %v", leaving.id, err)
				}
			}
		}
		last := m.after(load, 300)
		if got := byVersion(last).ByApp; len(got) != 1 || got["newer"] == 0 {
			t.Errorf("requests went to %v, want the new tasks alone", got)
		}
		lossless(t, "a deployment of four tasks, one after the other", load.count(began))
	})
	m.outOfCapture(t, c, front)
	t.Run("ECS-014 a task of another account is in the mesh", func(t *testing.T) {
		g := m.guest("999900003333")
		g.share()
		g.make("VirtualNode", fmt.Sprintf(`{"virtualNodeName": "guest", "spec": {"backends": [{"virtualService": {"virtualServiceName": "serviceb.apps.local"}}],
			"listeners": [{"portMapping": {"port": %d, "protocol": "http2"}}], "serviceDiscovery": {"awsCloudMap": {"namespaceName": "apps.local", "serviceName": "guest"}}}}`, ecsPort))
		def := c.taskOf("guest", ecs.Pair{Name: "APPMESH_RESOURCE_ARN", Value: "mesh/" + m.name + "@" + m.control.Account + "/virtualNode/guest"},
			ecs.Pair{Name: "AWS_ACCESS_KEY_ID", Value: g.key.AccessKeyID}, ecs.Pair{Name: "AWS_SECRET_ACCESS_KEY", Value: g.key.SecretAccessKey})
		ctx, cancel := m.context()
		defer cancel()
		k, err := c.start(ctx, "guest-1", def)
		if err != nil {
			t.Fatal(err)
		}
		client := http2Client(k.host)
		defer client.CloseIdleConnections()
		m.until("it calls a service of the owner's", func(context.Context) bool {
			return strings.HasPrefix(stage.Ask(client, url).App, "newer-")
		})
	})
	t.Run("ECS-018 without metadata and role a task starts all the same", func(t *testing.T) {
		const nobodys = "169.254.170.9"
		def := c.taskOf("serviceA", ecs.Pair{Name: "ECS_CONTAINER_METADATA_URI_V4", Value: "http://" + nobodys + "/v4/x"},
			ecs.Pair{Name: "AWS_ACCESS_KEY_ID", Value: m.control.Key.AccessKeyID}, ecs.Pair{Name: "AWS_SECRET_ACCESS_KEY", Value: m.control.Key.SecretAccessKey})
		ctx, cancel := m.context()
		defer cancel()
		began := time.Now()
		k, err := c.start(ctx, "alone-1", def)
		if err != nil {
			t.Fatal(err)
		}
		if text := bodyOf(t, k.host, "http://127.0.0.1:9901/server_info"); strings.Contains(text, k.arn()) {
			t.Error("it was told about its task")
		}
		t.Logf("the proxy was healthy after %s", k.healthy.Sub(began).Round(100*time.Millisecond))
		if err := k.stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

// startedInOrder looks at a task that has just started.
func (m *mesh) startedInOrder(t *testing.T, k *task) {
	t.Helper()
	t.Run("ECS-002 ECS-003 BP-008 the application starts when the proxy is configured", func(t *testing.T) {
		if got := strings.Join(k.order, " "); got != "evermesh-ca envoy appName" {
			t.Errorf("containers started as %s", got)
		}
		if !k.started.After(k.healthy) || k.healthy.IsZero() {
			t.Errorf("the proxy was healthy at %v, the application started at %v", k.healthy, k.started)
		}
		text := bodyOf(t, k.host, "http://127.0.0.1:9901/listeners")
		if !strings.Contains(text, ":15000") || !strings.Contains(text, ":15001") {
			t.Errorf("Envoy's listeners are\n%s", text)
		}
	})
	t.Run("ECS-004 ECS-005 whose proxy it is, and by the task role", func(t *testing.T) {
		k.mu.Lock()
		asked := k.asked["v2"]
		k.mu.Unlock()
		if asked == 0 {
			t.Error("nobody asked for the credentials of the task role")
		}
		text := bodyOf(t, k.host, "http://127.0.0.1:9901/server_info")
		for _, want := range []string{"mesh/" + m.name + "/virtualNode/serviceA", k.arn()} {
			if !strings.Contains(text, want) {
				t.Errorf("Envoy's node does not say %s:\n%s", want, text)
			}
		}
	})
}

// slowRequests are so many that one of four tasks gets some of them.
const slowRequests = 16

// slowOverHTTP2 sends n requests that are answered after two seconds, waits until the task has one of them, and returns what
// comes of them all.
func (m *mesh) slowOverHTTP2(h *ground.Host, url string, k *task, n int) <-chan error {
	m.t.Helper()
	out := make(chan error, n)
	inside := func() (seen int) {
		return ask(m.t, k.host, request{URL: "http://" + net.JoinHostPort("127.0.0.1", fmt.Sprint(ecsPort)) + "/"}).Seen.Delayed
	}
	before := inside()
	for range n {
		client := http2Client(h)
		go func() {
			defer client.CloseIdleConnections()
			req, err := http.NewRequestWithContext(m.t.Context(), http.MethodPost, url, http.NoBody)
			if err != nil {
				out <- err
				return
			}
			req.Header.Set("X-Delay", "2s")
			resp, err := client.Do(req)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					err = fmt.Errorf("status %d", resp.StatusCode)
				}
			}
			out <- err
		}()
	}
	m.until("a slow request is under way", func(context.Context) bool { return inside() > before })
	return out
}

// outOfCapture looks at where an application's own connections go.
func (m *mesh) outOfCapture(t *testing.T, c *cluster, k *task) {
	t.Helper()
	t.Run("ICPT-001 ICPT-004 ICPT-030 metadata and credentials are reached past the proxy, other addresses are not", func(t *testing.T) {
		text := bodyOf(t, k.host, "http://"+metadataAddress+"/v4/"+k.id+"/task")
		if !strings.Contains(text, k.arn()) {
			t.Errorf("the application was told %s", text)
		}
		elsewhere, err := m.Host(m.name + "-elsewhere")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.App(elsewhere, stage.App{Name: "elsewhere", Listen: []string{fmt.Sprintf(":%d", appPort)}}); err != nil {
			t.Fatal(err)
		}
		url := fmt.Sprintf("http://%s:%d/", elsewhere.Addr(), appPort)
		m.until("who is no task reaches it", func(context.Context) bool { return reach(t, m.Home(), url, "") == "elsewhere" })
		if got := reach(t, k.host, url, ""); got != "closed" {
			t.Errorf("an address outside the mesh: %s, want a connection that Envoy closes", got)
		}
	})
}

// bodyOf is the body of an answer with 200.
func bodyOf(t *testing.T, h *ground.Host, url string) string {
	t.Helper()
	client := h.Client()
	client.Timeout = wait
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return string(text)
}
