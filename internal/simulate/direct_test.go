package simulate_test

import (
	"net/netip"
	"testing"

	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/simulate"
)

// Without interception the address decides which listener a connection comes to; what is
// behind that is as ever.
func TestConnectionsWithoutInterception(t *testing.T) {
	t.Parallel()
	p := decode(t, withEndpoints(envoytest.BundleOf(t, "direct_address", "virtualNode/front")))
	for _, c := range []struct {
		name, to string
		request  simulate.Request
		want     string // clusters with a share
		listener string
	}{
		{"a service", "127.124.77.124:9080", simulate.Request{Authority: "greeter.local:9080"}, "green_http_9080 greeter.local:9080/", "lds_egress_127.124.77.124_9080"},
		{"the host decides at a service's address", "127.124.77.124:9080", simulate.Request{Authority: "colorapp.local:9080"}, "blue_http_9080+green_http_9080 colorapp.local:9080/", "lds_egress_127.124.77.124_9080"},
		{"another port of its address", "127.124.77.124:9081", simulate.Request{Authority: "greeter.local:9081"}, "closed", ""},
		{"an address that is no service's", "127.1.1.1:9080", simulate.Request{Authority: "greeter.local:9080"}, "closed", ""},
		{"an address elsewhere", "10.0.0.9:9080", simulate.Request{Authority: "greeter.local:9080"}, "closed", ""},
		{"what comes in", "10.0.0.7:8080", simulate.Request{Direction: simulate.Inbound, Authority: "any"}, "front_http_8080 any/", "lds_ingress_10.0.0.7_8080"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.request.Destination = netip.MustParseAddrPort(c.to)
			o, err := p.Send(c.request)
			if err != nil {
				t.Fatal(err)
			}
			at := ""
			if len(o.Hops) == 1 { // the application has the same port on loopback: it is no second hop
				at = o.Hops[0].Listener
			}
			if got := brief(o); got != c.want || at != c.listener {
				t.Errorf("%q at %q, want %q at %q\n%s", got, at, c.want, c.listener, o)
			}
		})
	}
}
