package audit

import (
	"testing"

	"github.com/evermesh/evermesh/internal/audit/segment"
)

// ResourceType is resourceType.
func ResourceType(arn string) string { return resourceType(arn) }

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
