package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// trusted is what a control plane with TLS says of itself, and whom to trust on the port of its streams.
func (p *plane) trusted(t *testing.T) (client.Facts, *x509.CertPool) {
	t.Helper()
	facts, err := client.ReadFacts(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(facts.XDSCABundle)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatalf("%s holds no certificate", facts.XDSCABundle)
	}
	return facts, roots
}

// signedStream is a connection to the port of the streams whose streams are signed with the key.
func signedStream(t *testing.T, facts client.Facts, roots *x509.CertPool, key aws.Credentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(facts.XDSEndpoint, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})),
		grpc.WithPerRPCCredentials(adstest.Signing{Key: key, Host: facts.XDSEndpoint}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// twoInstances registers two instances of red, in Python: a proxy at the address of the first one drains at once.
const twoInstances = `
found = boto3.client("servicediscovery")
found.create_http_namespace(Name="apps")
service = found.create_service(Name="red", NamespaceId=found.list_namespaces()["Namespaces"][0]["Id"])["Service"]["Id"]
for i in "1", "2":
    found.register_instance(ServiceId=service, InstanceId=i, Attributes={"AWS_INSTANCE_IPV4": "10.0.0." + i, "AWS_INSTANCE_PORT": "8080"})
`

// Who may not have the configuration of a node may not drain its proxies, on the port of
// the streams as on that of the API; with TLS, which tells the protocols apart.
func TestWhoMayDrain(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), "--xds-listen", "0.0.0.0:0")
	cloudMapMesh(t, p, "red")
	facts, roots := p.trusted(t)
	keys := map[string]aws.Credentials{}
	for line := range strings.Lines(p.python(t, `
iam = boto3.client("iam")
def user(name, action, node):
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*" if node == "*" else "arn:aws:appmesh:us-east-1:000000000000:mesh/shop/virtualNode/" + node}]}))
    k = iam.create_access_key(UserName=name)["AccessKey"]
    print(name, k["AccessKeyId"], k["SecretAccessKey"])
user("red", "appmesh:StreamAggregatedResources", "red")
user("front", "appmesh:StreamAggregatedResources", "front")
user("person", "evermesh:DrainProxy", "*")
`+twoInstances)) {
		word := strings.Fields(line)
		keys[word[0]] = aws.Credentials{AccessKeyID: word[1], SecretAccessKey: word[2]}
	}
	conn := signedStream(t, facts, roots, keys["red"])
	adstest.Connect(t, conn, adstest.Options{Node: "mesh/shop/virtualNode/red", Instance: "arn:aws:ecs:us-east-1:000000000000:task/shop/1", Delta: true, Addresses: []string{"10.0.0.1/24"}})
	p.known(t, "arn:aws:ecs:us-east-1:000000000000:task/shop/1")

	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}}}
	t.Cleanup(web.CloseIdleConnections)
	ask := func(t *testing.T, base, method, path, as string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if as != "" {
			const none = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
			if err := v4.NewSigner().SignHTTP(t.Context(), keys[as], r, none, "appmesh", "us-east-1", time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		answer, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(text)
	}
	xds, own := "https://"+facts.XDSEndpoint, facts.APIEndpoint
	drain := "/evermesh/v1/proxies/" + url.PathEscape("arn:aws:ecs:us-east-1:000000000000:task/shop/1") + "/drain"
	for _, c := range []struct {
		name, base, as, path string
		status               int
		says                 string
	}{
		{"nobody", xds, "", drain, 403, "Missing Authentication Token"},
		{"who may stream for another node", xds, "front", drain, 403, "appmesh:StreamAggregatedResources"},
		{"who may drain on the API's port alone", xds, "person", drain, 403, "appmesh:StreamAggregatedResources"},
		{"a proxy of this node", xds, "red", drain, 200, `"status":"DRAINED"`},
		{"a proxy of this node, on the API's port", own, "red", drain, 403, "evermesh:DrainProxy"},
		{"a person, on the API's port", own, "person", drain, 200, `"status":"DRAINED"`},
		{"no such instance", xds, "red", "/evermesh/v1/proxies/i-2/drain", 404, "is connected"},
		{"no such path", xds, "red", "/v20190125/meshes", 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body := ask(t, c.base, http.MethodPut, c.path, c.as)
			if status != c.status || !strings.Contains(body, c.says) {
				t.Errorf("%d %s, want %d with %q", status, body, c.status, c.says)
			}
		})
	}
	t.Run("AUDIT-003 what proxies asked for is in the trail", func(t *testing.T) {
		var seen []string
		for _, e := range p.events(t) {
			if e["eventName"] == "DrainProxy" {
				code, _ := e["errorCode"].(string)
				who, _ := e["userIdentity"].(map[string]any)
				name, _ := who["userName"].(string)
				seen = append(seen, name+" "+code)
			}
		}
		for _, want := range []string{"red ", "front " + api.CodeAccessDenied, "person "} {
			found := false
			for _, s := range seen {
				found = found || s == want
			}
			if !found {
				text, _ := json.Marshal(seen)
				t.Errorf("there is no event of %q: %s", want, text)
			}
		}
	})
}
