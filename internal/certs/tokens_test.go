package certs_test

import (
	"testing"
	"time"
)

// An idempotency token stands for one request, with all that it says: never for
// another one, nor for what was deleted, nor for longer than AWS says.
func TestTokensStandForOneRequest(t *testing.T) {
	t.Parallel()
	w := alone(t)
	out := lines(w.run(t, `
top = root()
sub = below(top)
def requested(name, by=sub, **more): return acm.request_certificate(DomainName=name, CertificateAuthorityArn=by, KeyAlgorithm="EC_prime256v1", IdempotencyToken="t", **more)["CertificateArn"]
first = requested("own.local")
same(requested("own.local"), first)
others = [requested("z.local"), requested("own.local", SubjectAlternativeNames=["b.local"]), requested("own.local", by=top), requested("own.local", Tags=[dict(Key="a", Value="b")])]
same(len(set(others + [first])), 5)
same([described(arn)["DomainName"] for arn in others], ["z.local", "own.local", "own.local", "own.local"])
same(described(others[2])["CertificateAuthorityArn"], top)
same(requested("z.local"), others[0])
acm.delete_certificate(CertificateArn=first)
second = requested("own.local")
same((second == first, described(second)["Status"]), (False, "ISSUED"))
same(requested("own.local"), second)

key = openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout")
csr = openssl("req", "-new", "-key", file(key), "-subj", "/CN=a.local")
def signed(by, days=1): return issued(by, csr, "EndEntityCertificate", days, IdempotencyToken="t")[0]
a, b, c = signed(sub), signed(top), signed(sub, 2)
same((signed(sub), signed(top), signed(sub, 2)), (a, b, c))
same((b.startswith(top), len({a, b, c})), (True, 3))

c1 = created("c1", "ROOT", IdempotencyToken="t")
c2 = created("c2", "SUBORDINATE", IdempotencyToken="t")
same((created("c1", "ROOT", IdempotencyToken="t"), c1 == c2), (c1, False))
same(pca.describe_certificate_authority(CertificateAuthorityArn=c2)["CertificateAuthority"]["Type"], "SUBORDINATE")
pca.delete_certificate_authority(CertificateAuthorityArn=c1)
again = created("c1", "ROOT", IdempotencyToken="t")
same((again == c1, state(again), created("c1", "ROOT", IdempotencyToken="t")), (False, "PENDING_CERTIFICATE", again))
for text in (top, sub, second, a, again): print(text)
print(base64.b64encode(csr.encode()).decode())
`))
	// The tokens of the authority are over, that of ACM is not.
	w.clock.forward(6 * time.Minute)
	const asked = `
top, sub, second, a, again = sys.argv[1:6]
csr = base64.b64decode(sys.argv[6]).decode()
arn = acm.request_certificate(DomainName="own.local", CertificateAuthorityArn=sub, KeyAlgorithm="EC_prime256v1", IdempotencyToken="t")["CertificateArn"]
`
	w.run(t, asked+`
same(arn, second)
new = issued(sub, csr, "EndEntityCertificate", 1, IdempotencyToken="t")[0]
same((new == a, issued(sub, csr, "EndEntityCertificate", 1, IdempotencyToken="t")[0]), (False, new))
same(created("c1", "ROOT", IdempotencyToken="t") == again, False)
`, out...)
	w.clock.forward(time.Hour)
	w.run(t, asked+`
same((arn == second, described(arn)["Status"]), (False, "ISSUED"))
`, out...)
}
