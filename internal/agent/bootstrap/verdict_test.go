package bootstrap

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// long is the path of a socket of so many bytes.
func long(n int) string { return "/" + strings.Repeat("s", n-1) }

// TestVerdicts has the agent refuse what Envoys refuse, and take what they take, at the bounds and beyond. Envoys are shown
// the values that the agent refuses by force.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		variable  string
		with      string // that the value takes effect
		good, bad []string
		force     func(s *settings.Settings, value string)
	}{
		{
			"ENVOY_STATS_FLUSH_INTERVAL", "",
			[]string{"1ms", "299.999s"},
			[]string{"999us", "5m", "300001ms", "1h"},
			func(s *settings.Settings, value string) {
				s.Bootstrap.StatsFlushInterval, _ = time.ParseDuration(value)
			},
		},
		{
			"APPMESH_SDS_SOCKET_PATH", "",
			[]string{long(107)},
			[]string{long(108), long(300)},
			func(s *settings.Settings, value string) { s.Bootstrap.SDSSocket = value },
		},
		{
			"STATSD_SOCKET_PATH", "ENABLE_ENVOY_DOG_STATSD=1",
			[]string{long(107)},
			[]string{long(108)},
			func(s *settings.Settings, value string) { s.Bootstrap.Statsd.Socket = value },
		},
		{
			"STATSD_ADDRESS", "ENABLE_ENVOY_STATSD=1",
			[]string{"fe80::1", "fe80::1%lo", "fe80::1%7", "::ffff:10.0.0.1"},
			[]string{"fe80::1%nowhere", "localhost", "10.0.0"},
			func(s *settings.Settings, value string) { s.Bootstrap.Statsd.Address = value },
		},
		{
			"OTEL_EXPORTER_OTLP_ENDPOINT", "ENABLE_ENVOY_OTEL_METRICS=1",
			[]string{"unix://" + long(107)},
			[]string{"unix://" + long(108)},
			func(s *settings.Settings, value string) {
				s.Bootstrap.Metrics.Socket = strings.TrimPrefix(value, "unix://")
			},
		},
		{
			"APPMESH_XDS_ENDPOINT", "",
			[]string{"unix://" + long(107)},
			[]string{"unix://" + long(108)},
			func(s *settings.Settings, value string) { s.ServiceConnect = strings.TrimPrefix(value, "unix://") },
		},
	} {
		t.Run(test.variable, func(t *testing.T) {
			t.Parallel()
			for _, value := range slices.Concat(test.good, test.bad) {
				want := slices.Contains(test.good, value)
				lines := []string{"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT=c:1", "ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", test.with}
				if _, err := settings.Parse(agenttest.Environment(append(lines, test.variable+"="+value)...), settings.Flags{}, 0); (err == nil) != want {
					t.Errorf("%.40s: the agent says %v", value, err)
				} else if err != nil && (!strings.HasPrefix(err.Error(), test.variable+": ") || strings.Contains(err.Error(), "\n")) {
					t.Errorf("%.40s: got %q, want one line that begins with the variable", value, err)
				}
				s, err := settings.Parse(agenttest.Environment(lines...), settings.Flags{}, 0)
				if err != nil {
					t.Fatal(err)
				}
				test.force(&s, value)
				text, _, err := File(s, Facts{SocketPath: "/run/xds.sock"}, nil)
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(t.TempDir(), "bootstrap.yaml")
				if err := os.WriteFile(file, text, 0o600); err != nil {
					t.Fatal(err)
				}
				for _, envoy := range agenttest.Envoys(t) {
					if out, err := exec.Command(envoy, "--mode", "validate", "-l", "error", "-c", file).CombinedOutput(); (err == nil) != want {
						t.Errorf("%.40s: %s says %v\n%.300s", value, envoy, err, out)
					}
				}
			}
		})
	}
}
