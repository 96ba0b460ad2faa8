package drain

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
)

// Who drains a proxy that is found by DNS is told what to do, by what its clients check.
func TestWhatIsSaidOfANodeThatIsFoundByDNS(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ check, want string }{
		"no check":       {``, "No health check by HTTP or gRPC at port 8080"},
		"a check by TCP": {`, "healthCheck": {"protocol": "tcp", "intervalMillis": 5000, "timeoutMillis": 2000, "healthyThreshold": 2, "unhealthyThreshold": 2}`, "end it when the record's time to live and 5 s more are over"},
		"one by HTTP":    {`, "healthCheck": {"protocol": "http", "path": "/", "intervalMillis": 5000, "timeoutMillis": 2000, "healthyThreshold": 2, "unhealthyThreshold": 2}`, "or until their health checks fail, which its agent sees to"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec, err := api.DecodeSpec(api.KindVirtualNode, []byte(`{"listeners": [{"portMapping": {"port": 8080, "protocol": "http"}`+c.check+`}], "serviceDiscovery": {"dns": {"hostname": "named.apps"}}}`))
			if err != nil {
				t.Fatal(err)
			}
			got := unsent(spec.(*api.VirtualNodeSpec), []string{"10.0.0.7"})
			if !strings.HasPrefix(got, "Clients find the node by DNS, as named.apps: they may choose the proxy until the name is answered without it") || !strings.Contains(got, c.want) {
				t.Errorf("it says %q", got)
			}
		})
	}
}
