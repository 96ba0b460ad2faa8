//go:build linux

package fields

// meshScenes show MeshSpec, VirtualServiceSpec and VirtualRouterSpec: a client
// calls web.local, which the node blue provides, and routed.local, which a router
// provides that leads to green, and by HTTP/2 to red; the other router leads to blue.
func meshScenes() []scene {
	web, routed := get("web.local:8080/"), get("routed.local:8080/")
	return []scene{{
		name:   "mesh",
		envoys: []string{"virtualNode/client"},
		names:  map[string][]string{"both.mesh": {"blue", "blue v6"}},
		base: `
- kind: virtualNode
  name: blue
  spec:
    listeners: [{portMapping: {port: 8080, protocol: http}}]
    serviceDiscovery: {dns: {hostname: both.mesh}}
- kind: virtualNode
  name: green
  spec:
    listeners: [{portMapping: {port: 8080, protocol: http}}]
    serviceDiscovery: {dns: {hostname: green.mesh}}
- kind: virtualNode
  name: red
  spec:
    listeners: [{portMapping: {port: 8080, protocol: http2}}]
    serviceDiscovery: {dns: {hostname: red.mesh}}
- kind: virtualRouter
  name: one
  spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
- kind: route
  parent: one
  name: http
  spec: {httpRoute: {match: {prefix: /}, action: {weightedTargets: [{virtualNode: green, weight: 1}]}}}
- kind: route
  parent: one
  name: http2
  spec: {http2Route: {match: {prefix: /}, action: {weightedTargets: [{virtualNode: red, weight: 1}]}}}
- kind: virtualRouter
  name: other
  spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
- kind: route
  parent: other
  name: all
  spec: {httpRoute: {match: {prefix: /}, action: {weightedTargets: [{virtualNode: blue, weight: 1}]}}}
- kind: virtualService
  name: web.local
  spec: {provider: {virtualNode: {virtualNodeName: blue}}}
- kind: virtualService
  name: routed.local
  spec: {provider: {virtualRouter: {virtualRouterName: one}}}
- kind: virtualNode
  name: client
  spec:
    backends:
    - {virtualService: {virtualServiceName: web.local}}
    - {virtualService: {virtualServiceName: routed.local}}
`,
		fields: []field{
			{
				title: "what is not in the mesh", ids: "TRBL-010 TRBL-012", given: `mesh egressFilter.type = "DROP_ALL"`, change: `mesh egressFilter.type = "ALLOW_ALL"`,
				see: get("blue.mesh:8083/").app, before: "reset", after: "blue",
			},
			{
				title: "a name of no backend", given: `mesh egressFilter.type = "DROP_ALL"`, change: `mesh egressFilter.type = "ALLOW_ALL"`,
				see: get("blue.mesh:8080/").app, before: "404", after: "blue",
			},
			{
				given: `mesh serviceDiscovery.ipPreference = "IPv4_ONLY"`, change: `mesh serviceDiscovery.ipPreference = "IPv6_ONLY"`,
				see: web.family, before: "blue by IPv4", after: "blue by IPv6",
			},
			{change: `virtualService web.local provider.virtualNode.virtualNodeName = "green"`, see: web.app, before: "blue", after: "green"},
			{change: `virtualService routed.local provider.virtualRouter.virtualRouterName = "other"`, see: routed.app, before: "green", after: "blue"},
			{
				change: `virtualRouter one listeners[0].portMapping.port = 8081`,
				see:    all(routed.app, get("routed.local:8081/").app), before: "green, reset", after: "404, green",
			},
			{
				change: `virtualRouter one listeners[0].portMapping.protocol = "http2"`,
				see:    get2("routed.local:8080/").app, before: "green", after: "red",
			},
		},
	}}
}
