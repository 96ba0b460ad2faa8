//go:build evermesh_outbox

package main

import (
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/rest"
)

// eventSize is how large an event is, in bytes: what one of an audit trail comes
// to (D2).
const eventSize = 1500

// outbox makes events of the usual size, so that what they cost every write is
// measured before there is a reader for them.
func outbox() func(rest.Written) []byte {
	filling := strings.Repeat("x", eventSize)
	return func(w rest.Written) []byte {
		event := make([]byte, 0, eventSize)
		for _, text := range []string{w.RequestID, w.Operation, w.Principal.ARN, w.Key.String()} {
			event = append(append(event, text...), ' ')
		}
		event = w.At.UTC().AppendFormat(event, time.RFC3339)
		return append(event, filling[:max(0, eventSize-len(event))]...)
	}
}
