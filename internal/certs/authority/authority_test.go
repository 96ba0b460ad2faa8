package authority_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/certs/authority"
)

// now is the time of these tests; OpenSSL goes by the real one.
var now = time.Now().UTC().Truncate(time.Second)

func openssl(t *testing.T, input []byte, args ...string) string {
	t.Helper()
	program, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatalf("these tests need openssl: %v", err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func write(t *testing.T, name string, parts ...[]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, bytes.Join(parts, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func parse(t *testing.T, arn string) authority.Template {
	t.Helper()
	template, err := authority.ParseTemplate("aws", arn)
	if err != nil {
		t.Fatal(err)
	}
	return template
}

func named(name string) string { return "arn:aws:acm-pca:::template/" + name + "/V1" }

type made struct {
	authority.Authority
	pem []byte
}

// order is one that test cases change.
func order(t *testing.T, csr []byte, template string) authority.Order {
	t.Helper()
	request, err := authority.ParseRequest(csr)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := authority.NewSerial()
	if err != nil {
		t.Fatal(err)
	}
	return authority.Order{
		Request: request, Template: parse(t, named(template)), Signing: pcaapi.SigningAlgorithmSha256withecdsa,
		Serial: serial, Now: now, NotAfter: now.Add(24 * time.Hour),
	}
}

func newKey(t *testing.T, algorithm pcaapi.KeyAlgorithm) crypto.Signer {
	t.Helper()
	key, err := authority.NewKey(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newAuthority makes an authority of which by is the parent; nil makes a root.
func newAuthority(t *testing.T, by *made, name, template string, life time.Duration, algorithm pcaapi.KeyAlgorithm, signing, parentSigning pcaapi.SigningAlgorithm) *made {
	t.Helper()
	key := newKey(t, algorithm)
	csr, err := authority.AuthorityRequest(pcaapi.CertificateAuthorityConfiguration{
		KeyAlgorithm: algorithm, SigningAlgorithm: signing, Subject: authority.CommonName(name),
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	o := order(t, csr, template)
	o.Signing, o.NotAfter = parentSigning, now.Add(life)
	issuer := authority.Authority{Key: key}
	if by != nil {
		issuer = by.Authority
	}
	der, err := authority.Issue(issuer, o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &made{authority.Authority{Certificate: c, Key: key}, authority.PEM(der)}
}

func newRoot(t *testing.T) *made {
	t.Helper()
	return newAuthority(t, nil, "root", "RootCACertificate", 100*24*time.Hour, pcaapi.KeyAlgorithmEcPrime256v1, pcaapi.SigningAlgorithmSha256withecdsa, pcaapi.SigningAlgorithmSha256withecdsa)
}

func TestHierarchies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key     pcaapi.KeyAlgorithm
		signing pcaapi.SigningAlgorithm
	}{
		{pcaapi.KeyAlgorithmRsa2048, pcaapi.SigningAlgorithmSha256withrsa},
		{pcaapi.KeyAlgorithmRsa2048, pcaapi.SigningAlgorithmSha384withrsaPss},
		{pcaapi.KeyAlgorithmRsa4096, pcaapi.SigningAlgorithmSha512withrsa},
		{pcaapi.KeyAlgorithmEcPrime256v1, pcaapi.SigningAlgorithmSha256withecdsa},
		{pcaapi.KeyAlgorithmEcSecp384r1, pcaapi.SigningAlgorithmSha384withecdsa},
	} {
		t.Run(string(c.key)+" "+string(c.signing)+": OpenSSL takes root, issuing authority and certificate", func(t *testing.T) {
			t.Parallel()
			root := newAuthority(t, nil, "root", "RootCACertificate", 100*24*time.Hour, c.key, c.signing, c.signing)
			issuing := newAuthority(t, root, "issuing", "SubordinateCACertificate_PathLen0", 50*24*time.Hour, pcaapi.KeyAlgorithmEcPrime256v1, pcaapi.SigningAlgorithmSha256withecdsa, c.signing)
			csr, err := authority.Request([]string{"orders.apps.local", "*.orders.apps.local"}, newKey(t, c.key))
			if err != nil {
				t.Fatal(err)
			}
			der, err := authority.Issue(issuing.Authority, order(t, csr, "EndEntityCertificate"))
			if err != nil {
				t.Fatal(err)
			}
			out := openssl(t, nil, "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "orders.apps.local",
				"-CAfile", write(t, "root.pem", root.pem), "-untrusted", write(t, "issuing.pem", issuing.pem), write(t, "leaf.pem", authority.PEM(der)))
			if !strings.Contains(out, "OK") {
				t.Error(out)
			}
		})
	}
}

// A template decides what comes from where; OpenSSL says what came.
func TestTemplates(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	key := newKey(t, pcaapi.KeyAlgorithmEcPrime256v1)
	csr, err := authority.Request([]string{"a.local"}, key)
	if err != nil {
		t.Fatal(err)
	}
	b, yes := "b.local", true
	through := &pcaapi.APIPassthrough{
		Subject: &pcaapi.ASN1Subject{CommonName: &b, Country: "DE"},
		Extensions: &pcaapi.Extensions{
			SubjectAlternativeNames: []pcaapi.GeneralName{{UniformResourceIdentifier: new("spiffe://a/b")}, {IPAddress: new("10.0.0.1")}, {DNSName: &b}},
			KeyUsage:                &pcaapi.KeyUsage{KeyAgreement: &yes},
			ExtendedKeyUsage:        []pcaapi.ExtendedKeyUsage{{ExtendedKeyUsageType: pcaapi.ExtendedKeyUsageTypeOcspSigning}},
			CertificatePolicies:     []pcaapi.PolicyInformation{{CertPolicyID: "1.2.3.4", PolicyQualifiers: []pcaapi.PolicyQualifierInfo{{Qualifier: pcaapi.Qualifier{CpsURI: "https://x.test/cps"}}}}},
			CustomExtensions:        []pcaapi.CustomExtension{{ObjectIdentifier: "1.3.6.1.4.1.5", Value: base64.StdEncoding.EncodeToString([]byte{5, 0})}},
		},
	}
	for _, c := range []struct {
		template    string
		through     *pcaapi.APIPassthrough
		has, hasNot []string
	}{
		{"EndEntityCertificate", nil, []string{"CN = a.local", "DNS:a.local", "Digital Signature, Key Encipherment", "TLS Web Server Authentication, TLS Web Client Authentication", "CA:FALSE", "URI:http://crl.test/x.crl"}, nil},
		{"EndEntityClientAuthCertificate", nil, []string{"TLS Web Client Authentication"}, []string{"TLS Web Server Authentication"}},
		{"EndEntityServerAuthCertificate", nil, []string{"TLS Web Server Authentication"}, []string{"TLS Web Client Authentication"}},
		{"CodeSigningCertificate", nil, []string{"Code Signing"}, []string{"Key Encipherment"}},
		{"EndEntityCertificate_APIPassthrough", through, []string{"CN = b.local", "C = DE", "URI:spiffe://a/b, IP Address:10.0.0.1, DNS:b.local", "Digital Signature, Key Encipherment", "1.2.3.4", "https://x.test/cps", "1.3.6.1.4.1.5"}, []string{"Key Agreement", "a.local", "OCSP Signing"}},
		{"BlankEndEntityCertificate_APIPassthrough", through, []string{"CN = b.local", "Key Agreement", "OCSP Signing", "CA:FALSE"}, []string{"Digital Signature", "a.local"}},
		{"BlankEndEntityCertificate_CSRPassthrough", nil, []string{"CN = a.local", "DNS:a.local"}, []string{"Key Usage"}},
		{"BlankEndEntityCertificate_CriticalBasicConstraints_APICSRPassthrough", nil, []string{"Basic Constraints: critical", "DNS:a.local"}, []string{"Key Usage"}},
		{"SubordinateCACertificate_PathLen2", nil, []string{"CA:TRUE, pathlen:2", "Certificate Sign, CRL Sign"}, []string{"DNS:"}},
		{"BlankSubordinateCACertificate_PathLen1_APIPassthrough", nil, []string{"CA:TRUE, pathlen:1"}, []string{"Key Usage"}},
	} {
		t.Run(c.template, func(t *testing.T) {
			t.Parallel()
			o := order(t, csr, c.template)
			o.Passthrough, o.CRL = c.through, "http://crl.test/x.crl"
			der, err := authority.Issue(root.Authority, o)
			if err != nil {
				t.Fatal(err)
			}
			out := openssl(t, authority.PEM(der), "x509", "-noout", "-text")
			for _, want := range c.has {
				if !strings.Contains(out, want) {
					t.Errorf("want %q in\n%s", want, out)
				}
			}
			for _, not := range c.hasNot {
				if strings.Contains(out, not) {
					t.Errorf("want no %q in\n%s", not, out)
				}
			}
		})
	}
}

func TestTemplateNames(t *testing.T) {
	t.Parallel()
	if got := parse(t, "").Name; got != "EndEntityCertificate" {
		t.Errorf("no template is %s", got)
	}
	for _, arn := range []string{
		"EndEntityCertificate", "arn:aws:acm-pca:::template/EndEntityCertificate", named("EndEntityCertificate") + "0",
		"arn:aws:acm-pca:::template/EndEntityCertificate/V2", named("BlankEndEntityCertificate"), named("None"), named("RootCACertificate_CSRPassthrough"),
		"arn:aws:iam:::template/EndEntityCertificate/V1", named("EndEntityCertificate_Passthrough"), named("SubordinateCACertificate_PathLen4"),
	} {
		if _, err := authority.ParseTemplate("aws", arn); err == nil {
			t.Errorf("%q is taken for a template", arn)
		}
	}
}

func TestOrdersThatAreRefused(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	below := newAuthority(t, root, "below", "SubordinateCACertificate_PathLen0", 50*24*time.Hour, pcaapi.KeyAlgorithmEcPrime256v1, pcaapi.SigningAlgorithmSha256withecdsa, pcaapi.SigningAlgorithmSha256withecdsa)
	csr, err := authority.Request([]string{"a.local"}, newKey(t, pcaapi.KeyAlgorithmEcPrime256v1))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, template, says string
		by                   authority.Authority
		change               func(o *authority.Order)
	}{
		{"a life longer than the authority's", "EndEntityCertificate", "exceeds the certificate authority validity", root.Authority, func(o *authority.Order) { o.NotAfter = now.AddDate(1, 0, 0) }},
		{"a life that is over", "EndEntityCertificate", "before it begins", root.Authority, func(o *authority.Order) { o.NotAfter = now.Add(-time.Minute) }},
		{"an authority below the last one", "SubordinateCACertificate_PathLen0", "there may be 0", below.Authority, nil},
		{"a passthrough that the template has not", "EndEntityCertificate", "passes nothing", root.Authority, func(o *authority.Order) { o.Passthrough = &pcaapi.APIPassthrough{} }},
		{"a root certificate of another key", "RootCACertificate", "own request", root.Authority, nil},
		{"another certificate than its own by an authority that has none", "EndEntityCertificate", "only its own", authority.Authority{Key: root.Key}, nil},
		{"a name that is none", "EndEntityCertificate_APIPassthrough", "no IP address", root.Authority, func(o *authority.Order) {
			o.Passthrough = &pcaapi.APIPassthrough{Extensions: &pcaapi.Extensions{SubjectAlternativeNames: []pcaapi.GeneralName{{IPAddress: new("nowhere")}}}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := order(t, csr, c.template)
			if c.change != nil {
				c.change(&o)
			}
			if _, err := authority.Issue(c.by, o); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	root := newRoot(t)
	csr, err := authority.Request([]string{"a.local"}, newKey(t, pcaapi.KeyAlgorithmEcPrime256v1))
	if err != nil {
		t.Fatal(err)
	}
	good, bad := order(t, csr, "EndEntityCertificate"), order(t, csr, "EndEntityCertificate")
	list, err := authority.List(root.Authority, pcaapi.SigningAlgorithmSha256withecdsa, 7, now, now.Add(time.Hour),
		[]authority.Revoked{{Serial: bad.Serial, At: now, Reason: pcaapi.RevocationReasonKeyCompromise}})
	if err != nil {
		t.Fatal(err)
	}
	crl := []byte(openssl(t, list, "crl", "-inform", "DER"))
	trust := write(t, "trust.pem", root.pem, crl)
	for _, c := range []struct {
		order authority.Order
		says  string
	}{{good, "OK"}, {bad, "certificate revoked"}} {
		der, err := authority.Issue(root.Authority, c.order)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := exec.Command("openssl", "verify", "-crl_check", "-CAfile", trust, write(t, "leaf.pem", authority.PEM(der))).CombinedOutput()
		if !strings.Contains(string(out), c.says) {
			t.Errorf("want %q: %s", c.says, out)
		}
	}
	if out := openssl(t, list, "crl", "-inform", "DER", "-noout", "-text"); !strings.Contains(out, "Key Compromise") || !strings.Contains(out, "X509v3 CRL Number: \n                7") {
		t.Error(out)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []pcaapi.KeyAlgorithm{pcaapi.KeyAlgorithmRsa2048, pcaapi.KeyAlgorithmEcPrime256v1, pcaapi.KeyAlgorithmEcSecp521r1} {
		key := newKey(t, algorithm)
		if got := authority.KeyAlgorithm(key.Public()); got != algorithm {
			t.Errorf("a key of %s is one of %s", algorithm, got)
		}
		plain, err := authority.MarshalKey(key)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := authority.EncryptKey(key, []byte("much secret"))
		if err != nil {
			t.Fatal(err)
		}
		opened := openssl(t, sealed, "pkey", "-passin", "pass:much secret")
		if opened != string(plain) {
			t.Errorf("%s: OpenSSL opens another key", algorithm)
		}
		for _, form := range []string{opened, openssl(t, plain, "pkey", "-traditional")} {
			if again, err := authority.ParseKey([]byte(form)); err != nil || !authority.SameKey(again.Public(), key.Public()) {
				t.Errorf("%s: %v", algorithm, err)
			}
		}
		if _, err := authority.ParseKey(sealed); err == nil {
			t.Error("an encrypted key was read")
		}
		forms := [][]byte{sealed}
		for _, cipher := range []string{"aes-128-cbc", "aes-256-cbc", "des-ede3-cbc"} {
			forms = append(forms, []byte(openssl(t, plain, "pkcs8", "-topk8", "-v2", cipher, "-passout", "pass:much secret")),
				[]byte(openssl(t, plain, "pkcs8", "-topk8", "-v2", cipher, "-v2prf", "hmacWithSHA1", "-passout", "pass:much secret")))
		}
		for _, form := range forms {
			if again, err := authority.DecryptKey(form, []byte("much secret")); err != nil || !authority.SameKey(again.Public(), key.Public()) {
				t.Errorf("%s: %v", algorithm, err)
			}
			if _, err := authority.DecryptKey(form, []byte("little secret")); err == nil {
				t.Error("a key was opened by another passphrase")
			}
		}
	}
	if _, err := authority.NewKey(pcaapi.KeyAlgorithmSm2); err == nil {
		t.Error("a key of SM2 was made")
	}
	for _, c := range []struct {
		key     pcaapi.KeyAlgorithm
		signing pcaapi.SigningAlgorithm
	}{{pcaapi.KeyAlgorithmRsa2048, pcaapi.SigningAlgorithmSha256withecdsa}, {pcaapi.KeyAlgorithmEcPrime256v1, pcaapi.SigningAlgorithmSha256withrsa}, {pcaapi.KeyAlgorithmSm2, pcaapi.SigningAlgorithmSm3withsm2}} {
		if authority.Fits(c.key, c.signing) == nil {
			t.Errorf("%s signs by %s", c.key, c.signing)
		}
	}
}

func TestValidity(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		v    pcaapi.Validity
		want string
	}{
		{pcaapi.Validity{Type: pcaapi.ValidityPeriodTypeDays, Value: 30}, "2026-03-02T12:00:00Z"},
		{pcaapi.Validity{Type: pcaapi.ValidityPeriodTypeMonths, Value: 13}, "2027-03-03T12:00:00Z"},
		{pcaapi.Validity{Type: pcaapi.ValidityPeriodTypeYears, Value: 10}, "2036-01-31T12:00:00Z"},
		{pcaapi.Validity{Type: pcaapi.ValidityPeriodTypeAbsolute, Value: 1900000000}, "2030-03-17T17:46:40Z"},
		{pcaapi.Validity{Type: pcaapi.ValidityPeriodTypeEndDate, Value: 20301231235959}, "2030-12-31T23:59:59Z"},
		{pcaapi.Validity{Type: pcaapi.ValidityPeriodTypeEndDate, Value: 301231235959}, "2030-12-31T23:59:59Z"},
		{pcaapi.Validity{Type: pcaapi.ValidityPeriodTypeEndDate, Value: 20301331235959}, ""},
		{pcaapi.Validity{Type: pcaapi.ValidityPeriodTypeDays, Value: 0}, ""},
		{pcaapi.Validity{Type: pcaapi.ValidityPeriodTypeYears, Value: 1 << 40}, ""},
		{pcaapi.Validity{Type: pcaapi.ValidityPeriodTypeAbsolute, Value: -1}, ""},
	} {
		got, err := authority.End(c.v, at)
		if (err != nil) != (c.want == "") || err == nil && got.Format(time.RFC3339) != c.want {
			t.Errorf("%d %s: got %s, %v, want %q", c.v.Value, c.v.Type, got, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMA==\n-----END CERTIFICATE REQUEST-----\n"), "1.2.3")
	f.Fuzz(func(_ *testing.T, text []byte, name string) {
		_, _ = authority.ParseRequest(text)
		_, _ = authority.ParseKey(text)
		_, _ = authority.DecryptKey(text, []byte(name))
		_, _ = authority.ParseCertificates(text)
		_, _ = authority.ParseSerial(name)
		_, _ = authority.ParseTemplate("aws", name)
		if der, err := authority.Subject(pcaapi.ASN1Subject{CustomAttributes: []pcaapi.CustomAttribute{{ObjectIdentifier: name, Value: "x"}}}); err == nil {
			if _, err := asn1.Unmarshal(der, new(asn1.RawValue)); err != nil {
				panic(err)
			}
		}
	})
}
