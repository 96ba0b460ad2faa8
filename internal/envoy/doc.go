// Package envoy turns a mesh.View into the configuration of the Envoys beside
// that node, or of that gateway: pure, and the same on every replica.
//
// Start with Builder.Build. It plans the listeners, route configurations and
// clusters of a view (node.go, outbound.go, gateway.go), makes each from Envoy's
// own message types (one file per concept: match.go, retry.go, cluster.go, ...),
// validates and encodes it, and puts the results into a Bundle. What nodes need
// of a service that they call is made once for all of them (callee.go). What the
// inputs of a change left alone is taken over from the previous bundle; what has
// the same content anywhere is kept once.
//
// Names, shapes and hidden defaults are those of AWS App Mesh. Where Envoy of
// today or real traffic demands something else, the place says so.
package envoy
