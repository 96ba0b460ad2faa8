package remote_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/certs"
	"github.com/evermesh/evermesh/internal/certs/remote"
	"github.com/evermesh/evermesh/internal/forward"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// fromSomewhere is auth.Roots for who says where the question comes from.
type fromSomewhere struct{ auth.Roots }

// Authorize satisfies auth.Authorizer.
func (f fromSomewhere) Authorize(ctx context.Context, q auth.Question) error {
	if q.Keys["aws:sourceip"] == nil {
		return api.Errorf(api.CodeAccessDenied, "from nowhere")
	}
	return f.Roots.Authorize(ctx, q)
}

// An ACM that is elsewhere is another control plane's here: it signs, refuses and
// encrypts keys as AWS does.
func TestIssuerElsewhere(t *testing.T) {
	t.Parallel()
	data := storetest.New(t)
	box, err := seal.Open(seal.Config{Store: data, MasterKeyFile: filepath.Join(t.TempDir(), "key"), CreateMasterKey: true, Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	registry := certs.New(certs.Config{
		Store: data, Box: box, Realm: api.Realm{Partition: "aws", Region: resttest.Region}, Authorizer: auth.Roots{}, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	acm, err := registry.ACM()
	if err != nil {
		t.Fatal(err)
	}
	pca, err := registry.PCA()
	if err != nil {
		t.Fatal(err)
	}
	server := resttest.Serve(t, resttest.Options{Store: data, Services: []*service.Service{acm, pca}})
	arns := strings.Fields(server.Python(t, resttest.Root(resttest.AccountA), `
pca, acm = client("acm-pca"), client("acm")
arn = pca.create_certificate_authority(CertificateAuthorityType="ROOT", CertificateAuthorityConfiguration=dict(KeyAlgorithm="EC_prime256v1", SigningAlgorithm="SHA256WITHECDSA", Subject=dict(CommonName="root")))["CertificateAuthorityArn"]
made = pca.issue_certificate(CertificateAuthorityArn=arn, Csr=pca.get_certificate_authority_csr(CertificateAuthorityArn=arn)["Csr"], SigningAlgorithm="SHA256WITHECDSA",
    TemplateArn="arn:aws:acm-pca:::template/RootCACertificate/V1", Validity=dict(Type="YEARS", Value=10))["CertificateArn"]
pca.import_certificate_authority_certificate(CertificateAuthorityArn=arn, Certificate=pca.get_certificate(CertificateAuthorityArn=arn, CertificateArn=made)["Certificate"])
print(arn, acm.request_certificate(DomainName="a.local", CertificateAuthorityArn=arn, KeyAlgorithm="EC_prime256v1")["CertificateArn"])
`))
	root, certificate := arns[0], arns[1]
	key := resttest.Root(resttest.AccountA)
	to := func(name string) *forward.Service {
		s, err := forward.New(forward.Config{
			Name: name, Endpoint: server.URL, Region: resttest.Region, Partition: "aws", Now: time.Now, Credentials: credentials.NewStaticCredentialsProvider(key.ID, key.Secret, ""),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	issuer := remote.New(remote.Config{
		ACM: to("acm"), PCA: to("acm-pca"), Own: registry, Account: resttest.AccountA, Authorizer: fromSomewhere{}, Poll: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	p := auth.Caller{Principal: auth.Principal{Account: resttest.AccountA, ARN: "arn:aws:iam::" + resttest.AccountA + ":root", Type: auth.Root, ID: resttest.AccountA}, Keys: map[string][]string{"aws:sourceip": {"192.0.2.1"}}}
	stranger := auth.Caller{Principal: auth.Principal{Account: resttest.AccountB, ARN: "arn:aws:iam::" + resttest.AccountB + ":root", Type: auth.Root, ID: resttest.AccountB}}

	c, err := issuer.Certificate(t.Context(), p, certificate)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(c.Chain, []byte(string(c.Key))); err != nil {
		t.Errorf("key and certificate are not of each other: %v", err)
	}
	own, err := issuer.Authority(t.Context(), p, root)
	if err != nil {
		t.Fatal(err)
	}
	if above, err := issuer.Root(t.Context(), stranger, certificate); err != nil || string(above) != string(own) {
		t.Errorf("the root of the certificate is %s, %v", above, err)
	}
	for name, ask := range map[string]func() error{
		"is not authorized to perform: acm:ExportCertificate": func() error {
			_, err := issuer.Certificate(t.Context(), stranger, certificate)
			return err
		},
		"is not authorized to perform: acm-pca:GetCertificateAuthorityCertificate": func() error { _, err := issuer.Authority(t.Context(), stranger, root); return err },
		"ExportCertificate elsewhere: Could not find certificate": func() error {
			_, err := issuer.Certificate(t.Context(), p, certificate[:len(certificate)-12]+"000000000000")
			return err
		},
	} {
		if err := ask(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}

	var mu sync.Mutex
	told := map[string]bool{}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = issuer.Follow(ctx, func(arn string) {
			mu.Lock()
			defer mu.Unlock()
			told[arn] = true
		})
	}()
	defer func() { stop(); <-done }()
	server.Python(t, resttest.Root(resttest.AccountA), `client("acm").renew_certificate(CertificateArn=sys.argv[1])`, certificate)
	testenv.Eventually(t, "a renewal elsewhere is noticed", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return told[certificate]
	})
	if again, err := issuer.Certificate(t.Context(), p, certificate); err != nil || string(again.Chain) == string(c.Chain) || again.Key == c.Key {
		t.Errorf("after that it is the same: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if told[root] {
		t.Error("an authority that is the same is told to be another")
	}
}
