package envoy_test

import (
	"net"
	"net/netip"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
)

// account owns everything in the cases and worlds.
const account = envoytest.Account

// realEnvoy is a running Envoy.
type realEnvoy struct{ *envoytest.Envoy }

type arrival = envoytest.Arrival

// ask is a request to one of the route configurations.
type ask struct {
	method, host, path string
	header             string // "name: value" lines separated by "; "
	http2              bool
}

func run(t *testing.T, bundle *envoy.Bundle, change ...func(*hcmv3.HttpConnectionManager)) *realEnvoy {
	t.Helper()
	return &realEnvoy{envoytest.Run(t, bundle, change...)}
}

func intercepted(t *testing.T, bundle *envoy.Bundle) *realEnvoy {
	t.Helper()
	return &realEnvoy{envoytest.Intercepted(t, bundle)}
}

func (e *realEnvoy) do(t *testing.T, config string, a ask) (status int, got *arrival, tries []string) {
	t.Helper()
	return e.Do(t, config, envoytest.Ask{Method: a.method, Host: a.host, Path: a.path, Header: a.header, HTTP2: a.http2})
}

func (e *realEnvoy) connect(t *testing.T, listener string, to netip.AddrPort) net.Conn {
	t.Helper()
	return e.Connect(t, listener, to)
}
