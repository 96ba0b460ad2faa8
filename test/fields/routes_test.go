//go:build linux

package fields

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// routeScenes show RouteSpec: a client calls web.local, whose router has a route
// main to green, which the cases change, and a route rest to blue for what main does
// not match.
func routeScenes() []scene {
	return []scene{
		httpScene("http routes", "http", "httpRoute", get), httpScene("http2 routes", "http2", "http2Route", get2),
		grpcScene(), tcpScene(),
	}
}

// routeBase is the resources of such a scene. match and rest are what the two routes
// match.
func routeBase(mesh, protocol, route, match, rest string, port int) string {
	node := func(name, hostname, more string) string {
		return fmt.Sprintf(`
- kind: virtualNode
  name: %s
  spec:
    listeners: [{portMapping: {port: %d, protocol: %s}}]
    serviceDiscovery: {dns: {hostname: %s.%s%s}}
`, name, port, protocol, hostname, mesh, more)
	}
	return node("blue", "blue", "") + node("green", "green", "") + node("shaky", "half-there", ", responseType: ENDPOINTS") + fmt.Sprintf(`
- kind: virtualRouter
  name: web
  spec: {listeners: [{portMapping: {port: %d, protocol: %s}}]}
- kind: route
  parent: web
  name: main
  spec:
    priority: 10
    %[3]s:
      %[4]s
      action: {weightedTargets: [{virtualNode: green, weight: 1}]}
- kind: route
  parent: web
  name: rest
  spec:
    priority: 1000
    %[3]s:
      %[5]s
      action: {weightedTargets: [{virtualNode: blue, weight: 1}]}
- kind: virtualService
  name: web.local
  spec: {provider: {virtualRouter: {virtualRouterName: web}}}
- kind: virtualNode
  name: client
  spec:
    backends: [{virtualService: {virtualServiceName: web.local}}]
`, port, protocol, route, match, rest)
}

// schemeField is the case of match.scheme, which http2 routes alone match.
func schemeField(protocol, route string, a ask) field {
	if protocol == "http" {
		return field{
			ids: "RT-014", change: edits(route + `.match.scheme = "https"`), see: a.app, before: "green", after: "green",
			ignored: "spec.httpRoute.match.scheme is ignored",
		}
	}
	return field{
		ids: "RT-014", given: edits(route + `.match.scheme = "http"`), change: edits(route + `.match.scheme = "https"`),
		see: a.app, before: "green", after: "blue",
	}
}

// portField is the case of match.port: the router listens on a second port, where
// the route rest is.
func portField(protocol, route, more string, first, second int, see probe, before, after string) field {
	return field{
		given: fmt.Sprintf(`virtualRouter web listeners[1] = {"portMapping": {"port": %d, "protocol": %q}}`, second, protocol) +
			fmt.Sprintf("\nroute web/rest %s.match = {%s\"port\": %d}", route, more, second) +
			fmt.Sprintf("\nroute web/main %s.match = {%s\"port\": %d}", route, more, first),
		change: edits(fmt.Sprintf("%s.match.port = %d", route, second)),
		see:    see, before: before, after: after,
	}
}

// secondListener gives the node green a second one.
func secondListener(protocol string, port int) string {
	return fmt.Sprintf(`virtualNode green listeners[1] = {"portMapping": {"port": %d, "protocol": %q}}`, port, protocol) + "\n"
}

// routeScene is a scene of routes; the node shaky has two endpoints, and at one
// of them nothing listens.
func routeScene(name, protocol, route, match, rest string, port int) scene {
	s := scene{name: name, envoys: []string{"virtualNode/client"}}
	s.base = routeBase(s.mesh(), protocol, route, match, rest, port)
	s.names = map[string][]string{"half-there." + s.mesh(): {"green", ""}}
	return s
}

// edits are lines of edits of the route main.
func edits(lines ...string) string {
	for i, l := range lines {
		lines[i] = "route web/main " + l
	}
	return strings.Join(lines, "\n")
}

func httpScene(name, protocol, route string, get func(string, ...string) ask) scene {
	s := routeScene(name, protocol, route, "match: {prefix: /m}", "match: {prefix: /}", 8080)
	match := func(doc string) string { return edits(route + ".match = " + doc) }
	one := func(member, value string) string { return edits(route + "." + member + " = " + value) }
	s.fields = slices.Concat([]field{
		{
			change: one("match.prefix", `"/n"`),
			see:    get("web.local:8080/m/1").app, before: "green", after: "blue",
		},
		{
			given: match(`{"path": {"exact": "/m"}}`), change: one("match.path.exact", `"/n"`),
			see: get("web.local:8080/m").app, before: "green", after: "blue",
		},
		{
			given: match(`{"path": {"regex": "/m[0-9]+"}}`), change: one("match.path.regex", `"/n[0-9]+"`),
			see: get("web.local:8080/m42").app, before: "green", after: "blue",
		},
		portField(protocol, route, `"prefix": "/", `, 8080, 8081, all(get("web.local:8080/").app, get("web.local:8081/").app), "green, blue", "404, green"),
		schemeField(protocol, route, get("web.local:8080/m")),
		{
			given: match(`{"prefix": "/", "method": "GET"}`), change: one("match.method", `"POST"`),
			see: all(get("web.local:8080/").app, get("web.local:8080/").as("POST").app), before: "green, blue", after: "blue, green",
		},
		{
			given: match(`{"prefix": "/", "queryParameters": [{"name": "a", "match": {"exact": "1"}}]}`), change: one("match.queryParameters[0].name", `"b"`),
			see: get("web.local:8080/?a=1&b=2").app, before: "green", after: "blue",
		},
		{
			given: match(`{"prefix": "/", "queryParameters": [{"name": "a", "match": {"exact": "1"}}]}`), change: one("match.queryParameters[0].match.exact", `"2"`),
			see: get("web.local:8080/?a=1").app, before: "green", after: "blue",
		},
		{
			change: "route web/rest priority = 5",
			see:    get("web.local:8080/m").app, before: "green", after: "blue",
		},
	},
		headerFields("route web/main", route+".match.headers", func(headers string) string { return match(`{"prefix": "/", "headers": ` + headers + `}`) },
			func(header string) probe { return get("web.local:8080/", header).app }),
		targetFields(protocol, route, get("web.local:8080/m")),
		limitFields(route, func(header ...string) ask { return get("web.local:8080/m", header...) }, "200", "504", "504"),
		[]field{{
			given:  one("retryPolicy", `{"maxRetries": 2, "perRetryTimeout": {"unit": "s", "value": 5}, "httpRetryEvents": ["server-error"]}`),
			change: one("retryPolicy.httpRetryEvents[0]", `"client-error"`),
			see:    all(get("web.local:8080/m", "x-fail: 500").result, get("web.local:8080/m", "x-fail: 409").result),
			before: "200 after 2 tries, 409 after 1 try", after: "500 after 1 try, 200 after 2 tries",
		}},
	)
	if protocol != "http" { // a route has one priority, whatever its kind
		s.fields = slices.DeleteFunc(s.fields, func(f field) bool { return strings.Contains(f.change, " priority = ") })
	}
	return s
}

func grpcScene() scene {
	const route = "grpcRoute"
	s := routeScene("grpc routes", "grpc", route, `match: {serviceName: color.Color}`, "match: {}", 8080)
	match := func(doc string) string { return edits(route + ".match = " + doc) }
	one := func(member, value string) string { return edits(route + "." + member + " = " + value) }
	call := func(header ...string) ask { return rpc("web.local:8080/color.Color/Get", header...) }
	s.fields = slices.Concat([]field{
		{change: one("match.serviceName", `"shape.Shape"`), see: call().app, before: "green", after: "blue"},
		{
			given: match(`{"serviceName": "color.Color", "methodName": "Get"}`), change: one("match.methodName", `"Set"`),
			see: call().app, before: "green", after: "blue",
		},
		portField("grpc", route, "", 8080, 8081, all(call().app, rpc("web.local:8081/color.Color/Get").app), "green, blue", "Unimplemented, green"),
	},
		headerFields("route web/main", route+".match.metadata", func(metadata string) string { return match(`{"metadata": ` + metadata + `}`) },
			func(header string) probe { return call(header).app }),
		targetFields("grpc", route, call()),
		limitFields(route, call, "OK", "Unavailable", "Unavailable"),
		[]field{{
			given:  one("retryPolicy", `{"maxRetries": 2, "perRetryTimeout": {"unit": "s", "value": 5}, "grpcRetryEvents": ["unavailable"]}`),
			change: one("retryPolicy.grpcRetryEvents[0]", `"cancelled"`),
			see:    all(call("x-fail: grpc:14").result, call("x-fail: grpc:1").result),
			before: "OK after 2 tries, Canceled after 1 try", after: "Unavailable after 1 try, OK after 2 tries",
		}, {
			given:  one("retryPolicy", `{"maxRetries": 2, "perRetryTimeout": {"unit": "s", "value": 5}, "httpRetryEvents": ["server-error"]}`),
			change: one("retryPolicy.httpRetryEvents[0]", `"client-error"`),
			see:    call("x-fail: 500").result,
			before: "OK after 2 tries", after: "Unknown after 1 try",
		}},
	)
	return s
}

// headerFields are the cases of a list of header or metadata matches of a route
// main, to green. given makes it match with such a list.
func headerFields(main, list string, given func(list string) string, see func(header string) probe) []field {
	var out []field
	for _, c := range []struct{ given, member, value, header string }{
		{`{"match": {"exact": "1"}}`, "name", `"x-b"`, "x-a: 1"},
		{`{"match": {"exact": "1"}, "invert": false}`, "invert", `true`, "x-a: 1"},
		{`{"match": {"exact": "1"}}`, "match.exact", `"2"`, "x-a: 1"},
		{`{"match": {"prefix": "ab"}}`, "match.prefix", `"b"`, "x-a: abc"},
		{`{"match": {"suffix": "bc"}}`, "match.suffix", `"b"`, "x-a: abc"},
		{`{"match": {"regex": "a[bc]+"}}`, "match.regex", `"a[b]+"`, "x-a: abc"},
		{`{"match": {"range": {"start": 5, "end": 10}}}`, "match.range.start", `6`, "x-a: 5"},
		{`{"match": {"range": {"start": 5, "end": 10}}}`, "match.range.end", `9`, "x-a: 9"},
	} {
		out = append(out, field{
			given:  given(`[{"name": "x-a", ` + c.given[1:] + `]`),
			change: fmt.Sprintf("%s %s[0].%s = %s", main, list, c.member, c.value),
			see:    see(c.header), before: "green", after: "blue",
		})
	}
	return out
}

// targetFields are the cases of weighted targets.
func targetFields(protocol, route string, a ask) []field {
	targets := route + ".action.weightedTargets"
	return []field{
		{change: edits(targets + `[0].virtualNode = "blue"`), see: a.app, before: "green", after: "blue"},
		{
			given: edits(targets + ` = [{"virtualNode": "green", "weight": 1}, {"virtualNode": "blue", "weight": 1}]`), change: edits(targets + `[0].weight = 0`),
			see: mixed(20, a.app), before: "blue and green", after: "blue",
		},
		{
			given: secondListener(protocol, 8081) + edits(targets+`[0].port = 8080`), change: edits(targets + `[0].port = 8081`),
			see: a.port, before: "green:8080", after: "green:8081",
		},
	}
}

// limitFields are the cases of timeouts and of what all retry policies share. late
// is the status of a request that takes too long, silent of one that is idle for too
// long.
func limitFields(route string, call func(header ...string) ask, ok, late, silent string) []field {
	const tight = `{"unit": "ms", "value": 300}`
	slow := call("x-wait: 1s")
	policy := func(more string) string {
		return edits(route + `.retryPolicy = {"maxRetries": 2, "perRetryTimeout": ` + more + `}`)
	}
	anyway := `{"unit": "s", "value": 5}, "httpRetryEvents": ["server-error"]`
	perTry := tight + `, "httpRetryEvents": ["stream-error"]`
	out := []field{
		{
			given: policy(anyway), change: edits(route + ".retryPolicy.maxRetries = 1"),
			see: call("x-fail: 503 503").result, before: ok + " after 3 tries", after: unavailable(ok) + " after 2 tries",
		},
		{
			timed: true, given: policy(perTry), change: edits(route + ".retryPolicy.perRetryTimeout.value = 3000"),
			see: slow.result, before: late + " after 3 tries", after: ok + " after 1 try",
		},
		{
			timed: true, given: policy(perTry), change: edits(route + `.retryPolicy.perRetryTimeout.unit = "s"`),
			see: slow.result, before: late + " after 3 tries", after: ok + " after 1 try",
		},
		{
			given:  policy(`{"unit": "s", "value": 5}, "tcpRetryEvents": ["connection-error"]`) + "\n" + edits(route+`.action.weightedTargets[0].virtualNode = "shaky"`),
			change: edits(route + ".retryPolicy.tcpRetryEvents[0] = null"),
			see:    mixed(10, call().status), before: ok, after: either(ok),
		},
	}
	for _, timeout := range []struct{ name, status string }{{"perRequest", late}, {"idle", silent}} {
		given := edits(route + ".timeout." + timeout.name + " = " + tight)
		out = append(out, field{
			timed: true, given: given, change: edits(route + ".timeout." + timeout.name + ".value = 3000"),
			see: slow.status, before: timeout.status, after: ok,
		}, field{
			timed: true, given: given, change: edits(route + ".timeout." + timeout.name + `.unit = "s"`),
			see: slow.status, before: timeout.status, after: ok,
		})
	}
	return out
}

// unavailable is what a caller is told of 503.
func unavailable(ok string) string {
	if ok == "OK" {
		return "Unavailable"
	}
	return "503"
}

// either is what callers see of which some fail, as mixed says it.
func either(ok string) string {
	return strings.Join(slices.Sorted(slices.Values([]string{ok, unavailable(ok)})), " and ")
}

func tcpScene() scene {
	const route = "tcpRoute"
	s := routeScene("tcp routes", "tcp", route, "match: {}", "match: {}", 8090)
	at := dial("web.local:8090")
	s.fields = []field{
		{change: edits(route + `.action.weightedTargets[0].virtualNode = "blue"`), see: at.app, before: "green:8090", after: "blue:8090"},
		{
			given:  edits(route + `.action.weightedTargets = [{"virtualNode": "green", "weight": 1}, {"virtualNode": "blue", "weight": 1}]`),
			change: edits(route + ".action.weightedTargets[0].weight = 0"),
			see:    mixed(20, at.app), before: "blue:8090 and green:8090", after: "blue:8090",
		},
		{
			given: secondListener("tcp", 8091) + edits(route+".action.weightedTargets[0].port = 8090"), change: edits(route + ".action.weightedTargets[0].port = 8091"),
			see: at.app, before: "green:8090", after: "green:8091",
		},
		{
			title: "of two tcp routes", ids: "RT-043", change: "route web/rest priority = 5",
			see: at.app, before: "green:8090", after: "blue:8090",
		},
		portField("tcp", route, "", 8090, 8091, all(at.app, dial("web.local:8091").app), "green:8090, blue:8090", "closed, green:8090"),
		{
			timed: true, given: edits(route + `.timeout.idle = {"unit": "ms", "value": 300}`), change: edits(route + ".timeout.idle.value = 3000"),
			see: at.after(time.Second), before: "closed within 1s", after: "open after 1s",
		},
		{
			timed: true, given: edits(route + `.timeout.idle = {"unit": "ms", "value": 300}`), change: edits(route + `.timeout.idle.unit = "s"`),
			see: at.after(time.Second), before: "closed within 1s", after: "open after 1s",
		},
	}
	return s
}
