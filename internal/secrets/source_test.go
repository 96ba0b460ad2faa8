package secrets_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/secrets"
	"github.com/evermesh/evermesh/internal/secrets/secretstest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(m) }

const (
	account     = "111122223333"
	certificate = "arn:aws:acm:us-east-1:" + account + ":certificate/1"
	authority   = "arn:aws:acm-pca:us-east-1:" + account + ":certificate-authority/"
)

var principal = auth.Caller{Principal: auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":root"}}

// answer is what a source gives, decoded.
func answer(t *testing.T, s *secrets.Source, name string, form int) *tlsv3.Secret {
	t.Helper()
	value, err := s.Secret(t.Context(), principal, api.Key{}, name, form)
	if err != nil {
		t.Fatal(err)
	}
	out := &tlsv3.Secret{}
	if err := proto.Unmarshal([]byte(value), out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFilesAreNamedAndNotRead(t *testing.T) {
	for _, c := range []struct {
		name envoy.SecretName
		form int
		want string
	}{
		{
			envoy.SecretName{Kind: envoy.FileCertificate, Path: "/keys/a:b.pem", Key: "/keys/100%.key"},
			0,
			`{"tlsCertificate": {"certificateChain": {"filename": "/keys/a:b.pem"}, "privateKey": {"filename": "/keys/100%.key"}}}`,
		},
		{
			envoy.SecretName{Kind: envoy.FileCertificate, Path: "/a.pem", Key: "/a.key"},
			1,
			`{"tlsCertificate": {"certificateChain": {"filename": "/a.pem"}, "privateKey": {"filename": "/a.key"}, "password": {"inlineString": ""}}}`,
		},
		{
			envoy.SecretName{Kind: envoy.FileTrust, Path: "/ca.pem"},
			2,
			`{"validationContext": {"trustedCa": {"filename": "/ca.pem"}}}`,
		},
		{
			envoy.SecretName{Kind: envoy.FileTrust, Path: "/ca.pem"},
			3,
			`{"validationContext": {"trustedCa": {"filename": "/ca.pem"}, "crl": {"inlineString": ""}}}`,
		},
	} {
		name := c.name.String()
		t.Run(fmt.Sprintf("MTLS-003 %s in form %d", c.name.Kind, c.form), func(t *testing.T) {
			got := answer(t, &secrets.Source{}, name, c.form)
			want := &tlsv3.Secret{}
			if err := protojson.Unmarshal([]byte(c.want), want); err != nil {
				t.Fatal(err)
			}
			if want.Name = name; !proto.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestWhatIsRefused(t *testing.T) {
	issuer := secretstest.New()
	elsewhere := strings.ReplaceAll(certificate, account, "444455556666")
	theirs := strings.ReplaceAll(authority, account, "444455556666") + "1"
	for _, c := range []struct {
		name   string
		source *secrets.Source
		secret string
		want   string
	}{
		{"what is no name", &secrets.Source{}, "spiffe://example.org/web", "its name is none of a secret"},
		{"an ARN without an issuer", &secrets.Source{}, "acm-certificate:" + certificate, "no issuer serves certificates and authorities by ARN"},
		{"an ARN that does not exist", &secrets.Source{Issuer: issuer}, "acm-issuer:" + certificate, certificate + " does not exist"},
		{"EMS-056 TLS-008 a certificate of another account", &secrets.Source{Issuer: issuer}, "acm-certificate:" + elsewhere, "acm:ExportCertificate on resource: " + elsewhere},
		{"EMS-056 TLS-008 an authority of another account", &secrets.Source{Issuer: issuer}, "acm-trust:" + theirs, "acm-pca:GetCertificateAuthorityCertificate on resource: " + theirs},
		{"what is no ARN", &secrets.Source{Issuer: issuer}, "acm-certificate:foo", `"foo" is no ARN of a certificate`},
		{"an authority in place of a certificate", &secrets.Source{Issuer: issuer}, "acm-issuer:" + theirs, "is no ARN of a certificate: "},
		{"a certificate in place of an authority", &secrets.Source{Issuer: issuer}, "acm-trust:" + certificate, "is no ARN of a certificate authority"},
	} {
		t.Run(c.name, func(t *testing.T) {
			value, err := c.source.Secret(t.Context(), principal, api.Key{}, c.secret, 0)
			known, ok := errors.AsType[*api.Error](err)
			if !ok || !strings.Contains(known.Message, c.want) || value != "" {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestIssuedSecrets(t *testing.T) {
	issuer, s := secretstest.New(), &secrets.Source{}
	s.Issuer = issuer
	one, two := sdstest.NewAuthority(t, "one"), sdstest.NewAuthority(t, "two")
	c := issuer.Issue(t, certificate, one, "web.local")
	issuer.Trust(authority+"1", one)
	issuer.Trust(authority+"2", two)
	got := answer(t, s, "acm-certificate:"+certificate, 0).GetTlsCertificate()
	if diff := cmp.Diff(string(c.Chain)+string(c.Key), string(got.GetCertificateChain().GetInlineBytes())+string(got.GetPrivateKey().GetInlineBytes())); diff != "" {
		t.Errorf("certificate (-want +got):\n%s", diff)
	}
	trusted := func(name string) string {
		return string(answer(t, s, name, 0).GetValidationContext().GetTrustedCa().GetInlineBytes())
	}
	if diff := cmp.Diff(string(one.PEM), trusted("acm-issuer:"+certificate)); diff != "" {
		t.Errorf("root (-want +got):\n%s", diff)
	}
	both := envoy.SecretName{Kind: envoy.ACMTrust, ARNs: []string{authority + "1", authority + "2"}}.String()
	if diff := cmp.Diff(string(one.PEM)+string(two.PEM), trusted(both)); diff != "" {
		t.Errorf("authorities (-want +got):\n%s", diff)
	}
}

// Each secret has two encodings that mean the same to Envoy.
func TestSecretsHaveTwoForms(t *testing.T) {
	issuer := secretstest.New()
	s := &secrets.Source{Issuer: issuer}
	ca := sdstest.NewAuthority(t, "one")
	issuer.Issue(t, certificate, ca, "web.local")
	issuer.Trust(authority+"1", ca)
	empty := &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{}}
	for _, n := range []envoy.SecretName{
		{Kind: envoy.FileCertificate, Path: "/a.pem", Key: "/a.key"},
		{Kind: envoy.FileTrust, Path: "/ca.pem"},
		{Kind: envoy.ACMCertificate, ARNs: []string{certificate}},
		{Kind: envoy.ACMIssuer, ARNs: []string{certificate}},
		{Kind: envoy.ACMTrust, ARNs: []string{authority + "1"}},
	} {
		t.Run(string(n.Kind), func(t *testing.T) {
			forms := make([]*tlsv3.Secret, 4)
			for form := range forms {
				forms[form] = answer(t, s, n.String(), form)
			}
			if !proto.Equal(forms[0], forms[2]) || !proto.Equal(forms[1], forms[3]) {
				t.Errorf("there are more than two: %v", forms)
			}
			want := proto.CloneOf(forms[0])
			if c := want.GetTlsCertificate(); c != nil {
				c.Password = empty
			} else {
				want.GetValidationContext().Crl = empty
			}
			if proto.Equal(forms[0], forms[1]) || !proto.Equal(want, forms[1]) {
				t.Errorf("the other form of %v is %v", forms[0], forms[1])
			}
		})
	}
}

// renewals are what a source said is another.
type renewals struct {
	mu  sync.Mutex
	all []func(string) bool
}

func (r *renewals) add(concerns func(string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, concerns)
}

func (r *renewals) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

func (r *renewals) last(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[len(r.all)-1](name)
}

func run(t *testing.T, s *secrets.Source) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestChangesConcernTheirSecrets(t *testing.T) {
	issuer, r := secretstest.New(), &renewals{}
	run(t, &secrets.Source{Issuer: issuer, Renew: r.add, Log: slog.New(slog.DiscardHandler)})
	ca := sdstest.NewAuthority(t, "ca")
	file := envoy.SecretName{Kind: envoy.FileCertificate, Path: certificate, Key: certificate}.String()
	for n, c := range []struct {
		change func()
		other  []string
		same   []string
	}{
		{
			func() { issuer.Issue(t, certificate, ca, "web.local") },
			[]string{"acm-certificate:" + certificate, "acm-issuer:" + certificate},
			[]string{"acm-certificate:" + certificate + "0", "acm-trust:" + authority + "1", file, "no name"},
		},
		{
			func() { issuer.Trust(authority+"2", ca) },
			[]string{"acm-trust:" + authority + "2", "acm-trust:" + authority + "1," + authority + "2"},
			[]string{"acm-trust:" + authority + "1", "acm-certificate:" + certificate},
		},
	} {
		c.change()
		testenv.Eventually(t, "the change is passed on", func() bool { return r.count() == n+1 })
		for _, name := range c.other {
			if !r.last(name) {
				t.Errorf("%s is not renewed", name)
			}
		}
		for _, name := range c.same {
			if r.last(name) {
				t.Errorf("%s is renewed", name)
			}
		}
	}
}

// broken is an issuer that cannot be followed the first time.
type broken struct {
	*secretstest.Issuer
	once sync.Once
}

func (b *broken) Follow(ctx context.Context, changed func(string)) error {
	err := error(nil)
	b.once.Do(func() { err = errors.New("the store is away") })
	if err != nil {
		return err
	}
	return b.Issuer.Follow(ctx, changed)
}

func TestAfterABreakAnythingMayBeAnother(t *testing.T) {
	r := &renewals{}
	run(t, &secrets.Source{Issuer: &broken{Issuer: secretstest.New()}, Renew: r.add, Log: slog.New(slog.DiscardHandler)})
	testenv.Eventually(t, "it is followed again", func() bool { return r.count() == 1 })
	if !r.last("acm-certificate:"+certificate) || r.last("file-trust:/ca.pem") {
		t.Error("what an issuer gives is to be asked for again, and files are not")
	}
}

func TestKeysAreNotShown(t *testing.T) {
	const key = "-----BEGIN EC PRIVATE KEY-----"
	c := secrets.Certificate{Chain: []byte("chain"), Key: auth.Secret(key)}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("certificate", "value", c, "key", c.Key)
	shown := fmt.Sprintf("%v %+v %#v %s %x %q", c, c, c, c, c.Key, c.Key) + string(text) + logged.String()
	if strings.Contains(shown, "PRIVATE") || strings.Contains(shown, fmt.Sprintf("%x", key)) || !strings.Contains(shown, "[redacted]") {
		t.Errorf("shown as %s", shown)
	}
}
