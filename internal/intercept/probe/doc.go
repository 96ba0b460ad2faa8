// Package probe proves that interception works, by connections of its own, in the network namespace that it runs in:
// that what a workload sends and gets arrives at Envoy's ports, and that what Envoy and the agent send does not. It is
// `evermesh-agent intercept --check`.
//
// Read it in this order: [Prove] makes the proofs (prove.go); arrivals.go sees where a connection arrived, in the
// kernel's own list of sockets, so that neither rules nor Envoy are asked or changed; as.go connects as another user;
// veth.go makes a neighbour to connect from.
//
// What running workloads notice: Envoy gets one connection for each proof, without a byte on it. Where Envoy does not
// run yet, its ports are listened on meanwhile. For arriving traffic an interface is there for a moment. Whatever happens to this
// program, nothing of that is left: the kernel takes all of it away with the process.
package probe
