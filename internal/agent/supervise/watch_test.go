package supervise

import (
	"context"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What is told of an Envoy that is ended is how often it was asked in vain: that is more before its first answer.
func TestPollsInVain(t *testing.T) {
	t.Parallel()
	nobody := envoyadmin.New(settings.Admin{Port: testenv.FreePort(t)})
	if got := (Watch{Interval: time.Millisecond, Silent: 3}).hangs(t.Context(), nobody); got != 12 {
		t.Errorf("%d polls, want 12", got)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if got := (Watch{Interval: time.Millisecond, Silent: 1}).hangs(ended, nobody); got != 0 {
		t.Errorf("%d polls after the end, want none", got)
	}
}
