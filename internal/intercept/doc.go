// Package intercept redirects a workload's TCP traffic into its Envoy, with the variables, chain names and
// rule order of App Mesh's route manager (the init container and the networking script of the user guide).
//
// Read it in this order: [Parse] turns the APPMESH_* variables into a [Config]; [Config.NFT] and
// [Config.IPTables] turn a Config into text, both pure and covered by golden files; a [Backend] hands that
// text to nft, or to iptables-restore where nft is missing; [Install] and [Uninstall] do so for all back ends of a machine;
// [Verify] reads what is there.
//
// What the rules do, for table nat:
//
//   - ingress: TCP from another host to an application port goes to Envoy's ingress port (chain APPMESH_INGRESS);
//   - egress: TCP of local processes to another host goes to Envoy's egress port (chain APPMESH_EGRESS), except
//     Envoy's own (told apart by mark, user or group), the ignored ports and the ignored addresses;
//   - if asked for, DNS queries of local processes but Envoy go to the mesh's name server (chain EVERMESH_DNS).
//
// Traffic to local addresses and everything else is never touched. Each tool changes one address family, or with nft
// both, at once or not at all; transaction.go makes one change of several of those: where one fails, those before are put
// back as they were. So running twice is the same as running once, and whoever is killed in between leaves what the next run
// mends. What others put into chains of our names is never touched: a [ForeignError] says that nothing was done.
package intercept
