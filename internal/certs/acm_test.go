package certs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestCertificates(t *testing.T) {
	t.Parallel()
	w := alone(t)
	const used = "arn:aws:appmesh:us-east-1:111111111111:mesh/m/virtualNode/a"
	out := lines(w.run(t, `
top = root()
sub = below(top)
has(refusal(acm.request_certificate, DomainName="a.local", ValidationMethod="DNS"), "400 InvalidParameterException: CertificateAuthorityArn: public certificates are not offered")
one = dict(DomainName="a.apps.local", SubjectAlternativeNames=["*.apps.local", "a.apps.local"], CertificateAuthorityArn=sub, IdempotencyToken="t", Tags=[dict(Key="team", Value="a")])
arn = acm.request_certificate(**one)["CertificateArn"]
same(acm.request_certificate(**one)["CertificateArn"], arn)
d = described(arn)
same((d["Status"], d["Type"], d["DomainName"], d["SubjectAlternativeNames"], d["KeyAlgorithm"], d["CertificateAuthorityArn"]), ("ISSUED", "PRIVATE", "a.apps.local", ["a.apps.local", "*.apps.local"], "RSA_2048", sub))
same((d["Issuer"], d["SignatureAlgorithm"], d["RenewalEligibility"], d["InUseBy"], (d["NotAfter"] - d["NotBefore"]).days), ("Example Corp.", "SHA256WITHECDSA", "ELIGIBLE", [], 395))
same([u["Name"] for u in d["KeyUsages"]], ["DIGITAL_SIGNATURE", "KEY_ENCIPHERMENT"])
same([u["Name"] for u in d["ExtendedKeyUsages"]], ["TLS_WEB_SERVER_AUTHENTICATION", "TLS_WEB_CLIENT_AUTHENTICATION"])
got = acm.get_certificate(CertificateArn=arn)
has(openssl("verify", "-x509_strict", "-verify_hostname", "b.apps.local", "-CAfile", file(own(top)["Certificate"]), "-untrusted", file(got["CertificateChain"]), file(got["Certificate"])), "OK")
out = acm.export_certificate(CertificateArn=arn, Passphrase=b"much secret")
same((out["Certificate"], out["CertificateChain"]), (got["Certificate"], got["CertificateChain"]))
same(openssl("pkey", "-pubout", "-passin", "pass:much secret", "-in", file(out["PrivateKey"])), openssl("x509", "-noout", "-pubkey", "-in", file(got["Certificate"])))
has(refusal(acm.export_certificate, CertificateArn=arn, Passphrase=b"x"), "400 Validation")

pca.update_certificate_authority(CertificateAuthorityArn=sub, Status="DISABLED")
failed = acm.request_certificate(DomainName="b.apps.local", CertificateAuthorityArn=sub)["CertificateArn"]
same((described(failed)["Status"], described(failed)["FailureReason"]), ("FAILED", "PCA_INVALID_STATE"))
has(refusal(acm.get_certificate, CertificateArn=failed), "400 RequestInProgressException")
has(refusal(acm.renew_certificate, CertificateArn=arn), "400 ValidationException: Certificate %s was not renewed: PCA_INVALID_STATE" % arn)
pca.update_certificate_authority(CertificateAuthorityArn=sub, Status="ACTIVE")
none = acm.request_certificate(DomainName="b.apps.local", CertificateAuthorityArn=sub[:-12] + "0" * 12)["CertificateArn"]
same(described(none)["FailureReason"], "PCA_RESOURCE_NOT_FOUND")

serial = described(arn)["Serial"]
acm.renew_certificate(CertificateArn=arn)
d = described(arn)
same((d["Serial"] == serial, d["RenewalSummary"]["RenewalStatus"]), (False, "SUCCESS"))

key = openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout")
mine = openssl("req", "-x509", "-new", "-key", file(key), "-subj", "/CN=mine", "-addext", "subjectAltName=DNS:mine.local", "-days", "10")
imported = acm.import_certificate(Certificate=mine, PrivateKey=key, Tags=[dict(Key="k", Value="v")])["CertificateArn"]
d = described(imported)
same((d["Type"], d["Status"], d["DomainName"], d["SubjectAlternativeNames"], d["KeyAlgorithm"], d["RenewalEligibility"], "CreatedAt" in d), ("IMPORTED", "ISSUED", "mine", ["mine.local"], "EC_prime256v1", "INELIGIBLE", False))
same(acm.import_certificate(CertificateArn=imported, Certificate=mine, PrivateKey=key)["CertificateArn"], imported)
same(acm.list_tags_for_certificate(CertificateArn=imported)["Tags"], [dict(Key="k", Value="v")])
for how, want in (
    (dict(Certificate=got["Certificate"]), "do not match"), (dict(PrivateKey="x"), "private key is not PEM-encoded"), (dict(Certificate="x"), "certificate is not PEM-encoded"),
    (dict(CertificateChain=own(top)["Certificate"]), "did not issue the one before it"), (dict(CertificateArn=arn), "was not imported"),
    (dict(CertificateArn=imported[:-12] + "0" * 12), "ResourceNotFoundException")):
    has(refusal(acm.import_certificate, **{**dict(Certificate=mine, PrivateKey=key), **how}), want)
has(refusal(acm.export_certificate, CertificateArn=imported, Passphrase=b"secret"), "is not a private certificate")
has(refusal(acm.renew_certificate, CertificateArn=imported), "not eligible")

def listed(**how): return sorted(c["CertificateArn"] for c in acm.list_certificates(**how)["CertificateSummaryList"])
same(listed(), sorted([arn, failed, none]))
same(listed(Includes=dict(keyTypes=["EC_prime256v1"])), [imported])
same(listed(CertificateStatuses=["FAILED"]), sorted([failed, none]))
same(listed(Includes=dict(keyTypes=["RSA_2048"], extendedKeyUsage=["CODE_SIGNING"])), [])
for order in (dict(), dict(SortBy="CREATED_AT", SortOrder="DESCENDING"), dict(SortBy="CREATED_AT", SortOrder="ASCENDING")):
    pages = [p["CertificateSummaryList"] for p in acm.get_paginator("list_certificates").paginate(PaginationConfig=dict(PageSize=1), **order)]
    want = [arn, failed, none]
    same([c["CertificateArn"] for p in pages for c in p], want[::-1] if order.get("SortOrder") == "DESCENDING" else want)
acm.add_tags_to_certificate(CertificateArn=arn, Tags=[dict(Key="team", Value="b"), dict(Key="x")])
acm.remove_tags_from_certificate(CertificateArn=arn, Tags=[dict(Key="x")])
same(acm.list_tags_for_certificate(CertificateArn=arn)["Tags"], [dict(Key="team", Value="b")])

b = client("acm", key=`+resttest.Root(resttest.AccountB).Text()+`)
for operation in ("describe_certificate", "get_certificate", "delete_certificate", "renew_certificate", "list_tags_for_certificate"):
    has(refusal(getattr(b, operation), CertificateArn=arn), "AccessDeniedException")
has(refusal(b.export_certificate, CertificateArn=arn, Passphrase=b"secret"), "AccessDeniedException")
same(b.list_certificates()["CertificateSummaryList"], [])
theirs = b.request_certificate(DomainName="b.local", CertificateAuthorityArn=sub)["CertificateArn"]
same(b.describe_certificate(CertificateArn=theirs)["Certificate"]["FailureReason"], "PCA_ACCESS_DENIED")
print(arn)
`))
	arn := out[0]
	w.use(arn, used)
	w.run(t, `
arn, used = sys.argv[1:]
same(described(arn)["InUseBy"], [used])
has(refusal(acm.delete_certificate, CertificateArn=arn), "400 ResourceInUseException")
has(refusal(acm.revoke_certificate, CertificateArn=arn, RevocationReason="SUPERSEDED"), "400 ResourceInUseException")
`, arn, used)
	w.use(arn)
	w.run(t, `
arn = sys.argv[1]
acm.revoke_certificate(CertificateArn=arn, RevocationReason="KEY_COMPROMISE")
d = described(arn)
same((d["Status"], d["RevocationReason"]), ("REVOKED", "KEY_COMPROMISE"))
has(refusal(acm.revoke_certificate, CertificateArn=arn, RevocationReason="KEY_COMPROMISE"), "400 ConflictException")
has(refusal(pca.revoke_certificate, CertificateAuthorityArn=d["CertificateAuthorityArn"], CertificateSerial=d["Serial"], RevocationReason="UNSPECIFIED"), "RequestAlreadyProcessedException")
acm.delete_certificate(CertificateArn=arn)
has(refusal(acm.describe_certificate, CertificateArn=arn), "400 ResourceNotFoundException")
has(refusal(acm.describe_certificate, CertificateArn=arn + "x"), "400 InvalidArnException")
`, arn)
	w.clock.forward(20 * 24 * time.Hour)
	w.run(t, `
key = openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout")
mine = openssl("req", "-x509", "-new", "-key", file(key), "-subj", "/CN=mine", "-days", "10")
has(refusal(acm.import_certificate, Certificate=mine, PrivateKey=key), "400 ValidationException: The certificate has expired")
`)
}

// A certificate is renewed at two thirds of its life, once, by one of two replicas.
func TestRenewal(t *testing.T) {
	t.Parallel()
	w := alone(t)
	out := lines(w.run(t, `
sub = below(root(), days=60)
arn = acm.request_certificate(DomainName="a.local", CertificateAuthorityArn=sub, KeyAlgorithm="EC_prime256v1")["CertificateArn"]
print(arn)
print(sub)
`))
	arn := out[0]
	testenv.Eventually(t, "the certificate is known", func() bool {
		_, err := w.Certificate(t.Context(), root(resttest.AccountA), arn)
		return err == nil
	})
	before, err := w.Certificate(t.Context(), root(resttest.AccountA), arn)
	if err != nil {
		t.Fatal(err)
	}
	if w.Due() != 0 {
		t.Fatal("a new certificate is due")
	}
	w.clock.forward(39 * 24 * time.Hour)
	if w.Due() != 0 {
		t.Fatal("a certificate is due before two thirds of its life")
	}
	// Before it is due: the registry looks by itself, too.
	w.run(t, `pca.update_certificate_authority(CertificateAuthorityArn=sys.argv[1], Status="DISABLED")`, out[1])
	w.clock.forward(2 * 24 * time.Hour)
	w.RenewDue(t.Context())
	got := w.run(t, `
d = described(sys.argv[1])["RenewalSummary"]
print(d["RenewalStatus"], d["RenewalStatusReason"])
pca.update_certificate_authority(CertificateAuthorityArn=sys.argv[2], Status="ACTIVE")`, out...)
	if got != "FAILED PCA_INVALID_STATE" {
		t.Errorf("a renewal by an authority that is switched off: %s", got)
	}
	if !strings.Contains(w.log.String(), "its authority cannot issue") {
		t.Error("the log says nothing of a failed renewal")
	}
	testenv.Eventually(t, "a renewal that failed is not tried again at once", func() bool { return w.Due() == 0 })
	w.clock.forward(2 * time.Hour)
	w.RenewDue(t.Context())
	testenv.Eventually(t, "the certificate is renewed", func() bool {
		after, err := w.Certificate(t.Context(), root(resttest.AccountA), arn)
		return err == nil && string(after.Chain) != string(before.Chain) && w.Due() == 0
	})
}
