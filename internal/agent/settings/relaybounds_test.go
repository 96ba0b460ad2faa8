package settings

import (
	"crypto/tls"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

// What cannot be read is the default, with a warning.
func TestRelayBounds(t *testing.T) {
	usual := RelayBounds{Idle: 2400 * time.Second, Buffer: 10485760}
	for _, test := range []struct {
		name, env string
		want      RelayBounds
		warned    bool
	}{
		{name: "by default", env: "A=", want: usual},
		{name: "seconds", env: "RELAY_STREAM_IDLE_TIMEOUT=90s", want: RelayBounds{Idle: 90 * time.Second, Buffer: usual.Buffer}},
		{name: "for ever", env: "RELAY_STREAM_IDLE_TIMEOUT=0s", want: RelayBounds{Buffer: usual.Buffer}},
		{name: "a time without a unit", env: "RELAY_STREAM_IDLE_TIMEOUT=90", want: usual, warned: true},
		{name: "a time below none", env: "RELAY_STREAM_IDLE_TIMEOUT=-1s", want: usual, warned: true},
		{name: "bytes", env: "RELAY_BUFFER_LIMIT_BYTES=1048576", want: RelayBounds{Idle: usual.Idle, Buffer: 1 << 20}},
		{name: "as many bytes as Envoy takes", env: "RELAY_BUFFER_LIMIT_BYTES=4294967295", want: RelayBounds{Idle: usual.Idle, Buffer: math.MaxInt32}},
		{name: "more bytes than Envoy takes", env: "RELAY_BUFFER_LIMIT_BYTES=4294967296", want: usual, warned: true},
		{name: "no bytes", env: "RELAY_BUFFER_LIMIT_BYTES=0", want: usual, warned: true},
		{name: "what is no number", env: "RELAY_BUFFER_LIMIT_BYTES=10M", want: usual, warned: true},
		{name: "a curve", env: "TLS_CURVE=P-384", want: RelayBounds{Idle: usual.Idle, Buffer: usual.Buffer, Curves: []tls.CurveID{tls.CurveP384}}},
		{name: "what is no curve", env: "TLS_CURVE=P-384:brainpool", want: usual, warned: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Parse(agenttest.Environment("APPMESH_XDS_ENDPOINT=c:1", "APPNET_ENABLE_RELAY_MODE_FOR_XDS=1", test.env), Flags{}, 0)
			if err != nil || (len(s.Warnings) > 0) != test.warned {
				t.Errorf("%v, warnings %q", err, s.Warnings)
			}
			if diff := cmp.Diff(test.want, s.RelayBounds); diff != "" {
				t.Error(diff)
			}
		})
	}
	for region, want := range map[string]tls.CurveID{"": tls.CurveP256, "us-east-1": tls.CurveP256, "us-isof-south-1": tls.CurveP384, "eu-isoe-west-1": tls.CurveP384} {
		if got := CurvesOf(region); len(got) != 1 || got[0] != want {
			t.Errorf("%q: got %s", region, got)
		}
	}
}
