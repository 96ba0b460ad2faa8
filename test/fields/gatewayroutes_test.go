//go:build linux

package fields

import (
	"fmt"
	"slices"
	"strings"
)

// gatewayRouteScenes show GatewayRouteSpec: a host outside the mesh calls the
// gateway gate, which has a gateway route main to green.local, which the cases change,
// and a gateway route rest to blue.local for what main does not match.
func gatewayRouteScenes() []scene {
	return []scene{
		httpGatewayScene("http gateway routes", "http", "httpRoute", get),
		httpGatewayScene("http2 gateway routes", "http2", "http2Route", get2),
		grpcGatewayScene(),
	}
}

// gatewayRouteScene is such a scene; match and rest are what the two routes match.
func gatewayRouteScene(name, protocol, route, match, rest string) scene {
	s := scene{name: name, envoys: []string{"virtualGateway/gate"}}
	provider := func(name string) string {
		return fmt.Sprintf(`
- kind: virtualNode
  name: %[1]s
  spec:
    listeners: [{portMapping: {port: 8080, protocol: %[2]s}}]
    serviceDiscovery: {dns: {hostname: %[1]s.%[3]s}}
- kind: virtualService
  name: %[1]s.local
  spec: {provider: {virtualNode: {virtualNodeName: %[1]s}}}
`, name, protocol, s.mesh())
	}
	gatewayRoute := func(name string, priority int, match, target string) string {
		return fmt.Sprintf(`
- kind: gatewayRoute
  parent: gate
  name: %s
  spec:
    priority: %d
    %s:
      match: %s
      action: {target: {virtualService: {virtualServiceName: %s}}}
`, name, priority, route, match, target)
	}
	s.base = provider("blue") + provider("green") + fmt.Sprintf(`
- kind: virtualNode
  name: client
- kind: virtualGateway
  name: gate
  spec: {listeners: [{portMapping: {port: 8080, protocol: %s}}]}
`, protocol) + gatewayRoute("main", 10, match, "green.local") + gatewayRoute("rest", 1000, rest, "blue.local")
	return s
}

// gateEdits are lines of edits of the gateway route main.
func gateEdits(lines ...string) string {
	for i, l := range lines {
		lines[i] = "gatewayRoute gate/main " + l
	}
	return strings.Join(lines, "\n")
}

func httpGatewayScene(name, protocol, route string, get func(string, ...string) ask) scene {
	s := gatewayRouteScene(name, protocol, route, "{prefix: /m/}", "{prefix: /}")
	at := "gate." + s.mesh() + ":8080"
	match := func(doc string) string { return gateEdits(route + ".match = " + doc) }
	one := func(member, value string) string { return gateEdits(route + "." + member + " = " + value) }
	rewrite := func(doc string) string { return gateEdits(route + ".action.rewrite = " + doc) }
	s.fields = slices.Concat([]field{
		{change: one("match.prefix", `"/n/"`), see: get(at + "/m/1").app, before: "green", after: "blue"},
		{
			given: match(`{"path": {"exact": "/m"}}`), change: one("match.path.exact", `"/n"`),
			see: get(at + "/m").app, before: "green", after: "blue",
		},
		{
			given: match(`{"path": {"regex": "/m[0-9]+"}}`), change: one("match.path.regex", `"/n[0-9]+"`),
			see: get(at + "/m42").app, before: "green", after: "blue",
		},
		{
			given: match(`{"prefix": "/", "method": "GET"}`), change: one("match.method", `"POST"`),
			see: all(get(at+"/").app, get(at+"/").as("POST").app), before: "green, blue", after: "blue, green",
		},
		{
			given: match(`{"prefix": "/", "queryParameters": [{"name": "a", "match": {"exact": "1"}}]}`), change: one("match.queryParameters[0].name", `"b"`),
			see: get(at + "/?a=1&b=2").app, before: "green", after: "blue",
		},
		{
			given: match(`{"prefix": "/", "queryParameters": [{"name": "a", "match": {"exact": "1"}}]}`), change: one("match.queryParameters[0].match.exact", `"2"`),
			see: get(at + "/?a=1").app, before: "green", after: "blue",
		},
		{
			given: match(`{"path": {"exact": "/m"}}`) + "\n" + rewrite(`{"path": {"exact": "/one"}}`), change: one("action.rewrite.path.exact", `"/two"`),
			see: get(at + "/m").path, before: "/one", after: "/two",
		},
		{
			given: rewrite(`{"prefix": {"value": "/one/"}}`), change: one("action.rewrite.prefix.value", `"/two/"`),
			see: get(at + "/m/1").path, before: "/one/1", after: "/two/1",
		},
		{
			given: rewrite(`{"prefix": {"defaultPrefix": "DISABLED"}}`), change: one("action.rewrite.prefix.defaultPrefix", `"ENABLED"`),
			see: get(at + "/m/1").path, before: "/m/1", after: "/1",
		},
	},
		headerFields("gatewayRoute gate/main", route+".match.headers", func(headers string) string { return match(`{"prefix": "/", "headers": ` + headers + `}`) },
			func(header string) probe { return get(at+"/", header).app }),
		gateFields(protocol, route, `"prefix": "/", `, at, func(header ...string) ask { return get(at+"/m/1", header...) },
			func(port string) ask { return get("gate." + s.mesh() + ":" + port + "/") }, "404"),
	)
	if protocol == "http" { // a gateway route has one priority, whatever its kind
		s.fields = append(s.fields, field{change: "gatewayRoute gate/rest priority = 5", see: get(at + "/m/1").app, before: "green", after: "blue"})
	}
	return s
}

func grpcGatewayScene() scene {
	const route = "grpcRoute"
	s := gatewayRouteScene("grpc gateway routes", "grpc", route, "{serviceName: color.Color}", "{}")
	at := "gate." + s.mesh() + ":8080"
	match := func(doc string) string { return gateEdits(route + ".match = " + doc) }
	call := func(header ...string) ask { return rpc(at+"/color.Color/Get", header...) }
	s.fields = slices.Concat([]field{
		{change: gateEdits(route + `.match.serviceName = "shape.Shape"`), see: call().app, before: "green", after: "blue"},
	},
		headerFields("gatewayRoute gate/main", route+".match.metadata", func(metadata string) string { return match(`{"metadata": ` + metadata + `}`) },
			func(header string) probe { return call(header).app }),
		gateFields("grpc", route, "", at, call, func(port string) ask { return rpc("gate." + s.mesh() + ":" + port + "/color.Color/Get") }, "Unimplemented"),
	)
	return s
}

// gateFields are the cases of what all kinds of gateway routes share. more is what
// a match has beside host name or port, to is a request to a port of the gateway, and
// none what is answered where no route is.
func gateFields(protocol, route, more, at string, call func(header ...string) ask, to func(port string) ask, none string) []field {
	shop := call("host: shop.example.com")
	host := func(doc string) string {
		return gateEdits(fmt.Sprintf(`%s.match = {%s"hostname": %s}`, route, more, doc))
	}
	return []field{
		{
			given: host(`{"exact": "shop.example.com"}`), change: gateEdits(route + `.match.hostname.exact = "news.example.com"`),
			see: shop.app, before: "green", after: "blue",
		},
		{
			given: host(`{"suffix": ".example.com"}`), change: gateEdits(route + `.match.hostname.suffix = ".example.org"`),
			see: shop.app, before: "green", after: "blue",
		},
		{
			given: fmt.Sprintf(`virtualGateway gate listeners[1] = {"portMapping": {"port": 8081, "protocol": %q}}`, protocol) +
				fmt.Sprintf("\ngatewayRoute gate/rest %s.match = {%s\"port\": 8081}\n", route, more) +
				gateEdits(fmt.Sprintf(`%s.match = {%s"port": 8080}`, route, more)),
			change: gateEdits(route + ".match.port = 8081"),
			see:    all(to("8080").app, to("8081").app), before: "green, blue", after: none + ", green",
		},
		{
			change: gateEdits(route + `.action.target.virtualService.virtualServiceName = "blue.local"`),
			see:    call().app, before: "green", after: "blue",
		},
		{
			given: secondListener(protocol, 8081) + gateEdits(route+".action.target.port = 8080"), change: gateEdits(route + ".action.target.port = 8081"),
			see: call().port, before: "green:8080", after: "green:8081",
		},
		{
			given:  gateEdits(route + `.action.rewrite.hostname.defaultTargetHostname = "DISABLED"`),
			change: gateEdits(route + `.action.rewrite.hostname.defaultTargetHostname = "ENABLED"`),
			see:    shop.host, before: "shop.example.com", after: "green.local",
		},
	}
}
