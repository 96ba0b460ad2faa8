// Package meshdns answers DNS queries for what the mesh knows by name: services in
// private DNS namespaces of Cloud Map and, where that is turned on, virtual
// services, which need some address that is not loopback and whose traffic proxies
// catch (VS-008, VS-009).
//
// Start with resolver.answer (answer.go), which decides from memory what a name
// has; virtual.go knows the names of virtual services. wire.go alone speaks DNS:
// it reads queries, bounds what each client may ask (limit.go), and forwards other
// names or refuses them. It is no recursive resolver.
package meshdns
