//go:build linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/test/stage"
)

// TestDeadEndpoints gives an agent four endpoints, of which one serves. The others are as bad as they come: one
// swallows every packet, one refuses connections, and one shows a certificate of another CA.
func TestDeadEndpoints(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "endpoints-dead", "DROP_ALL")
	m.create("VirtualNode", "client", `{}`)
	h, home := m.host("client"), m.Home().Addr()
	dead := map[string]*regexp.Regexp{ // what the agent says of it, by endpoint
		netip.AddrPortFrom(swallowed, 7071).String(): regexp.MustCompile("no connection within 5s|i/o timeout"),
		netip.AddrPortFrom(home, 1).String():         regexp.MustCompile("connection refused"),
		impostor(t, m):                               regexp.MustCompile("certificate"),
	}
	all := []string{m.control.XDS}
	for endpoint := range dead {
		all = append(all, endpoint)
	}
	began := time.Now()
	s := m.sidecar(h, stage.SidecarOptions{Resource: "client", Env: []string{"APPMESH_XDS_ENDPOINT=" + strings.Join(all, ","), "ENVOY_LOG_LEVEL=debug"}}) // which tells every attempt
	t.Logf("Envoy was live after %v", time.Since(began).Round(time.Millisecond))
	failures := func(t *testing.T) map[string]int {
		t.Helper()
		counts := map[string]int{}
		for line := range strings.Lines(read(t, s.Process.Log())) {
			_, rest, failed := strings.Cut(line, "control plane does not answer endpoint=https://")
			endpoint, why, _ := strings.Cut(rest, " ")
			if !failed {
				continue
			}
			if counts[endpoint]++; dead[endpoint] == nil || !dead[endpoint].MatchString(why) {
				t.Fatalf("the agent says of %s: %s, want %v", endpoint, why, dead[endpoint])
			}
		}
		return counts
	}

	t.Run("TRBL-002 EMS-058 the first contact tries each of them once at most", func(t *testing.T) {
		got := failures(t)
		for endpoint, n := range got {
			if n > 1 {
				t.Errorf("%s was tried %d times before the one that serves", endpoint, n)
			}
		}
		t.Logf("tried in vain: %v", got)
	})
	t.Run("EMS-058 one that failed comes last from then on", func(t *testing.T) {
		// Each stream through the relay is an Envoy that comes back: the endpoints are shuffled anew.
		conn := adstest.Dial(t, "unix:"+filepath.Join(s.Dir, "xds.sock"))
		streams, slowest := 0, time.Duration(0)
		for ; len(failures(t)) < len(dead) || streams < 40; streams++ {
			if streams == 400 {
				t.Fatalf("after %d streams only %v were tried", streams, failures(t))
			}
			asked := time.Now()
			stream := adstest.Open(t, conn, adstest.Options{Node: "mesh/" + m.name + "/virtualNode/client", Delta: true})
			if err := stream.Send(adstest.Request{Type: adstest.CDS}); err != nil {
				t.Fatal(err)
			}
			if r, err := stream.Recv(); err != nil || r.Type != adstest.CDS {
				t.Fatalf("got %v, %v", r, err)
			}
			stream.Close()
			slowest = max(slowest, time.Since(asked))
		}
		got := failures(t)
		for endpoint := range dead {
			if got[endpoint] != 1 {
				t.Errorf("%s was tried %d times in %d streams, want once", endpoint, got[endpoint], streams)
			}
		}
		t.Logf("%d streams found the one that serves, the slowest in %v; tried in vain: %v", streams, slowest.Round(time.Millisecond), got)
	})
}

// swallowed is an address outside of the ground: the home host, which is the way to it, passes nothing on and says
// nothing.
var swallowed = netip.MustParseAddr("10.99.0.1")

// impostor listens on a host of its own with a certificate of nobody's CA, and returns the address.
func impostor(t *testing.T, m *mesh) string {
	t.Helper()
	h := m.host("impostor")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "impostor"}, IPAddresses: []net.IP{h.Addr().AsSlice()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := h.Listen("tcp", fmt.Sprintf("%s:7071", h.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			secure := tls.Server(conn, &tls.Config{NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
			_ = secure.SetDeadline(time.Now().Add(wait))
			_, _ = io.Copy(io.Discard, secure) // whoever believes it is not answered
			_ = secure.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-served })
	return l.Addr().String()
}
