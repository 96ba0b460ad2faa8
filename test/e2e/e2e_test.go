//go:build linux

// Package e2e shows with live traffic what a mesh does: real evermeshd, real agents, real Envoys and real redirection,
// on a ground with a network namespace for each workload. Subtests carry the ids of the requirements that they show.
//
// All tests share one ground and one evermeshd, and run beside each other; each has a mesh of its own ([newMesh]), with hosts
// of its own, on which nothing runs any more when the test has ended. What a
// test needs is made through the public API and awaited through the rollout that the API reports; then requests are
// sent from a workload, as its application would.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// wait bounds what is expected to happen at once, or in a few seconds, on a machine that may be busy.
const wait = 4 * testenv.Patience

// shared is what all tests of the run stand on.
type shared struct {
	*stage.Stage
	control *stage.Control
	plane   *plane          // two replicas, once a test asked for them
	planes  sync.Mutex      // held by the test that has the plane
	envoy   string          // its version
	missing *ground.Missing // why there is no ground; everything else is unset then
}

var world shared // set by TestMain

func TestMain(m *testing.M) {
	stage.Play()
	playEtcd()
	os.Exit(ground.Main(m, &world.missing, func(g *ground.Ground) error {
		// Tests wait more than they work: so many wait together, however few processors there are.
		flag.Parse()
		return errors.Join(flag.Set("test.parallel", "10"), world.begin(context.Background(), g))
	}, world.end))
}

func (w *shared) begin(ctx context.Context, g *ground.Ground) error {
	programs, err := stage.Find()
	if err != nil {
		return err
	}
	if w.envoy, err = programs.EnvoyVersion(ctx); err != nil {
		return err
	}
	if w.Stage, err = stage.New(g, programs); err != nil {
		return err
	}
	w.control, err = w.Control(ctx, stage.ControlOptions{Args: []string{
		"--dns-listen", netip.AddrPortFrom(w.Home().Addr(), meshDNSPort).String(), "--dns-virtual-services", "on",
	}})
	return err
}

// end takes away the gates that no test does: they connect from hosts, which are closed next.
func (w *shared) end() error {
	if w.plane != nil {
		for _, gates := range w.plane.gates {
			for _, g := range gates {
				g.End()
			}
		}
	}
	return nil
}

// meshDNSPort is where the evermeshd of all tests answers names, beside the ground's own name server.
const meshDNSPort = 5353

// mesh is the mesh of one test.
type mesh struct {
	*stage.Stage
	t       *testing.T
	name    string
	control *stage.Control
}

// newMesh makes a mesh for the test. Its name is also a part of its hosts' names.
func newMesh(t *testing.T, name, egress string) *mesh {
	t.Helper()
	onGround(t)
	return newMeshOn(t, world.control, name, egress)
}

// onGround skips the test where there is no ground, and notes which Envoy it runs with.
func onGround(t *testing.T) {
	t.Helper()
	if world.missing != nil {
		t.Skipf("this machine allows no ground: %v", world.missing)
	}
	t.Log("real envoy:", world.envoy)
}

// newMeshOn is newMesh on an evermeshd of the test's own.
func newMeshOn(t *testing.T, control *stage.Control, name, egress string) *mesh {
	t.Helper()
	m := &mesh{Stage: world.Stage, t: t, name: name, control: control}
	t.Cleanup(m.end)
	m.call("CreateMesh", fmt.Sprintf(`{"meshName": %q, "spec": {"egressFilter": {"type": %q}}}`, name, egress))
	return m
}

// end ends all that runs on the mesh's hosts, and would go on beside other tests.
func (m *mesh) end() {
	for _, h := range m.Hosts() {
		if !strings.HasPrefix(h.Name(), m.name+"-") {
			continue
		}
		if err := h.Stop(); err != nil {
			m.t.Error(err)
		}
	}
}

// context ends with the test, or after a time in which everything must have happened.
func (m *mesh) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(m.t.Context(), wait)
}

// call runs an operation of the API with a JSON document as its input and returns the resource's ARN.
func (m *mesh) call(operation, input string) string {
	m.t.Helper()
	arn, err := m.try(operation, input)
	if err != nil {
		m.t.Fatal(err)
	}
	return arn
}

func (m *mesh) try(operation, input string) (string, error) {
	m.t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(input), &doc); err != nil {
		m.t.Fatalf("%s: %v in %s", operation, err, input)
	}
	if _, ok := doc["meshName"]; !ok {
		doc["meshName"] = m.name
	}
	ctx, cancel := m.context()
	defer cancel()
	var out map[string]struct {
		Metadata api.ResourceMetadata `json:"metadata"`
	}
	if err := m.control.Evermesh.Call(ctx, operation, doc, &out); err != nil {
		return "", err
	}
	for _, resource := range out {
		return resource.Metadata.ARN, nil
	}
	return "", errors.New("an empty answer")
}

// put creates or updates a resource of a kind such as VirtualNode; parent is the router's or gateway's name.
func (m *mesh) put(verb, kind, parent, name, spec string) string {
	m.t.Helper()
	field := map[string]string{
		"VirtualNode": "virtualNodeName", "VirtualService": "virtualServiceName", "VirtualRouter": "virtualRouterName",
		"VirtualGateway": "virtualGatewayName", "Route": "routeName", "GatewayRoute": "gatewayRouteName",
	}[kind]
	above := map[string]string{"Route": "virtualRouterName", "GatewayRoute": "virtualGatewayName"}[kind]
	doc := fmt.Sprintf(`{%q: %q, "spec": %s}`, field, name, spec)
	if above != "" {
		doc = fmt.Sprintf(`{%q: %q, %s`, above, parent, doc[1:])
	}
	return m.call(verb+kind, doc)
}

func (m *mesh) create(kind, name, spec string) string { return m.put("Create", kind, "", name, spec) }

func (m *mesh) update(kind, name, spec string) string { return m.put("Update", kind, "", name, spec) }

// delete deletes a resource of a kind, which the input names.
func (m *mesh) delete(kind, input string) { m.t.Helper(); m.call("Delete"+kind, input) }

// route makes a route of a router; spec is the httpRoute without "httpRoute", and may carry the priority.
func (m *mesh) route(router, name, spec string) string {
	return m.put("Create", "Route", router, name, spec)
}

// settle waits until the proxies concerned have accepted the newest versions of the resources.
func (m *mesh) settle(arns ...string) {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	for _, arn := range arns {
		if _, err := m.control.Rollout(ctx, arn); err != nil {
			m.t.Fatal(err)
		}
	}
}

// host is a host of this test's, known to the name server as NAME.MESH.local.
func (m *mesh) host(name string) *ground.Host {
	m.t.Helper()
	h, err := m.Host(m.name + "-" + name)
	if err != nil {
		m.t.Fatal(err)
	}
	m.DNS().Set(m.hostname(name), h.Addr())
	return h
}

func (m *mesh) hostname(name string) string { return name + "." + m.name + ".local" }

// appPort is where applications listen.
const appPort = 9080

// app starts an application on a host of its own, without a sidecar, and makes a virtual node for it.
func (m *mesh) app(name string) *ground.Host {
	m.t.Helper()
	h := m.program(name)
	m.create("VirtualNode", name, m.nodeSpec(name))
	return h
}

// program starts an application on a host of its own.
func (m *mesh) program(name string) *ground.Host {
	m.t.Helper()
	h := m.host(name)
	if _, err := m.App(h, stage.App{Name: name, Listen: []string{fmt.Sprintf(":%d", appPort)}}); err != nil {
		m.t.Fatal(err)
	}
	return h
}

// nodeSpec is a node with one HTTP listener that is found by its host's name.
func (m *mesh) nodeSpec(name string) string {
	return fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}],
		"serviceDiscovery": {"dns": {"hostname": %q}}}`, appPort, m.hostname(name))
}

// nodeWith is nodeSpec with more members of the listener.
func (m *mesh) nodeWith(name, more string) string {
	return strings.Replace(m.nodeSpec(name), `"http"}`, `"http"}`+more, 1)
}

// callerSpec is a node without a listener that calls the virtual services.
func callerSpec(services ...string) string {
	backends := []any{}
	for _, s := range services {
		backends = append(backends, map[string]any{"virtualService": map[string]any{"virtualServiceName": s}})
	}
	text, _ := json.Marshal(map[string]any{"backends": backends}) // strings alone
	return string(text)
}

// sidecar starts agent and Envoy on the host, for the node.
func (m *mesh) sidecar(h *ground.Host, o stage.SidecarOptions) *stage.Sidecar {
	m.t.Helper()
	if o.XDS == nil {
		o.XDS = []*stage.Control{m.control}
	}
	if !strings.Contains(o.Resource, "/") {
		o.Resource = "mesh/" + m.name + "/virtualNode/" + o.Resource
	}
	ctx, cancel := m.context()
	defer cancel()
	s, err := m.Sidecar(ctx, h, o)
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// service makes a virtual service NAME.MESH.local with a router of its own that listens on the port, and its routes
// by name. It resolves to an address of nobody: who answers is up to the mesh.
func (m *mesh) service(name string, port int, routes map[string]string) (service string) {
	m.t.Helper()
	service = m.hostname(name)
	m.DNS().Set(service, nobody)
	m.create("VirtualRouter", name, fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}]}`, port))
	for route, spec := range routes {
		m.route(name, route, spec)
	}
	m.create("VirtualService", service, fmt.Sprintf(`{"provider": {"virtualRouter": {"virtualRouterName": %q}}}`, name))
	return service
}

// request is an HTTP request of a test.
type request struct {
	Method, URL string // Method "" is GET
	Host        string // in place of the URL's
	Header      map[string]string
}

// answer is what came back.
type answer struct {
	Status int
	App    string // X-App
	Seen   stage.Seen
	Header http.Header
	Body   string
	Took   time.Duration
}

// send sends a request from the host, over a connection of its own.
func send(ctx context.Context, h *ground.Host, r request) (answer, error) {
	if r.Method == "" {
		r.Method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, http.NoBody)
	if err != nil {
		return answer{}, err
	}
	for name, value := range r.Header {
		req.Header.Set(name, value)
	}
	if r.Host != "" {
		req.Host = r.Host
	}
	c := h.Client()
	defer c.CloseIdleConnections()
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	began := time.Now()
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: resp.StatusCode, App: resp.Header.Get("X-App"), Header: resp.Header, Body: string(body), Took: time.Since(began)}
	if a.App != "" {
		if err := json.NewDecoder(bytes.NewReader(body)).Decode(&a.Seen); err != nil {
			return a, fmt.Errorf("read what %s saw: %w", a.App, err)
		}
	}
	return a, nil
}

// ask is send for a request that must be answered.
func ask(t *testing.T, h *ground.Host, r request) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	a, err := send(ctx, h, r)
	if err != nil {
		t.Fatalf("%s: %v", r.URL, err)
	}
	return a
}

// later sends a request at once and returns how to wait for its answer.
func later(t *testing.T, h *ground.Host, r request) func(*testing.T) answer {
	t.Helper()
	type result struct {
		answer
		err error
	}
	done := make(chan result, 1)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	go func() {
		defer cancel()
		a, err := send(ctx, h, r)
		done <- result{a, err}
	}()
	return func(t *testing.T) answer {
		t.Helper()
		got := <-done
		if got.err != nil {
			t.Fatalf("%s: %v", r.URL, got.err)
		}
		return got.answer
	}
}
