// Package cni is App Mesh's CNI plugin, which redirects the traffic of a container or pod into its Envoy as its network is
// made: for ECS tasks with a proxyConfiguration, and for pods without an init container. It is called as the
// specification of CNI says (versions 0.3.0, 0.3.1, 0.4.0 and 1.0.0): the command in CNI_COMMAND, the configuration as
// JSON on stdin, the result on stdout.
//
// Read it in this order: [Run] tells the commands apart (run.go); [Network] is the configuration, with the fields of
// App Mesh's plugin (network.go); namespace.go enters the namespace that CNI_NETNS names; the rules are those of
// package intercept.
//
//   - ADD installs the rules and prints the result of the plugin before it in the chain, or an empty one.
//   - DEL removes them; a namespace that is gone is no error.
//   - CHECK reads the rules and fails if they are not those of the configuration.
//   - VERSION prints what is supported.
//
// What differs from App Mesh's plugin: no port is dropped where there are more than 15, port 22 is always left alone
// (ICPT-005), a rule that fails leaves nothing behind, and the node's own namespace is refused.
package cni
