//go:build !evermesh_outbox

package main

import "github.com/evermesh/evermesh/internal/rest"

// outbox makes the events of writes (D2). Nobody reads them yet, so none are
// made; with the build tag evermesh_outbox, each write carries one, as the
// benchmarks demand.
func outbox() func(rest.Written) []byte { return nil }
