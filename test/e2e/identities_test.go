//go:build linux

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/sts"
	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
	"github.com/evermesh/evermesh/test/stage"
)

// iam does an operation of IAM on the endpoint of the API, as the account's root, and returns the text of the first
// element of that name in its answer; name and value alternate.
func (m *mesh) iam(element, operation string, members ...string) string {
	m.t.Helper()
	facts, err := client.ReadFacts(m.control.DataDir)
	if err != nil {
		m.t.Fatal(err)
	}
	form := url.Values{"Action": {operation}, "Version": {"2010-05-08"}}
	for i := 0; i < len(members); i += 2 {
		form.Set(members[i], members[i+1])
	}
	return element1(m.t, m.post(m.control.Key, facts, "iam", "application/x-www-form-urlencoded", "/", form.Encode()), element)
}

// post signs a request and sends it; an answer that is no success ends the test. Names and values of headers alternate.
func (m *mesh) post(key aws.Credentials, facts client.Facts, service, kind, path, body string, headers ...string) string {
	m.t.Helper()
	ctx, cancel := m.context()
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, facts.APIEndpoint+path, strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	sum := sha256.Sum256([]byte(body))
	if err := v4.NewSigner().SignHTTP(ctx, key, r, hex.EncodeToString(sum[:]), service, facts.Region, time.Now()); err != nil {
		m.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		m.t.Fatalf("%s %s: %s %s %v", service, body, resp.Status, text, err)
	}
	return string(text)
}

// element1 is the text of the first element of that name; "" when none is asked for.
func element1(t *testing.T, document, name string) string {
	t.Helper()
	if name == "" {
		return ""
	}
	d := xml.NewDecoder(strings.NewReader(document))
	for {
		token, err := d.Token()
		if err != nil {
			t.Fatalf("no %s in %s", name, document)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == name {
			var text string
			if err := d.DecodeElement(&text, &start); err != nil {
				t.Fatal(err)
			}
			return text
		}
	}
}

// statement is a policy of one statement.
func statement(text string) string { return `{"Version":"2012-10-17","Statement":[{` + text + `}]}` }

// publish writes a file that agents can read.
func (m *mesh) publish(name, text string) string {
	m.t.Helper()
	file := filepath.Join(m.Dir(), "run", m.name+"-"+name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return file
}

// current is how many proxies of a node have what they are to have.
func (m *mesh) current(ctx context.Context, arn string) (n int) {
	proxies, err := m.control.Proxies(ctx, m.name)
	if err != nil {
		return -1
	}
	for _, p := range proxies {
		if p.ResourceARN == arn && p.State == api.ProxyStateCurrent {
			n++
		}
	}
	return n
}

// streamEvents are the events of all streams. How many there are depends on how often who is refused tries again.
func (m *mesh) streamEvents() (all string) {
	m.t.Helper()
	facts, err := client.ReadFacts(m.control.DataDir)
	if err != nil {
		m.t.Fatal(err)
	}
	in := map[string]any{"LookupAttributes": []any{map[string]string{"AttributeKey": "EventName", "AttributeValue": "StreamAggregatedResources"}}, "MaxResults": 50}
	for {
		body, err := json.Marshal(in)
		if err != nil {
			m.t.Fatal(err)
		}
		text := m.post(m.control.Key, facts, "cloudtrail", "application/x-amz-json-1.1", "/", string(body),
			"X-Amz-Target", "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents")
		all += text
		var page struct{ NextToken string }
		if err := json.Unmarshal([]byte(text), &page); err != nil {
			m.t.Fatal(err)
		}
		if page.NextToken == "" {
			return all
		}
		in["NextToken"] = page.NextToken
	}
}

// TestIdentities has real Envoys prove who they are in each of the ways, and lose what they may while they are
// connected.
func TestIdentities(t *testing.T) {
	t.Parallel()
	onGround(t)
	issuer, domain := oidctest.New(t), sdstest.NewAuthority(t, "trust domain")
	files := t.TempDir()
	home := world.Home().Addr()
	served := domain.Issue(t, home.String())
	for name, text := range map[string][]byte{"ca.pem": domain.PEM, "server.pem": served.Chain, "server-key.pem": served.Key} {
		if err := os.WriteFile(filepath.Join(files, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ports := []int{7470, 7471, 7472}
	control, err := world.Control(t.Context(), stage.ControlOptions{
		Name: "identities", Ports: ports,
		// Pods ask the API for credentials.
		Args: []string{
			"--api-listen", netip.AddrPortFrom(home, uint16(ports[0])).String(), "--insecure-plaintext",
			"--xds-tls-cert", filepath.Join(files, "server.pem"), "--xds-tls-key", filepath.Join(files, "server-key.pem"),
			"--oidc-ca-file", issuer.CAFile, "--xds-client-ca", filepath.Join(files, "ca.pem"),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer control.Kill()
	m := newMeshOn(t, control, "app1", "DROP_ALL")
	facts, err := client.ReadFacts(control.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	arns := map[string]string{}
	for _, name := range []string{"serviceA", "serviceBv1", "serviceBv2"} {
		arns[name] = m.call("CreateVirtualNode", fmt.Sprintf(`{"virtualNodeName": %q, "spec": {}, "tags": [{"key": "tier", "value": "back"}]}`, name))
	}
	// The policy of the guide: two nodes, and no other.
	document := statement(fmt.Sprintf(`"Effect":"Allow","Action":"appmesh:StreamAggregatedResources","Resource":[%q,%q]`, arns["serviceBv1"], arns["serviceBv2"]))
	policy := m.iam("Arn", "CreatePolicy", "PolicyName", "serviceB", "PolicyDocument", document)
	role := func(name, trust string) string {
		arn := m.iam("Arn", "CreateRole", "RoleName", name, "AssumeRolePolicyDocument", statement(trust))
		m.iam("", "AttachRolePolicy", "RoleName", name, "PolicyArn", policy)
		return arn
	}
	m.iam("", "CreateUser", "UserName", "proxy")
	m.iam("", "AttachUserPolicy", "UserName", "proxy", "PolicyArn", policy)
	key := func(user string) (id, secret string) {
		form := url.Values{"Action": {"CreateAccessKey"}, "Version": {"2010-05-08"}, "UserName": {user}}
		text := m.post(control.Key, facts, "iam", "application/x-www-form-urlencoded", "/", form.Encode())
		return element1(t, text, "AccessKeyId"), element1(t, text, "SecretAccessKey")
	}
	id, secret := key("proxy")
	name := strings.TrimPrefix(issuer.URL, "https://")
	provider := m.iam("OpenIDConnectProviderArn", "CreateOpenIDConnectProvider", "Url", issuer.URL, "ClientIDList.member.1", "sts.amazonaws.com",
		"Tags.member.1.Key", iam.ClusterTag, "Tags.member.1.Value", "prod")
	federated := role("federated", fmt.Sprintf(`"Effect":"Allow","Principal":{"Federated":%q},"Action":"sts:AssumeRoleWithWebIdentity","Condition":{"StringEquals":{"%s:sub":"system:serviceaccount:shop:b"}}`, provider, name))
	pods := role("pods", `"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":["sts:AssumeRole","sts:TagSession"]`)
	spiffe := role("spiffe", `"Effect":"Allow","Principal":{"Federated":"spiffe://prod.example"},"Action":"sts:AssumeRoleWithWebIdentity","Condition":{"StringEquals":{"spiffe:sub":"spiffe://prod.example/ns/shop/sa/b"}}`)
	m.post(control.Key, facts, "eks", "application/json", "/clusters/prod/pod-identity-associations",
		fmt.Sprintf(`{"namespace": "shop", "serviceAccount": "b", "roleArn": %q}`, pods))

	token := func(account, audience string) string {
		return m.publish("token-"+account+"-"+audience, issuer.ServiceAccount(t, "shop", account, audience))
	}
	certificate := func(file, id string) []string {
		c := domain.Issue(t, id)
		return []string{
			"APPMESH_XDS_CLIENT_CERT_FILE=" + m.publish(file+".pem", string(c.Chain)), "APPMESH_XDS_CLIENT_KEY_FILE=" + m.publish(file+"-key.pem", string(c.Key)),
			"EVERMESH_ROLE_ARN=" + spiffe,
		}
	}
	ca := "APPMESH_XDS_CA_FILE=" + m.publish("ca.pem", string(domain.PEM))
	noKey := []string{"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_EC2_METADATA_DISABLED=true"}
	proofs := []struct {
		name, test   string
		env          []string
		wrong        []string // the same for somebody else
		code, reason string
	}{
		{
			"key", "IAM-031 EMS-054 a user's key",
			[]string{"AWS_ACCESS_KEY_ID=" + id, "AWS_SECRET_ACCESS_KEY=" + secret},
			[]string{"AWS_ACCESS_KEY_ID=" + id, "AWS_SECRET_ACCESS_KEY=wrong"},
			": 16, ", "signature",
		},
		{
			"irsa", "IAM-033 IAM-032 the role of a service account's annotation",
			append([]string{"AWS_ROLE_ARN=" + federated, "AWS_WEB_IDENTITY_TOKEN_FILE=" + token("b", "sts.amazonaws.com"), "AWS_ENDPOINT_URL_STS=" + facts.APIEndpoint}, noKey...),
			append([]string{"AWS_ROLE_ARN=" + federated, "AWS_WEB_IDENTITY_TOKEN_FILE=" + token("a", "sts.amazonaws.com"), "AWS_ENDPOINT_URL_STS=" + facts.APIEndpoint}, noKey...), ": 16, ", "Missing Authentication Token",
		},
		{
			"token", "IAM-032 a service account's token, and a role that trusts it",
			[]string{"EVERMESH_TOKEN_FILE=" + token("b", "sts.amazonaws.com"), "EVERMESH_ROLE_ARN=" + federated},
			[]string{"EVERMESH_TOKEN_FILE=" + token("a", "sts.amazonaws.com"), "EVERMESH_ROLE_ARN=" + federated},
			": 7, ", "Not authorized to perform sts:AssumeRoleWithWebIdentity",
		},
		{
			"pod", "IAM-032 a service account's token, and its pod identity association",
			[]string{"EVERMESH_TOKEN_FILE=" + token("b", sts.PodAudience)},
			[]string{"EVERMESH_TOKEN_FILE=" + token("a", sts.PodAudience)},
			": 7, ", "No association found for service account a in namespace shop",
		},
		{
			"eks", "AGENT-044 the role of a service account's annotation, without an STS",
			append([]string{"AWS_ROLE_ARN=" + federated, "AWS_WEB_IDENTITY_TOKEN_FILE=" + token("b", "sts.amazonaws.com")}, noKey...),
			append([]string{"AWS_ROLE_ARN=" + federated, "AWS_WEB_IDENTITY_TOKEN_FILE=" + token("a", "sts.amazonaws.com")}, noKey...),
			": 7, ", "Not authorized to perform sts:AssumeRoleWithWebIdentity",
		},
		{
			"eks-pod", "AGENT-044 the pod identity that EKS gives to a pod",
			append([]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + token("b", sts.PodAudience)}, noKey...),
			append([]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=http://169.254.170.23/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=" + token("a", sts.PodAudience)}, noKey...),
			": 7, ", "No association found for service account a in namespace shop",
		},
		{
			"spiffe", "IAM-032 a certificate with a SPIFFE id",
			certificate("b", "spiffe://prod.example/ns/shop/sa/b"), certificate("a", "spiffe://prod.example/ns/shop/sa/a"),
			": 7, ", "Not authorized to perform sts:AssumeRoleWithWebIdentity",
		},
	}
	connected := map[string]*stage.Sidecar{}
	for _, p := range proofs {
		t.Run(p.test, func(t *testing.T) {
			m := &mesh{Stage: m.Stage, t: t, name: m.name, control: control}
			h := m.host(p.name)
			s := m.sidecar(h, stage.SidecarOptions{Resource: "serviceBv1", Alone: true, Env: append(p.env, ca)})
			if n := m.stat(s, "control_plane.connected_state"); n != 1 {
				t.Error("the proxy is not connected")
			}
			connected[p.name] = s
			other := m.sidecar(m.host(p.name+"-a"), stage.SidecarOptions{Resource: "serviceA", Alone: true, Early: true, Env: append(p.env, ca)})
			m.logs(other, "gRPC config stream", "closed", ": 7, ", "Unauthorized to perform appmesh:StreamAggregatedResources for "+arns["serviceA"]+".")
			wrong := m.sidecar(m.host(p.name+"-wrong"), stage.SidecarOptions{Resource: "serviceBv1", Alone: true, Early: true, Env: append(p.wrong, ca)})
			m.logs(wrong, "gRPC config stream", "closed", p.code, p.reason)
			step := map[string]string{": 7, ": "step=permission", ": 16, ": "step=credentials"}[p.code]
			m.logs(wrong, "control plane does not answer", step, p.reason, "node mesh/app1/virtualNode/serviceBv1, proof: ")
			for _, s := range []*stage.Sidecar{other, wrong} {
				if err := s.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if t.Failed() {
		return
	}
	t.Run("IAM-037 who may not any more is closed within seconds, and comes back when he may", func(t *testing.T) {
		m := &mesh{Stage: m.Stage, t: t, name: m.name, control: control}
		began := time.Now()
		m.iam("", "CreatePolicyVersion", "PolicyArn", policy, "PolicyDocument", strings.Replace(document, "serviceBv1", "serviceBv3", 1), "SetAsDefault", "true")
		refusal := "Unauthorized to perform appmesh:StreamAggregatedResources for " + arns["serviceBv1"] + "."
		for _, p := range proofs {
			m.logs(connected[p.name], "gRPC config stream", "closed", ": 7, ", refusal)
		}
		took := time.Since(began)
		t.Logf("%d streams were closed within %v", len(proofs), took.Round(10*time.Millisecond))
		if took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
		m.until("none is current any more", func(ctx context.Context) bool { return m.current(ctx, arns["serviceBv1"]) == 0 })
		m.iam("", "SetDefaultPolicyVersion", "PolicyArn", policy, "VersionId", "v1")
		m.until("all are back", func(ctx context.Context) bool { return m.current(ctx, arns["serviceBv1"]) == len(proofs) })
	})
	for name, condition := range map[string]string{
		"the address":          fmt.Sprintf(`{"IpAddress":{"aws:SourceIp":"%s/32"}}`, connected["key"].Host.Addr()),
		"TLS":                  `{"Bool":{"aws:SecureTransport":"true"}}`,
		"a tag of the node":    `{"StringEquals":{"aws:ResourceTag/tier":"back"}}`,
		"the principal's name": `{"StringEquals":{"aws:username":"proxy"}}`,
	} {
		t.Run("IAM-039 IAM-010 a stream under a condition on "+name, func(t *testing.T) {
			m := &mesh{Stage: m.Stage, t: t, name: m.name, control: control}
			m.iam("", "PutUserPolicy", "UserName", "proxy", "PolicyName", "deny", "PolicyDocument",
				statement(`"Effect":"Deny","Action":"appmesh:StreamAggregatedResources","Resource":"*","Condition":`+condition))
			m.until("the user's proxy is gone", func(ctx context.Context) bool { return m.current(ctx, arns["serviceBv1"]) == len(proofs)-1 })
			m.iam("", "DeleteUserPolicy", "UserName", "proxy", "PolicyName", "deny")
			m.until("it is back", func(ctx context.Context) bool { return m.current(ctx, arns["serviceBv1"]) == len(proofs) })
		})
	}
	t.Run("IAM-037 EMS-012 a key that is switched off", func(t *testing.T) {
		m := &mesh{Stage: m.Stage, t: t, name: m.name, control: control}
		m.iam("", "UpdateAccessKey", "UserName", "proxy", "AccessKeyId", id, "Status", "Inactive")
		m.logs(connected["key"], "gRPC config stream", "closed", ": 16, ", "The security token included in the request is invalid.")
		m.until("the others go on", func(ctx context.Context) bool { return m.current(ctx, arns["serviceBv1"]) == len(proofs)-1 })
	})
	t.Run("AGENT-044 a key in a shared file that is switched off, and replaced there", func(t *testing.T) {
		m := &mesh{Stage: m.Stage, t: t, name: m.name, control: control}
		m.iam("", "CreateUser", "UserName", "filed")
		m.iam("", "AttachUserPolicy", "UserName", "filed", "PolicyArn", policy)
		file := func(id, secret string) string {
			return m.publish("credentials", "[default]\naws_access_key_id = "+id+"\naws_secret_access_key = "+secret+"\n")
		}
		first, firstSecret := key("filed")
		s := m.sidecar(m.host("filed"), stage.SidecarOptions{
			Resource: "serviceBv2", Alone: true, Env: append([]string{"AWS_SHARED_CREDENTIALS_FILE=" + file(first, firstSecret), ca}, noKey...),
		})
		m.until("it is served", func(ctx context.Context) bool { return m.current(ctx, arns["serviceBv2"]) == 1 })
		m.iam("", "UpdateAccessKey", "UserName", "filed", "AccessKeyId", first, "Status", "Inactive")
		m.logs(s, "gRPC config stream", "closed", ": 16, ")
		m.logs(s, "control plane does not answer", "step=credentials", "shared file (")
		file(key("filed"))
		m.until("it is served again, by the new key", func(ctx context.Context) bool { return m.current(ctx, arns["serviceBv2"]) == 1 })
	})
	t.Run("IAM-037 a role that is deleted", func(t *testing.T) {
		m := &mesh{Stage: m.Stage, t: t, name: m.name, control: control}
		m.iam("", "DetachRolePolicy", "RoleName", "spiffe", "PolicyArn", policy)
		m.iam("", "DeleteRole", "RoleName", "spiffe")
		m.logs(connected["spiffe"], "gRPC config stream", "closed", ": 7, ", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
	})
	t.Run("EMS-057 AUDIT-009 connects, disconnects and refusals are events", func(t *testing.T) {
		m := &mesh{Stage: m.Stage, t: t, name: m.name, control: control}
		var text string
		for _, want := range []string{"ConnectionEstablished", "ConnectionTerminated", "assumed-role/federated/", "assumed-role/pods/eks-prod-b", "assumed-role/spiffe/ns-shop-sa-b", "user/proxy"} {
			m.until("an event has "+want, func(context.Context) bool { text = m.streamEvents(); return strings.Contains(text, want) })
		}
		// What proves who somebody is does not belong there.
		for _, file := range []string{"b-sts.amazonaws.com", "b-" + sts.PodAudience} {
			token := read(t, filepath.Join(m.Dir(), "run", m.name+"-token-"+file))
			for _, where := range []string{text, read(t, control.Process.Log())} {
				if strings.Contains(where, token) || strings.Contains(where, secret) {
					t.Errorf("the token of %s, or a secret key, is in an event or in the log", file)
				}
			}
		}
	})
}
