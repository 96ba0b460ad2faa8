package plan_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/plan"
)

// drainCase is a change that docs/apply.md speaks of, and what a plan says of it.
type drainCase struct {
	row    string // its row; empty for what drains nothing
	change string
	before []*api.Resource // beside the mesh, if it has none
	after  *api.Resource
	want   string // of one effect, as a regular expression; empty for none
}

func drainCases(t *testing.T) []drainCase {
	t.Helper()
	port := func(number int, protocol, more string) string {
		return fmt.Sprintf(`{"portMapping":{"port":%d,"protocol":%q}%s}`, number, protocol, more)
	}
	node := func(name, more string, listeners ...string) *api.Resource {
		return made(t, api.KindVirtualNode, "", name, `{"listeners":[`+strings.Join(listeners, ",")+`],"serviceDiscovery":{"dns":{"hostname":"`+name+`.local"}}`+more+`}`)
	}
	router := func(number int, protocol string) *api.Resource {
		return made(t, api.KindVirtualRouter, "", "r", `{"listeners":[`+port(number, protocol, "")+`]}`)
	}
	route := func(protocol string, weight int, more string) *api.Resource {
		match := `"match":{"prefix":"/"},`
		if protocol == "tcp" {
			match = ""
		}
		if protocol == "grpc" {
			match = `"match":{},`
		}
		targets := fmt.Sprintf(`{"virtualNode":"a","weight":%d},{"virtualNode":"b","weight":1}`, weight)
		return made(t, api.KindRoute, "r", "main", `{"`+protocol+`Route":{`+match+`"action":{"weightedTargets":[`+targets+`]}`+more+`}}`)
	}
	service := made(t, api.KindVirtualService, "", "s.local", `{"provider":{"virtualRouter":{"virtualRouterName":"r"}}}`)
	direct := made(t, api.KindVirtualService, "", "s.local", `{"provider":{"virtualNode":{"virtualNodeName":"a"}}}`)
	caller := func(backends string) *api.Resource {
		return made(t, api.KindVirtualNode, "", "caller", `{"backends":[`+backends+`]}`)
	}
	calls := caller(`{"virtualService":{"virtualServiceName":"s.local"}}`)
	routed := func(protocol string) []*api.Resource {
		on := port(8080, protocol, "")
		return []*api.Resource{calls, node("a", "", on), node("b", "", on), router(8080, protocol), route(protocol, 1, ""), service}
	}
	of := func(all ...*api.Resource) []*api.Resource { return all }
	gateway := func(listeners ...string) *api.Resource {
		return made(t, api.KindVirtualGateway, "", "g", `{"listeners":[`+strings.Join(listeners, ",")+`]}`)
	}
	log := func(path string) string { return `,"logging":{"accessLog":{"file":{"path":"` + path + `"}}}` }
	tls := func(mode, chain, more string) string {
		return `,"tls":{"mode":"` + mode + `","certificate":{"file":{"certificateChain":"` + chain + `","privateKey":"/k.pem"}}` + more + `}`
	}
	check := func(protocol, more string) string {
		return `,"healthCheck":{"protocol":"` + protocol + `"` + more + `,"intervalMillis":5000,"timeoutMillis":2000,"healthyThreshold":2,"unhealthyThreshold":2}`
	}
	idle := func(protocol string) string { return `,"timeout":{"` + protocol + `":{"idle":{"unit":"s","value":5}}}` }
	http, plain := port(8080, "http", ""), node("a", "", port(8080, "http", ""))
	withPreference := made(t, api.KindMesh, "", "m", `{"serviceDiscovery":{"ipPreference":"IPv4_ONLY"}}`)
	const (
		listener, second, mode = "a listener's port or protocol, or one that goes", "a second listener beside the only one", "TLS from PERMISSIVE to STRICT, or off"
		trust, access, health  = "whom a listener trusts, where its certificate comes from", "the access log", "a health check by HTTP or gRPC, added, removed, or with another path"
		look, idleTCP, routes  = "a `tcp` listener on a node, added, moved or removed", "the idle timeout of a `tcp` listener", "the weights, the targets or the idle timeout of a `tcpRoute`"
		outbound, last, family = "the port or protocol of a router, or of a node that provides a service", "a node's last backend on a port", "the first `ipPreference` of a mesh, or none any more"
		port8080, whole        = "^connections to port 8080( in plaintext| by TLS)? are drained: ", "^all its connections are drained: "
	)
	cases := []drainCase{
		{listener, "another port", of(plain), node("a", "", port(8081, "http", "")), port8080 + "nothing"},
		{listener, "another protocol", of(plain), node("a", "", port(8080, "http2", "")), port8080},
		{listener, "one of two goes", of(node("a", "", http, port(8081, "http", ""))), plain, "^connections to port 8081 in plaintext are drained: nothing"},
		{listener, "another port of a gateway", of(gateway(http)), gateway(port(8081, "http", "")), whole},
		{second, "a second listener", of(plain), node("a", "", http, port(8081, "http", "")), port8080 + "the names of statistics"},
		{mode, "PERMISSIVE to STRICT", of(node("a", "", port(8080, "http", tls("PERMISSIVE", "/c.pem", "")))), node("a", "", port(8080, "http", tls("STRICT", "/c.pem", ""))), port8080 + "nothing"},
		{mode, "STRICT to DISABLED", of(node("a", "", port(8080, "http", tls("STRICT", "/c.pem", "")))), plain, port8080 + "nothing"},
		{
			trust, "whom it trusts", of(node("a", "", port(8080, "http", tls("STRICT", "/c.pem", "")))),
			node("a", "", port(8080, "http", tls("STRICT", "/c.pem", `,"validation":{"trust":{"file":{"certificateChain":"/ca.pem"}}}`))), port8080 + "the TLS",
		},
		{trust, "another file", of(node("a", "", port(8080, "http", tls("STRICT", "/c.pem", "")))), node("a", "", port(8080, "http", tls("STRICT", "/d.pem", ""))), port8080 + "the TLS"},
		{access, "a log of a node", of(plain), node("a", log("/dev/null"), http), port8080 + "the access log"},
		{health, "by HTTP", of(plain), node("a", "", port(8080, "http", check("http", `,"path":"/"`))), port8080},
		{health, "another path", of(node("a", "", port(8080, "http", check("http", `,"path":"/"`)))), node("a", "", port(8080, "http", check("http", `,"path":"/b"`))), port8080},
		{look, "added", of(plain), node("a", "", http, port(3306, "tcp", "")), whole},
		{look, "moved", of(node("a", "", http, port(3306, "tcp", ""))), node("a", "", http, port(3307, "tcp", "")), whole},
		{look, "removed", of(node("a", "", http, port(3306, "tcp", ""))), plain, whole},
		{idleTCP, "of a node", of(node("a", "", port(8080, "tcp", ""))), node("a", "", port(8080, "tcp", idle("tcp"))), port8080 + "the idle timeout"},
		{routes, "a weight", routed("tcp"), route("tcp", 9, ""), port8080 + "the targets"},
		{routes, "the idle timeout", routed("tcp"), route("tcp", 1, `,"timeout":{"idle":{"unit":"s","value":5}}`), port8080 + "the idle timeout"},
		{outbound, "another port of a router", routed("http"), router(8081, "http"), port8080 + "nothing"},
		{outbound, "another protocol of a router", routed("http"), router(8080, "tcp"), port8080},
		{outbound, "another port of a node", of(calls, plain, direct), node("a", "", port(8081, "http", "")), "^connections to port 8080 are drained: nothing"},
		{outbound, "another protocol of a node", of(calls, plain, direct), node("a", "", port(8080, "http2", "")), "^connections to port 8080 are drained: "},
		{last, "of http", routed("http"), caller(""), port8080 + "nothing"},
		{last, "of tcp", routed("tcp"), caller(""), port8080 + "nothing"},
		{family, "the first", of(plain), withPreference, whole},
		{family, "the first, at a gateway", of(gateway(http)), withPreference, whole},
		{family, "none any more", of(withPreference, plain), made(t, api.KindMesh, "", "m", `{}`), whole},
		{family, "another", of(withPreference, plain), made(t, api.KindMesh, "", "m", `{"serviceDiscovery":{"ipPreference":"IPv6_ONLY"}}`), ""},

		{second, "a third listener", of(node("a", "", http, port(8081, "http", ""))), node("a", "", http, port(8081, "http", ""), port(8082, "http", "")), ""},
		{mode, "DISABLED to PERMISSIVE", of(plain), node("a", "", port(8080, "http", tls("PERMISSIVE", "/c.pem", ""))), ""},
		{"", "a health check by TCP", routed("http"), node("a", "", port(8080, "http", check("tcp", ""))), ""},
		{"", "another host", routed("tcp"), made(t, api.KindVirtualNode, "", "a", `{"listeners":[`+port(8080, "tcp", "")+`],"serviceDiscovery":{"dns":{"hostname":"other.local"}}}`), ""},
		{"", "a pool of tcp", routed("tcp"), node("a", "", port(8080, "tcp", `,"connectionPool":{"tcp":{"maxConnections":5}}`)), ""},
		{"", "a backend on a port that is new", append(of(caller("")), routed("http")[1:]...), calls, ""},
	}
	for _, protocol := range []string{"http", "http2", "grpc"} {
		cases = append(cases,
			drainCase{"", "a weight by " + protocol, routed(protocol), route(protocol, 9, ""), ""},
			drainCase{"", "the timeouts of a route by " + protocol, routed(protocol), route(protocol, 1, `,"timeout":{"idle":{"unit":"s","value":5},"perRequest":{"unit":"s","value":5}}`), ""},
			drainCase{"", "the idle timeout of a listener by " + protocol, routed(protocol), node("a", "", port(8080, protocol, idle(protocol))), ""})
	}
	return cases
}

// The table in docs/apply.md of what drains is what plans say: each row has changes that show it, and each of them a row.
func TestWhatDrainsIsInTheDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "apply.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "drain nothing. These do:\n\n| change | what drains |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	if !found {
		t.Fatal("docs/apply.md has no table of what drains")
	}
	listed, shown := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(table) {
		row, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		listed[row] = true
	}
	for _, c := range drainCases(t) {
		shown[c.row] = shown[c.row] || c.want != ""
		if c.row != "" && !listed[c.row] {
			t.Errorf("docs/apply.md has no row %q", c.row)
		}
		t.Run(c.row+": "+c.change, func(t *testing.T) {
			t.Parallel()
			if c.before[0].Key.Kind != api.KindMesh {
				c.before = append([]*api.Resource{made(t, api.KindMesh, "", "m", `{}`)}, c.before...)
			}
			r, err := plan.On(t.Context(), mesh.NewSnapshot(1, c.before), mesh.Quotas{}, []plan.Change{{Key: c.after.Key, Now: c.after}})
			if err != nil || r.Resources[0].Action != api.PlanActionUpdate {
				t.Fatalf("the change is %s: %v, %v", r.Resources[0].Action, r.Resources[0].Refusal, err)
			}
			var effects []string
			drains, changes := false, 0
			for _, p := range r.Proxies {
				for _, x := range p.Configurations {
					effects, drains, changes = append(effects, x.Effects...), drains || x.Drains, changes+1
				}
			}
			if changes == 0 {
				t.Error("it changes no configuration")
			}
			if drains != (c.want != "") || drains && !slices.ContainsFunc(effects, regexp.MustCompile(c.want).MatchString) {
				t.Errorf("drains is %v, of\n%s\nwant %q", drains, strings.Join(effects, "\n"), c.want)
			}
		})
	}
	for row := range listed {
		if !shown[row] {
			t.Errorf("nothing shows that %q drains", row)
		}
	}
}
