//go:build linux

package fields

import "fmt"

// gatewayScenes show VirtualGatewaySpec: a host outside the mesh calls the gateway
// gate, which leads to green by HTTP/1.1, to blue by HTTP/2 and to red by gRPC, as
// the protocol of its listener is.
func gatewayScenes() []scene {
	const listener = "virtualGateway gate listeners[0]"
	s := scene{name: "gateways", envoys: []string{"virtualGateway/gate"}}
	for _, n := range []struct{ name, protocol string }{{"green", "http"}, {"blue", "http2"}, {"red", "grpc"}} {
		s.base += fmt.Sprintf(`
- kind: virtualNode
  name: %[1]s
  spec:
    listeners: [{portMapping: {port: 8080, protocol: %[2]s}}]
    serviceDiscovery: {dns: {hostname: %[1]s.gateways}}
- kind: virtualService
  name: %[1]s.local
  spec: {provider: {virtualNode: {virtualNodeName: %[1]s}}}
`, n.name, n.protocol)
	}
	s.base += `
- kind: virtualNode
  name: client
- kind: virtualGateway
  name: gate
  spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
- kind: gatewayRoute
  parent: gate
  name: http
  spec: {httpRoute: {match: {prefix: /}, action: {target: {virtualService: {virtualServiceName: green.local}}}}}
- kind: gatewayRoute
  parent: gate
  name: http2
  spec: {http2Route: {match: {prefix: /}, action: {target: {virtualService: {virtualServiceName: blue.local}}}}}
- kind: gatewayRoute
  parent: gate
  name: grpc
  spec: {grpcRoute: {match: {}, action: {target: {virtualService: {virtualServiceName: red.local}}}}}
`
	at := func(port int) string { return fmt.Sprintf("gate.gateways:%d/", port) }
	s.fields = []field{
		{
			change: listener + ".portMapping.port = 8083",
			see:    all(get(at(8080)).app, get(at(8083)).app), before: "green, refused", after: "refused, green",
		},
		{change: listener + `.portMapping.protocol = "http2"`, see: get2(at(8080)).app, before: "green", after: "blue"},
		{
			timed: true,
			given: listener + ".connectionPool.http.maxConnections = 1", change: listener + ".connectionPool.http.maxConnections = 2",
			see: get(at(8080), "x-wait: 500ms").peak(3, "green"), before: "1 at once", after: "2 at once",
		},
		{
			timed:  true,
			given:  listener + `.connectionPool.http = {"maxConnections": 1, "maxPendingRequests": 1}`,
			change: listener + ".connectionPool.http.maxPendingRequests = 2",
			see:    get(at(8080), "x-wait: 500ms").crowd(3), before: "2 × 200, 1 × 503", after: "3 × 200",
		},
		{
			timed:  true,
			given:  listener + `.portMapping.protocol = "http2"` + "\n" + listener + ".connectionPool.http2.maxRequests = 1",
			change: listener + ".connectionPool.http2.maxRequests = 2",
			see:    get2(at(8080), "x-wait: 500ms").crowd(2), before: "1 × 200, 1 × 503", after: "2 × 200",
		},
		{
			timed:  true,
			given:  listener + `.portMapping.protocol = "grpc"` + "\n" + listener + ".connectionPool.grpc.maxRequests = 1",
			change: listener + ".connectionPool.grpc.maxRequests = 2",
			see:    rpc(at(8080)+"color.Color/Get", "x-wait: 500ms").crowd(2), before: "1 × OK, 1 × Unavailable", after: "2 × OK",
		},
	}
	const checked = `.healthCheck = {"protocol": "http", "path": "/", "port": 8080, "healthyThreshold": 2, "unhealthyThreshold": 2, "intervalMillis": 5000, "timeoutMillis": 2000}`
	for _, edit := range []string{
		`path = "/ping"`, "port = 8081", `protocol = "http2"`, "healthyThreshold = 3", "unhealthyThreshold = 3", "intervalMillis = 6000", "timeoutMillis = 3000",
	} {
		s.fields = append(s.fields, field{
			given: listener + checked, change: listener + ".healthCheck." + edit,
			see: get(at(8080)).app, before: "green", after: "green",
			ignored: "healthCheck has no effect: nothing in the mesh calls a gateway",
		})
	}
	s.fields = append(s.fields, logFields("virtualGateway gate", get(at(8080)), 2)...)
	return []scene{s}
}
