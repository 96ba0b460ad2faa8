//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// wall has a host send nothing to others but to port 443, and ask for names.
func wall(t *testing.T, h *ground.Host) {
	t.Helper()
	rules := `nft 'add table inet wall; add chain inet wall out { type filter hook output priority 10; policy drop; };
		add rule inet wall out oifname "lo" accept; add rule inet wall out tcp dport 443 accept; add rule inet wall out udp dport 53 accept;
		add rule inet wall out meta l4proto ipv6-icmp accept'`
	if _, err := exec.LookPath("nft"); err != nil {
		rules = `printf '*filter\n:OUTPUT DROP\n-A OUTPUT -o lo -j ACCEPT\n-A OUTPUT -p tcp --dport 443 -j ACCEPT\n-A OUTPUT -p udp --dport 53 -j ACCEPT\nCOMMIT\n' | iptables-restore`
	}
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	if _, err := h.Run(ctx, ground.Command{Name: "wall", Path: "/bin/sh", Args: []string{"-c", rules}, Env: []string{"PATH=" + os.Getenv("PATH")}}); err != nil {
		t.Fatal(err)
	}
}

// TestOlderEnvoys has proxies of the oldest supported Envoy and of the newest on one node: both follow changes, and who
// has an old one has it until he replaces it himself.
func TestOlderEnvoys(t *testing.T) {
	t.Parallel()
	root, err := stage.Root()
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(root, "build/tools/envoy-*/envoy"))
	if err != nil || len(found) == 0 {
		t.Fatalf("there is no older Envoy: run make tools (%v)", err)
	}
	m := newMesh(t, "ages", "DROP_ALL")
	m.app("blue")
	m.app("green")
	books := m.service("books", appPort, map[string]string{"all": to("blue", `{"prefix": "/"}`)})
	client := m.create("VirtualNode", "client", callerSpec(books))
	old, err := m.Tool(found[0])
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]*ground.Host{"old": m.host("old"), "new": m.host("new")}
	sidecars := map[string]*stage.Sidecar{
		"old": m.sidecar(hosts["old"], stage.SidecarOptions{Resource: "client", Env: []string{"ENVOY_PATH=" + old}}),
		"new": m.sidecar(hosts["new"], stage.SidecarOptions{Resource: "client"}),
	}
	// versions are those of the node's Envoys, and how many have each.
	versions := func() map[string]int {
		ctx, cancel := m.context()
		defer cancel()
		proxies, err := m.control.Proxies(ctx, m.name)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]int{}
		for _, p := range proxies {
			if p.EnvoyVersion != nil && p.State == api.ProxyStateCurrent {
				out[*p.EnvoyVersion]++
			}
		}
		return out
	}
	leads := func(t *testing.T, app string) {
		t.Helper()
		for name, h := range hosts {
			m.until(fmt.Sprintf("the %s one leads to %s", name, app), func(context.Context) bool {
				return ask(t, h, request{URL: fmt.Sprintf("http://%s:%d/", books, appPort)}).App == app
			})
		}
	}
	var before map[string]int
	t.Run("SEC-015 old and new ones follow the same changes", func(t *testing.T) {
		leads(t, "blue")
		m.settle(m.put("Update", "Route", "books", "all", to("green", `{"prefix": "/"}`)), client)
		leads(t, "green")
		m.until("both are known", func(context.Context) bool { before = versions(); return len(before) == 2 })
		for name, s := range sidecars {
			if n := m.stat(s, "listener_manager.lds.update_rejected") + m.stat(s, "cluster_manager.cds.update_rejected"); n > 0 {
				t.Errorf("the %s one refused %d responses", name, n)
			}
		}
	})
	t.Run("SEC-015 a new one comes when it is deployed, and not before", func(t *testing.T) {
		if now := versions(); len(now) != 2 {
			t.Errorf("versions %v, before %v", now, before)
		}
		ctx, cancel := m.context()
		defer cancel()
		if err := sidecars["old"].Process.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		sidecars["old"] = m.sidecar(hosts["old"], stage.SidecarOptions{Resource: "client"})
		m.until("all are new", func(context.Context) bool { now := versions(); return len(now) == 1 && sum(now) == 2 })
		leads(t, "green")
	})
}

func sum(counts map[string]int) (n int) {
	for _, k := range counts {
		n += k
	}
	return n
}
