// Package audit keeps what was done through the control plane: every API call and
// every proxy's connection, as the records of CloudTrail (AUDIT-001, D2).
//
// An event is made by record.go, of a call, or by connection.go, of a proxy's
// stream. That of a write is committed with it, in the store's outbox; the replica
// that wrote moves it (mover.go) to its segments (package segment), where all other
// events go at once. LookupEvents (lookup.go) asks all replicas (peers.go) for the
// newest. deliver.go brings what is in the segments to a file or a webhook.
//
// Start with Trail (trail.go).
package audit
