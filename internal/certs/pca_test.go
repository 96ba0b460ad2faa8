package certs_test

import (
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/certs"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// The story of an authority, told by boto3; OpenSSL says what became of it.
func TestAuthorities(t *testing.T) {
	t.Parallel()
	w := alone(t)
	out := w.run(t, `
top = created("top", "ROOT", IdempotencyToken="one", Tags=[dict(Key="team", Value="a")])
same(created("top", "ROOT", IdempotencyToken="one", Tags=[dict(Key="team", Value="a")]), top)
same(state(top), "PENDING_CERTIFICATE")
has(openssl("req", "-noout", "-verify", "-text", input=pca.get_certificate_authority_csr(CertificateAuthorityArn=top)["Csr"].encode()), "CN = top")
has(refusal(own, arn=top), "400 InvalidStateException: The certificate authority %s is not in the correct state" % top)

other = openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout")
csr = openssl("req", "-new", "-key", file(other), "-subj", "/CN=a.local", "-addext", "subjectAltName=DNS:a.local")
has(refusal(issued, arn=top, csr=csr, name="EndEntityCertificate", days=1), "InvalidArgsException: The authority has no certificate yet")
_, got = issued(top, pca.get_certificate_authority_csr(CertificateAuthorityArn=top)["Csr"], "RootCACertificate", 3650)
stranger = openssl("req", "-x509", "-new", "-key", file(other), "-subj", "/CN=top")
load = pca.import_certificate_authority_certificate
has(refusal(load, CertificateAuthorityArn=top, Certificate=stranger), "400 CertificateMismatchException")
has(refusal(load, CertificateAuthorityArn=top, Certificate="no"), "400 MalformedCertificateException")
has(refusal(load, CertificateAuthorityArn=top, Certificate=got["Certificate"], CertificateChain=stranger), "400 InvalidRequestException")
load(CertificateAuthorityArn=top, Certificate=got["Certificate"])
same(state(top), "ACTIVE")

sub = below(top)
has(refusal(load, CertificateAuthorityArn=sub, Certificate=own(sub)["Certificate"]), "needs its certificate chain")
d = pca.describe_certificate_authority(CertificateAuthorityArn=sub)["CertificateAuthority"]
same((d["Type"], d["OwnerAccount"], d["UsageMode"], d["CertificateAuthorityConfiguration"]["Subject"]["CommonName"]), ("SUBORDINATE", "111111111111", "GENERAL_PURPOSE", "issuing"))
same(sorted(a["Arn"] for a in pca.list_certificate_authorities()["CertificateAuthorities"]), sorted([top, sub]))
first = pca.list_certificate_authorities(MaxResults=1)
second = pca.list_certificate_authorities(MaxResults=1, NextToken=first["NextToken"])
same(sorted(a["Arn"] for a in first["CertificateAuthorities"] + second["CertificateAuthorities"]), sorted([top, sub]))
same("NextToken" in second, False)
has(refusal(pca.list_certificate_authorities, NextToken="?"), "InvalidNextTokenException")
same(pca.list_certificate_authorities(ResourceOwner="OTHER_ACCOUNTS")["CertificateAuthorities"], [])

arn, got = issued(sub, csr, "EndEntityCertificate", 30, IdempotencyToken="x")
same(issued(sub, csr, "EndEntityCertificate", 30, IdempotencyToken="x")[0], arn)
has(openssl("verify", "-x509_strict", "-verify_hostname", "a.local", "-CAfile", file(own(top)["Certificate"]), "-untrusted", file(got["CertificateChain"]), file(got["Certificate"])), "OK")
serial = openssl("x509", "-noout", "-serial", input=got["Certificate"].encode()).strip().split("=")[1].lower()
same(arn, sub + "/certificate/" + serial)
_, passed = issued(sub, csr, "EndEntityCertificate_APIPassthrough", 1, ApiPassthrough=dict(Subject=dict(CommonName="b"), Extensions=dict(SubjectAlternativeNames=[dict(UniformResourceIdentifier="spiffe://a/b")])))
has(openssl("x509", "-noout", "-text", input=passed["Certificate"].encode()), "URI:spiffe://a/b")
for how, want in (
    (dict(days=5000), "InvalidArgsException: The certificate validity specified exceeds the certificate authority validity"),
    (dict(signing="SHA256WITHRSA"), "InvalidArgsException: SigningAlgorithm"), (dict(csr="x"), "MalformedCSRException"),
    (dict(name="None"), "InvalidArgsException: TemplateArn: there is no template None"), (dict(name="SubordinateCACertificate_PathLen0"), "InvalidArgsException: Below this authority"),
    (dict(arn=sub[:-1] + "x"), "InvalidArnException"), (dict(arn=sub[:-12] + "0" * 12), "ResourceNotFoundException")):
    has(refusal(issued, **{**dict(arn=sub, csr=csr, name="EndEntityCertificate", days=1), **how}), want)

short = below(top, "short", UsageMode="SHORT_LIVED_CERTIFICATE")
has(refusal(issued, arn=short, csr=csr, name="EndEntityCertificate", days=8), "at most 7 days")
issued(short, csr, "EndEntityCertificate", 6)
has(refusal(created, name="x", kind="ROOT", key="RSA_2048"), "InvalidArgsException")
has(refusal(created, name="x", kind="ROOT", key="SM2", signing="SM3WITHSM2"), "InvalidArgsException")
has(refusal(created, name="x", kind="ROOT", RevocationConfiguration=dict(OcspConfiguration=dict(Enabled=True))), "OCSP is not offered")
has(refusal(created, name="x", kind="NONE"), "400 Validation")

permit = dict(CertificateAuthorityArn=sub, Principal="acm.amazonaws.com")
pca.create_permission(Actions=["IssueCertificate", "GetCertificate", "ListPermissions"], **permit)
has(refusal(pca.create_permission, Actions=["IssueCertificate"], **permit), "PermissionAlreadyExistsException")
same(pca.list_permissions(CertificateAuthorityArn=sub)["Permissions"][0]["Actions"], ["IssueCertificate", "GetCertificate", "ListPermissions"])
pca.delete_permission(**permit)
has(refusal(pca.delete_permission, **permit), "ResourceNotFoundException")

pca.tag_certificate_authority(CertificateAuthorityArn=top, Tags=[dict(Key="env", Value="p"), dict(Key="team", Value="b")])
same({t["Key"]: t["Value"] for t in pca.list_tags(CertificateAuthorityArn=top)["Tags"]}, dict(team="b", env="p"))
pca.untag_certificate_authority(CertificateAuthorityArn=top, Tags=[dict(Key="team", Value="a"), dict(Key="env")])
same(pca.list_tags(CertificateAuthorityArn=top)["Tags"], [dict(Key="team", Value="b")])
has(refusal(pca.tag_certificate_authority, CertificateAuthorityArn=top, Tags=[dict(Key="aws:x", Value="")]), "InvalidTagException")
has(refusal(pca.tag_certificate_authority, CertificateAuthorityArn=top, Tags=[dict(Key=str(i), Value="") for i in range(50)]), "TooManyTagsException")

has(refusal(pca.delete_certificate_authority, CertificateAuthorityArn=sub), "InvalidStateException")
pca.update_certificate_authority(CertificateAuthorityArn=sub, Status="DISABLED")
has(refusal(issued, arn=sub, csr=csr, name="EndEntityCertificate", days=1), "InvalidStateException")
own(sub)
pca.update_certificate_authority(CertificateAuthorityArn=sub, Status="ACTIVE")
issued(sub, csr, "EndEntityCertificate", 1)
pca.update_certificate_authority(CertificateAuthorityArn=sub, Status="DISABLED")
pca.delete_certificate_authority(CertificateAuthorityArn=sub, PermanentDeletionTimeInDays=7)
d = pca.describe_certificate_authority(CertificateAuthorityArn=sub)["CertificateAuthority"]
same((d["Status"], (d["RestorableUntil"] - d["LastStateChangeAt"]).days), ("DELETED", 7))
has(refusal(own, arn=sub), "InvalidStateException")
has(refusal(pca.update_certificate_authority, CertificateAuthorityArn=sub, Status="ACTIVE"), "InvalidStateException")
pca.restore_certificate_authority(CertificateAuthorityArn=sub)
same(state(sub), "DISABLED")

b = client("acm-pca", key=`+resttest.Root(resttest.AccountB).Text()+`)
for operation in ("describe_certificate_authority", "get_certificate_authority_certificate", "get_certificate_authority_csr", "delete_certificate_authority", "restore_certificate_authority", "list_tags"):
    has(refusal(getattr(b, operation), CertificateAuthorityArn=top), "AccessDeniedException")
same(b.list_certificate_authorities()["CertificateAuthorities"], [])
print("done")
`)
	if out != "done" {
		t.Error(out)
	}
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	w := alone(t)
	out := w.run(t, `
top = root()
sub = below(top, RevocationConfiguration=dict(CrlConfiguration=dict(Enabled=True, ExpirationInDays=3, S3BucketName="none")))
csr = openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=a.local").split("-----BEGIN CERTIFICATE REQUEST")[1]
csr = "-----BEGIN CERTIFICATE REQUEST" + csr
good, bad = issued(sub, csr, "EndEntityCertificate", 30), issued(sub, csr, "EndEntityCertificate", 30)
serial = openssl("x509", "-noout", "-serial", input=bad[1]["Certificate"].encode()).strip().split("=")[1]
serial = ":".join(serial[i:i+2] for i in range(0, len(serial), 2)).lower()
revoke = dict(CertificateAuthorityArn=sub, CertificateSerial=serial, RevocationReason="KEY_COMPROMISE")
pca.revoke_certificate(**revoke)
has(refusal(pca.revoke_certificate, **revoke), "RequestAlreadyProcessedException")
has(refusal(pca.revoke_certificate, CertificateAuthorityArn=sub, CertificateSerial="01:02", RevocationReason="UNSPECIFIED"), "ResourceNotFoundException")
has(refusal(pca.revoke_certificate, CertificateAuthorityArn=sub, CertificateSerial="zz", RevocationReason="UNSPECIFIED"), "InvalidRequestException")
me = openssl("x509", "-noout", "-serial", input=own(top)["Certificate"].encode()).strip().split("=")[1]
has(refusal(pca.revoke_certificate, CertificateAuthorityArn=top, CertificateSerial=me, RevocationReason="UNSPECIFIED"), "InvalidRequestException: A self-signed")
print(sub.split("/")[1], file(own(top)["Certificate"]), file(own(sub)["Certificate"]), file(good[1]["Certificate"]), file(bad[1]["Certificate"]))
`)
	f := strings.Fields(out)
	name := resttest.AccountA + "/" + f[0] + ".crl"
	if text := openssl(t, nil, "x509", "-noout", "-text", "-in", f[3]); !strings.Contains(text, "URI:http://crl.test/evermesh/crl/"+name) {
		t.Errorf("the certificate names no list: %s", text)
	}
	list, err := w.CRL(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.CRL(t.Context(), name)
	if err != nil || string(again) != string(list) {
		t.Errorf("a list is signed for each question: %v", err)
	}
	text := openssl(t, list, "crl", "-inform", "DER", "-noout", "-text", "-CAfile", f[2])
	if !strings.Contains(text, "Key Compromise") || !strings.Contains(text, "verify OK") {
		t.Error(text)
	}
	crl := filepath.Join(t.TempDir(), "crl.pem")
	openssl(t, list, "crl", "-inform", "DER", "-out", crl)
	verify := []string{"verify", "-crl_check", "-CAfile", f[1], "-untrusted", f[2], "-CRLfile", crl}
	if text := openssl(t, nil, append(verify, f[3])...); !strings.Contains(text, "OK") {
		t.Error(text)
	}
	if text := failing(t, append(verify, f[4])...); !strings.Contains(text, "certificate revoked") {
		t.Error(text)
	}
	for _, name := range []string{"", "x", resttest.AccountB + "/" + f[0] + ".crl", resttest.AccountA + "/" + f[0], resttest.AccountA + "/../" + f[0] + ".crl"} {
		if _, err := w.CRL(t.Context(), name); !errors.Is(err, certs.ErrNoList) {
			t.Errorf("list %q: %v", name, err)
		}
	}
	w.run(t, `pca.update_certificate_authority(CertificateAuthorityArn=sys.argv[1], RevocationConfiguration=dict(CrlConfiguration=dict(Enabled=False)))`,
		"arn:aws:acm-pca:us-east-1:"+resttest.AccountA+":certificate-authority/"+f[0])
	if _, err := w.CRL(t.Context(), name); !errors.Is(err, certs.ErrNoList) {
		t.Errorf("a list that is switched off: %v", err)
	}
}

// A master key that changes takes all keys along.
func TestKeysAreSealed(t *testing.T) {
	t.Parallel()
	data, file := storetest.New(t), filepath.Join(t.TempDir(), "master-key")
	w := newWorld(t, data, file)
	out := lines(w.run(t, `
top = root()
arn = acm.request_certificate(DomainName="a.local", CertificateAuthorityArn=top)["CertificateArn"]
print(top)
print(arn)
print(base64.b64encode(acm.export_certificate(CertificateArn=arn, Passphrase=b"secret")["PrivateKey"].encode()).decode())
`))
	n, err := w.box.Rotate(t.Context(), []seal.Place{certs.Place()}, seal.RotateOptions{Alone: true, Say: func(string) {}})
	if err != nil || n != 2 {
		t.Fatalf("%d keys were sealed anew, want 2: %v", n, err)
	}
	// Another process, which has the new key alone.
	again := newWorld(t, data, file)
	again.run(t, `
acm.export_certificate(CertificateArn=sys.argv[2], Passphrase=b"secret")
acm.renew_certificate(CertificateArn=sys.argv[2])
`, out...)
	rows, err := data.Read(t.Context(), "")
	if err != nil || len(rows) < 5 {
		t.Fatal(len(rows), err)
	}
	for key, value := range rows {
		if strings.Contains(string(value), "PRIVATE KEY") {
			t.Errorf("a key lies open in %s", key)
		}
	}
}

// What is sealed with a master key that is lost is refused in words, and listed as it was.
func TestKeysOfALostMasterKey(t *testing.T) {
	t.Parallel()
	data := storetest.New(t)
	w := newWorld(t, data, filepath.Join(t.TempDir(), "master-key"))
	out := lines(w.run(t, `
top = root()
print(top)
print(acm.request_certificate(DomainName="a.local", CertificateAuthorityArn=top)["CertificateArn"])
`))
	// As after a restore without accounts.
	records, _, err := data.Records(t.Context(), "service/certs/")
	if err != nil {
		t.Fatal(err)
	}
	restored := storetest.New(t)
	for _, r := range records {
		at := strings.Split(r.Key, "/")
		_, err := restored.Update(t.Context(), []store.Scope{store.ServiceScope("certs", at[2:len(at)-1]...)}, func(tx *store.Tx) error {
			var members map[string]json.RawMessage
			if err := json.Unmarshal(r.Body, &members); err != nil {
				return err
			}
			tx.PutRecord(store.Type{Name: r.Type, Schema: r.Schema, Members: slices.Sorted(maps.Keys(members))}, r.Key, r.Body)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	newWorld(t, restored, filepath.Join(t.TempDir(), "another-key")).run(t, `
top, arn = sys.argv[1:]
assert pca.describe_certificate_authority(CertificateAuthorityArn=top)["CertificateAuthority"]["Status"] == "ACTIVE"
has(refusal(acm.export_certificate, CertificateArn=arn, Passphrase=b"secret"), "400 ValidationException: The private key of this certificate is sealed with a master key that the control plane does not have")
has(refusal(issued, arn=top, csr=subprocess.run(("openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", "/dev/null"), capture_output=True).stdout, name="EndEntityCertificate", days=1), "400 InvalidStateException: The private key of this certificate authority is sealed with a master key")
failed = acm.describe_certificate(CertificateArn=acm.request_certificate(DomainName="b.local", CertificateAuthorityArn=top)["CertificateArn"])["Certificate"]
assert failed["Status"] == "FAILED", failed
`, out...)
}
