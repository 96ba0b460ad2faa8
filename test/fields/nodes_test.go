//go:build linux

package fields

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// nodeScenes show of VirtualNodeSpec what the node's own Envoy does: a host
// outside the mesh calls the node server, which has a listener of each protocol.
func nodeScenes() []scene {
	const (
		http1, http2, grpc, tcp = "listeners[0]", "listeners[1]", "listeners[2]", "listeners[3]"
		tight                   = `{"unit": "ms", "value": 300}`
	)
	s := scene{name: "listeners", envoys: []string{"virtualNode/server"}, base: `
- kind: virtualNode
  name: client
- kind: virtualNode
  name: server
  spec:
    listeners:
    - portMapping: {port: 8080, protocol: http}
    - portMapping: {port: 8081, protocol: http2}
    - portMapping: {port: 8082, protocol: grpc}
    - portMapping: {port: 8090, protocol: tcp}
    serviceDiscovery: {dns: {hostname: server.listeners}}
`}
	at := func(port int) string { return fmt.Sprintf("server.listeners:%d/", port) }
	line := dial("server.listeners:8090")
	on := func(edit string) string { return "virtualNode server " + edit }
	for _, p := range []struct {
		listener, protocol string
		slow               ask
		ok, late           string
	}{
		{http1, "http", get(at(8080), "x-wait: 1s"), "200", "504"},
		{http2, "http2", get2(at(8081), "x-wait: 1s"), "200", "504"},
		{grpc, "grpc", rpc(at(8082)+"color.Color/Get", "x-wait: 1s"), "OK", "Unavailable"},
	} {
		for _, limit := range []string{"perRequest", "idle"} {
			timeout := p.listener + ".timeout." + p.protocol + "." + limit
			s.fields = append(s.fields,
				field{timed: true, given: on(timeout + " = " + tight), change: on(timeout + ".value = 3000"), see: p.slow.status, before: p.late, after: p.ok},
				field{timed: true, given: on(timeout + " = " + tight), change: on(timeout + `.unit = "s"`), see: p.slow.status, before: p.late, after: p.ok},
			)
		}
	}
	const idle = tcp + ".timeout.tcp.idle"
	s.fields = append(s.fields, []field{
		{
			timed: true, given: on(idle + " = " + tight), change: on(idle + ".value = 3000"),
			see: line.after(time.Second), before: "closed within 1s", after: "open after 1s",
		},
		{
			timed: true, given: on(idle + " = " + tight), change: on(idle + `.unit = "s"`),
			see: line.after(time.Second), before: "closed within 1s", after: "open after 1s",
		},
		{
			timed: true, given: on(http1 + ".connectionPool.http.maxConnections = 1"), change: on(http1 + ".connectionPool.http.maxConnections = 2"),
			see: get(at(8080), "x-wait: 500ms").peak(3, "server"), before: "1 at once", after: "2 at once",
		},
		{
			timed:  true,
			given:  on(http1 + `.connectionPool.http = {"maxConnections": 1, "maxPendingRequests": 1}`),
			change: on(http1 + ".connectionPool.http.maxPendingRequests = 2"),
			see:    get(at(8080), "x-wait: 500ms").crowd(3), before: "2 × 200, 1 × 503", after: "3 × 200",
		},
		{
			timed: true, given: on(http2 + ".connectionPool.http2.maxRequests = 1"), change: on(http2 + ".connectionPool.http2.maxRequests = 2"),
			see: get2(at(8081), "x-wait: 500ms").crowd(2), before: "1 × 200, 1 × 503", after: "2 × 200",
		},
		{
			timed: true, given: on(grpc + ".connectionPool.grpc.maxRequests = 1"), change: on(grpc + ".connectionPool.grpc.maxRequests = 2"),
			see: rpc(at(8082)+"color.Color/Get", "x-wait: 500ms").crowd(2), before: "1 × OK, 1 × Unavailable", after: "2 × OK",
		},
		{
			given: on(tcp + ".connectionPool.tcp.maxConnections = 1"), change: on(tcp + ".connectionPool.tcp.maxConnections = 2"),
			see: line.crowd(2), before: "1 × closed, 1 × server:8090", after: "2 × server:8090",
		},
		{
			change: on(http1 + ".portMapping.port = 8083"),
			see:    all(get(at(8080)).port, get(at(8083)).port), before: "server:8080, reset", after: "reset, server:8083",
		},
		{
			change: on(http1 + `.portMapping.protocol = "http2"`),
			see:    get(at(8080)).proto, before: "HTTP/1.1", after: "HTTP/2.0",
		},
	}...)
	s.fields = append(s.fields, logFields("virtualNode server", get(at(8080)), 1)...)
	return []scene{s}
}

// logFields are the cases of the access log of a node or gateway, where a GET
// leaves as many lines.
func logFields(of string, get ask, lines int) []field {
	const (
		file   = "logging.accessLog.file"
		text   = `{"path": "one.log", "format": {"text": "%REQ(:METHOD)%\n"}}`
		object = `{"path": "one.log", "format": {"json": [{"key": "of", "value": "%REQ(:METHOD)%"}]}}`
	)
	_, name, _ := strings.Cut(of, " ")
	edit := func(member, value string) string { return of + " " + file + member + " = " + value }
	logs := func(file, line string) string {
		return file + ": " + strings.Join(slices.Repeat([]string{line}, lines), ", ")
	}
	see := get.logged(name, lines)
	return []field{
		{given: edit("", text), change: edit(".path", `"two.log"`), see: see, before: logs("one.log", "GET"), after: logs("two.log", "GET")},
		{
			given: edit("", text), change: edit(".format.text", `"%RESPONSE_CODE%\n"`),
			see: see, before: logs("one.log", "GET"), after: logs("one.log", "200"),
		},
		{
			title: "the guide's sample", ids: "OBS-002",
			given: edit("", text), change: edit(".format.text", `"%LOCAL_REPLY_BODY%:%RESPONSE_CODE%:path=%REQ(:path)%\n"`),
			see: see, before: logs("one.log", "GET"), after: logs("one.log", ":200:path=/"),
		},
		{
			ids: "OBS-003", given: edit("", object), change: edit(".format.json[0].key", `"method"`),
			see: see, before: logs("one.log", `{"of":"GET"}`), after: logs("one.log", `{"method":"GET"}`),
		},
		{
			given: edit("", object), change: edit(".format.json[0].value", `"%RESPONSE_CODE%"`),
			see: see, before: logs("one.log", `{"of":"GET"}`), after: logs("one.log", `{"of":200}`),
		},
	}
}

// clusterScenes show of VirtualNodeSpec what callers' Envoys do: a client calls
// web.local, which the node server provides. The scenes with health checks wait for
// long, as the shortest interval is 5 s.
func clusterScenes() []scene {
	const (
		on       = "virtualNode server "
		listener = on + "listeners[0]"
	)
	web := get("web.local:8080/")
	base := func(name string) scene {
		s := scene{name: name, envoys: []string{"virtualNode/client"}}
		s.base = fmt.Sprintf(`
- kind: virtualNode
  name: blue
- kind: virtualNode
  name: green
- kind: virtualNode
  name: server
  spec:
    listeners: [{portMapping: {port: 8080, protocol: http}}]
    serviceDiscovery: {dns: {hostname: server.%[1]s}}
- kind: virtualService
  name: web.local
  spec: {provider: {virtualNode: {virtualNodeName: server}}}
- kind: virtualService
  name: other.local
  spec: {provider: {virtualNode: {virtualNodeName: server}}}
- kind: virtualNode
  name: client
  spec: {backends: [{virtualService: {virtualServiceName: web.local}}]}
`, s.mesh())
		s.names = map[string][]string{"both." + s.mesh(): {"blue", "green"}, "blue-twice." + s.mesh(): {"blue", "blue v6"}}
		return s
	}

	discovery := base("discovery")
	discovery.instances = []instance{
		{"one", "web", "blue", []string{"stage", "test", "old", "no"}},
		{"one", "web", "green", []string{"stage", "live", "old", "test"}},
		{"one", "other", "green", nil},
		{"two", "web", "server", []string{"stage", "test"}},
	}
	dns := func(doc string) string { return on + "serviceDiscovery.dns = " + doc }
	cloud := func(more string) string {
		return on + `serviceDiscovery = {"awsCloudMap": {"namespaceName": "one", "serviceName": "web"` + more + `}}`
	}
	staged := cloud(`, "attributes": [{"key": "stage", "value": "test"}]`)
	discovery.fields = []field{
		{
			change: `virtualNode client backends[0].virtualService.virtualServiceName = "other.local"`,
			see:    all(web.app, get("other.local:8080/").app), before: "server, 404", after: "404, server",
		},
		{ids: "DISC-002", change: on + `serviceDiscovery.dns.hostname = "blue.discovery"`, see: web.app, before: "server", after: "blue"},
		{
			given: dns(`{"hostname": "both.discovery", "responseType": "LOADBALANCER"}`), change: on + `serviceDiscovery.dns.responseType = "ENDPOINTS"`,
			see: mixed(20, web.app), before: "blue", after: "blue and green",
		},
		{
			given: dns(`{"hostname": "blue-twice.discovery", "ipPreference": "IPv4_ONLY"}`), change: on + `serviceDiscovery.dns.ipPreference = "IPv6_ONLY"`,
			see: web.family, before: "blue by IPv4", after: "blue by IPv6",
		},
		{given: staged, change: on + `serviceDiscovery.awsCloudMap.namespaceName = "two"`, see: mixed(10, web.app), before: "blue", after: "server"},
		{given: cloud(""), change: on + `serviceDiscovery.awsCloudMap.serviceName = "other"`, see: mixed(20, web.app), before: "blue and green", after: "green"},
		{given: staged, change: on + `serviceDiscovery.awsCloudMap.attributes[0].key = "old"`, see: mixed(10, web.app), before: "blue", after: "green"},
		{given: staged, change: on + `serviceDiscovery.awsCloudMap.attributes[0].value = "live"`, see: mixed(10, web.app), before: "blue", after: "green"},
		{
			given:  cloud(`, "attributes": [{"key": "stage", "value": "test"}], "ipPreference": "IPv4_ONLY"`),
			change: on + `serviceDiscovery.awsCloudMap.ipPreference = "IPv6_ONLY"`,
			see:    web.family, before: "blue by IPv4", after: "blue by IPv6",
		},
	}

	outliers := base("outliers")
	outlier := func(errors, percent int, interval, ejection string) string {
		return dns(`{"hostname": "both.outliers", "responseType": "ENDPOINTS"}`) + "\n" + listener +
			fmt.Sprintf(`.outlierDetection = {"maxServerErrors": %d, "maxEjectionPercent": %d, "interval": %s, "baseEjectionDuration": %s}`, errors, percent, interval, ejection)
	}
	const short, long = `{"unit": "ms", "value": 300}`, `{"unit": "s", "value": 300}`
	outliers.fields = []field{
		{
			timed: true, given: outlier(3, 50, long, long), change: listener + ".outlierDetection.maxServerErrors = 50",
			see: web.afterErrors(5, 0), before: "green", after: "blue and green",
		},
		{
			timed: true, given: outlier(3, 50, long, long), change: listener + ".outlierDetection.maxEjectionPercent = 0",
			see: web.afterErrors(5, 0), before: "green", after: "blue and green",
		},
	}
	for _, member := range []string{"interval", "baseEjectionDuration"} {
		at := listener + ".outlierDetection." + member
		outliers.fields = append(outliers.fields, field{
			timed: true, given: outlier(3, 50, short, short), change: at + ".value = 300000",
			see: web.afterErrors(5, 2*time.Second), before: "blue is back within 2s", after: "blue is away for 2s",
		}, field{
			timed: true, given: outlier(3, 50, short, short), change: at + `.unit = "s"`,
			see: web.afterErrors(5, 2*time.Second), before: "blue is back within 2s", after: "blue is away for 2s",
		})
	}

	check := func(more string) string {
		return listener + `.healthCheck = {"protocol": "http", "healthyThreshold": 2, "unhealthyThreshold": 2, "intervalMillis": 5000, "timeoutMillis": 2000` + more + "}"
	}
	checks := base("health checks")
	checks.instances = []instance{{"one", "web", "server", nil}}
	checks.fields = []field{
		{
			given: check(`, "path": "/ping"`), change: listener + `.healthCheck.path = "/health"`,
			see: checkOf("server"), before: "HTTP/1.1 /ping at 8080", after: "HTTP/1.1 /health at 8080",
		},
		{
			title: "of a name", given: check(`, "port": 8080`), change: listener + ".healthCheck.port = 8081",
			see: checkOf("server"), before: "HTTP/1.1 / at 8080", after: "HTTP/1.1 / at 8081",
		},
		{
			title: "of instances", change: listener + ".healthCheck.port = 8081",
			given: check(`, "port": 8080`) + "\n" + on + `serviceDiscovery = {"awsCloudMap": {"namespaceName": "one", "serviceName": "web"}}`,
			see:   checkOf("server"), before: "HTTP/1.1 / at 8080", after: "HTTP/1.1 / at 8081",
		},
		{
			given: check(""), change: listener + `.healthCheck.protocol = "http2"`,
			see: checkOf("server"), before: "HTTP/1.1 / at 8080", after: "HTTP/2.0 / at 8080",
		},
		{
			title: "grpc", ids: "VN-017", change: listener + `.healthCheck.protocol = "grpc"`,
			given: listener + `.portMapping.protocol = "grpc"` + "\n" + check("") + "\n" + listener + `.healthCheck.protocol = "http2"`,
			see:   checkOf("server"), before: "HTTP/2.0 / at 8080", after: "HTTP/2.0 /grpc.health.v1.Health/Check at 8080",
		},
		{
			given:  check(`, "path": "/?then=6s"`) + "\n" + on + `serviceDiscovery.dns.responseType = "ENDPOINTS"`,
			change: listener + ".healthCheck.timeoutMillis = 60000",
			see:    verdictOn("server"), before: "timed out", after: "healthy",
		},
	}
	often := base("health check intervals")
	often.fields = []field{{
		given: check(""), change: listener + ".healthCheck.intervalMillis = 60000",
		see: checksWithin("server", 12*time.Second), before: "checked again within 12s", after: "checked once in 12s",
	}}
	sick := base("unhealthy thresholds")
	sick.fields = []field{{
		given: check(`, "path": "/?then=200,reset"`), change: listener + ".healthCheck.unhealthyThreshold = 3",
		see: changeOfMind("server", false), before: "unhealthy after 2 bad checks", after: "unhealthy after 3 bad checks",
	}}
	well := base("healthy thresholds")
	well.fields = []field{{
		given: check(`, "path": "/?then=503,200"`), change: listener + ".healthCheck.healthyThreshold = 3",
		see: changeOfMind("server", true), before: "healthy after 2 good checks", after: "healthy after 3 good checks",
	}}
	return []scene{sick, well, outliers, often, checks, discovery}
}
