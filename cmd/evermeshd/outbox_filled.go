//go:build evermesh_outbox

package main

import (
	"context"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/service"
)

// eventSize is how large an event is, in bytes: what one of an audit trail comes
// to (D2).
const eventSize = 1500

// filled makes events of the usual size, so that what they cost every write is
// measured by itself.
func filled() service.Auditor { return filling(strings.Repeat("x", eventSize)) }

type filling string

// Event satisfies service.Auditor.
func (f filling) Event(r service.Record) []byte {
	event := make([]byte, 0, eventSize)
	for _, text := range append([]string{r.ID, r.Operation, r.Principal.ARN}, r.Resources...) {
		event = append(append(event, text...), ' ')
	}
	event = r.At.UTC().AppendFormat(event, time.RFC3339)
	return append(event, f[:max(0, eventSize-len(event))]...)
}

// Append satisfies service.Auditor.
func (filling) Append(context.Context, service.Record) error { return nil }
