package settings

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

func TestRelayMode(t *testing.T) {
	for _, test := range []struct{ name, env, endpoints, socket string }{
		{"the control plane as named, no resource", "APPMESH_XDS_ENDPOINT=http://control:7071", "http://control:7071", "/tmp/relay_xds.sock"},
		{"a name without a port", "APPMESH_XDS_ENDPOINT=control,other:7071 APPNET_RELAY_LISTENER_UDS_PATH=/x", "https://control:443 https://other:7071", "/x"},
		{"the domain name and its port", "APPNET_MANAGEMENT_DOMAIN_NAME=control APPNET_MANAGEMENT_PORT=7071", "https://control:7071", "/tmp/relay_xds.sock"},
		{"Service Connect's own", "AWS_REGION=us-west-2", "https://ecs-sc.us-west-2.api.aws:443", "/tmp/relay_xds.sock"},
		{"and in China", "AWS_REGION=cn-north-1", "https://ecs-sc.cn-north-1.api.amazonwebservices.com.cn:443", "/tmp/relay_xds.sock"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Parse(agenttest.Environment(append(strings.Fields(test.env), "APPNET_ENABLE_RELAY_MODE_FOR_XDS=1")...), Flags{}, 0)
			var got []string
			for _, e := range s.Endpoints {
				got = append(got, e.String())
			}
			if err != nil || !s.RelayOnly || strings.Join(got, " ") != test.endpoints || s.SocketPath != test.socket || len(s.Warnings) > 0 {
				t.Errorf("got %q at %s, %v, warnings %q", got, s.SocketPath, err, s.Warnings)
			}
		})
	}
	for name, env := range map[string]string{
		"no control plane":               "APPMESH_XDS_ENDPOINT=",
		"another relay's socket":         "APPMESH_XDS_ENDPOINT=unix:///x",
		"a port that is none":            "APPMESH_XDS_ENDPOINT=c APPNET_MANAGEMENT_PORT=0",
		"a name that cannot be a host's": "APPNET_MANAGEMENT_DOMAIN_NAME=a/b",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse(agenttest.Environment(append(strings.Fields(env), "APPNET_ENABLE_RELAY_MODE_FOR_XDS=1")...), Flags{}, 0); err == nil {
				t.Error("is taken")
			}
		})
	}
	t.Run("off by default", func(t *testing.T) {
		if s, err := Parse(agenttest.Environment(someEndpoint, someResource, "TLS_CURVE=P-384"), Flags{}, 0); err != nil || s.RelayOnly || len(s.Warnings) > 0 {
			t.Errorf("got %q, %v", s.Warnings, err)
		}
	})
}
