//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/test/stage"
)

// TestHostileProxies has proxies on the very node of two real Envoys that do what a broken or a malicious one does. The
// Envoys follow every change all the same, and about as soon as before: within five times that and half a second, which is
// far below what waiting for a proxy that does not answer would take.
func TestHostileProxies(t *testing.T) {
	m := newMesh(t, "hostile", "DROP_ALL")
	l := newLine(m, 2, m.control)
	defer l.stop()
	shifts := func(t *testing.T) time.Duration {
		t.Helper()
		began := time.Now()
		for _, to := range []string{"blue", "green", "blue", "green"} {
			if _, err := l.weigh(to, 1); err != nil {
				t.Fatal(err)
			}
			l.follow(to)
		}
		return time.Since(began) / 4
	}
	alone := shifts(t)
	node := "mesh/" + m.name + "/virtualNode/client"
	conn := dialXDS(t, m)

	t.Run("EMS-047 EMS-009 some never acknowledge, refuse everything, or are nobody's", func(t *testing.T) {
		mute := muteProxies(t, conn, node)
		refusing := map[string]*adstest.Proxy{}
		for n := range 8 {
			name := fmt.Sprintf("refuses%d", n)
			p := adstest.Connect(t, conn, adstest.Options{Node: node, Instance: name, Delta: n%2 == 0})
			p.SetRefuse(func(adstest.Response) string { return "no" })
			refusing[name] = p
		}
		strangers := adstest.Connect(t, conn, adstest.Options{Node: "mesh/" + m.name + "/virtualNode/nobody", Instance: "stranger", Delta: true})
		visits := reconnect(t, conn, node)

		for _, p := range refusing {
			p.Wait(t, "something to refuse", func() bool { return len(p.Responses()) > 0 })
		}
		among, most := shifts(t), 5*alone+500*time.Millisecond
		for n := 0; n < 4 && among > most; n++ { // what else the machine does may be in the way of one, and not of all
			among = shifts(t)
		}
		t.Logf("a weight was followed by both Envoys after %v alone, after %v among %d mute proxies, %d that refuse everything, %d that reconnect in a loop (%d times) and a stranger (%d times)",
			alone.Round(time.Millisecond), among.Round(time.Millisecond), mute, len(refusing), loops, visits.Load(), len(strangers.Ends()))
		if among > most {
			t.Errorf("among hostile proxies a weight was followed after %v, more than the %v that follow from %v alone", among, most, alone)
		}
		l.until("the loops have connected 50 times", func(context.Context) bool { return visits.Load() >= 50 })
		l.until("a stream of an unknown node ends", func(context.Context) bool { return len(strangers.Ends()) > 0 })
		ends := strangers.Ends()
		if code, text := adstest.Status(ends[0]); code != codes.InvalidArgument || !strings.Contains(text, "does not exist") {
			t.Errorf("the stranger was told %v %q, want INVALID_ARGUMENT", code, text)
		}
		l.told(t, refusing)
	})
	l.until("the hostile ones are gone", func(ctx context.Context) bool {
		proxies, err := m.control.Proxies(ctx, m.name)
		return err == nil && len(proxies) == len(l.callers)
	})
	l.shift("blue", 1)
	l.unharmed()
}

// told checks what the API says of the proxies: the real ones are current, the refusing ones refused.
func (l *line) told(t *testing.T, refusing map[string]*adstest.Proxy) {
	t.Helper()
	current, refused := 0, 0
	l.until("the API tells them apart", func(ctx context.Context) bool {
		proxies, err := l.control.Proxies(ctx, l.name)
		current, refused = 0, 0
		for _, p := range proxies {
			switch {
			case p.EnvoyVersion != nil && p.State == api.ProxyStateCurrent:
				current++
			case refusing[p.Instance] != nil && p.State == api.ProxyStateRefused:
				refused++
			}
		}
		return err == nil && current == len(l.callers) && refused == len(refusing)
	})
	t.Logf("the API names %d proxies that are current and %d that refused", current, refused)
}

// muteProxies opens streams of both dialects that ask for clusters and listeners and answer nothing.
func muteProxies(t *testing.T, conn *grpc.ClientConn, node string) (count int) {
	t.Helper()
	for n := range 8 {
		s := adstest.Open(t, conn, adstest.Options{Node: node, Instance: fmt.Sprintf("mute%d", n), Delta: n%2 == 0})
		for _, of := range []string{adstest.CDS, adstest.LDS} {
			if err := s.Send(adstest.Request{Type: of}); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := s.Recv(); err != nil || r.Type != adstest.CDS {
			t.Fatalf("got %v, %v", r, err)
		}
		count++
	}
	return count
}

// loops is how many connect again and again.
const loops = 4

// reconnect opens streams of the node and leaves them after their first answer, without end; the result counts them.
func reconnect(t *testing.T, conn *grpc.ClientConn, node string) *atomic.Int64 {
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	count := &atomic.Int64{}
	for n := range loops {
		of := &corev3.Node{Id: node, Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"evermesh.instance": structpb.NewStringValue(fmt.Sprint("loop", n))}}}
		running.Go(func() {
			for ctx.Err() == nil {
				if visit(ctx, conn, of) == nil {
					count.Add(1)
				}
			}
		})
	}
	t.Cleanup(func() { stop(); running.Wait() })
	return count
}

// visit is one stream, to its first answer.
func visit(ctx context.Context, conn *grpc.ClientConn, node *corev3.Node) error {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err == nil {
		err = s.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"})
	}
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

// dialXDS connects to the management service as an agent does, without one: with TLS, and each stream signed.
func dialXDS(t *testing.T, m *mesh) *grpc.ClientConn {
	t.Helper()
	pem, err := os.ReadFile(m.control.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conn, err := grpc.NewClient("passthrough:///"+m.control.XDSAddr,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})),
		grpc.WithPerRPCCredentials(signature{m.control}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return m.Home().Dial(ctx, "tcp", addr) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// signature signs each stream with the key of a control plane.
type signature struct{ *stage.Control }

// RequireTransportSecurity is grpc's question.
func (signature) RequireTransportSecurity() bool { return true }

// GetRequestMetadata is the headers of one stream.
func (s signature) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	const unsigned = "UNSIGNED-PAYLOAD"
	info, _ := credentials.RequestInfoFromContext(ctx)
	r := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Scheme: "https", Host: s.XDSAddr, Path: info.Method}, Host: s.XDSAddr,
		Header: http.Header{"X-Amz-Content-Sha256": {unsigned}},
	}
	key := aws.Credentials{AccessKeyID: s.Key.AccessKeyID, SecretAccessKey: s.Key.SecretAccessKey}
	if err := v4.NewSigner().SignHTTP(ctx, key, r, unsigned, "appmesh", s.Region, time.Now()); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, values := range r.Header {
		out[strings.ToLower(name)] = values[0]
	}
	return out, nil
}
