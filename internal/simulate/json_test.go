package simulate_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/simulate"
)

// TestOutcomesForPrograms shows the JSON of outcomes, member by member.
func TestOutcomesForPrograms(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, of, line string
		at             []string // where the member is
		want           any
	}{
		{"the end", front, "http://web.local:9080/metrics", []string{"end"}, "forwarded"},
		{"an answer", front, "grpc://nobody.local:50051/a.B/C", []string{"grpcStatus"}, "UNIMPLEMENTED"},
		{"why", front, "https://example.com/", []string{"why"}, "no filter chain matches"},
		{"TLS of a target", "tls_clients virtualNode/front", "http://default.local:9080/", []string{"targets", "tls"}, map[string]any{
			"serverName": "default.local", "certificate": map[string]any{"name": "file-certificate:/certs/front.pem:/certs/front.key"},
			"trust": map[string]any{"name": "file-trust:/certs/ca.pem"}, "names": []any{`DNS like (?i)default\.local`},
		}},
		{"a check", "VN-013_VN-016_health_and_outliers virtualNode/front", "http://a.local:9080/", []string{"targets", "healthChecks"}, map[string]any{
			"protocol": "http", "host": "a.local:9080", "path": "/ping", "port": 9090.0, "interval": "5s", "timeout": "2s", "healthyThreshold": 2.0, "unhealthyThreshold": 3.0,
		}},
		{"ejection", "VN-013_VN-016_health_and_outliers virtualNode/front", "http://a.local:9080/", []string{"targets", "outlierDetection"}, map[string]any{
			"errors": 5.0, "maxPercent": 50.0, "interval": "10s", "ejection": "30s",
		}},
		{"a query", "VN-030_cloud_map virtualNode/front", "http://many.local:9080/", []string{"targets", "query", "service"}, "many"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := simulate.Parse(test.line)
			if err != nil {
				t.Fatal(err)
			}
			o, err := read(t, configOf(t, test.of)).Send(r)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			var got any
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			for _, name := range test.at {
				if list, ok := got.([]any); ok {
					got = list[0]
				}
				got = got.(map[string]any)[name]
			}
			if list, ok := got.([]any); ok {
				got = list[0]
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\nin %s", diff, text)
			}
		})
	}
}

// TestParse reads what people write.
func TestParse(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]simulate.Request{
		"http://web.local":            {Authority: "web.local", Path: "/"},
		"PUT http://web.local:9080?x": {Method: "PUT", Authority: "web.local:9080", Path: "/?x"},
		"http2://web.local/a":         {Protocol: simulate.HTTP2, Authority: "web.local", Path: "/a"},
		"grpc://web.local/a.B/C":      {Protocol: simulate.GRPC, Authority: "web.local", Path: "/a.B/C"},
		"https://web.local:8443/":     {TLS: true, ServerName: "web.local", Authority: "web.local:8443", Path: "/"},
		"tcp://db.local:5432":         {Protocol: simulate.TCP, Authority: "db.local:5432", Path: "/"},
		"http://10.0.0.1:80/":         {Destination: netip.MustParseAddrPort("10.0.0.1:0"), Authority: "10.0.0.1:80", Path: "/"},
		"https://[fd00::1]/":          {TLS: true, Destination: netip.MustParseAddrPort("[fd00::1]:0"), Authority: "[fd00::1]", Path: "/"},
	} {
		got, err := simulate.Parse(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}
