package bootstrap

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

func TestInterceptionInMetadata(t *testing.T) {
	facts := Facts{
		IPv4: map[string][]string{"lo": {"127.0.0.1/8"}, "ecs-eth0": {"169.254.172.2/22"}, "eth1": {"10.0.3.9/24", "10.0.3.10/24"}},
		IPv6: map[string][]string{"eth1": {"fe80::1/64", "fd00::9/64"}},
	}
	six := Facts{IPv4: map[string][]string{"lo": {"127.0.0.1/8"}}, IPv6: facts.IPv6}
	for _, test := range []struct {
		name  string
		of    settings.Interception
		facts Facts
		want  object
	}{
		{"nothing is said of redirection", settings.Interception{Ingress: "10.0.0.7", AppPorts: "1:2"}, facts, object{}},
		{"without", settings.Interception{None: true}, facts, object{InterceptionKey: "none"}},
		{
			"an address and ports",
			settings.Interception{None: true, Ingress: "10.0.0.7", AppPorts: "8080:18080"},
			facts,
			object{InterceptionKey: "none", IngressKey: object{"address": "10.0.0.7", "ports": "8080:18080"}},
		},
		{
			"the workload's own, and not that of the link, which is ECS's",
			settings.Interception{None: true, Ingress: "auto"},
			facts,
			object{InterceptionKey: "none", IngressKey: object{"address": "10.0.3.9"}},
		},
		{"IPv6 where there is no other", settings.Interception{None: true, Ingress: "auto"}, six, object{InterceptionKey: "none", IngressKey: object{"address": "fd00::9"}}},
		{"no address at all is told by the control plane", settings.Interception{None: true, Ingress: "auto"}, Facts{}, object{InterceptionKey: "none"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := object{}
			source{settings.Settings{Interception: test.of}}.interception(test.facts, got)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
		})
	}
}
