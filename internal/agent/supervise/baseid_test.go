package supervise

import (
	"math"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// Envoy scales a base id and writes it into the names of its sockets as a number with a sign.
func TestBaseIDsAreSmall(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for port := range 1 << 16 {
		e := &Envoy{Settings: settings.Settings{Admin: settings.Admin{Port: port}}}
		id := e.baseID()
		if seen[id] = true; id < 0 || id*baseIDScale > math.MaxInt32-baseIDScale {
			t.Fatalf("port %d has the base id %d", port, id)
		}
	}
	if len(seen) < 65_000 {
		t.Errorf("65536 ports have %d base ids", len(seen))
	}
}
