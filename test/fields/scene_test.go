//go:build linux

package fields

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/intercept"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

// scene is a small mesh and the cases that are played in it.
type scene struct {
	name string
	// base is a list of resources, {kind, name, parent, spec}, in an order in which
	// the API would take them. The mesh is there without being said. The host of virtual node N
	// has the name N.MESH, where MESH is the scene's name with - for spaces; the names of virtual
	// services lead nowhere, as in a real mesh.
	base string
	// envoys are the nodes and gateways that have one: "virtualNode/client".
	envoys []string
	// names are further names of the name server with the hosts that they lead to: at
	// the host "" nothing listens, and "blue v6" is blue's IPv6 address.
	names  map[string][]string
	fields []field
}

// mesh is the name of the scene's mesh.
func (s scene) mesh() string { return strings.ReplaceAll(s.name, " ", "-") }

// play is a scene under way.
type play struct {
	scene
	resources []resource // of the base
	clients   []mesh.Client
	hosts     map[string]*ground.Host // by node or gateway
	apps      map[string]*app         // by node
	ids       atomic.Int64
}

// nobody is an address that no host has: where virtual services' names lead.
var nobody = netip.MustParseAddr("10.77.0.254")

// start puts the scene on the ground, with its base.
func (s scene) start(t *testing.T) *play {
	t.Helper()
	resources, err := parseBase(s.name, s.base)
	if err != nil {
		t.Fatal(err)
	}
	p := &play{scene: s, resources: resources, hosts: map[string]*ground.Host{}, apps: map[string]*app{}}
	for _, r := range resources {
		switch r.Kind {
		case api.KindVirtualService:
			shared.DNS().Set(r.Name, nobody)
		case api.KindVirtualNode, api.KindVirtualGateway:
			h, err := shared.Host(p.mesh() + "." + r.Name)
			if err != nil {
				t.Fatal(err)
			}
			p.hosts[r.Name] = h
			shared.DNS().Set(r.Name+"."+p.mesh(), h.Addr())
		}
		if r.Kind == api.KindVirtualNode {
			a, err := startApp(p.hosts[r.Name], r.Name)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(a.stop)
			p.apps[r.Name] = a
		}
	}
	for name, hosts := range s.names {
		var addrs []netip.Addr
		for _, h := range hosts {
			of, six := strings.CutSuffix(h, " v6")
			switch {
			case h == "":
				addrs = append(addrs, shared.Home().Addr())
			case six:
				addrs = append(addrs, p.host(t, of).Addr6())
			default:
				addrs = append(addrs, p.host(t, h).Addr())
			}
		}
		shared.DNS().Set(name, addrs...)
	}
	for _, name := range s.envoys {
		p.clients = append(p.clients, client(p.mesh(), name))
	}
	p.prepare(t, resources)
	for _, c := range p.clients {
		p.startEnvoy(t, c)
	}
	p.publish(t, resources)
	return p
}

// host is that of a node or gateway.
func (p *play) host(t *testing.T, name string) *ground.Host {
	t.Helper()
	h := p.hosts[name]
	if h == nil {
		t.Fatalf("the scene has no host %s", name)
	}
	return h
}

func (p *play) nextID() string { return fmt.Sprint(p.mesh(), p.ids.Add(1)) }

// prepare makes the resources what the Envoys are to have.
func (p *play) prepare(t *testing.T, all []resource) (revision int64) {
	t.Helper()
	s, err := snapshot(p.mesh(), 1, all)
	if err != nil {
		t.Fatalf("the API refuses it: %v", err)
	}
	if revision, err = shared.plane.publish(s, p.clients, p.endpoints); err != nil {
		t.Fatal(err)
	}
	return revision
}

// publish waits until all Envoys have the resources.
func (p *play) publish(t *testing.T, all []resource) {
	t.Helper()
	revision := p.prepare(t, all)
	for _, c := range p.clients {
		shared.plane.await(t, c, revision)
	}
}

// endpoints are those of Cloud Map: the instance of a service is the host of that
// name.
func (p *play) endpoints(q envoy.EndpointQuery) ([]envoy.Endpoint, bool) {
	if h := p.hosts[q.Service]; h != nil {
		return []envoy.Endpoint{{Address: h.Addr().String(), Port: q.Port}}, true
	}
	return nil, true
}

// startEnvoy starts the client's Envoy on its host, where a node's traffic is
// redirected. It ends with the test.
func (p *play) startEnvoy(t *testing.T, c mesh.Client) {
	t.Helper()
	h := p.host(t, c.Key.Name)
	if c.Key.Kind == api.KindVirtualNode {
		if err := h.Do(func() error { return redirect(t.Context(), shared.Owner()) }); err != nil {
			t.Fatal(err)
		}
	}
	dir := p.dir(c.Key.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, int(shared.Owner().UID), int(shared.Owner().UID)); err != nil {
		t.Fatal(err)
	}
	text, err := bootstrap(c, filepath.Join(dir, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "envoy.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	process, err := h.Start(ground.Command{
		Name: "envoy", Path: shared.envoy, UID: shared.Owner().UID,
		Args: []string{"-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Kill()
		if t.Failed() {
			log, _ := os.ReadFile(process.Log())
			t.Logf("%s says:\n%s", c.Key.Name, log)
		}
	})
}

// dir is where the node's or gateway's Envoy may write.
func (p *play) dir(name string) string { return filepath.Join(shared.Dir(), p.mesh(), name) }

// admin reads a page of the administration interface of the node's or gateway's
// Envoy.
func (p *play) admin(t *testing.T, name, page string) string {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.dir(name), "admin"))
	}}
	defer transport.CloseIdleConnections()
	var text []byte
	testenv.Eventually(t, "Envoy's administration interface answers", func() bool {
		resp, err := (&http.Client{Transport: transport}).Get("http://envoy" + page)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err = io.ReadAll(resp.Body)
		return err == nil
	})
	return string(text)
}

// redirect sends the host's traffic through its Envoy: what goes out, and what
// arrives at the application's ports.
func redirect(ctx context.Context, owner ground.Owner) error {
	cfg := intercept.Config{
		Enabled: true, EgressPort: 15001, IngressPort: 15000,
		AppPorts:     []intercept.PortRange{{First: firstHTTP, Last: lastTCP}},
		IgnoredPorts: []intercept.PortRange{{First: 22, Last: 22}},
		Ignored:      []intercept.Owner{{Kind: intercept.OwnerUID, ID: owner.UID}},
	}
	if owner.Mark != 0 {
		cfg.Ignored = []intercept.Owner{{Kind: intercept.OwnerMark, ID: owner.Mark}}
	}
	tools, err := intercept.Find("auto")
	errs := []error{err}
	for _, tool := range tools {
		if err := tool.Apply(ctx, cfg); err == nil {
			return nil
		} else {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// bootstrap is the configuration that the client's Envoy starts with: the agent's
// without the agent.
func bootstrap(c mesh.Client, admin string) ([]byte, error) {
	type object = map[string]any
	pipe := func(path string) object { return object{"pipe": object{"path": path}} }
	source := object{"ads": object{}, "resource_api_version": "V3"}
	out := object{
		"node":  object{"id": fmt.Sprintf("mesh/%s/%s/%s", c.Key.Mesh, c.Key.Kind, c.Key.Name), "cluster": "fields", "metadata": object{"evermesh.instance": "i"}},
		"admin": object{"address": pipe(admin)},
		"dynamic_resources": object{
			"ads_config": object{
				"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
				"grpc_services": []any{object{"envoy_grpc": object{"cluster_name": "management", "retry_policy": object{
					"retry_back_off": object{"base_interval": "0.1s", "max_interval": "0.5s"},
				}}}},
			},
			"cds_config": source, "lds_config": source,
		},
		"static_resources": object{"clusters": []any{object{
			"name": "management", "type": "STATIC", "connect_timeout": "1s",
			"load_assignment": object{"cluster_name": "management", "endpoints": []any{object{"lb_endpoints": []any{
				object{"endpoint": object{"address": pipe(shared.plane.socket)}},
			}}}},
			"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
				"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"explicit_http_config": object{"http2_protocol_options": object{}},
			}},
		}}},
	}
	if mark := shared.Owner().Mark; mark != 0 {
		out["cluster_manager"] = object{"upstream_bind_config": object{"socket_options": []any{
			object{"level": 1, "name": 36, "int_value": mark, "state": "STATE_PREBIND"},
		}}}
	}
	return json.Marshal(out)
}
