package audit

import (
	"context"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/audit/segment"
)

// ResourceType is resourceType.
func ResourceType(arn string) string { return resourceType(arn) }

// SumUp is sumUp.
func (t *Trail) SumUp(ctx context.Context, before time.Time) { t.sumUp(ctx, before) }

// Username is what lookups find an event by.
func Username(t testing.TB, e segment.Entry) string {
	t.Helper()
	event, err := shown(e)
	if err != nil {
		t.Fatal(err)
	}
	if event.Username == nil {
		return ""
	}
	return *event.Username
}
