//go:build linux

package fields

import (
	"context"
	"crypto/tls"
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
	names map[string][]string
	// instances are what Cloud Map knows.
	instances []instance
	// tls says that there are certificates; see pki.
	tls    bool
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
	cloudMap  *cloudMap
	*pki      // nil without tls
	ids       atomic.Int64
}

// nobody is an address that no host has: where virtual services' names lead.
var nobody = netip.MustParseAddr("10.77.255.254")

// start puts the scene on the ground, with its base.
func (s scene) start(t *testing.T) *play {
	t.Helper()
	resources, err := parseBase(s.name, s.base)
	if err != nil {
		t.Fatal(err)
	}
	p := &play{scene: s, resources: resources, hosts: map[string]*ground.Host{}, apps: map[string]*app{}}
	if s.tls {
		p.certify(t)
	}
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
			var secure *tls.Config
			if s.tls {
				secure = p.serverTLS(t)
			}
			a, err := startApp(p.hosts[r.Name], r.Name, secure)
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
	p.cloudMap = s.startCloudMap(t, func(node string) (v4, v6 netip.Addr) { h := p.host(t, node); return h.Addr(), h.Addr6() })
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
	if revision, err = shared.plane.publish(s, p.clients, p.cloudMap.endpoints); err != nil {
		t.Fatal(err)
	}
	return revision
}

// publish waits until all Envoys have the resources.
func (p *play) publish(t *testing.T, all []resource) {
	t.Helper()
	for _, a := range p.apps {
		a.forget()
	}
	revision := p.prepare(t, all)
	for _, c := range p.clients {
		shared.plane.await(t, c, revision)
	}
	// Envoy takes over what it has accepted when that has its secrets and is checked.
	for _, c := range p.clients {
		until(t, c.Key.Name+" uses what it has accepted", func() bool {
			page := p.admin(t, c.Key.Name, "/stats?filter=^(cluster_manager.warming_clusters|listener_manager.total_listeners_warming)$")
			return page == "cluster_manager.warming_clusters: 0\nlistener_manager.total_listeners_warming: 0\n"
		})
	}
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
	if p.tls {
		p.certificateFiles(t, dir)
	}
	text, err := bootstrap(c, filepath.Join(dir, "admin"), p.sdsSocket())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "envoy.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	process, err := h.Start(ground.Command{
		// In its own directory, so that files of access logs may be named without one.
		Name: "envoy", Path: "/bin/sh", UID: shared.Owner().UID,
		Args: []string{
			"-c", `cd "$1" && shift && exec "$@"`, "sh", dir, shared.envoy, "-c", file, "--concurrency", "1", "--disable-hot-restart",
			"--log-level", "warning", "--drain-time-s", "0", "--file-flush-interval-msec", "50",
		},
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
