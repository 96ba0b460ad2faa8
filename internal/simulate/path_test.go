package simulate_test

import (
	"fmt"
	"testing"

	"github.com/evermesh/evermesh/internal/simulate"
)

// TestEveryCharacterOfAPath sends every character that may stand in a request
// line, and every escape, to a real Envoy: it arrives as the simulation says.
func TestEveryCharacterOfAPath(t *testing.T) {
	t.Parallel()
	r := newRig(t, front)
	p := r.proxies[front]
	for _, test := range []struct {
		name  string
		from  int
		to    int
		write func(c int) string
	}{
		{"RT-017 characters", '!', '~', func(c int) string { return string(rune(c)) }},
		{"RT-017 escapes", 0, 255, func(c int) string { return fmt.Sprintf("%%%02x", c) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			for c := test.from; c <= test.to; c++ {
				for _, form := range []string{"/x%sy", "/x/%s", "/x/%s/y?%[1]s"} {
					if c == '%' && test.from == '!' {
						continue // an escape that is none: Envoy passes it on, and the endpoint refuses it
					}
					req := simulate.Request{Destination: toPort(9080), Authority: "web.local", Path: fmt.Sprintf(form, test.write(c))}
					o, err := p.Send(req)
					if err != nil {
						t.Fatal(err)
					}
					if d := disagreement(o, r.send(t, p, req)); d != "" {
						t.Errorf("%s: the real Envoy did otherwise: %s\n%s", req.Path, d, o)
					}
				}
			}
		})
	}
}
