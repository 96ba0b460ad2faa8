package intercept

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRefuses(t *testing.T) {
	base := []string{"APPMESH_IGNORE_UID=1337", "APPMESH_ENVOY_EGRESS_PORT=15001"}
	for _, test := range []struct {
		name, want string
		env        []string
	}{
		{"ICPT-008 neither user nor group", "Variables APPMESH_IGNORE_UID and/or APPMESH_IGNORE_GID must be set.", []string{"APPMESH_ENVOY_EGRESS_PORT=15001"}},
		{"ICPT-009 no egress port", "APPMESH_ENVOY_EGRESS_PORT must be defined to forward traffic from the application to the proxy.", []string{"APPMESH_IGNORE_UID=1337"}},
		{"ICPT-010 application ports without ingress port", "APPMESH_ENVOY_INGRESS_PORT must be defined to forward traffic from the APPMESH_APP_PORTS to the proxy.", append(base, "APPMESH_APP_PORTS=80")},
		{"ICPT-023 a user id above the bound", `APPMESH_IGNORE_UID="2147483648": want`, []string{"APPMESH_IGNORE_UID=2147483648", "APPMESH_ENVOY_EGRESS_PORT=15001"}},
		{"a user's name", `APPMESH_IGNORE_UID="envoy": want`, []string{"APPMESH_IGNORE_UID=envoy", "APPMESH_ENVOY_EGRESS_PORT=15001"}},
		{"a port above the bound", `APPMESH_EGRESS_IGNORED_PORTS="65536": want`, append(base, "APPMESH_EGRESS_IGNORED_PORTS=25,65536")},
		{"a range backwards", `APPMESH_APP_PORTS="90:80": want`, append(base, "APPMESH_ENVOY_INGRESS_PORT=1", "APPMESH_APP_PORTS=90:80")},
		{"a name for an address", `APPMESH_EGRESS_IGNORED_IP="localhost": want`, append(base, "APPMESH_EGRESS_IGNORED_IP=localhost")},
		{"a name server without an address", `EVERMESH_DNS_CAPTURE="dns.internal:53": want an address`, append(base, "EVERMESH_DNS_CAPTURE=dns.internal:53")},
		{"two name servers of a family", `EVERMESH_DNS_CAPTURE="10.0.0.3": want`, append(base, "EVERMESH_DNS_CAPTURE=10.0.0.2,10.0.0.3")},
		{"a name server of IPv6 alone", `EVERMESH_DNS_CAPTURE="[fd00::2]:53": want APPMESH_ENABLE_IPV6=1`, append(base, "EVERMESH_DNS_CAPTURE=[fd00::2]:53")},
		{"nowhere", `EVERMESH_DNS_CAPTURE="0.0.0.0:53": want`, append(base, "EVERMESH_DNS_CAPTURE=0.0.0.0:53")},
		{"a switch by another word", `APPMESH_ENABLE_IPV6="true": want 1 or 0`, append(base, "APPMESH_ENABLE_IPV6=true")},
		{"another switch", `APPMESH_START_ENABLED="yes": want 1 or 0`, append(base, "APPMESH_START_ENABLED=yes")},
		{"Envoy's port for what arrives", `APPMESH_APP_PORTS="15000": want`, append(base, "APPMESH_ENVOY_INGRESS_PORT=15000", "APPMESH_APP_PORTS=8080,15000")},
		{"Envoy's port for what is sent", `APPMESH_APP_PORTS="15001": want`, append(base, "APPMESH_ENVOY_INGRESS_PORT=15000", "APPMESH_APP_PORTS=15001")},
		{"mark 0", `EVERMESH_IGNORE_MARK="0": want`, append(base, "EVERMESH_IGNORE_MARK=0")},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse(environment(test.env...))
			if err == nil || !strings.HasPrefix(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
	t.Run("every problem at once", func(t *testing.T) {
		_, err := Parse(environment("APPMESH_APP_PORTS=x", "APPMESH_EGRESS_IGNORED_IP=y"))
		if err == nil || strings.Count(err.Error(), "\n") != 3 {
			t.Errorf("got %v, want four lines", err)
		}
	})
}

func TestParsePorts(t *testing.T) {
	for _, test := range []struct {
		name, given string
		want        []PortRange
	}{
		{"ICPT-011 22 when none is given", "", []PortRange{{22, 22}}},
		{"ICPT-005 ICPT-011 22 behind a list", "25,2049", []PortRange{{25, 25}, {2049, 2049}, {22, 22}}},
		{"22 once", "22,25", []PortRange{{22, 22}, {25, 25}}},
		{"spaces, empty items, ranges", " 1 ,, 5:7,", []PortRange{{1, 1}, {5, 7}, {22, 22}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg, err := Parse(environment("APPMESH_IGNORE_UID=0", "APPMESH_ENVOY_EGRESS_PORT=15001", "APPMESH_EGRESS_IGNORED_PORTS="+test.given))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, cfg.IgnoredPorts); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestFind(t *testing.T) {
	t.Run("no tool", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if _, err := Find("auto"); err == nil || !strings.Contains(err.Error(), "install nftables or iptables") {
			t.Errorf("got %v", err)
		}
		if _, err := Find("nft"); err == nil || !strings.Contains(err.Error(), "nft is not on PATH") {
			t.Errorf("got %v", err)
		}
	})
	if _, err := Find("ebpf"); err == nil || !strings.Contains(err.Error(), "want auto, nft, iptables") {
		t.Errorf("got %v", err)
	}
}
