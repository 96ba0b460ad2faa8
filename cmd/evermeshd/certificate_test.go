package main

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/client"
)

// authority signs the certificates of a test.
type authority struct {
	dir, name string
	pair      *tls.Certificate
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{dir: dir, name: name}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if err := issue(template, nil, a.file(), filepath.Join(dir, name+"-key.pem")); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(a.file(), filepath.Join(dir, name+"-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	a.pair = &pair
	return a
}

func (a *authority) file() string { return filepath.Join(a.dir, a.name+".pem") }

// leaf makes NAME.pem and NAME-key.pem for 127.0.0.1, signed by the authority,
// or by itself when there is none.
func (a *authority) leaf(t *testing.T, dir, name string, ends time.Time) (certFile, keyFile string) {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: ends,
	}
	var signer *tls.Certificate
	if a != nil {
		signer = a.pair
		template.KeyUsage = x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem")
	if err := issue(template, signer, certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

// hello shakes hands as a client does and returns what the server showed. With
// TLS 1.3 a refused client learns so from its first read.
func hello(address string, roots *authority, own ...tls.Certificate) (*x509.Certificate, error) {
	pool := x509.NewCertPool()
	pool.AddCert(roots.pair.Leaf)
	c := &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}}
	if len(own) > 0 { // also one that the server does not ask for by its CA
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own[0], nil }
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: within}, "tcp", address, c)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(within))
	if _, err := fmt.Fprint(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return nil, err
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}

func factsOf(t *testing.T, p *plane) client.Facts {
	t.Helper()
	facts, err := client.ReadFacts(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

// Client certificates of --xds-client-ca are verified when given (D5).
func TestClientCA(t *testing.T) {
	t.Parallel()
	dir, later := t.TempDir(), time.Now().Add(time.Hour)
	ca, other := newAuthority(t, dir, "ca"), newAuthority(t, dir, "other")
	cert, key := ca.leaf(t, dir, "server", later)
	pair := func(a *authority, name string) tls.Certificate {
		t.Helper()
		made, err := tls.LoadX509KeyPair(a.leaf(t, dir, name, later))
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	t.Run("good, foreign and absent", func(t *testing.T) {
		t.Parallel()
		p := start(t, t.TempDir(), "--xds-tls-cert", cert, "--xds-tls-key", key, "--xds-client-ca", ca.file())
		xds := factsOf(t, p).XDSEndpoint
		if _, err := hello(xds, ca, pair(ca, "good")); err != nil {
			t.Errorf("a certificate of the CA: %v", err)
		}
		if _, err := hello(xds, ca); err != nil {
			t.Errorf("no certificate: %v", err)
		}
		if _, err := hello(xds, ca, pair(other, "foreign")); err == nil {
			t.Error("a certificate of another CA is accepted")
		}
		if got := value(p.scrape(t), "evermesh_certificate_expiry_seconds", "listener=xds"); int64(got) != later.Unix() {
			t.Errorf("it ends at %v, want %d", got, later.Unix())
		}
	})
	garbage := filepath.Join(dir, "garbage.pem")
	if err := os.WriteFile(garbage, []byte("not PEM\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		filepath.Join(dir, "missing.pem"): "no such file or directory",
		garbage:                           "holds no certificate in PEM",
	} {
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			p := launch(t, t.TempDir(), "--xds-tls-cert", cert, "--xds-tls-key", key, "--xds-client-ca", name)
			if code := p.exit(t); code != exitUsage {
				t.Errorf("exit code %d, want %d", code, exitUsage)
			}
			said := p.said(t)
			if !strings.Contains(said, "evermeshd: --xds-client-ca: ") || !strings.Contains(said, want) || strings.Contains(said, "control plane is up") {
				t.Errorf("it said:\n%s\nwant --xds-client-ca and %q", said, want)
			}
		})
	}
}

// What replaces the files is served without a restart, on both listeners. What
// cannot be served is warned about, once, and changes nothing.
func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	// Both files change at once, as with Kubernetes: what is half written for as long as
	// a busy machine takes would be warned about, too.
	live := filepath.Join(dir, "live")
	cert, key := filepath.Join(live, "server.pem"), filepath.Join(live, "server-key.pem")
	show := func(made string) {
		t.Helper()
		next := filepath.Join(dir, "next")
		if err := errors.Join(os.Symlink(made, next), os.Rename(next, live)); err != nil {
			t.Fatal(err)
		}
	}
	showLeaf := func(ends time.Time) {
		t.Helper()
		made := t.TempDir()
		ca.leaf(t, made, "server", ends)
		show(made)
	}
	first, second := time.Now().Add(time.Hour).Truncate(time.Second), time.Now().Add(2*time.Hour).Truncate(time.Second)
	showLeaf(first)
	p := start(t, t.TempDir(), "--api-tls-cert", cert, "--api-tls-key", key,
		"--xds-tls-cert", cert, "--xds-tls-key", key, "--xds-client-ca", ca.file())
	facts := factsOf(t, p)
	api := strings.TrimPrefix(facts.APIEndpoint, "https://")
	served := func(address string, ends time.Time) bool {
		t.Helper()
		shown, err := hello(address, ca)
		if err != nil {
			t.Fatal(err)
		}
		return shown.NotAfter.Equal(ends)
	}
	if !served(api, first) || !served(facts.XDSEndpoint, first) {
		t.Fatal("another certificate is served than the first")
	}
	showLeaf(second)
	eventually(t, "the new certificate is served", func() bool { return served(api, second) && served(facts.XDSEndpoint, second) })
	if got := value(p.scrape(t), "evermesh_certificate_expiry_seconds", "listener=xds"); int64(got) != second.Unix() {
		t.Errorf("it ends at %v, want %d", got, second.Unix())
	}

	warned := func(listener string) int {
		count := 0
		for line := range strings.Lines(p.said(t)) {
			if strings.Contains(line, `level=WARN msg="certificate was not read again" listener=`+listener+" ") && strings.Contains(line, " file="+cert+" err=") {
				count++
			}
		}
		return count
	}
	for change, text := range []string{"not PEM\n", "not PEM either\n"} {
		made := t.TempDir()
		if err := errors.Join(os.WriteFile(filepath.Join(made, "server.pem"), []byte(text), 0o600), os.Link(key, filepath.Join(made, "server-key.pem"))); err != nil {
			t.Fatal(err)
		}
		show(made)
		eventually(t, "the bad certificate is warned about", func() bool { return warned("api") > change && warned("xds") > change })
		if !served(api, second) || !served(facts.XDSEndpoint, second) {
			t.Errorf("%q: the old certificate is not served any more", text)
		}
	}
	// The CA of clients is watched likewise. Until xDS has warned of it, the API's
	// files have been looked at again and again.
	away := filepath.Join(dir, "away.pem")
	if err := os.Rename(ca.file(), away); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another change is warned about", func() bool { return warned("xds") > 2 })
	if got := warned("api"); got != 2 {
		t.Errorf("%d warnings of the API's certificate for two changes:\n%s", got, p.said(t))
	}
	third := time.Now().Add(3 * time.Hour).Truncate(time.Second)
	showLeaf(third)
	eventually(t, "the repaired certificate is served", func() bool { return served(api, third) })
	eventually(t, "the missing CA is warned about", func() bool { return strings.Contains(p.said(t), "--xds-client-ca: open ") })
	if !served(facts.XDSEndpoint, second) {
		t.Error("without the file of the CA another certificate is served")
	}
	if err := os.Rename(away, ca.file()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "with the CA the repaired certificate is served", func() bool { return served(facts.XDSEndpoint, third) })
	if api, xds := warned("api"), warned("xds"); api != 2 || xds != 4 {
		t.Errorf("%d warnings of the API's certificate and %d of xDS', want 2 and 4:\n%s", api, xds, p.said(t))
	}
}

// The AWS CLI works with what the facts say, which is no CA when the file of
// the certificate does not hold one. Our own client works each time.
func TestCABundleOfTheAPI(t *testing.T) {
	t.Parallel()
	aws, err := filepath.Abs(filepath.Join("../..", "build", "tools", "bin", "aws"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(aws); err != nil {
		t.Fatalf("no AWS CLI (run 'make tools'): %v", err)
	}
	for _, c := range []struct {
		name  string
		chain bool // with the root behind the leaf
		self  bool // signed by itself
	}{{name: "signed by a CA"}, {name: "with its root", chain: true}, {name: "signed by itself", self: true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			ca := newAuthority(t, dir, "ca")
			signer := ca
			if c.self {
				signer = nil
			}
			cert, key := signer.leaf(t, dir, "server", time.Now().Add(time.Hour))
			if c.chain {
				leaf, err := os.ReadFile(cert)
				if err != nil {
					t.Fatal(err)
				}
				root, err := os.ReadFile(ca.file())
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(cert, append(leaf, root...), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			p := start(t, t.TempDir(), "--api-tls-cert", cert, "--api-tls-key", key)
			facts := factsOf(t, p)
			cli := func(bundle string) error {
				cmd := exec.CommandContext(t.Context(), aws, "appmesh", "list-meshes")
				cmd.Env = []string{
					"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "AWS_ENDPOINT_URL=" + facts.APIEndpoint, "AWS_DEFAULT_REGION=" + facts.Region,
					"AWS_SHARED_CREDENTIALS_FILE=" + facts.Credentials, "AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=1",
				}
				if bundle != "" {
					cmd.Env = append(cmd.Env, "AWS_CA_BUNDLE="+bundle)
				}
				if out, err := cmd.CombinedOutput(); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			}
			if err := p.call(t.Context(), "ListMeshes", struct{}{}, nil); err != nil {
				t.Errorf("our own client: %v", err)
			}
			if facts.APICertificate != cert {
				t.Errorf("the certificate's file is %q, want %q", facts.APICertificate, cert)
			}
			if c.chain || c.self {
				if facts.CABundle != cert {
					t.Fatalf("the CA bundle is %q, want %q", facts.CABundle, cert)
				}
				if err := cli(facts.CABundle); err != nil {
					t.Error(err)
				}
				return
			}
			if facts.CABundle != "" {
				t.Errorf("%s is said to be a CA bundle", facts.CABundle)
			}
			if err := cli(cert); err == nil || !strings.Contains(err.Error(), "CERTIFICATE_VERIFY_FAILED") {
				t.Errorf("with the leaf as its bundle: %v; is the exception still needed?", err)
			}
			if err := cli(ca.file()); err != nil {
				t.Errorf("with the CA: %v", err)
			}
		})
	}
}
