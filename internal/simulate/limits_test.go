package simulate_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/simulate"
)

// limitsText are the bounds and retries of every hop.
func limitsText(o *simulate.Outcome) string {
	var hops []string
	for _, h := range o.Hops {
		text := fmt.Sprintf("%v/%v/%v", h.Timeout, h.PerTry, h.Idle)
		if h.Retry != nil {
			text += fmt.Sprintf(" %d on %s", h.Retry.Retries, strings.Join(h.Retry.On, ","))
			if h.Retry.Statuses != nil {
				text += fmt.Sprint(" ", h.Retry.Statuses)
			}
		}
		hops = append(hops, text)
	}
	return strings.Join(hops, " | ")
}

// TestLimits is about timeouts and retries. The real Envoy tells every endpoint
// how long a try may take, and is made to try again.
func TestLimits(t *testing.T) {
	t.Parallel()
	const (
		server    = "traffic_routes virtualNode/rest"
		idle      = "RT-036_gateway_idle_timeouts virtualGateway/ingress"
		byDefault = " 2 on unavailable,reset,connect-failure,refused-stream,retriable-status-codes [503]"
		errors5xx = "[500 501 502 503 504 505 506 507 508 510 511]"
	)
	r := newRig(t, front, server, ingress, idle)
	inbound := func(port uint16, want string) row {
		return row{simulate.Request{Direction: simulate.Inbound, Destination: toPort(port), Authority: "any"}, want}
	}
	for _, test := range []struct {
		name, of string
		row
	}{
		{"EMS-038 RT-035 RT-036 a route that says nothing", front, web("/", "15s/0s/5m0s"+byDefault)},
		{"VS-011 EMS-038 a node's service", front, at("other.local", "15s/0s/5m0s"+byDefault)},
		{"RT-035 perRequest", front, web("/timeout/short", "400ms/0s/5m0s"+byDefault)},
		{"RT-035 perRequest 0", front, web("/timeout/off", "0s/0s/5m0s"+byDefault)},
		{"RT-036 idle", front, web("/timeout/idle", "15s/0s/400ms"+byDefault)},
		{"RT-029 RT-030 RT-031 server-error", front, web("/retry/server", "15s/5s/5m0s 2 on retriable-status-codes "+errors5xx)},
		{"RT-031 RT-039 gateway-error", front, web("/retry/gateway", "15s/5s/5m0s 2 on retriable-status-codes [502 503 504]")},
		{"RT-031 client-error", front, web("/retry/client", "15s/5s/5m0s 2 on retriable-status-codes [409]")},
		{"RT-031 stream-error", front, web("/retry/stream", "15s/5s/5m0s 2 on reset,refused-stream")},
		{"RT-029 RT-034 five retries", front, web("/retry/five", "15s/5s/5m0s 5 on retriable-status-codes "+errors5xx)},
		{"RT-029 RT-030 no retries, and the bound of a try all the same", front, web("/retry/none", "15s/5s/5m0s")},
		{"RT-030 a short try", front, web("/retry/slow", "15s/300ms/5m0s 1 on reset,refused-stream")},
		{"RT-032 gRPC, http and tcp events", front, rpc("/retry.Retry/Call", "15s/15s/5m0s 3 on deadline-exceeded,connect-failure,retriable-status-codes "+errors5xx)},
		{"VN-019 EMS-059 a listener's perRequest", server, inbound(9080, "400ms/0s/5m0s")},
		{"VN-019 a listener's perRequest 0", server, inbound(9081, "0s/0s/5m0s")},
		{"VN-020 a listener's idle", server, inbound(9082, "15s/0s/400ms")},
		{"GR-021 a gateway's first hop", ingress, enter("example.com", "/chapter", "15s/0s/5m0s | 15s/0s/5m0s"+byDefault)},
		{"GR-021 RT-035 RT-036 both off, by the first hop too", idle, enter("any", "/never/b", "0s/0s/0s | 0s/0s/0s"+byDefault)},
		{"GR-021 RT-036 an hour, by the first hop too", idle, enter("any", "/hour/a", "15s/0s/1h0m0s | 15s/0s/1h0m0s"+byDefault)},
		{"GR-021 RT-036 five minutes beside an hour", idle, enter("any", "/hour/b", "15s/0s/1h0m0s | 15s/0s/5m0s"+byDefault)},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := r.proxies[test.of]
			o, err := p.Send(test.request)
			if err != nil {
				t.Fatal(err)
			}
			if got := limitsText(o); got != test.want {
				t.Errorf("simulated %s, want %s\n%s", got, test.want, o)
			}
			if d := disagreement(o, r.send(t, p, test.request)); d != "" {
				t.Errorf("the real Envoy did otherwise: %s\n%s", d, o)
			}
			failing := test.request
			failing.Headers = append(headers("x-fail", "503 503 503 503 503"), failing.Headers...)
			if d := triesDisagreement(o, r.send(t, p, failing), 5); d != "" {
				t.Errorf("with failures the real Envoy did otherwise: %s\n%s", d, o)
			}
		})
	}
}
