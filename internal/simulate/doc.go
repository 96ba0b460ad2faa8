// Package simulate sends pretend requests through the configuration of a proxy
// and says what Envoy would do with them: no traffic, no Envoy, no clock.
//
// Start with [New], which decodes a bundle once, and [Proxy.Send], which takes a
// [Request] through listener and filter chain (chain.go), virtual host and route
// (route.go, match.go, path.go), rewrites (rewrite.go) and, at a gateway, the
// second hop, to the clusters (cluster.go). The [Outcome] has every name on the
// way; its [Meaning] has none, so that two systems can be compared.
//
// The semantics are Envoy's. What a bundle says and this package does not
// understand is an error of New (known.go), never passed over: the same requests
// are sent through real Envoys by the tests, which must agree.
package simulate
