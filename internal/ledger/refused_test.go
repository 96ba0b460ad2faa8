package ledger_test

import (
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// A proxy that refuses something that the resource has no part in does not fail
// the resource's rollout.
func TestOnlyRefusalsThatConcernTheResourceCount(t *testing.T) {
	const tcpRoute = `{"tcpRoute":{"action":{"weightedTargets":[{"virtualNode":"n","weight":1}]}}}`
	router := func(protocol string) string {
		return `{"listeners":[{"portMapping":{"port":80,"protocol":"` + protocol + `"}}]}`
	}
	const cluster, endpoint, listener, route = 0, 1, 2, 3
	old := "old"
	refuse := func(of int) func(*api.Proxy) {
		return func(p *api.Proxy) {
			p.State, p.Types[of].Accepted, p.Types[of].Refusal = api.ProxyStateRefused, &old, &api.Refusal{Message: "no", Version: "1"}
		}
	}
	for name, c := range map[string]struct {
		router, route string
		change        []func(*api.Proxy)
		want          string
	}{
		"a listener":                       {router("http"), anyRoute, []func(*api.Proxy){refuse(listener)}, "DONE 1/1"},
		"a route":                          {router("http"), anyRoute, []func(*api.Proxy){refuse(route)}, "REFUSED 0/1"},
		"a cluster":                        {router("http"), anyRoute, []func(*api.Proxy){refuse(cluster)}, "REFUSED 0/1"},
		"endpoints":                        {router("http"), anyRoute, []func(*api.Proxy){refuse(endpoint)}, "REFUSED 0/1"},
		"a listener and a route":           {router("http"), anyRoute, []func(*api.Proxy){refuse(listener), refuse(route)}, "REFUSED 0/1"},
		"a listener, of a tcp route":       {router("tcp"), tcpRoute, []func(*api.Proxy){refuse(listener)}, "REFUSED 0/1"},
		"a listener, of a router with tcp": {router("tcp"), anyRoute, []func(*api.Proxy){refuse(listener)}, "REFUSED 0/1"},
		"a listener, without a router":     {"", anyRoute, []func(*api.Proxy){refuse(listener)}, "REFUSED 0/1"},
		"a listener, routes to come": {router("http"), anyRoute, []func(*api.Proxy){refuse(listener), func(p *api.Proxy) {
			p.Types[route].Accepted = &old
		}}, "WAITING 0/1"},
		"a listener, routes never asked for": {router("http"), anyRoute, []func(*api.Proxy){refuse(listener), func(p *api.Proxy) {
			p.Types[route].Accepted = nil
		}}, "REFUSED 0/1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			if c.router != "" {
				resource(t, s, theRoute.In(api.KindVirtualRouter, "", theRoute.Parent), c.router)
			}
			w := newWorld(s, "a")
			w.Applied(resource(t, s, theRoute, c.route))
			p := w.proxy(node("n"), "i")
			for _, f := range c.change {
				f(&p)
			}
			w.connect(node("n"), p)
			w.flush(t)
			if got, _ := rollout(t, reader(s, w.now)); got != c.want {
				t.Errorf("rollout is %s, want %s", got, c.want)
			}
		})
	}
}
