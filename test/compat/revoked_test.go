package compat

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// revoke makes an authority with a list of revoked certificates, issues a certificate,
// revokes it, and prints both certificates.
const revoke = `
import subprocess, sys, tempfile
import boto3
pca = boto3.client("acm-pca")
ca = pca.create_certificate_authority(
    CertificateAuthorityType="ROOT", RevocationConfiguration={"CrlConfiguration": {"Enabled": True, "ExpirationInDays": 7, "S3BucketName": "here"}},
    CertificateAuthorityConfiguration={"KeyAlgorithm": "EC_prime256v1", "SigningAlgorithm": "SHA256WITHECDSA", "Subject": {"CommonName": "root"}},
)["CertificateAuthorityArn"]

def issue(csr, template, days):
    arn = pca.issue_certificate(CertificateAuthorityArn=ca, Csr=csr, SigningAlgorithm="SHA256WITHECDSA",
                                TemplateArn="arn:aws:acm-pca:::template/" + template + "/V1", Validity={"Type": "DAYS", "Value": days})["CertificateArn"]
    pca.get_waiter("certificate_issued").wait(CertificateAuthorityArn=ca, CertificateArn=arn, WaiterConfig={"Delay": 1})
    return arn, pca.get_certificate(CertificateAuthorityArn=ca, CertificateArn=arn)["Certificate"]

csr = pca.get_certificate_authority_csr(CertificateAuthorityArn=ca)["Csr"].encode()
_, root = issue(csr, "RootCACertificate", 9)
pca.import_certificate_authority_certificate(CertificateAuthorityArn=ca, Certificate=root.encode())
with tempfile.TemporaryDirectory() as d:
    subprocess.run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", d + "/key", "-subj", "/CN=leaf", "-out", d + "/csr"], check=True, capture_output=True)
    leaf_csr = open(d + "/csr", "rb").read()
arn, leaf = issue(leaf_csr, "EndEntityCertificate", 2)
pca.revoke_certificate(CertificateAuthorityArn=ca, CertificateSerial=arn.rsplit("/", 1)[1], RevocationReason="KEY_COMPROMISE")
print(leaf)
print(root)
`

// A certificate names the list that says whether it is revoked, and the list is there
// for everybody, signed by the authority.
func TestRevokedCertificatesAreListed(t *testing.T) {
	t.Parallel()
	e := another(t, "--api-advertise", "http://crl.example.com")
	cmd := exec.CommandContext(t.Context(), tool(t, "python"), "-c", revoke)
	cmd.Env = environment(t, home(t, e.wrong), e)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	var certificates []*x509.Certificate
	for block, rest := pem.Decode(out); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certificates = append(certificates, c)
	}
	if len(certificates) != 2 || len(certificates[0].CRLDistributionPoints) != 1 {
		t.Fatalf("got %s", out)
	}
	leaf, root := certificates[0], certificates[1]
	path, found := strings.CutPrefix(leaf.CRLDistributionPoints[0], "http://crl.example.com/evermesh/crl/")
	if !found {
		t.Fatalf("the list is at %s", leaf.CRLDistributionPoints[0])
	}
	get := func(path string) (int, []byte) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.url+"/evermesh/crl/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body
	}
	status, body := get(path)
	list, err := x509.ParseRevocationList(body)
	if err != nil {
		t.Fatalf("%d %.200s: %v", status, body, err)
	}
	if err := list.CheckSignatureFrom(root); err != nil {
		t.Error(err)
	}
	if n := len(list.RevokedCertificateEntries); n != 1 || list.RevokedCertificateEntries[0].SerialNumber.Cmp(leaf.SerialNumber) != 0 {
		t.Errorf("the list has %d certificates", n)
	}
	if status, _ := get("none"); status != http.StatusNotFound {
		t.Errorf("a list that is not there: %d", status)
	}
}
