// Package agent runs beside a workload's Envoy, as the agent of App Mesh's Envoy image did, and takes the same
// environment variables. It writes Envoy's bootstrap, relays and signs its xDS stream, starts it, starts it again
// when it ends, and drains it on SIGTERM.
//
// Read it in this order. Package settings turns environment and flags into what is asked for, and names every variable
// that is wrong. Package platform asks the machine and ECS or EC2 about itself. Package bootstrap turns that and facts about the machine into Envoy's bootstrap; it is pure and covered by
// golden files. Package relay stands between Envoy and the control plane: Envoy speaks plain HTTP/2 to the relay's unix
// socket, and for each of its streams the relay opens one to the control plane, over TLS and signed. Package supervise
// runs Envoy, package envoyadmin asks it, package httpapi tells how it goes, package logs is where it and Envoy say so.
// [Run] ties them together.
//
// # What differs from the agent of App Mesh's image
//
//   - xDS always goes through the agent: Envoy lost its AWS signing. APPMESH_XDS_ENDPOINT takes several endpoints,
//     separated by commas, as host:port or https://host:port (TLS), http://host:port (plaintext) or xds+unix://path;
//     APPMESH_XDS_CA_FILE names the CA. unix://path is Service Connect as before: Envoy speaks to that socket itself.
//   - The relay's socket is made anew for each agent in a directory of its own, so that agents may share a file
//     system; APPNET_RELAY_LISTENER_UDS_PATH gives it a fixed place.
//   - ENVOY_PATH chooses the Envoy binary, else it is found on PATH, else it is /usr/bin/envoy.
//   - EVERMESH_IGNORE_MARK marks the packets of agent and Envoy, for interception that cannot tell users apart.
//   - When Envoy has used up its restarts the agent ends with 1, not 0: that is no success. Wrong configuration ends
//     it with 2 and one line that names the variable.
//   - Runtime guards that today's Envoy removed are left out: APPMESH_SET_TRACING_DECISION,
//     ENVOY_NO_EXTENSION_LOOKUP_BY_NAME and ENVOY_USE_HTTP_CLIENT_TO_FETCH_AWS_CREDENTIALS are read and without effect.
//   - The end of Envoy is noticed at once. PID_POLL_INTERVAL_MS is how often ended processes that nobody waits for are
//     looked for.
//   - An Envoy that hangs is ended and started again; restarts in a row have ever longer pauses between them, and are
//     forgotten when Envoy has run for long.
//   - On SIGTERM Envoy's health checks are failed and the control plane is told, before the listeners drain; the end may
//     come before LISTENER_DRAIN_WAIT_TIME_S, when no client may choose this proxy any more and nothing is open.
//   - managementServerConnectionStatus is what the relay knows; Envoy is always connected to the relay.
package agent
