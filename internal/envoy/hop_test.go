package envoy

import (
	"slices"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
)

func TestSecondHop(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"rds_egress_http_15001": true, "rds_egress_grpc_15001": true, "rds_egress_http_80": false, "rds_ingress_http_15001": false, "rds_ingress_http_8088": false,
	} {
		if got := SecondHop(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What is beside a route configuration leaves its domains and names alone.
func TestBeside(t *testing.T) {
	t.Parallel()
	b := new(Builder)
	config := func(hosts ...[]string) *Resource { // each a name, and domains
		var encoded []*VirtualHost
		for _, h := range hosts {
			v, err := b.host(&routev3.VirtualHost{Name: h[0], Domains: h[1:]})
			if err != nil {
				t.Fatal(err)
			}
			encoded = append(encoded, v)
		}
		r, err := b.routes(&routev3.RouteConfiguration{Name: "rds_egress_http_15001"}, encoded)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	names := func(r *Resource) (out []string) {
		for _, h := range r.Hosts {
			out = append(out, h.Name)
		}
		return out
	}
	old := config([]string{"a", "a.local"}, []string{"b", "b.local", "b.local:15001"})
	for _, c := range []struct {
		name string
		now  *Resource
		want []string
	}{
		{"another one", config([]string{"c", "c.local"}), []string{"c", "a", "b"}},
		{"one with another form of a name", config([]string{"a", "a.local", "a"}), []string{"a", "b"}},
		{"one with a domain of another", config([]string{"c", "c.local", "b.local:15001"}), []string{"c", "a"}},
		{"one with all domains", config([]string{"c", "a.local", "b.local"}), []string{"c"}},
	} {
		got := c.now.Beside(old)
		if diff := cmp.Diff(c.want, names(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if !got.Carries(c.now) || (got.Hash == c.now.Hash) != slices.Equal(names(c.now), c.want) {
			t.Errorf("%s: the configuration is not a part of it, or the hash does not follow", c.name)
		}
	}
	if part := config([]string{"a", "a.local"}); part.Beside(old) != old {
		t.Error("what is a part of the old one is not the old one")
	}
}

// The default host tells services apart by a header: those of before come after
// those of now, until only these are left.
func TestBesideTheDefaultHost(t *testing.T) {
	t.Parallel()
	b := new(Builder)
	config := func(services ...string) *Resource {
		v := &routev3.VirtualHost{Name: defaultHost, Domains: []string{"*"}}
		for _, s := range services {
			name, cluster, _ := strings.Cut(s, "=")
			v.Routes = append(v.Routes, &routev3.Route{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}, Headers: []*routev3.HeaderMatcher{headerIs(serviceHeader, name)}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
			})
		}
		h, err := b.host(v)
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.routes(&routev3.RouteConfiguration{Name: "rds_egress_http_15001"}, []*VirtualHost{h})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	clusters := func(r *Resource) (out []string) {
		for _, route := range r.Hosts[0].decoded().GetRoutes() {
			out = append(out, route.GetRoute().GetCluster())
		}
		return out
	}
	one, two, three := config("a=1", "b=2"), config("b=3", "c=4"), config("d=5")
	joined := two.Beside(one)
	if diff := cmp.Diff([]string{"3", "4", "1"}, clusters(joined)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"1", "3", "4"}, joined.Hosts[0].Clusters); diff != "" {
		t.Errorf("its clusters (-want +got):\n%s", diff)
	}
	if got := joined.Hosts[0].decoded().GetDomains(); !slices.Equal(got, []string{"*"}) {
		t.Errorf("its domains are %q", got)
	}
	if !joined.Carries(two) || joined.Carries(one) || joined.Hash == two.Hash || two.Beside(joined) != joined {
		t.Error("it is not one that has all of the new one")
	}
	// A third form, before the second one is alone.
	if diff := cmp.Diff([]string{"5", "3", "4", "1"}, clusters(three.Beside(joined))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
