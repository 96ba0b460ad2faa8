package certs_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What an authority takes back, ACM does not hand out any more: not to proxies, not to
// who exports it, not by a renewal. One that was renewed since is another.
func TestRevocationByTheAuthority(t *testing.T) {
	t.Parallel()
	stores, file := storetest.Replicas(t, 2), filepath.Join(t.TempDir(), "master-key")
	w, other := newWorld(t, stores[0], file), newWorld(t, stores[1], file)
	arns := lines(w.run(t, `
sub = below(root(), days=60)
def requested(name): return acm.request_certificate(DomainName=name, CertificateAuthorityArn=sub, KeyAlgorithm="EC_prime256v1")["CertificateArn"]
def taken(serial, reason): pca.revoke_certificate(CertificateAuthorityArn=sub, CertificateSerial=serial, RevocationReason=reason)
bad, renewed, good = requested("bad.local"), requested("renewed.local"), requested("good.local")
before = described(renewed)["Serial"]
acm.renew_certificate(CertificateArn=renewed)
taken(before, "SUPERSEDED")
taken(described(bad)["Serial"], "CERTIFICATE_AUTHORITY_COMPROMISE")
d = described(bad)
same((d["Status"], d["RevocationReason"], d["RenewalEligibility"], "RevokedAt" in d), ("REVOKED", "CA_COMPROMISE", "INELIGIBLE", True))
same([described(arn)["Status"] for arn in (renewed, good)], ["ISSUED", "ISSUED"])
same([c["CertificateArn"] for c in acm.list_certificates(CertificateStatuses=["REVOKED"], Includes=dict(keyTypes=["EC_prime256v1"]))["CertificateSummaryList"]], [bad])
has(refusal(acm.export_certificate, CertificateArn=bad, Passphrase=b"secret"), "400 ValidationException: Certificate %s was revoked and is not exported" % bad)
has(refusal(acm.renew_certificate, CertificateArn=bad), "400 ValidationException: Certificate %s is not eligible for renewal" % bad)
has(refusal(acm.revoke_certificate, CertificateArn=bad, RevocationReason="UNSPECIFIED"), "400 ConflictException")
acm.export_certificate(CertificateArn=good, Passphrase=b"secret")
acm.revoke_certificate(CertificateArn=good, RevocationReason="SUPERSEDED")
has(refusal(acm.export_certificate, CertificateArn=good, Passphrase=b"secret"), "was revoked and is not exported")
for arn in (bad, renewed): print(arn)
`))
	given := func(w *world, arn string) string {
		_, err := w.Certificate(t.Context(), root(resttest.AccountA), arn)
		return fmt.Sprint(err)
	}
	for _, w := range []*world{w, other} {
		testenv.Eventually(t, "the revocation is known", func() bool { return strings.Contains(given(w, arns[0]), "was revoked on") })
		testenv.Eventually(t, "the other certificate is given", func() bool { return given(w, arns[1]) == "<nil>" })
	}
}
