package store_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

func withPhysical() clientv3.CompactOption { return clientv3.WithCompactPhysical() }

// external is an etcd as an operator runs one, with the settings that it has by
// itself, reached over TCP.
type external struct {
	t        *testing.T
	config   *embed.Config
	etcd     *embed.Etcd
	endpoint string
}

func newExternal(t *testing.T, edit func(*embed.Config)) *external {
	t.Helper()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := port.Addr().String()
	if err := port.Close(); err != nil {
		t.Fatal(err)
	}
	sockets, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	c := embed.NewConfig()
	c.Dir = t.TempDir()
	c.ListenPeerUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(sockets, "p")}}
	c.AdvertisePeerUrls = c.ListenPeerUrls
	c.InitialCluster = c.Name + "=" + c.ListenPeerUrls[0].String()
	c.ListenClientUrls = []url.URL{{Scheme: "http", Host: address}}
	c.AdvertiseClientUrls = c.ListenClientUrls
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	c.UnsafeNoFsync, c.TickMs, c.ElectionMs = true, 10, 100
	if edit != nil {
		edit(c)
	}
	e := &external{t: t, config: c, endpoint: c.ListenClientUrls[0].String()}
	e.start()
	t.Cleanup(e.stop)
	return e
}

func (e *external) start() {
	e.t.Helper()
	etcd, err := embed.StartEtcd(e.config)
	if err != nil {
		e.t.Fatal(err)
	}
	<-etcd.Server.ReadyNotify()
	e.etcd = etcd
}

func (e *external) stop() {
	if e.etcd != nil {
		e.etcd.Close()
		e.etcd = nil
	}
}

// An outage is told within a bounded time, and over when it is over: watches go
// on where they were, with nothing left out.
func TestAnExternalEtcdThatIsAwayForAWhile(t *testing.T) {
	t.Parallel()
	e := newExternal(t, nil)
	const timeout = 200 * time.Millisecond
	s := storetest.Open(t, store.Options{Endpoints: []string{e.endpoint}, Prefix: "/a/b/", Timeout: timeout})
	ctx := context.Background()
	key := nodeKey("m", "n")
	put(t, s, resource(t, key, 1))
	write(t, s, true, store.Op{Key: "ledger/x", Value: []byte("1")})
	w := watch(t, s)
	w.next(t)
	if err := raise(s, key); err != nil {
		t.Fatal(err)
	}
	if got := brief(w.next(t)); got != " +n2" {
		t.Fatalf("batch is %q", got)
	}
	e.stop()
	for name, do := range map[string]func() error{
		"update": func() error { return raise(s, key) },
		"get":    func() error { _, err := s.Get(ctx, key); return err },
		"list":   func() error { _, _, err := s.List(ctx, api.KindVirtualNode, key, "", 1); return err },
		"token":  func() error { _, err := s.Token(ctx, "x"); return err },
		"head":   func() error { _, err := s.Head(ctx); return err },
		"write":  func() error { return s.Write(ctx, true, []store.Op{{Key: "ledger/x", Value: []byte("2")}}) },
		"read":   func() error { _, err := s.Read(ctx, "ledger/"); return err },
		"ready":  func() error { return s.Ready(ctx) },
	} {
		start := time.Now()
		if err := do(); !isAPI(err, api.CodeServiceUnavailable) {
			t.Errorf("%s gets %v, want %s", name, err, api.CodeServiceUnavailable)
		}
		if took := time.Since(start); took > 10*timeout {
			t.Errorf("%s took %v", name, took)
		}
	}
	e.start()
	deadline := time.After(patience)
	for s.Ready(ctx) != nil {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatalf("not ready after the outage: %v", s.Ready(ctx))
		}
	}
	version := get(t, s, key).Version
	for i := range 3 {
		if err := raise(s, key); err != nil {
			t.Fatal(err)
		}
		if got, want := brief(w.next(t)), fmt.Sprintf(" +n%d", version+int64(i)+1); got != want {
			t.Errorf("after the outage comes %q, want %q", got, want)
		}
	}
}

func TestAnExternalEtcdThatIsNotThere(t *testing.T) {
	t.Parallel()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close() // it accepts and never answers
	start := time.Now()
	_, err = store.Open(context.Background(), store.Options{Endpoints: []string{"http://" + port.Addr().String()}, Timeout: 300 * time.Millisecond})
	if !isAPI(err, api.CodeServiceUnavailable) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// A full etcd refuses writes, with a reason, and goes on reading.
func TestAnExternalEtcdThatIsFull(t *testing.T) {
	t.Parallel()
	e := newExternal(t, func(c *embed.Config) { c.QuotaBackendBytes = 1 << 20 })
	s := storetest.Open(t, store.Options{Endpoints: []string{e.endpoint}})
	ctx := context.Background()
	key := nodeKey("m", "n")
	put(t, s, resource(t, key, 1))
	var err error
	for i := 0; err == nil && i < 100; i++ {
		err = s.Write(ctx, false, []store.Op{{Key: fmt.Sprintf("endpoints/%d", i), Value: make([]byte, 100<<10)}})
	}
	if !isAPI(err, api.CodeServiceUnavailable) {
		t.Errorf("row gets %v", err)
	}
	if err := raise(s, key); !isAPI(err, api.CodeServiceUnavailable) {
		t.Errorf("update gets %v", err)
	}
	if got := get(t, s, key); got == nil {
		t.Error("nothing can be read")
	}
	if err := s.Ready(ctx); err == nil {
		t.Error("it is ready")
	}
}

// What is too large for an external etcd's own limit is the caller's to change.
func TestAnExternalEtcdsLargestRequest(t *testing.T) {
	t.Parallel()
	e := newExternal(t, nil)
	s := storetest.Open(t, store.Options{Endpoints: []string{e.endpoint}})
	_, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
		big := resource(t, nodeKey("m", "n"), 1)
		big.Document = append(append([]byte(`{"x":"`), bytes.Repeat([]byte("x"), 3<<20)...), `"}`...)
		tx.Put(big)
		return nil
	})
	if !isAPI(err, api.CodeBadRequest) {
		t.Errorf("got %v", err)
	}
}

func TestAnExternalEtcdWithClientCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pair(t, dir)
	file := func(name string) string { return filepath.Join(dir, name) }
	e := newExternal(t, func(c *embed.Config) {
		c.ListenClientUrls[0].Scheme = "https"
		c.AdvertiseClientUrls = c.ListenClientUrls
		c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = file("cert.pem"), file("key.pem")
		c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = file("cert.pem"), true
	})
	s := storetest.Open(t, store.Options{Endpoints: []string{e.endpoint}, CACert: file("cert.pem"), Cert: file("cert.pem"), Key: file("key.pem")})
	put(t, s, resource(t, nodeKey("m", "n"), 1))
	for name, o := range map[string]store.Options{
		"without a certificate": {CACert: file("cert.pem")},
		"without the CA":        {Cert: file("cert.pem"), Key: file("key.pem")},
	} {
		o.Endpoints, o.Timeout = []string{e.endpoint}, 300*time.Millisecond
		if s, err := store.Open(context.Background(), o); err == nil {
			s.Close()
			t.Errorf("%s it opens", name)
		}
	}
	if _, err := store.Open(context.Background(), store.Options{Endpoints: []string{e.endpoint}, CACert: file("absent")}); err == nil {
		t.Error("with a CA file that is absent it opens")
	}
}

// pair writes a self-signed certificate and its key.
func pair(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "EC PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
