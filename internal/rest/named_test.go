package rest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/forward"
	"github.com/evermesh/evermesh/internal/rest"
)

// What a node or gateway names by ARN is looked for: what is not there, and what is no
// ARN, is a problem that says where, and all is not said to exist. Clients see ACTIVE.
func TestExplainLooksForCertificates(t *testing.T) {
	t.Parallel()
	l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateDone}}
	const there, gone = "arn:aws:acm:us-east-1:" + accountA + ":certificate/there", "arn:aws:acm:us-east-1:" + accountA + ":certificate/gone"
	const trusted, unknown = "arn:aws:acm-pca:us-east-1:" + accountA + ":certificate-authority/there", "arn:aws:acm-pca:us-east-1:" + accountA + ":certificate-authority/gone"
	exists := func(_ context.Context, arn string) (bool, error) { return arn == there || arn == trusted, nil }
	here := serve(t, func(c *rest.Config) { c.Ledger, c.Exists = l, exists })
	away := serve(t, func(c *rest.Config) {
		c.Ledger, c.Exists, c.Elsewhere = l, exists, map[string]*forward.Service{"acm": {}}
	})
	listener := func(arn string) string {
		return `"listeners":[{"portMapping":{"port":80,"protocol":"http"},"tls":{"mode":"STRICT","certificate":{"acm":{"certificateArn":"` + arn + `"}}}}]`
	}
	policy := func(arns ...string) string {
		return `"clientPolicy":{"tls":{"validation":{"trust":{"acm":{"certificateAuthorityArns":["` + strings.Join(arns, `","`) + `"]}}}}}`
	}
	const path, all = "spec.listeners[0].tls.certificate.acm.certificateArn ", "TRUE Resolved Everything that it refers to exists."
	const inPart = "TRUE Resolved Every resource of the mesh that it refers to exists. Certificates or authorities that it names are elsewhere, and were not asked for."
	for _, s := range []*server{here, away} {
		s.mesh(t)
	}
	for i, c := range []struct {
		name, kind, spec string
		at               *server
		want             string
	}{
		{"one that is there", "virtualNode", listener(there), here, all},
		{"none", "virtualNode", ``, here, all},
		{"one that is not there", "virtualNode", listener(gone), here, "FALSE NotFound " + path + "names certificate " + gone + ", which does not exist: name one that does, or make one"},
		{"what is no ARN", "virtualNode", listener("foo"), here, `FALSE NotFound ` + path + `is "foo", which is no ARN of a certificate: name one, arn:aws:acm:us-east-1:` + accountA + `:certificate/ID`},
		{"an authority in place of a certificate", "virtualNode", listener(trusted), here, "FALSE NotFound " + path + "is \"" + trusted + "\", which is no ARN of a certificate"},
		{"a gateway's", "virtualGateway", listener(gone), here, "FALSE NotFound " + path + "names certificate " + gone},
		{"an authority that is not there", "virtualNode", `"backendDefaults":{` + policy(trusted, unknown) + `}`, here, "FALSE NotFound spec.backendDefaults.clientPolicy.tls.validation.trust.acm.certificateAuthorityArns[1] names certificate authority " + unknown},
		{"a backend's", "virtualNode", `"backends":[{"virtualService":{"virtualServiceName":"a.local",` + policy(unknown) + `}}]`, here, "spec.backends[0].virtualService.clientPolicy.tls.validation.trust.acm.certificateAuthorityArns[0] names"},
		{"a gateway's authority", "virtualGateway", `"listeners":[{"portMapping":{"port":80,"protocol":"http"}}],"backendDefaults":{` + policy(unknown) + `}`, here, "FALSE NotFound spec.backendDefaults.clientPolicy.tls.validation.trust.acm.certificateAuthorityArns[0] names"},
		{"one elsewhere", "virtualNode", listener(gone), away, inPart},
		{"what is no ARN, elsewhere or not", "virtualNode", listener("foo"), away, "FALSE NotFound " + path + "is \"foo\""},
		{"an authority here, with ACM elsewhere", "virtualNode", `"backendDefaults":{` + policy(unknown) + `}`, away, "FALSE NotFound "},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := fmt.Sprint("n", i)
			got := c.at.do(t, "PUT", "/v20190125/meshes/apps/"+c.kind+"s", `{"`+c.kind+`Name":"`+name+`","spec":{`+c.spec+`}}`).ok(t)
			if at(got, "status", "status") != "ACTIVE" {
				t.Errorf("it is not ACTIVE: %v", got)
			}
			explained := c.at.do(t, "GET", "/evermesh/v1/explain?resourceArn=arn:aws:appmesh:us-east-1:"+accountA+":mesh/apps/"+c.kind+"/"+name, "").ok(t)
			var resolved string
			for _, x := range explained["conditions"].([]any) {
				if x := x.(map[string]any); x["type"] == "ResolvedRefs" {
					resolved = fmt.Sprint(x["status"], " ", x["reason"], " ", x["message"])
				}
			}
			if !strings.Contains(resolved+fmt.Sprint(explained["problems"]), c.want) {
				t.Errorf("got %s, want %s", resolved, c.want)
			}
			if missing := strings.Contains(resolved, "FALSE"); missing != strings.Contains(fmt.Sprint(explained["problems"]), "until then TLS that needs it fails") {
				t.Errorf("the problems of what is %s are %v", resolved, explained["problems"])
			}
		})
	}
}
