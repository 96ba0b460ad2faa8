//go:build evermesh_outbox

package main

import (
	"encoding/json"
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
		event, err := json.Marshal(map[string]string{
			"eventID": w.RequestID, "eventName": w.Operation, "eventTime": w.At.UTC().Format(time.RFC3339),
			"userIdentity": w.Principal.ARN, "resource": w.Key.String(),
		})
		if err != nil {
			return nil // texts always can be
		}
		return append(event, filling[:max(0, eventSize-len(event))]...)
	}
}
