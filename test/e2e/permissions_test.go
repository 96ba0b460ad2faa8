//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/test/stage"
)

// deployer is a user of IAM who calls the API, and may do what allow gave last.
type deployer struct {
	*mesh
	user string
	api  *client.Client
}

func (m *mesh) deployer(name string) *deployer {
	m.t.Helper()
	d := &deployer{mesh: m, user: name}
	key := map[string]string{}
	for _, v := range m.user(name) {
		variable, value, _ := strings.Cut(v, "=")
		key[variable] = value
	}
	facts, err := client.ReadFacts(m.control.DataDir)
	if err != nil {
		m.t.Fatal(err)
	}
	d.api, err = client.New(client.Config{
		Endpoint: facts.APIEndpoint, Region: facts.Region,
		Credentials: credentials.NewStaticCredentialsProvider(key["AWS_ACCESS_KEY_ID"], key["AWS_SECRET_ACCESS_KEY"], ""),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return d
}

// allow replaces what the deployer may do.
func (d *deployer) allow(actions string, resources ...string) {
	d.t.Helper()
	d.iam("", "PutUserPolicy", "UserName", d.user, "PolicyName", "deploy", "PolicyDocument",
		statement(fmt.Sprintf(`"Effect":"Allow","Action":[%s],"Resource":["%s"]`, actions, strings.Join(resources, `","`))))
}

// try does an operation on the mesh as the deployer. refused is the action and the ARN that a refusal names, empty when
// it is done.
func (d *deployer) try(operation, input string) (refused string) {
	d.t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(input), &doc); err != nil {
		d.t.Fatalf("%s: %v in %s", operation, err, input)
	}
	doc["meshName"] = d.name
	ctx, cancel := d.context()
	defer cancel()
	err := d.api.Call(ctx, operation, doc, nil)
	if err == nil {
		return ""
	}
	refusal := regexp.MustCompile(`is not authorized to perform: (\S+ on resource: \S+) `).FindStringSubmatch(err.Error())
	if refusal == nil {
		d.t.Fatalf("%s %s: %v", operation, input, err)
	}
	return refusal[1]
}

// TestPermissionsOfWhoDeploys has a user of IAM make what leads traffic and what it is encrypted with: what the user's
// policies do not allow, on the resource and on what it refers to, reaches no Envoy, and what they allow does.
func TestPermissionsOfWhoDeploys(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "rights", "DROP_ALL")
	d := m.deployer("rights-deployer")
	a, b := m.authority("rights-a", ""), m.authority("rights-b", "")
	certificate := func(by string) string {
		t.Helper()
		return m.acm("RequestCertificate", map[string]any{"DomainName": m.hostname("green"), "CertificateAuthorityArn": by, "KeyAlgorithm": "EC_prime256v1"})["CertificateArn"].(string)
	}
	first, second := certificate(a), certificate(a)
	server := func(certificate string) string {
		return m.nodeWith("green", fmt.Sprintf(`, "tls": {"mode": "STRICT", "certificate": {"acm": {"certificateArn": %q}}}`, certificate))
	}
	greenHost := m.program("green")
	green := m.create("VirtualNode", "green", server(first))
	books := m.service("books", appPort, nil)
	caller := func(authorities ...string) string {
		list, _ := json.Marshal(authorities) // strings alone
		return fmt.Sprintf(`{"backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": {"acm": {"certificateAuthorityArns": %s}}}}}}, %s`,
			list, strings.TrimPrefix(callerSpec(books), "{"))
	}
	m.create("VirtualNode", "client", caller(a))
	serving := m.sidecar(greenHost, stage.SidecarOptions{Resource: "green", AppPorts: fmt.Sprint(appPort)})
	host := m.host("client")
	calling := m.sidecar(host, stage.SidecarOptions{Resource: "client"})
	url := fmt.Sprintf("http://%s:%d/", books, appPort)
	meshARN := green[:strings.Index(green, "/virtualNode/")]
	routeARN := meshARN + "/virtualRouter/books/route/all"
	put := func(name, spec string) string {
		return fmt.Sprintf(`{"virtualNodeName": %q, "spec": %s}`, name, spec)
	}
	same := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: refused %q, want %q", what, got, want)
		}
	}

	t.Run("RT-042 IAM-006 a route needs the permission on itself and on each node that it targets", func(t *testing.T) {
		route := `{"virtualRouterName": "books", "routeName": "all", "spec": ` + to("green", `{"prefix": "/"}`) + `}`
		d.allow(`"appmesh:CreateRoute"`, green)
		same("with the node alone", d.try("CreateRoute", route), "appmesh:CreateRoute on resource: "+routeARN)
		d.allow(`"appmesh:CreateRoute"`, routeARN)
		same("with the route alone", d.try("CreateRoute", route), "appmesh:CreateRoute on resource: "+green)
		if got := ask(t, host, request{URL: url}); got.App != "" || got.Status == http.StatusOK {
			t.Errorf("without a route it is answered %d by %q", got.Status, got.App)
		}
		d.allow(`"appmesh:CreateRoute"`, routeARN, green)
		same("with both", d.try("CreateRoute", route), "")
		m.until("the route leads to green", func(context.Context) bool { return ask(t, host, request{URL: url}).App == "green" })
	})
	t.Run("TLS-007 a listener's certificate needs acm:DescribeCertificate", func(t *testing.T) {
		served := func() string { return chainIn(m.admin(serving, "/certs")) }
		before := served()
		d.allow(`"appmesh:*"`, "*")
		same("without it", d.try("UpdateVirtualNode", put("green", server(second))), "acm:DescribeCertificate on resource: "+second)
		d.allow(`"appmesh:*","acm:DescribeCertificate"`, meshARN+"/*", first)
		same("with that of another", d.try("UpdateVirtualNode", put("green", server(second))), "acm:DescribeCertificate on resource: "+second)
		if now := served(); before == "" || now != before {
			t.Errorf("Envoy has %q and had %q", now, before)
		}
		d.allow(`"appmesh:*","acm:DescribeCertificate"`, meshARN+"/*", second)
		same("with it", d.try("UpdateVirtualNode", put("green", server(second))), "")
		m.until("Envoy serves the other", func(context.Context) bool { now := served(); return now != "" && now != before })
	})
	t.Run("TLS-007 an authority that is trusted needs acm-pca:DescribeCertificateAuthority", func(t *testing.T) {
		d.allow(`"appmesh:*","acm:*"`, "*")
		same("without it", d.try("UpdateVirtualNode", put("client", caller(b))), "acm-pca:DescribeCertificateAuthority on resource: "+b)
		d.allow(`"appmesh:*","acm-pca:DescribeCertificateAuthority"`, meshARN+"/*", a)
		same("with one of two", d.try("UpdateVirtualNode", put("client", caller(a, b))), "acm-pca:DescribeCertificateAuthority on resource: "+b)
		if n := authoritiesIn(m.admin(calling, "/certs")); n != 1 {
			t.Errorf("Envoy trusts %d authorities, want 1", n)
		}
		d.allow(`"appmesh:*","acm-pca:DescribeCertificateAuthority"`, meshARN+"/*", a, b)
		same("with both", d.try("UpdateVirtualNode", put("client", caller(a, b))), "")
		m.until("Envoy trusts both", func(context.Context) bool { return authoritiesIn(m.admin(calling, "/certs")) == 2 })
	})
}
