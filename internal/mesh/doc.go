// Package mesh is what App Mesh means, without any Envoy in it: pure functions
// over immutable values.
//
// A Snapshot is every resource at one revision of the store. Its View of a
// Client is all that one virtual node or gateway needs, every reference
// resolved to a pointer; what cannot be resolved is a Problem and harms nothing
// else. Services are resolved once and shared by all views (memo.go). Reads say
// which resources a view came from, and an Index of them says which clients a
// change concerns. Where the listeners of a node change, proxies wait for each
// other: a Turn says what each side is shown (turn.go, offers.go). Check holds the
// rules between resources that writes must keep.
package mesh
