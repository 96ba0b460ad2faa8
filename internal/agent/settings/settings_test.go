package settings

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

const (
	someResource = "APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n"
	someEndpoint = "APPMESH_XDS_ENDPOINT=control.example:7071"
)

func TestParseRefuses(t *testing.T) {
	for _, test := range []struct {
		name, want string
		env        []string
	}{
		{"AGENT-002 no resource", "APPMESH_RESOURCE_ARN: must name", []string{someEndpoint}},
		{"AGENT-002 what is no resource", "APPMESH_RESOURCE_ARN: \"orders\" does not name", []string{"APPMESH_RESOURCE_ARN=orders", someEndpoint}},
		{"a virtual service", "a proxy belongs to", []string{"APPMESH_RESOURCE_ARN=mesh/m/virtualService/s", someEndpoint}},
		{"no endpoint and no region", "APPMESH_XDS_ENDPOINT: must name", []string{someResource, "AWS_EC2_METADATA_DISABLED=true"}},
		{"an endpoint without a port", "APPMESH_XDS_ENDPOINT: \"control\"", []string{someResource, "APPMESH_XDS_ENDPOINT=control"}},
		{"an unknown scheme", "APPMESH_XDS_ENDPOINT: \"ftp://c:1\"", []string{someResource, "APPMESH_XDS_ENDPOINT=c:1,ftp://c:1"}},
		{"Service Connect among others", "stands alone", []string{someResource, "APPMESH_XDS_ENDPOINT=c:1,unix:///x"}},
		{"a boolean", "APPMESH_PREVIEW: \"yes\" must be a boolean value", []string{someResource, someEndpoint, "APPMESH_PREVIEW=yes"}},
		{"an integer", "ENVOY_INITIAL_FETCH_TIMEOUT: \"1s\" must be an integer value", []string{someResource, someEndpoint, "ENVOY_INITIAL_FETCH_TIMEOUT=1s"}},
		{"a port", "STATSD_PORT: 65536 is not from 1 to 65535", []string{someResource, someEndpoint, "ENABLE_ENVOY_DOG_STATSD=1", "STATSD_PORT=65536"}},
		{"a mark", "EVERMESH_IGNORE_MARK: \"0\"", []string{someResource, someEndpoint, "EVERMESH_IGNORE_MARK=0"}},
		{"AGENT-017 two tracers", "ENABLE_ENVOY_XRAY_TRACING: only one tracer may be on, and these are: ENABLE_ENVOY_XRAY_TRACING, ENABLE_ENVOY_JAEGER_TRACING", []string{someResource, someEndpoint, "ENABLE_ENVOY_XRAY_TRACING=1", "ENABLE_ENVOY_JAEGER_TRACING=1"}},
		{"AGENT-020 a rate above 1", "XRAY_SAMPLING_RATE: \"1.1\"", []string{someResource, someEndpoint, "ENABLE_ENVOY_XRAY_TRACING=1", "XRAY_SAMPLING_RATE=1.1"}},
		{"a socket path that the kernel refuses", "APPNET_RELAY_LISTENER_UDS_PATH: ", []string{someResource, someEndpoint, "APPNET_RELAY_LISTENER_UDS_PATH=/" + strings.Repeat("x", 107)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse(agenttest.Environment(test.env...), Flags{}, 0)
			var config *ConfigError
			if !errors.As(err, &config) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, test.want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	parse := func(t *testing.T, uid int, lines ...string) Settings {
		t.Helper()
		s, err := Parse(agenttest.Environment(append([]string{someResource, someEndpoint}, lines...)...), Flags{}, uid)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Run("AGENT-004 deprecated variables work and warn, the ARN wins", func(t *testing.T) {
		for env, want := range map[string]string{
			"APPMESH_VIRTUAL_NODE_NAME=mesh/m/virtualNode/old":                                               "mesh/m/virtualNode/old",
			"APPMESH_RESOURCE_NAME=mesh/m/virtualNode/name APPMESH_VIRTUAL_NODE_NAME=mesh/m/virtualNode/old": "mesh/m/virtualNode/name",
			"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n APPMESH_RESOURCE_NAME=mesh/m/virtualNode/name":        "mesh/m/virtualNode/n",
		} {
			s, err := Parse(agenttest.Environment(append(strings.Fields(env), someEndpoint)...), Flags{}, 0)
			if err != nil || s.Resource.ID != want {
				t.Errorf("%s: got %q, %v", env, s.Resource.ID, err)
			}
			if warned := strings.Contains(strings.Join(s.Warnings, "\n"), "is deprecated"); warned == strings.Contains(env, "_ARN") {
				t.Errorf("%s: warnings %q", env, s.Warnings)
			}
		}
	})
	t.Run("AGENT-013 bounds of the drain time", func(t *testing.T) {
		for given, want := range map[string]time.Duration{"": 20, "4": 20, "5": 5, "110": 110, "111": 20, "x": 20} {
			if got := parse(t, 0, "LISTENER_DRAIN_WAIT_TIME_S="+given).DrainTime; got != want*time.Second {
				t.Errorf("%q: got %s", given, got)
			}
		}
	})
	t.Run("AGENT-014 AGENT-015 AGENT-049 where the interface listens", func(t *testing.T) {
		for _, test := range []struct {
			uid  int
			env  string
			want Server
		}{
			{0, "", Server{}},
			{0, "APPNET_AGENT_ADMIN_MODE=tcp", Server{"tcp", "[::]:9902"}},
			{0, "APPNET_AGENT_ADMIN_MODE=TCP APPNET_AGENT_HTTP_PORT=80 APPNET_AGENT_HTTP_BIND_ADDRESS=127.0.0.1", Server{"tcp", "127.0.0.1:80"}},
			{1337, "APPNET_AGENT_ADMIN_MODE=tcp APPNET_AGENT_HTTP_PORT=80", Server{"tcp", "[::]:9902"}},
			{1337, "APPNET_AGENT_ADMIN_MODE=tcp APPNET_AGENT_HTTP_PORT=65536", Server{"tcp", "[::]:9902"}},
		} {
			if got := parse(t, test.uid, strings.Fields(test.env)...).Server; got != test.want {
				t.Errorf("uid %d, %q: got %v, want %v", test.uid, test.env, got, test.want)
			}
		}
	})
	t.Run("AGENT-016 the interface's socket", func(t *testing.T) {
		if got := parse(t, 0, "APPNET_AGENT_ADMIN_MODE=uds").Server; got != (Server{"unix", "/var/run/ecs/appnet_admin.sock"}) {
			t.Errorf("got %v", got)
		}
		if got := parse(t, 0, "APPNET_AGENT_ADMIN_MODE=uds", "APPNET_AGENT_ADMIN_UDS_PATH=/x").Server; got != (Server{"unix", "/x"}) {
			t.Errorf("got %v", got)
		}
	})
	t.Run("AGENT-036 preview and region", func(t *testing.T) {
		s := parse(t, 0, "APPMESH_PREVIEW=1", "AWS_REGION=eu-west-1")
		if s.SigningName != "appmesh-preview" || s.Region != "eu-west-1" {
			t.Errorf("got %s in %s", s.SigningName, s.Region)
		}
		if s := parse(t, 0, "APPMESH_SIGNING_NAME=mine"); s.SigningName != "mine" {
			t.Errorf("got %s", s.SigningName)
		}
	})
	t.Run("flags outrank the environment", func(t *testing.T) {
		s, err := Parse(agenttest.Environment(someResource, someEndpoint, "ENVOY_CONFIG_FILE=/a", "ENVOY_LOG_LEVEL=debug"), Flags{ConfigFile: "/b", LogLevel: "error"}, 0)
		if err != nil || s.ConfigFile != "/b" || s.LogLevel != "error" {
			t.Errorf("got %s, %s, %v", s.ConfigFile, s.LogLevel, err)
		}
	})
	t.Run("health intervals", func(t *testing.T) {
		for env, want := range map[string]time.Duration{
			"":                         10 * time.Second,
			"HC_POLL_INTERVAL_MS=2500": 2500 * time.Millisecond,
			"HC_POLL_INTERVAL_MS=100":  10 * time.Second,
			"APPNET_AGENT_POLL_ENVOY_READINESS_INTERVAL_S=3": 3 * time.Second,
		} {
			if got := parse(t, 0, strings.Fields(env)...).HealthInterval; got != want {
				t.Errorf("%q: got %s, want %s", env, got, want)
			}
		}
	})
}

func TestEndpoints(t *testing.T) {
	got, err := parseEndpoints("control.example:7071, https://a.example , http://[::1]:7071/,xds+unix:///run/xds.sock,https://b.example:443")
	if err != nil {
		t.Fatal(err)
	}
	want := []Endpoint{
		{Network: "tcp", Address: "control.example:7071", TLS: true, Authority: "control.example:7071"},
		{Network: "tcp", Address: "a.example:443", TLS: true, Authority: "a.example"},
		{Network: "tcp", Address: "[::1]:7071", Authority: "[::1]:7071"},
		{Network: "unix", Address: "/run/xds.sock", Authority: "localhost"},
		{Network: "tcp", Address: "b.example:443", TLS: true, Authority: "b.example"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// What may be a password is not repeated in the refusal.
func TestEndpointsHaveNoPassword(t *testing.T) {
	for _, list := range []string{
		"https://user:hunter2@control.example:7071", "http://hunter2@control.example", "user:hunter2@control.example:7071",
		"control.example:7071,https://user:hunter2@other.example:7071", "ftp://user:hunter2@control.example", "https://u:hunt@er2@control.example", "https://user:hunt,er2@control.example",
	} {
		_, err := parseEndpoints(list)
		if err == nil || strings.Contains(err.Error(), "hunt") || strings.Contains(err.Error(), "er2") || !strings.Contains(err.Error(), "no password") {
			t.Errorf("%s: %v", list, err)
		}
	}
	if _, err := parseEndpoints("xds+unix:///run/a@b.sock"); err != nil {
		t.Error(err)
	}
}
