package certs_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What proxies get, and what they are told instead, at a replica that did not write
// it.
func TestIssuer(t *testing.T) {
	t.Parallel()
	stores, file := storetest.Replicas(t, 2), filepath.Join(t.TempDir(), "master-key")
	w, other := newWorld(t, stores[0], file), newWorld(t, stores[1], file)
	var mu sync.Mutex
	var told []string
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		_ = other.Follow(ctx, func(arn string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, arn)
		})
	}()
	testenv.Eventually(t, "the other replica is followed", func() bool { return other.Followers() == 1 })
	arns := lines(w.run(t, `
top = root()
sub = below(top, days=100)
for arn in (top, sub, created("pending", "ROOT")): print(arn)
print(acm.request_certificate(DomainName="a.local", CertificateAuthorityArn=sub, KeyAlgorithm="EC_prime256v1")["CertificateArn"])
print(acm.request_certificate(DomainName="b.local", CertificateAuthorityArn=sub, KeyAlgorithm="EC_prime256v1")["CertificateArn"])
key = openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout")
mine = openssl("req", "-x509", "-new", "-key", file(key), "-subj", "/CN=mine", "-days", "10")
print(acm.import_certificate(Certificate=mine, PrivateKey=key)["CertificateArn"])
pca.update_certificate_authority(CertificateAuthorityArn=sub, Status="DISABLED")
print(acm.request_certificate(DomainName="c.local", CertificateAuthorityArn=sub)["CertificateArn"])
pca.update_certificate_authority(CertificateAuthorityArn=sub, Status="ACTIVE")
acm.revoke_certificate(CertificateArn=acm.list_certificates(Includes=dict(keyTypes=["EC_prime256v1"]))["CertificateSummaryList"][1]["CertificateArn"], RevocationReason="SUPERSEDED")
`))
	top, sub, pending, good, revoked, imported, failed := arns[0], arns[1], arns[2], arns[3], arns[4], arns[5], arns[6]
	testenv.Eventually(t, "the other replica is told of all", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return !slices.ContainsFunc(arns, func(arn string) bool { return !slices.Contains(told, arn) })
	})
	certificate := func(account, arn string) string {
		c, err := other.Certificate(t.Context(), root(account), arn)
		if err == nil && !strings.HasPrefix(string(c.Chain), "-----BEGIN CERTIFICATE") {
			t.Errorf("%s is %q", arn, c.Chain)
		}
		return fmt.Sprint(err)
	}
	authority := func(account, arn string) string {
		_, err := other.Authority(t.Context(), root(account), arn)
		return fmt.Sprint(err)
	}
	testenv.Eventually(t, "the revocation is known", func() bool {
		return strings.Contains(certificate(resttest.AccountA, revoked), "was revoked on")
	})
	for name, c := range map[string]struct{ got, want string }{
		"a certificate": {certificate(resttest.AccountA, good), "<nil>"},
		"SHARE-008 VN-036 one of another account": {certificate(resttest.AccountB, good), "is not authorized to perform: acm:ExportCertificate on resource: " + good},
		"one that was imported":                   {certificate(resttest.AccountA, imported), "<nil>"},
		"one that was not issued":                 {certificate(resttest.AccountA, failed), "was not issued (PCA_INVALID_STATE)"},
		"VN-036 one that does not exist":          {certificate(resttest.AccountA, good+"0"), "Could not find certificate"},
		"VN-036 one that is not private":          {w.run(t, `print(refusal(acm.request_certificate, DomainName="a.local", ValidationMethod="DNS"))`), "public certificates are not offered"},
		"VN-036 one of another region":            {certificate(resttest.AccountA, strings.Replace(good, "us-east-1", "eu-west-1", 1)), "Could not find certificate"},
		"an authority":                            {authority(resttest.AccountA, top), "<nil>"},
		"SHARE-008 an authority of another":       {authority(resttest.AccountB, sub), "is not authorized to perform: acm-pca:GetCertificateAuthorityCertificate on resource: " + sub},
		"an authority that has no certificate":    {authority(resttest.AccountA, pending), "has no certificate yet: import one"},
		"an authority that does not exist":        {authority(resttest.AccountA, top+"0"), "Could not find Certificate Authority"},
		"identities of an authority without one":  {signer(other, pending), "cannot issue identities: it is PENDING_CERTIFICATE"},
		"identities of an authority":              {signer(other, sub), "<nil>"},
		"identities of one that does not exist":   {signer(other, sub+"0"), "Could not find Certificate Authority"},
		"the root above an authority without one": {rootAbove(other, pending), "cannot be trusted"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(c.got, c.want) {
				t.Errorf("got %s, want %s", c.got, c.want)
			}
		})
	}
	own, err := other.Authority(t.Context(), root(resttest.AccountA), top)
	if err != nil {
		t.Fatal(err)
	}
	above, err := other.Root(t.Context(), root(resttest.AccountB), good)
	if err != nil || strings.TrimSpace(string(above)) != strings.TrimSpace(string(own)) {
		t.Errorf("the root of a certificate is %s, want %s: %v", above, own, err)
	}
	if again, err := other.RootOf(sub); err != nil || string(again) != string(above) {
		t.Errorf("the root above an authority is %s: %v", again, err)
	}
	other.clock.forward(200 * 24 * time.Hour)
	if got := certificate(resttest.AccountA, good); !strings.Contains(got, "it could not be renewed, as its certificate authority is not ACTIVE") {
		t.Error(got)
	}
	if got := certificate(resttest.AccountA, imported); !strings.Contains(got, "import it again") {
		t.Error(got)
	}
}

func signer(w *world, arn string) string {
	_, err := w.Signer(arn)
	return fmt.Sprint(err)
}

func rootAbove(w *world, arn string) string {
	_, err := w.RootOf(arn)
	return fmt.Sprint(err)
}

// Policies find a tag of a certificate whatever the case of its key, when a proxy asks
// for it, and where and how the proxy asks.
func TestTagsOfWhatProxiesAskFor_IAM_010(t *testing.T) {
	t.Parallel()
	w := alone(t)
	arn := w.run(t, `
print(acm.request_certificate(DomainName="a.local", CertificateAuthorityArn=root(), KeyAlgorithm="EC_prime256v1", Tags=[dict(Key="Team", Value="a"), dict(Key="team", Value="b")])["CertificateArn"])
`)
	testenv.Eventually(t, "the certificate is known", func() bool {
		caller := root(resttest.AccountA)
		caller.Keys = map[string][]string{"aws:sourceip": {"192.0.2.1"}, "aws:securetransport": {"true"}}
		_, err := w.Certificate(t.Context(), caller, strings.TrimSpace(arn))
		return err == nil
	})
	want := map[string][]string{"aws:resourcetag/team": {"a", "b"}, "aws:sourceip": {"192.0.2.1"}, "aws:securetransport": {"true"}}
	if diff := cmp.Diff(want, w.heard.last()); diff != "" {
		t.Errorf("policies are asked with, -want +got:\n%s", diff)
	}
}
