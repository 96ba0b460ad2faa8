package probe_test

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/intercept"
	"github.com/evermesh/evermesh/internal/intercept/probe"
)

// Where there are addresses of IPv6, it is said that what uses them goes past Envoy.
func TestIPv6IsNotLeftOutInSilence(t *testing.T) {
	s := newScene(t)
	six := s.workload.Addr6()
	for name, test := range map[string]struct {
		lines []string
		want  bool
	}{
		"not redirected": {[]string{"APPMESH_APP_PORTS=8080"}, six.IsValid()},
		"redirected":     {[]string{"APPMESH_APP_PORTS=8080", "APPMESH_ENABLE_IPV6=1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := s.config(test.lines...)
			var notes []string
			if err := s.workload.Do(func() error {
				for _, p := range probe.Prove(t.Context(), cfg, probe.Options{Backends: []intercept.Backend{s.tool}}) {
					if p.Outcome == probe.Note {
						notes = append(notes, p.String())
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			got := strings.Join(notes, "\n")
			if test.want != (got != "") || test.want && (!strings.Contains(got, "IPv6: is not redirected, though there is the address "+six.String()) || !strings.Contains(got, "APPMESH_ENABLE_IPV6=1")) {
				t.Errorf("got %q", got)
			}
		})
	}
}
