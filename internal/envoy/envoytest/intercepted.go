package envoytest

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/envoy"
)

// Intercepted runs an Envoy with the bundle's listeners as they are, all chains
// with what chooses between them. Only two things are others: a listener is at
// a socket file of its name, and where a connection was going comes from the
// PROXY protocol in place of the kernel's interception, which needs rights.
func Intercepted(t testing.TB, bundle *envoy.Bundle) *Envoy {
	t.Helper()
	text, err := bundle.Static("test", "test")
	if err != nil {
		t.Fatal(err)
	}
	static := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(text, static); err != nil {
		t.Fatal(err)
	}
	packed, err := anypb.New(&proxyprotocolv3.ProxyProtocol{})
	if err != nil {
		t.Fatal(err)
	}
	e := Prepare(t)
	for _, l := range static.GetStaticResources().GetListeners() {
		l.Address = Pipe(filepath.Join(e.Dir, l.GetName()))
		for _, f := range l.GetListenerFilters() {
			if f.GetName() == "envoy.filters.listener.original_dst" {
				f.Name = "envoy.filters.listener.proxy_protocol"
				f.ConfigType = &listenerv3.ListenerFilter_TypedConfig{TypedConfig: packed}
			}
		}
	}
	e.Start(t, static.GetStaticResources().GetListeners(), e.Endpoints(t, bundle))
	return e
}

// Connect opens a connection that was going to that address.
func (e *Envoy) Connect(t testing.TB, listener string, to netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(e.Dir, listener))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fmt.Fprintf(conn, "PROXY TCP4 10.0.0.9 %s 40000 %d\r\n", to.Addr(), to.Port()); err != nil {
		t.Fatal(err)
	}
	return conn
}
