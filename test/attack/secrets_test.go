package attack

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// secrets are what may be nowhere: all that the tests of this package have made, by what
// it is.
type secrets struct {
	mu    sync.Mutex
	texts map[string]string // text: what it is
}

// plant notes a secret, in the forms in which it could be written.
func (s *secrets) plant(what, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.texts == nil {
		s.texts = map[string]string{}
	}
	if len(text) < 16 {
		return // it could be anywhere by chance
	}
	s.texts[text] = what
	s.texts[base64.StdEncoding.EncodeToString([]byte(text))] = what + ", in base64"
	s.texts[url.QueryEscape(text)] = what + ", as in a query"
	s.texts[hex.EncodeToString([]byte(text))] = what + ", in hexadecimal"
}

// plantKey notes a private key in PEM: each line of it, and what it says.
func (s *secrets) plantKey(t testing.TB, what, text string) {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("%s is no PEM: %q", what, text)
	}
	s.plant(what, string(block.Bytes))
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); len(line) >= 32 && !strings.HasPrefix(line, "-----") {
			s.plant(what, line)
		}
	}
	if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		if k, ok := key.(*ecdsa.PrivateKey); ok {
			raw, err := k.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			s.plant(what+", its number", string(raw))
		}
	}
}

// in are the secrets that a text has, by what they are.
func (s *secrets) in(where string, text []byte) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for secret, what := range s.texts {
		if i := bytes.Index(text, []byte(secret)); i >= 0 {
			around := text[max(0, i-80):i]
			err = errors.Join(err, fmt.Errorf("%s has %s, after %q", where, what, around))
		}
	}
	return err
}

// leaks looks for the secrets in all that a control plane writes and tells.
func (p *plane) leaks() (err error) {
	look := func(where string, text []byte, failed error) {
		if failed == nil && len(text) == 0 {
			failed = errors.New("it is empty")
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("look into %s: %w", where, failed))
			return
		}
		err = errors.Join(err, p.planted.in(where, text))
	}
	look("the log", []byte(p.log.String()), nil)
	for _, path := range []string{"/metrics", "/readyz", "/healthz"} {
		text, failed := get(p.admin + path)
		look(path, text, failed)
	}
	text, failed := os.ReadFile(p.events())
	look("the file of events", text, failed)
	file := filepath.Join(filepath.Dir(p.data), fmt.Sprintf("backup-%d", time.Now().UnixNano()))
	if out, failed := exec.Command(p.program, "backup", file, "--data-dir", p.data).CombinedOutput(); failed != nil {
		return errors.Join(err, fmt.Errorf("backup: %w\n%s", failed, out))
	}
	text, failed = os.ReadFile(file)
	look("a backup of the store", text, failed)
	// All in the data directory but the key of roots, which its owner is to read.
	return errors.Join(err, filepath.WalkDir(p.data, func(path string, d fs.DirEntry, failed error) error {
		if failed != nil || d.IsDir() || !d.Type().IsRegular() {
			return nil // what is written anew meanwhile is gone
		}
		if text, failed := os.ReadFile(path); failed == nil {
			return p.planted.in(strings.TrimPrefix(path, p.data), text)
		}
		return nil
	}))
}

func get(address string) ([]byte, error) {
	resp, err := http.Get(address)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// certificate makes a certificate that signs itself, and its key.
func certificate(t testing.TB, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

// bridge is a unix socket that leads to the management service.
func (p *plane) bridge(t testing.TB) string {
	t.Helper()
	socket := adstest.Socket(t)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(func() { _ = l.Close() })
	running.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", p.xds)
			if err != nil {
				_ = from.Close()
				continue
			}
			running.Go(func() { _, _ = io.Copy(to, from); _ = to.Close() })
			running.Go(func() { _, _ = io.Copy(from, to); _ = from.Close() })
		}
	})
	return socket
}

// Secrets of every kind are made, used, and shown in the wrong place; then all that the
// control plane writes and tells is searched for them, and what it tells others.
func TestPlantedSecrets(t *testing.T) {
	t.Parallel()
	p := target(t)
	g := newGates(t, p, "planted")
	plant := p.planted.plant
	var told []string // answers that should not have a secret
	tells := func(a answer) answer { told = append(told, a.body); return a }

	// Tokens, good and bad, at each place that takes them.
	for _, to := range g.all() {
		for _, claims := range []map[string]any{nil, {"exp": 1}, {"aud": "other"}} {
			token := oidctest.Sign(t, g.Signer(), g.pod(to.audience, claims), nil)
			plant("a token of a provider", token)
			plant("the signature of a token", token[strings.LastIndexByte(token, '.')+1:])
			if ok, said := to.in(t, token); !ok {
				told = append(told, said)
			}
		}
		garbage := "planted." + strings.ReplaceAll(to.name, " ", "-") + ".token-that-is-none-0123456789"
		plant("a token that is none", garbage)
		_, said := to.in(t, garbage)
		told = append(told, said)
	}
	// Keys and tokens of users, sessions and guests.
	user := p.user(t, p.root, "planted", allow("*", "*"))
	one, _ := p.sessions(t, "planted-session")
	guest := keyIn(t, p.query(t, p.root, "sts", "GetFederationToken", "Name", "planted", "Policy", policy(allow("appmesh:*", "*"))))
	plant("a guest's secret", guest.SecretAccessKey)
	plant("a guest's token", guest.SessionToken)
	wrong := one
	wrong.SecretAccessKey = user.SecretAccessKey
	tells(p.mesh(t, wrong, "GET", "/v20190125/meshes", ""))
	tells(p.do(t, nobody, call{"appmesh", "GET", "/v20190125/meshes", "", []string{"Authorization", "Bearer " + one.SessionToken}}))
	tells(p.do(t, nobody, call{"appmesh", "GET", "/v20190125/meshes", "", []string{"Authorization", "Basic " + user.SecretAccessKey}}))
	tells(p.do(t, nobody, call{"appmesh", "GET", "/v20190125/meshes", "", []string{"X-Amz-Security-Token", one.SessionToken}}))
	tells(p.do(t, nobody, call{"appmesh", "GET", "/v20190125/meshes?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Security-Token=" + url.QueryEscape(one.SessionToken), "", nil}))

	// Private keys: imported, exported, of authorities, issued.
	cert, key := certificate(t, "planted.example.com")
	p.planted.plantKey(t, "an imported key", key)
	acm := func(operation string, input map[string]any) answer {
		t.Helper()
		text, err := json.Marshal(input)
		if err != nil {
			t.Fatal(err)
		}
		return p.json(t, p.root, "acm", "CertificateManager."+operation, string(text))
	}
	pca := func(operation string, input map[string]any) answer {
		t.Helper()
		text, err := json.Marshal(input)
		if err != nil {
			t.Fatal(err)
		}
		return p.json(t, p.root, "acm-pca", "ACMPrivateCA."+operation, string(text))
	}
	var out struct {
		CertificateArn, CertificateAuthorityArn, Csr, Certificate, PrivateKey string
	}
	read := func(a answer) {
		t.Helper()
		if err := json.Unmarshal([]byte(a.ok(t).body), &out); err != nil {
			t.Fatal(err)
		}
	}
	read(acm("ImportCertificate", map[string]any{"Certificate": []byte(cert), "PrivateKey": []byte(key)}))
	imported := out.CertificateArn
	_, other := certificate(t, "other.example.com")
	p.planted.plantKey(t, "a key that does not fit", other)
	tells(acm("ImportCertificate", map[string]any{"Certificate": []byte(cert), "PrivateKey": []byte(other)}))
	tells(acm("ImportCertificate", map[string]any{"Certificate": []byte(key), "PrivateKey": []byte(cert)}))
	read(pca("CreateCertificateAuthority", map[string]any{"CertificateAuthorityType": "ROOT", "CertificateAuthorityConfiguration": map[string]any{
		"KeyAlgorithm": "EC_prime256v1", "SigningAlgorithm": "SHA256WITHECDSA", "Subject": map[string]string{"CommonName": "planted"},
	}}))
	authority := out.CertificateAuthorityArn
	read(pca("GetCertificateAuthorityCsr", map[string]any{"CertificateAuthorityArn": authority}))
	read(pca("IssueCertificate", map[string]any{
		"CertificateAuthorityArn": authority, "Csr": []byte(out.Csr), "SigningAlgorithm": "SHA256WITHECDSA",
		"TemplateArn": "arn:aws:acm-pca:::template/RootCACertificate/V1", "Validity": map[string]any{"Type": "DAYS", "Value": 9},
	}))
	read(pca("GetCertificate", map[string]any{"CertificateAuthorityArn": authority, "CertificateArn": out.CertificateArn}))
	pca("ImportCertificateAuthorityCertificate", map[string]any{"CertificateAuthorityArn": authority, "Certificate": []byte(out.Certificate)}).ok(t)
	read(acm("RequestCertificate", map[string]any{"DomainName": "planted.example.com", "CertificateAuthorityArn": authority}))
	issued := out.CertificateArn
	const passphrase = "planted-passphrase-0123456789"
	plant("a passphrase", passphrase)
	testenv.Eventually(t, "the certificate is issued", func() bool {
		return acm("GetCertificate", map[string]any{"CertificateArn": issued}).status == http.StatusOK
	})
	read(acm("ExportCertificate", map[string]any{"CertificateArn": issued, "Passphrase": []byte(passphrase)}))
	exported := out.PrivateKey
	for line := range strings.Lines(exported) {
		if line = strings.TrimSpace(line); len(line) >= 32 && !strings.HasPrefix(line, "-----") {
			plant("an exported key", line)
		}
	}

	// Both in a real Envoy, which has the keys, and tells nobody.
	for n, arn := range []string{imported, issued} {
		p.mesh(t, p.root, "PUT", "/v20190125/meshes/planted/virtualNodes", fmt.Sprintf(
			`{"virtualNodeName":"tls%d","spec":{"listeners":[{"portMapping":{"port":%d,"protocol":"http"},"tls":{"mode":"STRICT","certificate":{"acm":{"certificateArn":%q}}}}]}}`, n, 8443+n, arn)).ok(t)
	}
	p.query(t, p.root, "iam", "PutRolePolicy", "RoleName", "planted", "PolicyName", "keys", "PolicyDocument", policy(allow("acm:ExportCertificate", "*"))).ok(t)
	token := oidctest.Sign(t, g.Signer(), g.pod(webAudience, nil), nil)
	plant("an Envoy's token", token)
	envoy := adstest.StartEnvoy(t, adstest.Options{Node: "mesh/planted/virtualNode/tls0", Delta: true, Headers: map[string]string{
		"authorization": "Bearer " + token, "x-evermesh-role-arn": g.role,
	}}, p.bridge(t))
	envoy.Wait(t, "its certificate", func() bool { return strings.Contains(envoy.Get(t, "/certs"), "planted.example.com") })
	if got := envoy.Get(t, "/config_dump?resource=dynamic_active_secrets"); !strings.Contains(got, base64.StdEncoding.EncodeToString([]byte("[redacted]"))) {
		t.Errorf("Envoy does not say that it has a key: %s", got)
	}
	// The token is the agent's, and in Envoy's bootstrap here for want of one.
	dump := strings.ReplaceAll(envoy.Get(t, "/config_dump?include_eds")+envoy.Get(t, "/certs")+envoy.Log(), token, "")
	if err := p.planted.in("Envoy's configuration", []byte(dump)); err != nil {
		t.Error(err)
	}

	// What is told of all that to who may see it.
	explain := url.QueryEscape("arn:aws:appmesh:us-east-1:" + ours + ":mesh/planted/virtualNode/tls0")
	tells(p.mesh(t, p.root, "GET", "/evermesh/v1/proxies?meshName=planted", "").ok(t))
	tells(p.mesh(t, p.root, "GET", "/evermesh/v1/explain?resourceArn="+explain, "").ok(t))
	tells(p.mesh(t, p.root, "GET", "/v20190125/meshes/planted/virtualNodes/tls0", "").ok(t))
	tells(acm("DescribeCertificate", map[string]any{"CertificateArn": issued}).ok(t))
	tells(acm("GetCertificate", map[string]any{"CertificateArn": imported}).ok(t))
	tells(p.query(t, p.root, "iam", "ListAccessKeys", "UserName", "planted").ok(t))
	tells(p.query(t, p.root, "iam", "GetUser", "UserName", "planted").ok(t))
	for _, name := range []string{"ImportCertificate", "ExportCertificate", "CreateAccessKey", "AssumeRole", "AssumeRoleWithWebIdentity", "GetFederationToken", "AssumeRoleForPodIdentity"} {
		a := tells(p.json(t, p.root, "cloudtrail", "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents",
			`{"LookupAttributes":[{"AttributeKey":"EventName","AttributeValue":"`+name+`"}]}`).ok(t))
		if !strings.Contains(a.body, name) {
			t.Errorf("no event of %s: %s", name, a.body)
		}
	}
	for _, text := range told {
		if err := p.planted.in("an answer", []byte(text)); err != nil {
			t.Error(err)
		}
	}
	// The search finds what is there.
	if p.planted.in("a text", []byte("x "+passphrase+" y")) == nil || p.planted.in("a text", []byte(base64.StdEncoding.EncodeToString([]byte(one.SecretAccessKey)))) == nil {
		t.Error("a secret that is there is not found")
	}
	if err := p.leaks(); err != nil {
		t.Error(err)
	}
}
