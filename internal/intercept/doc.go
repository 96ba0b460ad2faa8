// Package intercept redirects a workload's TCP traffic into its Envoy, with the variables, chain names and
// rule order of App Mesh's route manager (the init container and the networking script of the user guide).
//
// Read it in this order: [Parse] turns the APPMESH_* variables into a [Config]; [Config.NFT] and
// [Config.IPTables] turn a Config into text, both pure and covered by golden files; a [Backend] hands that
// text to nft, or to iptables-restore where nft is missing.
//
// What the rules do, for table nat:
//
//   - ingress: TCP from another host to an application port goes to Envoy's ingress port (chain APPMESH_INGRESS);
//   - egress: TCP of local processes to another host goes to Envoy's egress port (chain APPMESH_EGRESS), except
//     Envoy's own (told apart by mark, user or group), the ignored ports and the ignored addresses.
//
// Traffic to local addresses and everything but TCP is never touched. Each tool gets one transaction per address
// family, so a refused rule leaves the family's old rules in place, and running twice is the same as running once.
package intercept
