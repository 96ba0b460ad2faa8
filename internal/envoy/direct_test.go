package envoy_test

import (
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/mesh"
)

// TestDirectIsTheSameElsewhere builds every client of every case for proxies with and without interception: clusters and
// routes are the very same, and each chain of one has its equal in the other, at another place. What redirection alone
// needs is not there: the way to what is no service, and the guard of its port.
func TestDirectIsTheSameElsewhere(t *testing.T) {
	chains, nodes := 0, 0
	for _, c := range envoytest.Cases(t) {
		if c.Traits().Direct != "" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			for _, key := range c.Clients(t) {
				redirected, problems := c.Bundle(t, key)
				view := redirected.View
				other := *view
				other.Client.Traits.Direct = "none 10.0.0.7"
				direct, _ := new(envoy.Builder).Build(&other, nil)
				if key.Kind == api.KindVirtualGateway {
					for _, of := range envoy.Types() {
						if redirected.List(of).Hash != direct.List(of).Hash {
							t.Errorf("%s: ICPT-026 a gateway's type %d is another without interception", key.Name, of)
						}
					}
					continue
				}
				nodes++
				conflict := slices.ContainsFunc(problems, func(p mesh.Problem) bool { return p.Reason == envoy.ReasonConflict })
				for _, of := range []envoy.Type{envoy.Cluster, envoy.Route} {
					if redirected.List(of).Hash != direct.List(of).Hash && !conflict {
						t.Errorf("%s: type %d is another without interception", key.Name, of)
					}
				}
				want, got := chainsOf(t, redirected), chainsOf(t, direct)
				chains += len(got)
				for _, x := range got {
					if !slices.ContainsFunc(want, x.same) && !conflict {
						t.Errorf("%s: redirected traffic has no chain as this of %s: %v", key.Name, x.listener, x.chain)
					}
				}
				for _, x := range want {
					if !slices.ContainsFunc(got, x.same) {
						t.Errorf("%s: without interception there is no chain as this of %s: %v", key.Name, x.listener, x.chain)
					}
				}
			}
		})
	}
	if nodes < 50 || chains < 100 {
		t.Errorf("only %d chains of %d nodes were compared", chains, nodes)
	}
}

// chainAt is a chain of a listener in one direction.
type chainAt struct {
	listener  string
	direction corev3.TrafficDirection
	chain     *listenerv3.FilterChain
}

func (c chainAt) same(other chainAt) bool {
	return c.direction == other.direction && proto.Equal(c.chain, other.chain)
}

// chainsOf are the chains of a node's services and of its own listeners.
func chainsOf(t *testing.T, b *envoy.Bundle) []chainAt {
	t.Helper()
	var out []chainAt
	for _, r := range b.List(envoy.Listener).Resources {
		l := &listenerv3.Listener{}
		if err := r.UnmarshalTo(l); err != nil {
			t.Fatal(err)
		}
		for _, chain := range l.GetFilterChains() {
			m := chain.GetFilterChainMatch()
			switch passes := len(m.GetServerNames()) > 0 || m.GetDestinationPort() == nil || strings.Contains(chain.String(), "allow"); {
			case m.GetDestinationPort().GetValue() == 15001 && l.GetTrafficDirection() == corev3.TrafficDirection_OUTBOUND, passes:
				continue
			}
			m.PrefixRanges = nil // of 443, where the ways to what is no service have them
			out = append(out, chainAt{r.Name, l.GetTrafficDirection(), chain})
		}
	}
	return out
}

// A node whose ports and the application's cross leads to itself nowhere.
func TestDirectNeverToItself(t *testing.T) {
	c := envoytest.Cases(t)[slices.IndexFunc(envoytest.Cases(t), func(c *envoytest.Case) bool { return c.Name == "direct_ports" })]
	key := c.Clients(t)[0]
	for _, test := range []struct {
		direct mesh.Direct
		want   []string // inbound listeners
	}{
		{"none", nil},
		{"none 8080:5432 5432:8080", nil},
		{"none 8080:5432 5432:15432", []string{"lds_ingress_0.0.0.0_5432"}},
		{"none 8080:18080 5432:15432", []string{"lds_ingress_0.0.0.0_5432", "lds_ingress_0.0.0.0_8080"}},
		{"none 10.0.0.7", []string{"lds_ingress_10.0.0.7_5432", "lds_ingress_10.0.0.7_8080"}},
		{"none 10.0.0.7 8080:5432", []string{"lds_ingress_10.0.0.7_5432", "lds_ingress_10.0.0.7_8080"}},
	} {
		t.Run(string(test.direct), func(t *testing.T) {
			view, _, _ := mesh.NewSnapshot(1, c.Resources).View(mesh.Client{Key: key, Traits: mesh.Traits{Direct: test.direct}})
			bundle, problems := new(envoy.Builder).Build(view, nil)
			var got []string
			for _, r := range bundle.List(envoy.Listener).Resources {
				if strings.HasPrefix(r.Name, "lds_ingress") {
					got = append(got, r.Name)
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("listeners %v, want %v", got, test.want)
			}
			left := 0
			for _, p := range problems {
				if p.Reason == envoy.ReasonConflict && strings.Contains(p.Message, "EVERMESH_APP_PORTS=") {
					left++
				}
			}
			if left != 2-len(test.want) {
				t.Errorf("%d problems name a port that is left out, want %d: %v", left, 2-len(test.want), problems)
			}
		})
	}
}
