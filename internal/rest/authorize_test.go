package rest_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/rest"
)

const headerUser = "X-Test-User"

// judge is an Authorizer of users with one policy each; roots may do all.
type judge map[string]*policy.Document

// Authorize satisfies auth.Authorizer.
func (j judge) Authorize(ctx context.Context, q auth.Question) error {
	user := strings.TrimPrefix(q.Principal.ARN, "arn:aws:iam::"+accountA+":user/")
	if user == q.Principal.ARN {
		return auth.Roots{}.Authorize(ctx, q)
	}
	d := policy.Evaluate(policy.Request{
		Principal: policy.Principal{ARN: q.Principal.ARN, Account: accountA}, Action: q.Action, Resource: q.Resource, Keys: policy.Map(q.Keys),
	}, policy.Set{Identity: []*policy.Document{j[user]}})
	if d.Outcome == policy.Allowed {
		return nil
	}
	return api.Errorf(api.CodeAccessDenied, "User: %s is not authorized to perform: %s on resource: %s %s", q.Principal.ARN, q.Action, q.Resource, d.Because(q.Action))
}

// judged makes a server whose users have the policies: statements in JSON, in which
// MESH is the ARN of the mesh apps.
func judged(t testing.TB, edit func(*rest.Config), policies map[string]string) *server {
	t.Helper()
	j := judge{}
	for user, statements := range policies {
		d, err := policy.Parse(`{"Version":"2012-10-17","Statement":[` + strings.ReplaceAll(statements, "MESH", "arn:aws:appmesh:us-east-1:"+accountA+":mesh/apps") + `]}`)
		if err != nil {
			t.Fatalf("%s: %v", user, err)
		}
		j[user] = d
	}
	return serve(t, func(c *rest.Config) {
		c.Authorizer = j
		c.Verify = func(_ context.Context, r auth.Request) (auth.Principal, error) {
			p := auth.Principal{Account: accountA, ARN: "arn:aws:iam::" + accountA + ":root", AccessKeyID: "AKIA" + accountA, Type: auth.Root}
			if user := r.Header.Get(headerUser); user != "" {
				p.ARN, p.Type, p.AccessKeyID = "arn:aws:iam::"+accountA+":user/"+user, auth.User, "AKIA"+user
			}
			return p, nil
		}
		if edit != nil {
			edit(c)
		}
	})
}

// by sends a request of a user.
func (s *server) by(t testing.TB, user, method, path, body string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Opaque = strings.TrimPrefix(s.URL, "http:") + path
	r.Header.Set(headerUser, user)
	return s.send(t, r)
}

// denied checks that the answer is a policy's refusal of the action on the resource.
func (a answer) denied(t testing.TB, action, resource string) {
	t.Helper()
	var body struct{ Message string }
	if err := json.Unmarshal(a.body, &body); err != nil {
		t.Fatalf("got %d %s: %v", a.status, a.body, err)
	}
	want := "is not authorized to perform: " + action + " on resource: " + resource + " "
	if a.status != http.StatusForbidden || a.header.Get("X-Amzn-ErrorType") != api.CodeAccessDenied || !strings.Contains(body.Message, want) {
		t.Errorf("got %d %s: %s\nwant a refusal with %q", a.status, a.header.Get("X-Amzn-ErrorType"), body.Message, want)
	}
}

func allow(actions, resources string) string {
	return fmt.Sprintf(`{"Effect":"Allow","Action":[%s],"Resource":[%s]}`, actions, resources)
}

// What the guide's policies say is what happens: actions, the ARN that is or is to be,
// tags in the request and on the resource.
func TestPolicies(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:appmesh:us-east-1:" + accountA + ":mesh/"
	tagged := func(effect, action, operator, key, value string) string {
		return fmt.Sprintf(`{"Effect":%q,"Action":%q,"Resource":"*","Condition":{%q:{%q:%s}}}`, effect, action, operator, key, value)
	}
	s := judged(t, nil, map[string]string{
		"nobody":    `{"Effect":"Deny","Action":"sts:*","Resource":"*"}`,
		"reader":    allow(`"appmesh:DescribeMesh","appmesh:ListMeshes"`, `"*"`),
		"describes": allow(`"appmesh:Describe*"`, `"*"`),
		"star":      allow(`"appmesh:CreateMesh"`, `"*"`),
		"exact":     allow(`"appmesh:CreateMesh"`, `"`+arn+`exact"`),
		"sample":    allow(`"appmesh:CreateMesh"`, `"arn:aws:appmesh:*:`+accountA+`:CreateMesh"`),
		"books":     tagged("Allow", "appmesh:CreateMesh", "StringEquals", "aws:RequestTag/teamName", `"booksTeam"`),
		"denies": tagged("Allow", "appmesh:CreateMesh", "StringEquals", "aws:RequestTag/teamName", `"booksTeam"`) + "," +
			`{"Effect":"Deny","Action":"appmesh:TagResource","Resource":"*"}`,
		"ours":   tagged("Allow", "appmesh:*", "StringEquals", "appmesh:ResourceTag/team", `"us"`),
		"theirs": tagged("Allow", "appmesh:*", "StringEquals", "aws:ResourceTag/Team", `"us"`),
		"costs":  `{"Effect":"Allow","Action":["appmesh:TagResource","appmesh:UntagResource"],"Resource":"*","Condition":{"ForAllValues:StringEquals":{"aws:TagKeys":["cost"]},"Null":{"aws:TagKeys":"false"}}}`,
		"seals": allow(`"appmesh:*"`, `"*"`) + "," + allow(`"acm:DescribeCertificate"`, `"arn:aws:acm:us-east-1:`+accountA+`:certificate/a"`) + "," +
			allow(`"acm-pca:DescribeCertificateAuthority"`, `"arn:aws:acm-pca:us-east-1:`+accountA+`:certificate-authority/a"`),
		"secured": tagged("Allow", "appmesh:ListMeshes", "Bool", "aws:SecureTransport", `"true"`),
		"near":    tagged("Allow", "appmesh:ListMeshes", "IpAddress", "aws:SourceIp", `"127.0.0.0/8"`),
		"far":     tagged("Allow", "appmesh:ListMeshes", "IpAddress", "aws:SourceIp", `"10.0.0.0/8"`),
		"early":   tagged("Allow", "appmesh:ListMeshes", "DateLessThan", "aws:CurrentTime", `"2020-01-01T00:00:00Z"`),
		"agent":   tagged("Allow", "appmesh:ListMeshes", "StringLike", "aws:UserAgent", `"Go-http-client*"`),
		"routing": allow(`"appmesh:CreateRoute","appmesh:UpdateRoute"`, `"MESH/virtualRouter/serviceB/route/*","MESH/virtualNode/serviceB"`),
		"backend": allow(`"appmesh:CreateVirtualNode"`, `"MESH/virtualNode/*","MESH/virtualService/open.local"`),
		"service": allow(`"appmesh:CreateVirtualService","appmesh:UpdateVirtualService"`, `"MESH/virtualService/*","MESH/virtualNode/serviceB"`),
		"gateway": allow(`"appmesh:CreateGatewayRoute"`, `"MESH/virtualGateway/edge/gatewayRoute/*","MESH/virtualService/open.local"`),
	})
	s.mesh(t)
	for _, body := range []struct{ path, body string }{
		{"/apps/virtualRouters", `{"virtualRouterName":"serviceB","spec":{"listeners":[{"portMapping":{"port":80,"protocol":"http"}}]}}`},
		{"/apps/virtualNodes", `{"virtualNodeName":"serviceB","spec":{},"tags":[{"key":"team","value":"us"}]}`},
		{"/apps/virtualNodes", `{"virtualNodeName":"serviceC","spec":{},"tags":[{"key":"team","value":"them"}]}`},
		{"/apps/virtualServices", `{"virtualServiceName":"open.local","spec":{}}`},
		{"/apps/virtualServices", `{"virtualServiceName":"shut.local","spec":{}}`},
		{"/apps/virtualGateways", `{"virtualGatewayName":"edge","spec":{"listeners":[{"portMapping":{"port":80,"protocol":"http"}}]}}`},
	} {
		s.do(t, "PUT", meshes+body.path, body.body).ok(t)
	}
	const node, other = "/apps/virtualNodes/serviceB", "/apps/virtualNodes/serviceC"
	nodeARN, otherARN := arn+"apps/virtualNode/serviceB", arn+"apps/virtualNode/serviceC"
	route := func(name, node string) string {
		return fmt.Sprintf(`{"routeName":%q,"spec":{"tcpRoute":{"action":{"weightedTargets":[{"virtualNode":%q,"weight":1}]}}}}`, name, node)
	}
	const routes = "/apps/virtualRouter/serviceB/routes"
	backed := func(name, service string) string {
		return fmt.Sprintf(`{"virtualNodeName":%q,"spec":{"backends":[{"virtualService":{"virtualServiceName":%q}}]}}`, name, service)
	}
	provided := func(name, node string) string {
		return fmt.Sprintf(`{"virtualServiceName":%q,"spec":{"provider":{"virtualNode":{"virtualNodeName":%q}}}}`, name, node)
	}
	led := func(name, service string) string {
		return fmt.Sprintf(`{"gatewayRouteName":%q,"spec":{"httpRoute":{"match":{"prefix":"/"},"action":{"target":{"virtualService":{"virtualServiceName":%q}}}}}}`, name, service)
	}
	sealed := func(name, certificate, authority string) string {
		return fmt.Sprintf(`{"virtualNodeName":%q,"spec":{"listeners":[{"portMapping":{"port":80,"protocol":"http"},"tls":{"mode":"STRICT","certificate":{"acm":{"certificateArn":%q}}}}],
			"serviceDiscovery":{"dns":{"hostname":"x.local"}},"backendDefaults":{"clientPolicy":{"tls":{"validation":{"trust":{"acm":{"certificateAuthorityArns":[%q]}}}}}}}}`, name, certificate, authority)
	}
	certificate := func(account, name string) string { return "arn:aws:acm:us-east-1:" + account + ":certificate/" + name }
	authority := func(name string) string {
		return "arn:aws:acm-pca:us-east-1:" + accountA + ":certificate-authority/" + name
	}
	gated := `{"virtualGatewayName":"gated","spec":{"listeners":[{"portMapping":{"port":80,"protocol":"http"},"tls":{"mode":"STRICT","certificate":{"acm":{"certificateArn":"` + certificate(accountA, "b") + `"}}}}]}}`
	tags := "/v20190125/tag?resourceArn=" + url.QueryEscape(nodeARN)
	untag := "/v20190125/untag?resourceArn=" + url.QueryEscape(nodeARN)
	for _, c := range []struct {
		name, user, method, path, body string
		action, resource               string // of the refusal; empty when it is allowed
	}{
		{"IAM-001 nothing is allowed by default", "nobody", "GET", meshes, "", "appmesh:ListMeshes", "*"},
		{"IAM-012 read-only lists", "reader", "GET", meshes, "", "", ""},
		{"IAM-012 read-only describes", "reader", "GET", meshes + "/apps", "", "", ""},
		{"IAM-012 read-only and no more", "reader", "GET", meshes + "/apps/virtualNodes", "", "appmesh:ListVirtualNodes", arn + "apps"},
		{"IAM-004 wildcards in actions", "describes", "GET", meshes + node, "", "", ""},
		{"IAM-016 it is not told what does not exist", "reader", "GET", meshes + "/apps/virtualNodes/none", "", "appmesh:DescribeVirtualNode", arn + "apps/virtualNode/none"},
		{"IAM-008 create by *", "star", "PUT", meshes, `{"meshName":"any"}`, "", ""},
		{"IAM-008 create by the ARN to be", "exact", "PUT", meshes, `{"meshName":"exact"}`, "", ""},
		{"IAM-008 create another", "exact", "PUT", meshes, `{"meshName":"exactly"}`, "appmesh:CreateMesh", arn + "exactly"},
		{"IAM-009 the guide's odd sample names no mesh", "sample", "PUT", meshes, `{"meshName":"odd"}`, "appmesh:CreateMesh", arn + "odd"},
		{"IAM-011 with the tag", "books", "PUT", meshes, `{"meshName":"books","tags":[{"key":"teamName","value":"booksTeam"}]}`, "", ""},
		{"IAM-011 without it", "books", "PUT", meshes, `{"meshName":"books2"}`, "appmesh:CreateMesh", arn + "books2"},
		{"IAM-011 with another value", "books", "PUT", meshes, `{"meshName":"books3","tags":[{"key":"teamName","value":"toys"}]}`, "appmesh:CreateMesh", arn + "books3"},
		{"TAG-003 a tag beyond it", "books", "PUT", meshes, `{"meshName":"books4","tags":[{"key":"teamName","value":"booksTeam"},{"key":"cost","value":"1"}]}`, "appmesh:TagResource", arn + "books4"},
		{"TAG-003 denied tags", "denies", "PUT", meshes, `{"meshName":"books5","tags":[{"key":"teamName","value":"booksTeam"}]}`, "appmesh:TagResource", arn + "books5"},
		{"TAG-003 create with tags needs TagResource", "star", "PUT", meshes, `{"meshName":"tagged","tags":[{"key":"a","value":"b"}]}`, "appmesh:TagResource", arn + "tagged"},
		{"IAM-010 tag of the resource", "ours", "GET", meshes + node, "", "", ""},
		{"IAM-010 tag of another", "ours", "GET", meshes + other, "", "appmesh:DescribeVirtualNode", otherARN},
		{"IAM-010 in both spellings", "theirs", "PUT", meshes + node, `{"spec":{}}`, "", ""},
		{"IAM-010 in both spellings, of another", "theirs", "DELETE", meshes + other, "", "appmesh:DeleteVirtualNode", otherARN},
		{"TAG-003 keys that may be tagged", "costs", "PUT", tags, `{"tags":[{"key":"cost","value":"1"}]}`, "", ""},
		{"TAG-003 keys that may not", "costs", "PUT", tags, `{"tags":[{"key":"cost","value":"1"},{"key":"team","value":"x"}]}`, "appmesh:TagResource", nodeARN},
		{"TAG-003 keys that may be untagged", "costs", "PUT", untag, `{"tagKeys":["cost"]}`, "", ""},
		{"TAG-003 keys that may not be untagged", "costs", "PUT", untag, `{"tagKeys":["team"]}`, "appmesh:UntagResource", nodeARN},
		{"IAM-039 only over TLS", "secured", "GET", meshes, "", "appmesh:ListMeshes", "*"},
		{"IAM-039 from near", "near", "GET", meshes, "", "", ""},
		{"IAM-039 from far", "far", "GET", meshes, "", "appmesh:ListMeshes", "*"},
		{"IAM-039 too late", "early", "GET", meshes, "", "appmesh:ListMeshes", "*"},
		{"IAM-039 by its client", "agent", "GET", meshes, "", "", ""},
		{"IAM-006 a route to the node", "routing", "PUT", meshes + routes, route("r", "serviceB"), "", ""},
		{"IAM-006 a route to another", "routing", "PUT", meshes + routes, route("r2", "serviceC"), "appmesh:CreateRoute", otherARN},
		{"IAM-006 a route to another, changed", "routing", "PUT", meshes + routes + "/r", route("r", "serviceC"), "appmesh:UpdateRoute", otherARN},
		{"IAM-007 a backend", "backend", "PUT", meshes + "/apps/virtualNodes", backed("n", "open.local"), "", ""},
		{"IAM-007 another backend", "backend", "PUT", meshes + "/apps/virtualNodes", backed("n2", "shut.local"), "appmesh:CreateVirtualNode", arn + "apps/virtualService/shut.local"},
		{"IAM-007 a provider", "service", "PUT", meshes + "/apps/virtualServices", provided("s", "serviceB"), "", ""},
		{"IAM-007 another provider", "service", "PUT", meshes + "/apps/virtualServices", provided("s2", "serviceC"), "appmesh:CreateVirtualService", otherARN},
		{"IAM-007 another provider later", "service", "PUT", meshes + "/apps/virtualServices/s", provided("s", "serviceC"), "appmesh:UpdateVirtualService", otherARN},
		{"TLS-007 a certificate and an authority", "seals", "PUT", meshes + "/apps/virtualNodes", sealed("s1", certificate(accountA, "a"), authority("a")), "", ""},
		{"TLS-007 another certificate", "seals", "PUT", meshes + "/apps/virtualNodes", sealed("s2", certificate(accountA, "b"), authority("a")), "acm:DescribeCertificate", certificate(accountA, "b")},
		{"TLS-007 another authority", "seals", "PUT", meshes + "/apps/virtualNodes", sealed("s3", certificate(accountA, "a"), authority("b")), "acm-pca:DescribeCertificateAuthority", authority("b")},
		{"TLS-007 another certificate later", "seals", "PUT", meshes + "/apps/virtualNodes/s1", sealed("s1", certificate(accountA, "b"), authority("a")), "acm:DescribeCertificate", certificate(accountA, "b")},
		{"TLS-007 a gateway's certificate", "seals", "PUT", meshes + "/apps/virtualGateways", gated, "acm:DescribeCertificate", certificate(accountA, "b")},
		{"IAM-007 a gateway route", "gateway", "PUT", meshes + "/apps/virtualGateway/edge/gatewayRoutes", led("g", "open.local"), "", ""},
		{"IAM-007 a gateway route elsewhere", "gateway", "PUT", meshes + "/apps/virtualGateway/edge/gatewayRoutes", led("g2", "shut.local"), "appmesh:CreateGatewayRoute", arn + "apps/virtualService/shut.local"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := s.by(t, c.user, c.method, c.path, c.body)
			if c.action == "" {
				got.ok(t)
				return
			}
			got.denied(t, c.action, c.resource)
		})
	}
}

// Certificates are of the account whose resource names them, whatever is shared.
func TestCertificatesOfOthers(t *testing.T) {
	t.Parallel()
	s := judged(t, nil, nil)
	s.mesh(t)
	for account, status := range map[string]int{accountA: http.StatusOK, accountB: http.StatusForbidden} {
		t.Run(fmt.Sprintf("SHARE-008 TLS-006 of account %s: %d", account, status), func(t *testing.T) {
			got := s.by(t, "", "PUT", meshes+"/apps/virtualNodes", fmt.Sprintf(`{"virtualNodeName":"n%s","spec":{"listeners":[{"portMapping":{"port":80,"protocol":"http"},
				"tls":{"mode":"STRICT","certificate":{"acm":{"certificateArn":"arn:aws:acm:us-east-1:%s:certificate/a"}}}}],"serviceDiscovery":{"dns":{"hostname":"x.local"}}}}`, account, account))
			if got.status != status {
				t.Errorf("got %d %s", got.status, got.body)
			}
		})
	}
}

// asked knows every proxy, of the node n of the mesh apps, and is never to drain one.
type asked struct{ t *testing.T }

func (asked) Find(_ context.Context, account, instance, _ string, _ func(api.Key) error) (api.Proxy, api.Key, error) {
	return api.Proxy{Instance: instance}, api.Key{Owner: account, Mesh: "apps", Kind: api.KindVirtualNode, Name: "n"}, nil
}

func (a asked) Drain(context.Context, api.Proxy, api.Key) (api.Drain, error) {
	a.t.Error("a proxy drains")
	return api.Drain{}, nil
}

func (a asked) Resume(ctx context.Context, p api.Proxy, key api.Key) (api.Drain, error) {
	return a.Drain(ctx, p, key)
}

func (asked) Since(api.Proxy) (time.Time, bool) { return time.Time{}, false }

// Every operation asks the policies for the action that is named like it: who may do
// all but one is refused that one, and nothing happens.
func TestEveryOperationAsksItsAction(t *testing.T) {
	t.Parallel()
	operations := operationsOf(t)
	policies := map[string]string{}
	for _, o := range operations {
		policies[o.name] = allow(`"*"`, `"*"`) + `,{"Effect":"Deny","Action":"` + o.action + `","Resource":"*"}`
	}
	l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateDone}}
	s := judged(t, func(c *rest.Config) { c.Ledger, c.Drains = l, asked{t} }, policies)
	s.mesh(t)
	for _, o := range operations {
		t.Run("IAM-002 "+o.name, func(t *testing.T) {
			got := s.by(t, o.name, o.method, o.path, o.body)
			var body struct{ Message string }
			if err := json.Unmarshal(got.body, &body); err != nil {
				t.Fatalf("%s: %v", got.body, err)
			}
			if want := "is not authorized to perform: " + o.action + " on resource: "; got.status != http.StatusForbidden ||
				!strings.Contains(body.Message, want) || !strings.Contains(body.Message, "with an explicit deny in an identity-based policy") {
				t.Errorf("got %d %s, want %q", got.status, got.body, want)
			}
		})
	}
	if got := s.do(t, "GET", meshes, "").ok(t); len(got["meshes"].([]any)) != 1 {
		t.Errorf("meshes %v", got)
	}
}

// operation is one of the API with the least that it takes.
type operation struct{ name, action, method, path, body string }

// operationsOf are all operations of App Mesh and of Evermesh's own API.
func operationsOf(t testing.TB) []operation {
	t.Helper()
	var out []operation
	for _, load := range []func() (*model.Model, error){model.AppMesh, model.Evermesh} {
		m, err := load()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range slices.Sorted(maps.Keys(m.Operations)) {
			op := m.Operations[name]
			o := operation{name: name, action: m.Metadata.EndpointPrefix + ":" + name, method: op.HTTP.Method}
			path := op.HTTP.RequestURI
			body, query := map[string]any{}, url.Values{}
			for member, ref := range m.Shapes[op.Input.Shape].Members {
				required := slices.Contains(m.Shapes[op.Input.Shape].Required, member)
				switch wire := cmp.Or(ref.LocationName, member); {
				case ref.Location == "uri":
					path = strings.ReplaceAll(path, "{"+wire+"}", "apps")
				case wire == "meshName" && ref.Location == "querystring":
					query.Set(wire, "apps")
				case ref.Location == "querystring" && required:
					query.Set(wire, "arn:aws:appmesh:us-east-1:"+accountA+":mesh/apps")
				case !required || ref.Location != "":
				case m.Shapes[ref.Shape].Type == "structure":
					body[wire] = map[string]any{}
					if strings.HasSuffix(name, "VirtualGateway") {
						body[wire] = map[string]any{"listeners": []any{}}
					}
				case m.Shapes[ref.Shape].Type == "list":
					body[wire] = map[string][]any{
						"tags": {map[string]string{"key": "k", "value": "v"}}, "tagKeys": {"k"},
						"changes": {map[string]any{"kind": "mesh", "input": `{"meshName":"new"}`}},
					}[wire]
				default:
					body[wire] = "apps"
				}
			}
			if o.path = path; len(query) > 0 {
				o.path += "?" + query.Encode()
			}
			if o.method != http.MethodGet {
				text, err := json.Marshal(body)
				if err != nil {
					t.Fatal(err)
				}
				o.body = string(text)
			}
			out = append(out, o)
		}
	}
	return out
}

// switched is one Authorizer, and then another.
type switched struct {
	now           *atomic.Bool
	before, after auth.Authorizer
}

// Authorize satisfies auth.Authorizer.
func (s switched) Authorize(ctx context.Context, q auth.Question) error {
	if s.now.Load() {
		return s.after.Authorize(ctx, q)
	}
	return s.before.Authorize(ctx, q)
}
