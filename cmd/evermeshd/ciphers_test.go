package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/evermesh/evermesh/internal/testenv"
)

// rsaLeaf makes a certificate of an RSA key for 127.0.0.1: one with which key
// exchanges without forward secrecy are possible.
func rsaLeaf(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rsa"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "rsa.pem"), filepath.Join(dir, "rsa-key.pem")
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// shake shakes hands and says what came of it.
func shake(t *testing.T, address string, c *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	c.InsecureSkipVerify = true // what is asked is how they speak, not who it is
	c.NextProtos = []string{"h2"}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: within}, "tcp", address, c)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	return conn.ConnectionState(), nil
}

// suites are those that a client of TLS 1.2 may ask for, with and without forward
// secrecy.
func suites() (with, without []uint16) {
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		switch {
		case strings.HasPrefix(s.Name, "TLS_RSA_"):
			without = append(without, s.ID)
		case strings.HasPrefix(s.Name, "TLS_ECDHE_"):
			with = append(with, s.ID)
		}
	}
	return with, without
}

// Both listeners take TLS 1.2 and 1.3 and nothing older, and exchange keys with
// forward secrecy only, also when their certificate would do without.
func TestTLSOfListeners(t *testing.T) {
	t.Parallel()
	cert, key := rsaLeaf(t, t.TempDir())
	ports := testenv.FreePorts(t, 2) // nobody else's on any address
	p := start(t, t.TempDir(), "--api-listen", fmt.Sprint("127.0.0.2:", ports[0]), "--xds-listen", fmt.Sprint("127.0.0.3:", ports[1]), "--api-tls-cert", cert, "--api-tls-key", key, "--xds-tls-cert", cert, "--xds-tls-key", key)
	facts := factsOf(t, p)
	secret, open := suites()
	if len(secret) < 6 || len(open) < 5 {
		t.Fatalf("%d suites with forward secrecy, %d without: the test has nothing to ask for", len(secret), len(open))
	}
	for name, address := range map[string]string{"API": strings.TrimPrefix(facts.APIEndpoint, "https://"), "xDS": facts.XDSEndpoint} {
		t.Run("SEC-001 SEC-004 TLS 1.2 and 1.3 at the "+name+" listener, nothing older", func(t *testing.T) {
			for version, good := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
				state, err := shake(t, address, &tls.Config{MinVersion: version, MaxVersion: version, CipherSuites: append(secret, open...)})
				if (err == nil) != good || good && state.Version != version {
					t.Errorf("%s: %v", tls.VersionName(version), err)
				}
				if err != nil && !strings.Contains(err.Error(), "protocol version") {
					t.Errorf("%s: %v, want it to be about the version", tls.VersionName(version), err)
				}
			}
		})
		t.Run("SEC-002 forward secrecy only at the "+name+" listener", func(t *testing.T) {
			for _, suite := range open {
				if _, err := shake(t, address, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}}); err == nil {
					t.Errorf("it took %s", tls.CipherSuiteName(suite))
				}
			}
			state, err := shake(t, address, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: append(open, secret...)})
			if err != nil || !strings.HasPrefix(tls.CipherSuiteName(state.CipherSuite), "TLS_ECDHE_") {
				t.Errorf("of all it took %s: %v", tls.CipherSuiteName(state.CipherSuite), err)
			}
		})
		t.Run("SEC-004 no plaintext at the "+name+" listener", func(t *testing.T) {
			r, err := http.Get("http://" + address + "/v20190125/meshes")
			if err != nil {
				return // the connection was closed
			}
			defer r.Body.Close()
			if r.StatusCode != http.StatusBadRequest {
				t.Errorf("it answered %s", r.Status)
			}
		})
	}
	t.Run("SEC-007 each listener on an address of its own", func(t *testing.T) {
		apiHost, apiPort, err1 := net.SplitHostPort(strings.TrimPrefix(facts.APIEndpoint, "https://"))
		xdsHost, xdsPort, err2 := net.SplitHostPort(facts.XDSEndpoint)
		if err := errors.Join(err1, err2); err != nil || apiHost != "127.0.0.2" || xdsHost != "127.0.0.3" || apiPort == xdsPort {
			t.Fatalf("the API is at %s and the management service at %s: %v", facts.APIEndpoint, facts.XDSEndpoint, err)
		}
		for _, elsewhere := range []string{net.JoinHostPort(xdsHost, apiPort), net.JoinHostPort(apiHost, xdsPort)} {
			if conn, err := net.DialTimeout("tcp", elsewhere, within); err == nil {
				conn.Close()
				t.Errorf("somebody listens at %s", elsewhere)
			}
		}
	})
}

// Addresses that others reach are served with TLS or not at all, unless somebody
// says otherwise; what is there by default is reached by nobody else.
func TestSecureByDefault(t *testing.T) {
	t.Parallel()
	t.Run("SEC-006 SEC-004 who opens an address to others must give a certificate, or say so", func(t *testing.T) {
		t.Parallel()
		for _, args := range [][]string{{"--api-listen", "0.0.0.0:0"}, {"--auth", "off", "--xds-listen", "0.0.0.0:0"}} {
			p := launch(t, t.TempDir(), args...)
			if code := p.exit(t); code != exitUsage || !strings.Contains(p.said(t), "--insecure-plaintext") {
				t.Errorf("%v: exit code %d:\n%s", args, code, p.said(t))
			}
		}
	})
	t.Run("SEC-006 SEC-004 the management service makes a certificate for itself", func(t *testing.T) {
		t.Parallel()
		p := start(t, t.TempDir(), "--xds-listen", "0.0.0.0:0")
		if _, err := shake(t, factsOf(t, p).XDSEndpoint, &tls.Config{}); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"credentials", "master-key", "tls/ca-key.pem", "tls/server-key.pem"} {
			if at, err := os.Stat(filepath.Join(p.dir, name)); err != nil || at.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, want mode 0600", name, err)
			}
		}
	})
	t.Run("SEC-006 by default nobody calls without a signature, nor from elsewhere", func(t *testing.T) {
		t.Parallel()
		p := start(t, t.TempDir())
		facts := factsOf(t, p)
		r, err := http.Get(facts.APIEndpoint + "/v20190125/meshes")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusForbidden {
			t.Errorf("without a signature: %s", r.Status)
		}
		settings := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		addFlags(settings)
		for _, name := range []string{"api-listen", "xds-listen", "admin-listen"} {
			if address := settings.Lookup(name).DefValue; !local(address) {
				t.Errorf("the default of --%s is %s", name, address)
			}
		}
	})
}
