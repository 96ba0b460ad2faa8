package certs_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What a request says is acted on, or refused by the name of the member.
func TestRequestsAreActedOnOrRefused(t *testing.T) {
	t.Parallel()
	w := alone(t)
	arn := strings.TrimSpace(w.run(t, `
sub = below(root())
def asked(name="a.local", **more): return dict(DomainName=name, CertificateAuthorityArn=sub, KeyAlgorithm="EC_prime256v1", **more)
label = "a" * 63
for name in ("a.local", "*.apps.local", "A-1.xn--p1ai", "1.2.3.4.in-addr.arpa", "10.0.0.x1"):
    same(described(acm.request_certificate(**asked(name))["CertificateArn"])["Status"], "ISSUED")
same(described(acm.request_certificate(**asked(SubjectAlternativeNames=[".".join([label] * 3 + ["a" * 61])]))["CertificateArn"])["Status"], "ISSUED")
bad = ("10.0.0.1", "10.0.0.10", "a_b..c", "a_b.local", "a..local", ".a.local", "a.local.", "local", "*", "a.*.local", "*.*.local", "*.local.", "-a.local", "a-.local", "a.-b", "a.b", "a b.local", "%sa.local" % label, "a.12", "ä.local", "fe80--1", "a:1.local")
for name in bad:
    has(refusal(acm.request_certificate, **asked(name)), "400 ValidationException: Value '%s' at 'domainName' failed to satisfy constraint: Member must be a DNS name" % name)
    has(refusal(acm.request_certificate, **asked(SubjectAlternativeNames=["b.local", name])), "400 ValidationException: Value '%s' at 'subjectAlternativeNames.2.member'" % name)
has(refusal(acm.request_certificate, **asked(ManagedBy="CLOUDFRONT")), "400 InvalidParameterException: ManagedBy: there is no CLOUDFRONT here")
has(refusal(acm.request_certificate, **asked(RootHierarchyType="N2_AMAZON_MANAGED")), "400 ValidationException: RootHierarchyType cannot be given together with CertificateAuthorityArn")
has(refusal(acm.request_certificate, **asked(CertificateUsage="CLIENT_AUTH_ONLY")), "400 ValidationException: CertificateUsage can be given with RootHierarchyType only")
listed = lambda option: [c["CertificateArn"] for c in acm.list_certificates(Includes=dict(keyTypes=["EC_prime256v1"], exportOption=option))["CertificateSummaryList"]]
usual, closed = (acm.request_certificate(**asked(**more))["CertificateArn"] for more in (dict(), dict(Options=dict(Export="DISABLED"))))
open = acm.request_certificate(**asked(Options=dict(Export="ENABLED")))["CertificateArn"]
same([described(arn)["Options"]["Export"] for arn in (usual, closed, open)], ["ENABLED", "DISABLED", "ENABLED"])
for arn in (usual, open): acm.export_certificate(CertificateArn=arn, Passphrase=b"secret")
has(refusal(acm.export_certificate, CertificateArn=closed, Passphrase=b"secret"), "400 ValidationException: Certificate %s is not exported, as it was requested with Options.Export=DISABLED" % closed)
same((listed("DISABLED"), usual in listed("ENABLED"), closed in listed("ENABLED")), ([closed], True, False))
acm.renew_certificate(CertificateArn=closed)
has(refusal(acm.export_certificate, CertificateArn=closed, Passphrase=b"secret"), "is not exported")
print(closed)
`))
	// A proxy is not who exports: it has what its listener names.
	testenv.Eventually(t, "a proxy is given the certificate", func() bool {
		_, err := w.Certificate(t.Context(), root(resttest.AccountA), arn)
		return fmt.Sprint(err) == "<nil>"
	})
}
