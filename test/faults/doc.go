// Package faults shows what the control plane withstands: real evermeshd
// processes on real etcd, embedded or a cluster of processes, called by AWS's
// own SDK, while the tests kill them, stop them for a while, cut their
// connections, fill their disks and compact what they have not read yet.
//
// Read it in this order. A replica (replica_test.go) is one evermeshd; a
// cluster (etcd_test.go) is an etcd of one or three processes, each of which is
// this test program, started again; a link (link_test.go) is a connection that
// can be cut. What the tests know of the past is a history (history_test.go),
// which the model (model_test.go) judges.
//
// The tests with chance in them print their seed. They take longer, and find
// more, with `go test ./test/faults -for 10m`; -seed repeats one.
package faults
