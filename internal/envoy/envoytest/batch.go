package envoytest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/envoy"
)

// Batch is one Envoy with the configurations of several proxies.
type Batch struct {
	*Envoy
	idle  map[string][]net.Conn
	http2 map[string]*http.Client
}

// RunBatch starts one Envoy with the listeners and clusters of all bundles; it
// ends with the test. As with Intercepted, where a connection was going comes
// from the PROXY protocol, at gateways too. Only a gateway's second hop has an
// address of its own.
func RunBatch(t testing.TB, bundles ...*envoy.Bundle) *Batch {
	t.Helper()
	return RunChangedBatch(t, func(int, *listenerv3.Listener) {}, bundles...)
}

// RunChangedBatch is RunBatch with listeners that are changed first; their routes
// are in them. The number is that of the bundle.
func RunChangedBatch(t testing.TB, change func(int, *listenerv3.Listener), bundles ...*envoy.Bundle) *Batch {
	t.Helper()
	return RunRelayedBatch(t, change, func(*Batch, int, *clusterv3.Cluster) {}, bundles...)
}

// RunRelayedBatch is RunChangedBatch with clusters that are changed, too, after
// they were given endpoints of the test.
func RunRelayedBatch(t testing.TB, change func(int, *listenerv3.Listener), relay func(*Batch, int, *clusterv3.Cluster), bundles ...*envoy.Bundle) *Batch {
	t.Helper()
	b := &Batch{Prepare(t), map[string][]net.Conn{}, map[string]*http.Client{}}
	var listeners []*listenerv3.Listener
	var clusters []*clusterv3.Cluster
	for i, bundle := range bundles {
		text, err := bundle.Static("test", "test")
		if err != nil {
			t.Fatal(err)
		}
		// Proxies of several meshes may have clusters of the same names.
		text = bytes.ReplaceAll(text, []byte(`"cds_`), fmt.Appendf(nil, `"%d.cds_`, i))
		static := &bootstrapv3.Bootstrap{}
		if err := protojson.Unmarshal(text, static); err != nil {
			t.Fatal(err)
		}
		var second []*corev3.Address
		for _, l := range static.GetStaticResources().GetListeners() {
			change(i, l)
			l.Name = BatchListener(i, l.GetName())
			if bundle.View.Gateway != nil && l.GetTrafficDirection() == corev3.TrafficDirection_OUTBOUND {
				l.Address.GetSocketAddress().Address = Loopback()
				second = append(second, l.GetAddress())
			} else {
				b.behindProxyProtocol(t, l)
			}
			listeners = append(listeners, l)
		}
		for _, c := range static.GetStaticResources().GetClusters() {
			b.endpoints(t, c, second)
			relay(b, i, c)
			clusters = append(clusters, c)
		}
		for _, secret := range static.GetStaticResources().GetSecrets() {
			if !slices.ContainsFunc(b.Secrets, func(s *tlsv3.Secret) bool { return s.GetName() == secret.GetName() }) {
				b.Secrets = append(b.Secrets, secret)
			}
		}
	}
	b.Start(t, listeners, clusters)
	t.Cleanup(func() {
		for _, all := range b.idle {
			for _, conn := range all {
				_ = conn.Close()
			}
		}
		for _, c := range b.http2 {
			c.CloseIdleConnections()
		}
	})
	return b
}

// BatchListener names the listener of a bundle in a batch.
func BatchListener(bundle int, name string) string { return fmt.Sprintf("%d.%s", bundle, name) }

// Loopback is an address of this machine that nothing else uses.
func Loopback() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // it never fails
	return netip.AddrFrom4([4]byte{127, b[0] | 1, b[1], b[2] | 1}).String()
}

func (b *Batch) behindProxyProtocol(t testing.TB, l *listenerv3.Listener) {
	packed, err := anypb.New(&proxyprotocolv3.ProxyProtocol{})
	if err != nil {
		t.Fatal(err)
	}
	filters := []*listenerv3.ListenerFilter{{
		Name: "envoy.filters.listener.proxy_protocol", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: packed},
	}}
	for _, f := range l.GetListenerFilters() {
		if f.GetName() != "envoy.filters.listener.original_dst" {
			filters = append(filters, f)
		}
	}
	l.ListenerFilters, l.Address = filters, Pipe(filepath.Join(b.Dir, l.GetName()))
}

// Wire is a request as it goes over the wire.
type Wire struct {
	HTTP2                   bool
	TLS                     *tls.Config // of HTTP/1.1; nil: plaintext
	Method, Authority, Path string
	Headers                 [][2]string
}

// Reply is what came of a request.
type Reply struct {
	Closed  bool // the connection, without an answer
	Status  int
	Header  http.Header
	Arrival *Arrival // nil when Envoy answered by itself
	Tries   []string // endpoints at which it was tried
}

// Failer is a test, or one try of a property.
type Failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Send sends a request over a connection to a listener that was going to an
// address.
func (b *Batch) Send(t Failer, listener string, to netip.AddrPort, w Wire) Reply {
	t.Helper()
	b.mu.Lock()
	id := fmt.Sprint(len(b.tries), time.Now().UnixNano())
	b.tries[id] = nil
	b.mu.Unlock()
	w.Headers = append(slices.Clip(w.Headers), [2]string{"x-id", id})
	var resp *http.Response
	var body []byte
	var err error
	if w.HTTP2 {
		resp, body, err = b.sendHTTP2(listener, to, w)
	} else {
		resp, body, err = b.sendHTTP1(listener, to, w)
	}
	switch {
	case isAlert(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return Reply{Closed: true}
	case err != nil:
		t.Fatalf("%s %s%s: %v", w.Method, w.Authority, w.Path, err)
	}
	out := Reply{Status: resp.StatusCode, Header: resp.Header}
	if resp.StatusCode == http.StatusOK && len(body) > 0 {
		out.Arrival = &Arrival{}
		if err := json.Unmarshal(body, out.Arrival); err != nil {
			t.Fatalf("%v in %q", err, body)
		}
		_, out.Arrival.Cluster, _ = strings.Cut(out.Arrival.Cluster, ".") // of the batch
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	out.Tries = b.tries[id]
	return out
}

// isAlert says whether the other end has ended TLS by an alert.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

func (b *Batch) dial(listener string, to netip.AddrPort) (net.Conn, error) {
	conn, err := net.Dial("unix", filepath.Join(b.Dir, listener))
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(conn, "PROXY TCP4 10.0.0.9 %s 40000 %d\r\n", to.Addr(), to.Port())
	return conn, err
}

// sendHTTP1 writes the request byte by byte as it is, on a connection that is
// used again.
func (b *Batch) sendHTTP1(listener string, to netip.AddrPort, w Wire) (*http.Response, []byte, error) {
	key := listener + " " + to.String()
	if w.TLS != nil {
		key += " tls" // never used again
	}
	var conn net.Conn
	if all := b.idle[key]; len(all) > 0 {
		conn, b.idle[key] = all[len(all)-1], all[:len(all)-1]
	} else {
		var err error
		if conn, err = b.dial(listener, to); err != nil {
			return nil, nil, err
		}
	}
	kept := false
	defer func() {
		if !kept {
			_ = conn.Close()
		}
	}()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	plain := conn
	if w.TLS != nil {
		conn = tls.Client(plain, w.TLS)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\n", w.Method, w.Path)
	if w.Authority != "" {
		fmt.Fprintf(&text, "Host: %s\r\n", w.Authority)
	}
	for _, h := range w.Headers {
		fmt.Fprintf(&text, "%s: %s\r\n", h[0], h[1])
	}
	if w.Method == http.MethodPost || w.Method == http.MethodPut {
		text.WriteString("content-length: 0\r\n")
	}
	text.WriteString("\r\n")
	if _, err := io.WriteString(conn, text.String()); err != nil {
		return nil, nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: w.Method})
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, err
	}
	if kept = !resp.Close && w.TLS == nil; kept {
		b.idle[key] = append(b.idle[key], conn)
	}
	return resp, body, nil
}

func (b *Batch) sendHTTP2(listener string, to netip.AddrPort, w Wire) (*http.Response, []byte, error) {
	key := listener + " " + to.String()
	client := b.http2[key]
	if client == nil {
		one := &http.Protocols{}
		one.SetUnencryptedHTTP2(true)
		client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
			Protocols: one, DisableCompression: true,
			DialContext: func(context.Context, string, string) (net.Conn, error) { return b.dial(listener, to) },
		}}
		b.http2[key] = client
	}
	req := &http.Request{
		Method: w.Method, URL: &url.URL{Scheme: "http", Host: w.Authority, Opaque: w.Path}, Host: w.Authority, Header: http.Header{},
	}
	for _, h := range w.Headers {
		req.Header.Add(h[0], h[1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}
