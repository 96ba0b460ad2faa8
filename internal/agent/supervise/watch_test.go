package supervise

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What is told of an Envoy that is ended is how often it was asked in vain: that is more before its first answer.
func TestPollsInVain(t *testing.T) {
	t.Parallel()
	nobody := envoyadmin.New(settings.Admin{Port: testenv.FreePort(t)})
	if got := (Watch{Interval: time.Millisecond, Silent: 3}).hangs(t.Context(), nobody.State, slog.New(slog.DiscardHandler)); got != 12 {
		t.Errorf("%d polls, want 12", got)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if got := (Watch{Interval: time.Millisecond, Silent: 1}).hangs(ended, nobody.State, slog.New(slog.DiscardHandler)); got != 0 {
		t.Errorf("%d polls after the end, want none", got)
	}
}

// A poll that ends late tells nothing of Envoy, once: an agent that stood still goes on. One that is always late is slow, and
// ends an Envoy that hangs all the same.
func TestPollsThatEndLate(t *testing.T) {
	t.Parallel()
	const (
		late    = 2 * envoyadmin.Wait
		patient = 3
	)
	for _, test := range []struct {
		name  string
		polls []time.Duration // how long each is silent; 0 for an answer, and the last one goes on
		want  int             // polls that were made
		told  int
	}{
		{"in time", []time.Duration{0, envoyadmin.Wait}, 1 + patient, 0},
		{"it stood still once", []time.Duration{0, late, envoyadmin.Wait}, 1 + 1 + patient, 1},
		{"it is always late", []time.Duration{0, late}, 1 + mostLate + patient, 1},
		{"it is always late, and Envoy never answered", []time.Duration{late}, mostLate + startPatience*patient, 1},
		{"it stood still twice, and Envoy answered between", []time.Duration{0, late, late, late, 0, late, late, late, envoyadmin.Wait}, 8 + patient, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				out, polls := &testenv.Output{}, 0
				state := func(ctx context.Context) string {
					takes := test.polls[min(polls, len(test.polls)-1)]
					polls++
					if takes == 0 {
						return envoyadmin.Live
					}
					_ = pause.For(ctx, takes)
					return envoyadmin.Unreachable
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour) // of the bubble's clock
				defer cancel()
				got := Watch{Interval: time.Second, Silent: patient}.hangs(ctx, state, slog.New(slog.NewTextHandler(out, nil)))
				if got == 0 || polls != test.want {
					t.Errorf("it hangs after %d polls (%d count), want %d", polls, got, test.want)
				}
				if told := strings.Count(out.String(), "the agent itself was late"); told != test.told {
					t.Errorf("told %d times, want %d: %s", told, test.told, out)
				}
			})
		})
	}
}
