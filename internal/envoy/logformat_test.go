package envoy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

// TestAccessLogFormats compares the guard of formats with both Envoys.
func TestAccessLogFormats(t *testing.T) {
	t.Parallel()
	binaries := validators(t)
	var all strings.Builder
	for name, needed := range envoy.Commands() {
		if !needed {
			all.WriteString("%" + name + "% ")
		}
	}
	for format, good := range map[string]bool{
		all.String(): true,
		`[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%` + "\n": true,
		`100%% %START_TIME(%Y-%m-%dT%H:%M:%S.%3f%z)% %EMIT_TIME(%s)% %DOWNSTREAM_PEER_CERT_V_START(%F %T)%`:                                                                                   true,
		`%REQ(a):10% %RESP(a?b):1% %TRAILER(grpc-status)% %QUERY_PARAM(q):3% %ENVIRONMENT(HOME):3% %FILTER_STATE(a.b:PLAIN):9% %UPSTREAM_FILTER_STATE(a.b)%`:                                  true,
		`%DYNAMIC_METADATA(a.b:c:d)% %CLUSTER_METADATA(a:b)% %UPSTREAM_METADATA(a:b)% %METADATA(ROUTE:a:b)% %METADATA(VIRTUAL_HOST:a)%`:                                                       true,
		`%GRPC_STATUS(NUMBER)% %PATH(NQ)% %PATH(WQ:ORIG_OR_PATH):9% %COMMON_DURATION(DS_RX_BEG:US_TX_END:ms)% %COMMON_DURATION(a:b)% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%`:              true,
		`%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH):20% %REQ_WITHOUT_QUERY(:PATH)%`:                                                                                                      true, "%REQ_WITHOUT_QUERY(a?b?c)%": false,
		"": true, "plain": true, "50%": false, "%": false, "%NO_SUCH%": false, "%req(a)%": false, "%REQ%": false, "%REQ(a?b?c)%": false, "%PROTOCOL(a)%": false,
		"%PROTOCOL:3%": false, "%GRPC_STATUS(odd)%": false, "%PATH(odd)%": false, "%COMMON_DURATION(a)%": false, "%METADATA(ODD:a)%": false, "%START_TIME(%Y": false,
		"%REQ(a)": false, "%REQ(a):x%": false, "%FILTER_STATE(:PLAIN)%": false, "%START_TIME(%Y\n)%": false,
	} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			for kind, f := range map[string]*api.LoggingFormat{"text": {Text: format}, "json": {JSON: []api.JSONFormatRef{{Key: "k", Value: format}}}} {
				if err := envoy.CheckFormat(f); (err == nil) != good {
					t.Errorf("as %s: %v, want it taken: %v", kind, err, good)
				}
			}
			for _, binary := range binaries {
				if out, err := takesFormat(t, binary, format); (err == nil) != good {
					t.Errorf("%s: %v, want it taken: %v\n%s", binary, err, good, out)
				}
			}
		})
	}
}

func takesFormat(t *testing.T, binary, format string) (string, error) {
	t.Helper()
	config, err := json.Marshal(map[string]any{"static_resources": map[string]any{"listeners": []any{map[string]any{
		"name": "l", "address": map[string]any{"pipe": map[string]any{"path": "@envoy-format-test"}}, "filter_chains": []any{map[string]any{}},
		"access_log": []any{map[string]any{"name": "file", "typed_config": map[string]any{
			"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "/dev/null",
			"log_format": map[string]any{"json_format": map[string]any{"k": format}, "formatters": []any{map[string]any{
				"name": "f", "typed_config": map[string]any{"@type": "type.googleapis.com/envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery"},
			}}},
		}}},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, "--mode", "validate", "--log-level", "critical", "-c", path).CombinedOutput()
	return string(out), err
}
