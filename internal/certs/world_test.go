package certs_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/certs"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
}

// world is a registry that runs, and a server in front of it.
type world struct {
	*certs.Registry
	*resttest.Server
	clock clock
	box   *seal.Box
	log   *testenv.Output
	heard heard
	// used are the ARNs that using names, by certificate.
	mu   sync.Mutex
	used map[string][]string
	// meshes name authorities for identities.
	meshes []certs.Trusting
}

// heard is auth.Roots that keeps the last condition keys of proxies' questions.
type heard struct {
	auth.Roots
	mu   sync.Mutex
	keys map[string][]string
}

// Authorize satisfies auth.Authorizer.
func (h *heard) Authorize(ctx context.Context, q auth.Question) error {
	h.mu.Lock()
	h.keys = q.Keys
	h.mu.Unlock()
	return h.Roots.Authorize(ctx, q)
}

func (h *heard) last() map[string][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.keys
}

func (w *world) using(context.Context) (map[string][]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.used), nil
}

func (w *world) trusting(context.Context) ([]certs.Trusting, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.meshes, nil
}

func (w *world) use(arn string, by ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.used[arn] = by
}

var realm = api.Realm{Partition: "aws", Region: resttest.Region}

func newBox(t testing.TB, data *store.Store, file string) *seal.Box {
	t.Helper()
	box, err := seal.Open(seal.Config{Store: data, MasterKeyFile: file, CreateMasterKey: true, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// newWorld runs a registry until the test ends.
func newWorld(t *testing.T, data *store.Store, masterKey string) *world {
	t.Helper()
	w := &world{used: map[string][]string{}, log: &testenv.Output{}}
	w.box = newBox(t, data, masterKey)
	w.Registry = certs.New(certs.Config{
		Store: data, Box: w.box, Realm: realm, Authorizer: &w.heard, CRL: "http://crl.test/evermesh/crl", Using: w.using, Trusting: w.trusting,
		Log: slog.New(slog.NewTextHandler(w.log, nil)), Now: w.clock.now,
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	acm, err := w.ACM()
	if err != nil {
		t.Fatal(err)
	}
	pca, err := w.PCA()
	if err != nil {
		t.Fatal(err)
	}
	w.Server = resttest.Serve(t, resttest.Options{Store: data, Services: []*service.Service{acm, pca}})
	return w
}

func alone(t *testing.T) *world {
	t.Helper()
	return newWorld(t, storetest.New(t), filepath.Join(t.TempDir(), "master-key"))
}

// script is what every script begins with: a root and an issuing authority below it.
const script = `
import subprocess, tempfile
pca, acm = client("acm-pca"), client("acm")

def template(name): return "arn:aws:acm-pca:::template/%s/V1" % name

def created(name, kind, key="EC_prime256v1", signing="SHA256WITHECDSA", **more):
    return pca.create_certificate_authority(CertificateAuthorityType=kind, CertificateAuthorityConfiguration=dict(
        KeyAlgorithm=key, SigningAlgorithm=signing, Subject=dict(CommonName=name, Organization="Example Corp.")), **more)["CertificateAuthorityArn"]

def issued(arn, csr, name, days, signing="SHA256WITHECDSA", **more):
    made = pca.issue_certificate(CertificateAuthorityArn=arn, Csr=csr, SigningAlgorithm=signing, TemplateArn=template(name),
        Validity=dict(Type="DAYS", Value=days), **more)["CertificateArn"]
    return made, pca.get_certificate(CertificateAuthorityArn=arn, CertificateArn=made)

def root(name="root", **more):
    arn = created(name, "ROOT", **more)
    _, got = issued(arn, pca.get_certificate_authority_csr(CertificateAuthorityArn=arn)["Csr"], "RootCACertificate", 3650, more.get("signing", "SHA256WITHECDSA"))
    assert "CertificateChain" not in got, got
    pca.import_certificate_authority_certificate(CertificateAuthorityArn=arn, Certificate=got["Certificate"])
    return arn

def below(by, name="issuing", days=1825, **more):
    arn = created(name, "SUBORDINATE", **more)
    _, got = issued(by, pca.get_certificate_authority_csr(CertificateAuthorityArn=arn)["Csr"], "SubordinateCACertificate_PathLen0", days)
    pca.import_certificate_authority_certificate(CertificateAuthorityArn=arn, Certificate=got["Certificate"], CertificateChain=got["CertificateChain"])
    return arn

def file(*texts):
    f = tempfile.NamedTemporaryFile(delete=False, suffix=".pem")
    f.write(b"".join(t if isinstance(t, bytes) else t.encode() for t in texts))
    f.close()
    return f.name

def openssl(*arguments, input=None):
    done = subprocess.run(("openssl",) + arguments, input=input, capture_output=True)
    return (done.stdout + done.stderr).decode()

def own(arn): return pca.get_certificate_authority_certificate(CertificateAuthorityArn=arn)

def described(arn): return acm.describe_certificate(CertificateArn=arn)["Certificate"]

def state(arn): return pca.describe_certificate_authority(CertificateAuthorityArn=arn)["CertificateAuthority"]["Status"]

def same(got, want): assert got == want, "got %r, want %r" % (got, want)

def has(got, want): assert want in got, "want %r in %r" % (want, got)
`

func (w *world) run(t *testing.T, text string, arguments ...string) string {
	t.Helper()
	return w.Python(t, resttest.Root(resttest.AccountA), script+text, arguments...)
}

// lines are what a script printed.
func lines(out string) []string { return strings.Split(strings.TrimSpace(out), "\n") }

func openssl(t *testing.T, input []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func root(account string) auth.Caller {
	return auth.Caller{Principal: auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":root", Type: auth.Root, ID: account}}
}

// failing is what openssl says when it fails.
func failing(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("openssl", args...).CombinedOutput()
	if err == nil {
		t.Fatalf("openssl %s did not fail: %s", strings.Join(args, " "), out)
	}
	return string(out)
}
