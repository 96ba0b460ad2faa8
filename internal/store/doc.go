// Package store keeps resources in etcd, and is the only thing that the
// replicas of a control plane share. It keeps records and does not understand
// them: rules come from outside, as the function that Update runs.
//
// Start with Store.Update (update.go). A Scope, such as one mesh, has one lock
// key. A transaction reads what this process remembers of the scope (scope.go)
// and commits only if the lock has not moved since, so that a write without a
// rival is one round trip; with one, the process catches up and runs the
// function again. Reads (list.go) go to etcd itself, so that every replica sees
// every write that was acknowledged. Watch (watch.go) tells everything at one
// revision and then every change.
//
// Keys, all under <prefix>/v1/, parts percent-encoded:
//
//	mesh/<owner>/<mesh>/<kind>/[<parent>/]<name>   a resource
//	account/<id>/…                                 records of an account
//	lock/<scope>                                   exists while the scope holds anything
//	head                                           rewritten with every change of a resource
//	token/<key>                                    kept for 8 hours at least
//	outbox/<id>                                    the event of a write, until it is moved
//	ledger/…, endpoints/…, keys/…                  rows, written with Write
//	restore                                        exists while a restore is not finished
//
// Backup (backup.go) writes all of it, save what only living replicas have to
// say, and Restore (restore.go) puts that into an empty store of either form.
//
// The etcd is the process's own (embedded.go, without any client port; other
// processes of its user come through a socket, socket.go) or an external
// cluster. Failures of it are *api.Error with the code
// ServiceUnavailableException, after a bounded time.
package store
