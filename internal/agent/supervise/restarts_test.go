package supervise

import (
	"fmt"
	"testing"
	"time"
)

func TestBudget(t *testing.T) {
	type exit struct{ ran, wait time.Duration }
	const week, ms = 7 * 24 * time.Hour, time.Millisecond
	for _, test := range []struct {
		name  string
		b     budget
		exits []exit
		left  bool // whether another restart is allowed after those
	}{
		{"AGENT-011 none", budget{allowed: 0, delay: ms}, nil, false},
		{"AGENT-011 the first at once, the next ones after ever longer pauses", budget{allowed: 4, delay: 250 * ms}, []exit{{0, 0}, {0, 250 * ms}, {0, 500 * ms}, {0, time.Second}}, false},
		{"pauses have a bound", budget{allowed: 10, delay: 4 * time.Second}, []exit{{0, 0}, {0, 4 * time.Second}, {0, 8 * time.Second}, {0, maxDelay}, {0, maxDelay}}, true},
		{"one that ran for long starts a new row", budget{allowed: 2, delay: ms, forget: time.Minute}, []exit{{0, 0}, {0, ms}, {time.Minute, 0}, {0, ms}}, false},
		{"one that ran for a little less does not", budget{allowed: 2, delay: ms, forget: time.Minute}, []exit{{0, 0}, {time.Minute - 1, ms}}, false},
		{"AGENT-047 or never, as App Mesh's agent", budget{allowed: 2, delay: ms}, []exit{{week, 0}, {week, ms}}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			for i, e := range test.exits {
				if wait, ok := test.b.next(e.ran); !ok || wait != e.wait {
					t.Errorf("restart %d: %s, %t; want %s", i, wait, ok, e.wait)
				}
			}
			if _, ok := test.b.next(0); ok != test.left {
				t.Errorf("another one: %t, want %t", ok, test.left)
			}
		})
	}
	b := budget{allowed: 1000, delay: time.Second}
	for i := range 1000 { // no overflow
		if wait, ok := b.next(0); !ok || wait < 0 || wait > maxDelay {
			t.Fatal(fmt.Sprint(i, wait, ok))
		}
	}
}
