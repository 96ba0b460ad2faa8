package store_test

import (
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
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/evermesh/evermesh/internal/testenv"
)

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
	e := prepare(t, edit)
	e.start()
	if t.Failed() {
		t.FailNow()
	}
	return e
}

// prepare makes the settings of one without starting it.
func prepare(t *testing.T, edit func(*embed.Config)) *external {
	t.Helper()
	address := testenv.FreeAddress(t)
	sockets, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	c := embed.NewConfig()
	c.Dir = t.TempDir()
	c.ListenPeerUrls = []url.URL{{Scheme: "unix", Host: filepath.Join(sockets, "p")}}
	c.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(sockets, "p")}}
	c.InitialCluster = c.Name + "=" + c.AdvertisePeerUrls[0].String()
	c.ListenClientUrls = []url.URL{{Scheme: "http", Host: address}}
	c.AdvertiseClientUrls = c.ListenClientUrls
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	c.UnsafeNoFsync, c.TickMs, c.ElectionMs = true, 10, 100
	if edit != nil {
		edit(c)
	}
	e := &external{t: t, config: c, endpoint: c.ListenClientUrls[0].String()}
	t.Cleanup(e.stop)
	return e
}

func (e *external) start() {
	e.t.Helper()
	etcd, err := embed.StartEtcd(e.config)
	if err != nil {
		e.t.Error(err)
		return
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

// newCluster starts the members of one etcd.
func newCluster(t *testing.T, n int) []*external {
	t.Helper()
	members := make([]*external, n)
	var peers []string
	ports := testenv.FreePorts(t, n)
	for i := range members {
		members[i] = prepare(t, func(c *embed.Config) {
			c.Name = fmt.Sprintf("member-%d", i)
			c.ListenPeerUrls = []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", ports[i])}}
			c.AdvertisePeerUrls = c.ListenPeerUrls
			c.TickMs, c.ElectionMs = 100, 1000 // as an operator has it: a busy machine is no reason to vote
			peers = append(peers, c.Name+"="+c.ListenPeerUrls[0].String())
		})
	}
	var starting sync.WaitGroup
	for _, m := range members {
		m.config.InitialCluster = strings.Join(peers, ",")
		starting.Go(m.start)
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return members
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
