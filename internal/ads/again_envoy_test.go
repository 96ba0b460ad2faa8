package ads

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/testenv"
)

// A port that another program has is no mistake in the configuration: Envoy takes it when
// it is free, and nobody has to do anything.
func TestARealEnvoyTakesAPortOnceItIsFree(t *testing.T) {
	for _, delta := range []bool{true, false} {
		t.Run(fmt.Sprintf("EMS-047 delta %t", delta), func(t *testing.T) {
			t.Parallel()
			ports := testenv.FreePorts(t, 2)
			other, err := net.Listen("tcp", address(ports[0]))
			adstest.Must(t, err)
			defer other.Close()

			var log testenv.Output
			r := newRealRig(t, func(c *Config) {
				c.RefusedWait = 100 * time.Millisecond
				c.Log = slog.New(slog.NewTextHandler(&log, nil))
			})
			r.give("a", spec{envoy.Listener: {tcpListener(t, "free", ports[1]), tcpListener(t, "taken", ports[0])}})
			e := adstest.StartEnvoy(t, adstest.Options{Node: nodeID("a"), Instance: "i-1", Delta: delta, NodeAlways: !delta, Host: true}, r.socket)
			e.Wait(t, "it was tried again, and again", func() bool { return e.Stat(t, "listener_manager.lds.update_rejected") >= 3 })
			if got := r.state("a"); got != api.ProxyStateRefused {
				t.Errorf("state is %s", got)
			}
			row, _ := r.Row(client("a"))
			if p := row.Members[0]; !strings.Contains(fmt.Sprint(refusalsOf(p)), "cannot bind '"+address(ports[0])+"': Address already in use") {
				t.Errorf("the ledger says %q", refusalsOf(p))
			}
			adstest.Must(t, other.Close())
			r.current(t)
			if n := strings.Count(log.String(), "proxy refused configuration"); n != 1 {
				t.Errorf("the log has the refusal %d times:\n%s", n, log.String())
			}
			for _, port := range ports {
				testenv.Eventually(t, "it listens on "+address(port), func() bool {
					conn, err := net.Dial("tcp", address(port))
					return err == nil && conn.Close() == nil
				})
			}
			if n := e.Stat(t, "listener_manager.listener_modified") + e.Stat(t, "listener_manager.listener_removed"); n != 0 {
				t.Errorf("%d listeners that Envoy had were touched", n)
			}
		})
	}
}

func refusalsOf(p api.Proxy) (out []string) {
	for _, typ := range p.Types {
		if typ.Refusal != nil {
			out = append(out, typ.Refusal.Message)
		}
	}
	return out
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// tcpListener is a listener on loopback whose connections go nowhere.
func tcpListener(t *testing.T, name string, port int) *envoy.Resource {
	t.Helper()
	proxy, err := anypb.New(&tcpv3.TcpProxy{StatPrefix: name, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: "nowhere"}})
	adstest.Must(t, err)
	encoded, err := proto.Marshal(&listenerv3.Listener{
		Name: name,
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
		}}},
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "envoy.filters.network.tcp_proxy", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: proxy},
		}}}},
	})
	adstest.Must(t, err)
	return &envoy.Resource{Name: name, Hash: "1", Encoded: encoded}
}
