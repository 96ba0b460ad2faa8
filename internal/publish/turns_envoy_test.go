package publish_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// serves are the ports of the active inbound listener of a real Envoy.
func serves(t *testing.T, e *adstest.Envoy) []int {
	t.Helper()
	var dump struct {
		Configs []struct {
			Active struct {
				Listener struct {
					Chains []struct {
						Match struct {
							Port int `json:"destination_port"`
						} `json:"filter_chain_match"`
					} `json:"filter_chains"`
				} `json:"listener"`
			} `json:"active_state"`
			Name string `json:"name"`
		} `json:"configs"`
	}
	adstest.Must(t, json.Unmarshal([]byte(e.Get(t, "/config_dump?resource=dynamic_listeners")), &dump))
	var out []int
	for _, c := range dump.Configs {
		if strings.Contains(c.Name, "ingress") {
			for _, chain := range c.Active.Listener.Chains {
				out = append(out, chain.Match.Port)
			}
		}
	}
	return out
}

// uses says whether a real Envoy's routes lead to the port of v1.
func uses(t *testing.T, e *adstest.Envoy, port int) bool {
	t.Helper()
	return strings.Contains(e.Get(t, "/config_dump?resource=dynamic_route_configs"), fmt.Sprintf("cds_egress_m_v1_http_%d", port))
}

// Two real Envoys through a change of port: at no moment does the client use a port
// that the target does not serve. And TLS without a certificate is used by nobody.
func TestRealEnvoysTakeTurns(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, lone("8080")...)
		k := newKept(t, s, "a", time.Now)
		path, _ := k.socket(t)
		front := adstest.StartEnvoy(t, adstest.Options{Node: "mesh/m/virtualNode/front", Delta: delta}, path)
		v1 := adstest.StartEnvoy(t, adstest.Options{Node: "mesh/m/virtualNode/v1", Delta: delta}, path)
		testenv.Eventually(t, "both are current", func() bool { return k.current() == 2 && uses(t, front, 8080) && len(serves(t, v1)) == 1 })
		changes := func() int { return v1.Stat(t, "listener_manager.listener_modified") }
		before := changes()
		write(t, s, listening("v1", "9090"))
		testenv.Eventually(t, "the new port alone", func() bool {
			was := serves(t, v1)
			usesOld, usesNew := uses(t, front, 8080), uses(t, front, 9090)
			is := serves(t, v1)
			if usesOld && !slices.Contains(was, 8080) {
				t.Fatalf("the client uses 8080, the target served %v", was)
			}
			if usesNew && !slices.Contains(is, 9090) {
				t.Fatalf("the client uses 9090, the target serves %v", is)
			}
			return fmt.Sprint(is) == "[9090]" && usesNew && !usesOld
		})
		// To both ports, which a look may miss, and to the new one.
		if n := changes() - before; n != 2 {
			t.Errorf("the target's listener changed %d times, want twice: not both ports at once", n)
		}
		settled(t, s)

		// The control plane of this test has no source of secrets.
		write(t, s, listening("v1", "9090/STRICT"))
		testenv.Eventually(t, "it is said that a secret is lacking", func() bool {
			return slices.ContainsFunc(k.Problems(v1Key), func(p mesh.Problem) bool {
				return p.Reason == publish.ReasonWaiting && strings.Contains(p.Message, "a secret of a proxy at replica a")
			})
		})
		if strings.Contains(front.Get(t, "/config_dump?resource=dynamic_active_clusters"), "transport_socket") {
			t.Error("the client uses TLS, for which the target has no certificate")
		}
	})
}
