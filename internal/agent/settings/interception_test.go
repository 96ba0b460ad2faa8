package settings

import (
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

func TestInterception(t *testing.T) {
	for _, test := range []struct {
		name       string
		env        []string
		want       Interception
		fail, warn string
	}{
		{"redirection by default", nil, Interception{}, "", ""},
		{"redirection by name", []string{"EVERMESH_INTERCEPTION=redirect"}, Interception{}, "", ""},
		{"none", []string{"EVERMESH_INTERCEPTION= NONE "}, Interception{None: true}, "", ""},
		{
			"none, with all that belongs to it",
			[]string{"EVERMESH_INTERCEPTION=none", "EVERMESH_INGRESS_ADDRESS=10.0.0.7", "EVERMESH_APP_PORTS=8080:18080, 9090:19090"},
			Interception{None: true, Ingress: "10.0.0.7", AppPorts: "8080:18080, 9090:19090"},
			"", "",
		},
		{"the workload's address, whatever it is", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_INGRESS_ADDRESS=auto"}, Interception{None: true, Ingress: IngressAuto}, "", ""},
		{"an IPv6 address", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_INGRESS_ADDRESS=fd00::7"}, Interception{None: true, Ingress: "fd00::7"}, "", ""},
		{"another word", []string{"EVERMESH_INTERCEPTION=off"}, Interception{}, `EVERMESH_INTERCEPTION: "off" is neither redirect nor none`, ""},
		{"a name for an address", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_INGRESS_ADDRESS=eth0"}, Interception{}, "EVERMESH_INGRESS_ADDRESS: ", ""},
		{"all addresses by name", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_INGRESS_ADDRESS=0.0.0.0"}, Interception{}, "EVERMESH_INGRESS_ADDRESS: ", ""},
		{"loopback, where the application is", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_INGRESS_ADDRESS=::1"}, Interception{}, "EVERMESH_INGRESS_ADDRESS: ", ""},
		{"one port", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_APP_PORTS=8080"}, Interception{}, "EVERMESH_APP_PORTS: ", ""},
		{"a port that is none", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_APP_PORTS=8080:0"}, Interception{}, "EVERMESH_APP_PORTS: ", ""},
		{"an end that says nothing", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_APP_PORTS=8080:1,"}, Interception{}, "EVERMESH_APP_PORTS: ", ""},
		{"more than the control plane takes", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_APP_PORTS=" + strings.Repeat("1:2,", 64) + "1:2"}, Interception{}, "at most 64", ""},
		{"a port for two of the application", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_APP_PORTS=28081:1, 28081:2"}, Interception{}, "EVERMESH_APP_PORTS: 28081:2 and 28081:1 are two ports", ""},
		{"a pair that is there twice", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_APP_PORTS=28081:1,28081:1"}, Interception{None: true, AppPorts: "28081:1,28081:1"}, "", ""},
		{"a port that Envoy and the application want", []string{"EVERMESH_INTERCEPTION=none", "EVERMESH_APP_PORTS=8080:1,28081:28081"}, Interception{}, "EVERMESH_APP_PORTS: 28081:28081: Envoy takes that port on all addresses", ""},
		{
			"a port that they have at an address each",
			[]string{"EVERMESH_INTERCEPTION=none", "EVERMESH_APP_PORTS=28081:28081", "EVERMESH_INGRESS_ADDRESS=auto"},
			Interception{None: true, Ingress: IngressAuto, AppPorts: "28081:28081"},
			"", "",
		},
		{"an address without the mode", []string{"EVERMESH_INGRESS_ADDRESS=auto"}, Interception{Ingress: IngressAuto}, "", "EVERMESH_INGRESS_ADDRESS has no effect"},
		{"ports without the mode", []string{"EVERMESH_APP_PORTS=1:2"}, Interception{AppPorts: "1:2"}, "", "EVERMESH_APP_PORTS has no effect"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse(agenttest.Environment(append([]string{someResource, someEndpoint}, test.env...)...), Flags{}, 0)
			if test.fail != "" {
				if err == nil || !strings.Contains(err.Error(), test.fail) {
					t.Errorf("error %v, want %q", err, test.fail)
				}
				return
			}
			if err != nil || got.Interception != test.want {
				t.Errorf("got %+v and %v, want %+v", got.Interception, err, test.want)
			}
			about := slices.DeleteFunc(slices.Clone(got.Warnings), func(w string) bool {
				return !strings.Contains(w, "EVERMESH_IN") && !strings.Contains(w, "EVERMESH_APP")
			})
			if text := strings.Join(about, " "); !strings.Contains(text, test.warn) || (text == "") != (test.warn == "") {
				t.Errorf("warnings %q, want %q", text, test.warn)
			}
		})
	}
}
