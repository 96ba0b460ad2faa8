package envoy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
)

// takenFormats are formats that the guard and all Envoys take. What a user may know is in Envoy's documentation of access logs.
var takenFormats = []string{
	"", "plain",
	`[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%` + "\n",
	`100%% %START_TIME(%Y-%m-%dT%H:%M:%S.%3f%z)% %EMIT_TIME(%s)% %DOWNSTREAM_PEER_CERT_V_START(%F %T)% %UPSTREAM_PEER_CERT_V_END(%b %d)%`,
	`%START_TIME(%E3S %E4f %E*S %Ez %:z %10f)% %EMIT_TIME_LOCAL(%-d %_H %l:%M %P %L %N %k %v %Od %EY %t %%)% %START_TIME(%Y/%m/%dü "%")%`,
	`%REQ(a):10% %RESP(a?b):1% %TRAILER(grpc-status)% %REQ(:path):999999999999999999% %STREAM_INFO_REQ(x)% %STREAM_INFO_REQ(:AUTHORITY?x-host):20%`,
	`%QUERY_PARAM(q):3% %QUERY_PARAM(a b[])% %ENVIRONMENT(HOME):3% %ENVIRONMENT(a=b)%`,
	`%FILTER_STATE(a.b:PLAIN):9% %UPSTREAM_FILTER_STATE(a.b)% %FILTER_STATE(a b,c:TYPED)% %FILTER_STATE(a:FIELD:b)% %UPSTREAM_FILTER_STATE(a:FIELD:b c:d):5%`,
	`%DYNAMIC_METADATA(a.b:c:d)% %CLUSTER_METADATA(a:b)% %UPSTREAM_METADATA(a b:c)% %METADATA(ROUTE:a:b):10% %METADATA(VIRTUAL_HOST:a b)% %METADATA(LISTENER)% %DYNAMIC_METADATA(a)%`,
	`%GRPC_STATUS(NUMBER)% %PATH(NQ)% %PATH(WQ:ORIG_OR_PATH):9% %PATH:5% %COMMON_DURATION(DS_RX_BEG:US_TX_END:ms)% %COMMON_DURATION(a b:c)% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%`,
	`%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH):20% %REQ_WITHOUT_QUERY(:PATH)%`,
	`%PROTOCOL()% %START_TIME()% %GRPC_STATUS()% %PATH():5% %RESPONSE_CODE_DETAILS()% %UPSTREAM_HOST()%`,
}

// formatsBeyond are those that Envoys take and the guard does not: what is in an expression cannot be checked, and a header
// without a name is none.
var formatsBeyond = []string{"%CEL(request.path)%", "%TYPED_CEL(request.path)%", "%REQ(a?)%"}

// refusedFormats are those that neither the guard nor the oldest Envoy takes, perhaps a newer one.
var refusedFormats = []string{
	"50%", "%", "%NO_SUCH%", "%req(a)%", "%REQ%", "%REQ()%", "%REQ(a?b?c)%", "%REQ(a b)%", "%REQ_WITHOUT_QUERY(a?b?c)%", "%STREAM_INFO_REQ%", "%STREAM_INFO_REQ(a b)%",
	"%PROTOCOL(a)%", "%PROTOCOL:3%", "%PROTOCOL():3%", "%GRPC_STATUS(odd)%", "%GRPC_STATUS(NUMBER):3%", "%PATH(odd)%", "%TRACE_ID(x)%", "%QUERY_PARAM()%",
	"%COMMON_DURATION(a)%", "%COMMON_DURATION(a:b:s)%", "%METADATA(ODD:a)%", "%METADATA()%", "%DYNAMIC_METADATA(a):3%",
	"%START_TIME(%Y", "%START_TIME(%Y\n)%", "%START_TIME(%n)%", "%START_TIME(%On)%", "%START_TIME(%-9n)%", "%START_TIME(%5%n)%", "%START_TIME(%Y):3%",
	"%REQ(a)", "%REQ(a):x%", "%REQ(a):99999999999999999999999%", "%FILTER_STATE(:PLAIN)%", "%FILTER_STATE(a:ODD)%", "%FILTER_STATE(a:FIELD)%", "%FILTER_STATE(a:FIELD:)%", "%FILTER_STATE(a:PLAIN:b)%",
	"%SPAN_ID%", "%QUERY_PARAMS(ORIG)%", "%REQUEST_HEADER(a)%", "%REQUESTED_SERVER_NAME(SNI_FIRST)%", "%UPSTREAM_HOSTS_ATTEMPTED%", "%METADATA(LISTENER_FILTER_CHAIN:a)%",
}

// TestAccessLogFormats compares the guard of formats with both Envoys.
func TestAccessLogFormats(t *testing.T) {
	t.Parallel()
	binaries := validators(t)
	guard := func(t *testing.T, format string, good bool) {
		t.Helper()
		for kind, f := range map[string]*api.LoggingFormat{"text": {Text: format}, "json": {JSON: []api.JSONFormatRef{{Key: "k", Value: format}}}} {
			if err := envoy.CheckFormat(f); (err == nil) != good {
				t.Errorf("%q as %s: %v, want it taken: %v", format, kind, err, good)
			}
		}
	}
	t.Run("what is taken", func(t *testing.T) {
		t.Parallel()
		var all strings.Builder
		for name, needed := range envoy.Commands() {
			if !needed {
				all.WriteString("%" + name + "% %" + name + "()% ")
			}
		}
		good := append(slices.Clone(takenFormats), all.String())
		for _, format := range good {
			guard(t, format, true)
		}
		for _, format := range formatsBeyond {
			guard(t, format, false)
		}
		for _, binary := range binaries {
			if out, err := takesFormats(t, binary, append(good, formatsBeyond...)...); err != nil {
				t.Errorf("%s: %v\n%s", binary, err, out)
			}
		}
	})
	for _, format := range refusedFormats {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			guard(t, format, false)
			if _, err := takesFormats(t, binaries[1], format); err == nil {
				t.Errorf("%s takes it", binaries[1])
			}
		})
	}
}

// takesFormats says whether an Envoy takes a log with all of the formats.
func takesFormats(t *testing.T, binary string, formats ...string) (string, error) {
	t.Helper()
	fields := map[string]any{}
	for i, format := range formats {
		fields[strconv.Itoa(i)] = format
	}
	config, err := json.Marshal(map[string]any{"static_resources": map[string]any{"listeners": []any{map[string]any{
		"name": "l", "address": map[string]any{"pipe": map[string]any{"path": "@envoy-format-test"}}, "filter_chains": []any{map[string]any{}},
		"access_log": []any{map[string]any{"name": "file", "typed_config": map[string]any{
			"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "/dev/null",
			"log_format": map[string]any{"json_format": fields, "formatters": []any{map[string]any{
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
