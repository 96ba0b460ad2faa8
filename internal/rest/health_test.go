package rest_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A gateway's health check keeps the rules of a node's, but for TCP: a gateway's
// listeners speak HTTP.
func TestHealthChecksOfGateways(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.mesh(t)
	const whole = `"healthyThreshold": 2, "unhealthyThreshold": 3, "intervalMillis": 5000, "timeoutMillis": 2000`
	for i, c := range []struct{ name, check, message string }{
		{"http with a path", `{"protocol": "http", "path": "/ok", ` + whole + `}`, ""},
		{"http2 with a path and a port", `{"protocol": "http2", "path": "/ok", "port": 9080, ` + whole + `}`, ""},
		{"grpc", `{"protocol": "grpc", ` + whole + `}`, ""},
		{"grpc with a path, which is kept and not used", `{"protocol": "grpc", "path": "/ok", ` + whole + `}`, ""},
		{"tcp", `{"protocol": "tcp", ` + whole + `}`, "1 validation error detected: Value 'tcp' at 'spec.listeners.1.member.healthCheck.protocol' failed to satisfy constraint: Member must satisfy enum value set: [http, http2, grpc]"},
		{"in part", `{"protocol": "http", "intervalMillis": 5000, "timeoutMillis": 2000, "healthyThreshold": 2}`, "1 validation error detected: Value at 'spec.listeners.1.member.healthCheck.unhealthyThreshold' failed to satisfy constraint: Member must not be null"},
	} {
		t.Run("VG-006 "+c.name, func(t *testing.T) {
			t.Parallel()
			spec := `{"listeners": [{"portMapping": {"port": 9080, "protocol": "http"}, "healthCheck": ` + c.check + `}]}`
			name := fmt.Sprintf("g%d", i)
			made := s.do(t, "PUT", meshes+"/apps/virtualGateways", `{"virtualGatewayName": "`+name+`", "spec": `+spec+`}`)
			got := s.do(t, "GET", meshes+"/apps/virtualGateways/"+name, "")
			if c.message != "" {
				made.refused(t, 400, "BadRequestException", c.message)
				if got.status != 404 {
					t.Errorf("it is there: %s", got.body)
				}
				return
			}
			made.ok(t)
			if diff := cmp.Diff(any(decode(t, []byte(spec))), at(got.ok(t), "spec")); diff != "" {
				t.Error(diff)
			}
		})
	}
}
