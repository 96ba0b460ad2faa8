// Package cloudmap is the registry of services that the mesh brings along: AWS
// Cloud Map's API over records in the store, and what is registered, in memory.
//
// Start with API (api.go), which offers the operations as a service.Service;
// namespace.go, definition.go, instance.go and discover.go have one subject each.
// What is stored is in records.go: an account's names lie in one scope and each
// service with its instances in another, so that registrations of two services
// never wait for each other.
//
// Registry (registry.go) follows the store on every replica. It answers names for
// package meshdns, and is the discovery.Source (source.go) that pushes instances
// to proxies: a registration is an endpoint without anybody's polling (DISC-010).
// Answers of the API are read from the store, so that each replica tells what any
// of them has acknowledged (API-023).
package cloudmap
