package settings

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

func TestReports(t *testing.T) {
	defaults := Reports{LogFile: LogFile{Name: "appnet_envoy.log", MaxBytes: 1 << 20, Keep: 5}}
	for _, test := range []struct {
		name, env string
		change    func(*Reports)
		warnings  int
	}{
		{"by default there is neither snapshot nor log file", "", func(*Reports) {}, 0},
		{"snapshots of statistics", "ENABLE_STATS_SNAPSHOT=true", func(r *Reports) { r.Snapshots = true }, 0},
		{"what is no boolean is the default", "ENABLE_STATS_SNAPSHOT=yes", func(*Reports) {}, 1},
		{"a log file", "APPNET_ENVOY_LOG_DESTINATION=/var/log APPNET_ENVOY_LOG_NAME=e.log APPNET_AGENT_MAX_LOG_FILE_SIZE=0.5 APPNET_AGENT_MAX_RETENTION_COUNT=0", func(r *Reports) {
			r.LogFile = LogFile{"/var/log", "e.log", 1 << 19, 0}
		}, 0},
		{"sizes and counts out of bounds are the defaults", "APPNET_AGENT_MAX_LOG_FILE_SIZE=0 APPNET_AGENT_MAX_RETENTION_COUNT=-1", func(*Reports) {}, 2},
		{"and so is what is no number", "APPNET_AGENT_MAX_LOG_FILE_SIZE=NaN APPNET_AGENT_MAX_RETENTION_COUNT=many", func(*Reports) {}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := defaults
			test.change(&want)
			s, err := Parse(agenttest.Environment(append(strings.Fields(test.env), someResource, someEndpoint)...), Flags{}, 0)
			if err != nil || s.Reports != want || len(s.Warnings) != test.warnings {
				t.Errorf("got %+v, %v, warnings %q, want %+v", s.Reports, err, s.Warnings, want)
			}
		})
	}
}
