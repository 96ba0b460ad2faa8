//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/evermesh/evermesh/test/stage"
)

// TestExternalService models a service outside of the mesh, as the guide does with example.com.
func TestExternalService(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "external", "DROP_ALL")
	outside := m.program("outside")
	const name = "example.com"
	m.DNS().Set(name, outside.Addr())
	m.create("VirtualNode", "example", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}], "serviceDiscovery": {"dns": {"hostname": %q}}}`, appPort, name))
	m.create("VirtualRouter", "example", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}]}`, appPort))
	m.route("example", "all", to("example", `{"prefix": "/"}`))
	m.create("VirtualNode", "client", `{}`)
	client, url := m.host("client"), fmt.Sprintf("http://%s:%d/", name, appPort)
	m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	t.Run("DISC-012 what is not modelled is not reached under DROP_ALL", func(t *testing.T) {
		if got := reach(t, client, url, ""); got != "closed" {
			t.Errorf("%s, want closed", got)
		}
	})
	t.Run("DISC-012 DISC-001 modelled by its DNS name, it is", func(t *testing.T) {
		m.create("VirtualService", name, `{"provider": {"virtualRouter": {"virtualRouterName": "example"}}}`)
		m.settle(m.update("VirtualNode", "client", callerSpec(name)))
		if a := ask(t, client, request{URL: url}); a.App != "outside" || a.Seen.Host != fmt.Sprintf("%s:%d", name, appPort) {
			t.Errorf("%d from %q for host %q", a.Status, a.App, a.Seen.Host)
		}
	})
}

// TestLookups counts what Envoy asks the name server for: names with addresses of both families, and with one of the
// family alone that is not preferred.
func TestLookups(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "lookups", "DROP_ALL")
	both := m.program("both")
	if !both.Addr6().IsValid() {
		t.Log("this kernel has no IPv6: nothing is shown")
		return
	}
	six := func(preference string) bool { return preference == "" || strings.HasPrefix(preference, "IPv6") }
	preferences := []string{"", "IPv4_ONLY", "IPv6_ONLY", "IPv4_PREFERRED", "IPv6_PREFERRED"}
	node := func(preference, kind string) string { return strings.TrimRight(kind+"-"+preference, "-") }
	service := func(preference, kind string) string { return m.hostname("to-" + node(preference, kind)) }
	var backends []string
	for _, preference := range preferences {
		for kind, addrs := range map[string][]netip.Addr{
			"both": {both.Addr(), both.Addr6()}, "other": {map[bool]netip.Addr{true: both.Addr(), false: both.Addr6()}[six(preference)]},
		} {
			name, more := node(preference, kind), ""
			m.DNS().Set(m.hostname("of-"+name), addrs...)
			if preference != "" {
				more = fmt.Sprintf(`, "ipPreference": %q`, preference)
			}
			m.create("VirtualNode", name, fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}], "serviceDiscovery": {"dns": {"hostname": %q%s}}}`, appPort, m.hostname("of-"+name), more))
			m.DNS().Set(service(preference, kind), nobody)
			m.create("VirtualService", service(preference, kind), fmt.Sprintf(`{"provider": {"virtualNode": {"virtualNodeName": %q}}}`, name))
			backends = append(backends, service(preference, kind))
		}
	}
	m.create("VirtualNode", "client", callerSpec(backends...))
	client := m.host("client")
	m.sidecar(client, stage.SidecarOptions{Resource: "client"})
	check := func(t *testing.T, preference, kind, want string, wanted, unwanted uint16) {
		t.Helper()
		if got := reach(t, client, fmt.Sprintf("http://%s:%d/", service(preference, kind), appPort), ""); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		name := m.hostname("of-" + node(preference, kind))
		if m.DNS().QueriesOf(name, wanted) == 0 {
			t.Errorf("no queries of type %s", dns.TypeToString[wanted])
		}
		if n := m.DNS().QueriesOf(name, unwanted); n > 0 {
			t.Errorf("%d queries of type %s", n, dns.TypeToString[unwanted])
		}
	}
	for _, preference := range preferences {
		first, second := dns.TypeA, dns.TypeAAAA
		if six(preference) {
			first, second = second, first
		}
		t.Run("DISC-014 BP-007 a name of both families, with preference "+max(preference, "(none)"), func(t *testing.T) {
			check(t, preference, "both", "both", first, second)
		})
		t.Run("DISC-014 a name of the other family alone, with preference "+max(preference, "(none)"), func(t *testing.T) {
			if strings.HasSuffix(preference, "_ONLY") {
				check(t, preference, "other", "503", first, second)
				return
			}
			check(t, preference, "other", "both", second, dns.TypeNone)
		})
	}
}
