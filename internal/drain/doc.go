// Package drain takes a proxy out of what its clients are sent before it stops: the
// agent, or a person, says that an instance drains, and gets the answer when no client
// chooses it any more.
//
// A drain is a row in the store with a lease of its own (record.go). Every replica
// watches all of them (Drains.Run) and leaves their endpoints out of the endpoint sets
// that package discovery gives to bundles; the ledger's rows then tell, as they do for
// rollouts, which clients have acknowledged that (Drains.Drain). What a set is left with
// when all of it drains, and why, is in docs/adr/0037.
//
// A drain ends when it is resumed, when another process connects as the same node from
// the same addresses, or when its lease does: it is prolonged while its proxy is
// connected, and lasts for Config.Lasts after that.
package drain
