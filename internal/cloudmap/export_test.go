package cloudmap

import "github.com/evermesh/evermesh/internal/store"

// Take is take, for tests.
func (r *Registry) Take(b store.RecordBatch) { r.take(b) }
