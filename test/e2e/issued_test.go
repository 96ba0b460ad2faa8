//go:build linux

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/test/stage"
)

// amz does an operation of a service that speaks JSON, as the account's root, and returns its answer.
func (m *mesh) amz(service, target string, input map[string]any) map[string]any {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	facts, err := client.ReadFacts(m.control.DataDir)
	if err != nil {
		m.t.Fatal(err)
	}
	body, err := json.Marshal(input)
	if err != nil {
		m.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, facts.APIEndpoint+"/", strings.NewReader(string(body)))
	if err != nil {
		m.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", target)
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, m.control.Key, r, hex.EncodeToString(sum[:]), service, facts.Region, time.Now()); err != nil {
		m.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		m.t.Fatalf("%s %s: %s %s %v", target, body, resp.Status, text, err)
	}
	out := map[string]any{}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &out); err != nil {
			m.t.Fatal(err)
		}
	}
	return out
}

func (m *mesh) pca(operation string, input map[string]any) map[string]any {
	m.t.Helper()
	return m.amz("acm-pca", "ACMPrivateCA."+operation, input)
}

func (m *mesh) acm(operation string, input map[string]any) map[string]any {
	m.t.Helper()
	return m.amz("acm", "CertificateManager."+operation, input)
}

// authority makes a root, or an issuing authority below one.
func (m *mesh) authority(name, below string) (arn string) {
	m.t.Helper()
	kind, by, template := "ROOT", "", "RootCACertificate"
	if below != "" {
		kind, by, template = "SUBORDINATE", below, "SubordinateCACertificate_PathLen0"
	}
	arn = m.pca("CreateCertificateAuthority", map[string]any{
		"CertificateAuthorityType": kind, "CertificateAuthorityConfiguration": map[string]any{
			"KeyAlgorithm": "EC_prime256v1", "SigningAlgorithm": "SHA256WITHECDSA", "Subject": map[string]any{"CommonName": name},
		},
	})["CertificateAuthorityArn"].(string)
	if by == "" {
		by = arn
	}
	csr := m.pca("GetCertificateAuthorityCsr", map[string]any{"CertificateAuthorityArn": arn})["Csr"].(string)
	got := m.issue(by, template, []byte(csr), map[string]any{"Type": "YEARS", "Value": map[string]int{"ROOT": 10, "SUBORDINATE": 5}[kind]})
	in := map[string]any{"CertificateAuthorityArn": arn, "Certificate": []byte(got["Certificate"].(string))}
	if chain, ok := got["CertificateChain"].(string); ok {
		in["CertificateChain"] = []byte(chain)
	}
	m.pca("ImportCertificateAuthorityCertificate", in)
	return arn
}

func (m *mesh) issue(by, template string, csr []byte, validity map[string]any) map[string]any {
	m.t.Helper()
	made := m.pca("IssueCertificate", map[string]any{
		"CertificateAuthorityArn": by, "Csr": csr, "SigningAlgorithm": "SHA256WITHECDSA", "TemplateArn": "arn:aws:acm-pca:::template/" + template + "/V1", "Validity": validity,
	})["CertificateArn"]
	return m.pca("GetCertificate", map[string]any{"CertificateAuthorityArn": by, "CertificateArn": made})
}

// own is the certificate of an authority.
func (m *mesh) own(arn string) string {
	m.t.Helper()
	return m.pca("GetCertificateAuthorityCertificate", map[string]any{"CertificateAuthorityArn": arn})["Certificate"].(string)
}

// user makes a user of IAM who may have a stream, with a key, as an agent's variables.
func (m *mesh) user(name string) (env []string) {
	m.t.Helper()
	m.iam("", "CreateUser", "UserName", name)
	m.iam("", "PutUserPolicy", "UserName", name, "PolicyName", "stream", "PolicyDocument",
		statement(`"Effect":"Allow","Action":"appmesh:StreamAggregatedResources","Resource":"*"`))
	facts, err := client.ReadFacts(m.control.DataDir)
	if err != nil {
		m.t.Fatal(err)
	}
	text := m.post(m.control.Key, facts, "iam", "application/x-www-form-urlencoded", "/", "Action=CreateAccessKey&Version=2010-05-08&UserName="+name)
	key := aws.Credentials{AccessKeyID: element1(m.t, text, "AccessKeyId"), SecretAccessKey: element1(m.t, text, "SecretAccessKey")}
	return []string{"AWS_ACCESS_KEY_ID=" + key.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + key.SecretAccessKey}
}

// TestIssuedCertificates has certificates from the built-in ACM: who may have them, how soon they are with their
// proxies, and how the authority that issues them is replaced while requests never stop.
func TestIssuedCertificates(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "seals", "DROP_ALL")
	root := m.authority("root", "")
	a, b := m.authority("a", root), m.authority("b", root)
	dir, err := os.MkdirTemp("", "issued")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // Envoy is another user, who watches it
		t.Fatal(err)
	}
	// Client certificates are files in App Mesh (MTLS-002); the same authorities issue them.
	reissue := func(by string) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{m.hostname("client")}}, key)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		got := m.issue(by, "EndEntityClientAuthCertificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), map[string]any{"Type": "DAYS", "Value": 30})
		mountSecret(t, filepath.Join(dir, "client"), map[string][]byte{
			"tls.crt": []byte(got["Certificate"].(string) + "\n" + got["CertificateChain"].(string)), "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		})
	}
	// Each side trusts the issuing authorities themselves, not their root.
	trusted := func(arns ...string) {
		t.Helper()
		var all []string
		for _, arn := range arns {
			all = append(all, m.own(arn))
		}
		mountSecret(t, filepath.Join(dir, "ca"), map[string][]byte{"ca.crt": []byte(strings.Join(all, "\n"))})
	}
	reissue(a)
	trusted(a)
	requested := func(by string) string {
		t.Helper()
		return m.acm("RequestCertificate", map[string]any{"DomainName": m.hostname("green"), "CertificateAuthorityArn": by, "KeyAlgorithm": "EC_prime256v1"})["CertificateArn"].(string)
	}
	certificate := requested(a)
	server := func(certificate string) string {
		return m.nodeWith("green", fmt.Sprintf(`, "tls": {"mode": "STRICT", "certificate": {"acm": {"certificateArn": %q}}, "validation": {"trust": {"file": {"certificateChain": %q}}}}`,
			certificate, filepath.Join(dir, "ca", "ca.crt")))
	}
	m.program("green")
	green := m.create("VirtualNode", "green", server(certificate))
	books := m.service("books", appPort, map[string]string{
		"rest": `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "green", "weight": 1}]}, "retryPolicy": {"maxRetries": 0, "perRetryTimeout": {"unit": "s", "value": 15}, "httpRetryEvents": ["server-error"]}}}`,
	})
	caller := func(authorities ...string) string {
		list, _ := json.Marshal(authorities) // strings alone
		return fmt.Sprintf(`{"backendDefaults": {"clientPolicy": {"tls": {"certificate": {"file": {"certificateChain": %q, "privateKey": %q}}, "validation": {"trust": {"acm": {"certificateAuthorityArns": %s}}}}}}, %s`,
			filepath.Join(dir, "client", "tls.crt"), filepath.Join(dir, "client", "tls.key"), list, strings.TrimPrefix(callerSpec(books), "{"))
	}
	clientARN := m.create("VirtualNode", "client", caller(a))
	hosts := map[string]string{"green": "seals-serving", "client": "seals-calling"}
	sidecars := map[string]*stage.Sidecar{}
	greenHost, err := m.Host(m.name + "-green")
	if err != nil {
		t.Fatal(err)
	}
	sidecars["green"] = m.sidecar(greenHost, stage.SidecarOptions{Resource: "green", AppPorts: fmt.Sprint(appPort), Env: m.user(hosts["green"])})
	host := m.host("client")
	sidecars["client"] = m.sidecar(host, stage.SidecarOptions{Resource: "client", Env: m.user(hosts["client"])})
	url := fmt.Sprintf("http://%s:%d/", books, appPort)
	problems := func(arn string) (out string) {
		var explained api.ExplainOutput
		ctx, cancel := m.context()
		defer cancel()
		if err := m.control.Evermesh.Call(ctx, "Explain", map[string]any{"resourceArn": arn}, &explained); err != nil {
			t.Fatal(err)
		}
		for _, p := range explained.Explanation.Problems {
			out += p.Reason + ": " + p.Message + "\n"
		}
		return out
	}
	chain := func() string { return chainIn(m.admin(sidecars["green"], "/certs")) }

	t.Run("EMS-056 TLS-008 who may not export a certificate, or get an authority's, has none", func(t *testing.T) {
		for arn, action := range map[string]string{green: "acm:ExportCertificate", clientARN: "acm-pca:GetCertificateAuthorityCertificate"} {
			m.until("explain tells it", func(context.Context) bool {
				text := problems(arn)
				return strings.Contains(text, "SecretDenied") && strings.Contains(text, "is not authorized to perform: "+action+" on resource: ")
			})
		}
		if a := ask(t, host, request{URL: url}); a.Status != http.StatusServiceUnavailable {
			t.Errorf("a node without its certificate is answered %d", a.Status)
		}
		began := time.Now()
		for user, action := range map[string]string{hosts["green"]: "acm:ExportCertificate", hosts["client"]: "acm-pca:GetCertificateAuthorityCertificate"} {
			m.iam("", "PutUserPolicy", "UserName", user, "PolicyName", "certificates", "PolicyDocument", statement(`"Effect":"Allow","Action":"`+action+`","Resource":"*"`))
		}
		m.until("requests are answered", func(context.Context) bool { return ask(t, host, request{URL: url}).Status == http.StatusOK })
		t.Logf("answered %v after it was allowed", time.Since(began).Round(time.Millisecond))
	})
	u := &underLoad{m: m, sides: sidecars, start: time.Now()}
	u.from(host, url)
	u.more(t)
	t.Run("TLS-024 TLS-002 TLS-006 a renewed certificate is with its proxy within seconds", func(t *testing.T) {
		for range 3 {
			before, began := chain(), time.Now()
			m.acm("RenewCertificate", map[string]any{"CertificateArn": certificate})
			m.until("Envoy has the new one", func(context.Context) bool { now := chain(); return now != "" && now != before })
			took := time.Since(began)
			t.Logf("with its proxy after %v", took.Round(time.Millisecond))
			if took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			u.more(t)
		}
	})
	t.Run("an issuing authority is replaced: both are trusted, certificates are issued anew, the old one goes", func(t *testing.T) {
		m.settle(m.update("VirtualNode", "client", caller(a, b)))
		trusted(a, b)
		m.until("the server trusts both", func(context.Context) bool { return authoritiesIn(m.admin(sidecars["green"], "/certs")) == 2 })
		u.more(t)
		before := chain()
		certificate = requested(b)
		m.settle(m.update("VirtualNode", "green", server(certificate)))
		m.until("the server has its certificate of the new one", func(context.Context) bool { now := chain(); return now != "" && now != before })
		u.more(t)
		serial := chainIn(m.admin(sidecars["client"], "/certs"))
		reissue(b)
		m.until("the client has its certificate of the new one", func(context.Context) bool {
			return chainIn(m.admin(sidecars["client"], "/certs")) != serial
		})
		u.more(t)
		m.settle(m.update("VirtualNode", "client", caller(b)))
		trusted(b)
		m.until("the server trusts the new one alone", func(context.Context) bool { return authoritiesIn(m.admin(sidecars["green"], "/certs")) == 1 })
		u.more(t)
		m.pca("UpdateCertificateAuthority", map[string]any{"CertificateAuthorityArn": a, "Status": "DISABLED"})
		u.more(t)
	})
	failed, requests := u.end(t)
	t.Logf("drops: issuing authority replaced, certificates renewed: %d of %d requests failed", failed, requests)
	if without := m.stat(sidecars["green"], "listener.0.0.0.0_15000.ssl.no_certificate"); without != 0 {
		t.Errorf("%d connections came without a certificate", without)
	}
	t.Run("a list of revoked certificates is read by anybody", func(t *testing.T) {
		m.pca("UpdateCertificateAuthority", map[string]any{"CertificateAuthorityArn": b, "RevocationConfiguration": map[string]any{"CrlConfiguration": map[string]any{"Enabled": true, "ExpirationInDays": 7}}})
		detail := m.acm("DescribeCertificate", map[string]any{"CertificateArn": m.acm("RequestCertificate", map[string]any{"DomainName": "old.local", "CertificateAuthorityArn": b, "KeyAlgorithm": "EC_prime256v1"})["CertificateArn"]})["Certificate"].(map[string]any)
		m.acm("RevokeCertificate", map[string]any{"CertificateArn": detail["CertificateArn"], "RevocationReason": "SUPERSEDED"})
		facts, err := client.ReadFacts(m.control.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		list := facts.APIEndpoint + "/evermesh/crl/" + m.control.Account + "/" + b[strings.LastIndexByte(b, '/')+1:] + ".crl"
		for _, c := range []struct {
			method, url string
			status      int
		}{{"GET", list, 200}, {"POST", list, 405}, {"GET", strings.Replace(list, ".crl", ".pem", 1), 404}, {"GET", strings.Replace(list, m.control.Account, "999999999999", 1), 404}} {
			r, err := http.NewRequestWithContext(t.Context(), c.method, c.url, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != c.status {
				t.Fatalf("%s %s: %s %v", c.method, c.url, resp.Status, err)
			}
			if c.status != http.StatusOK {
				continue
			}
			got, err := x509.ParseRevocationList(text)
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode([]byte(m.own(b)))
			by, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(detail["Serial"].(string), ":", "")
			if err := got.CheckSignatureFrom(by); err != nil || len(got.RevokedCertificateEntries) != 1 || got.RevokedCertificateEntries[0].SerialNumber.Text(16) != want {
				t.Errorf("the list has %v, want %s: %v", got.RevokedCertificateEntries, want, err)
			}
		}
	})
	used := m.acm("DescribeCertificate", map[string]any{"CertificateArn": certificate})["Certificate"].(map[string]any)["InUseBy"]
	if got := fmt.Sprint(used); got != "["+green+"]" {
		t.Errorf("the certificate is in use by %s, want %s", got, green)
	}
}
