package rest_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/rest"
)

// What a policy denies stays denied in whichever letters, escapes and forms of a name
// it is asked for; and what only looks like it is another thing.
func TestPoliciesAreNotGoneAround(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:appmesh:us-east-1:" + accountA + ":mesh/"
	l := &ledger{changed: make(chan struct{})}
	s := judged(t, func(c *rest.Config) { c.Ledger = l }, map[string]string{
		"kept": allow(`"*"`, `"*"`) + `,{"Effect":"Deny","Action":["appmesh:*","evermesh:*"],"Resource":["` + arn + `secret","` + arn + `secret/*"]}`,
		"only": allow(`"appmesh:*"`, `"`+arn+`open","`+arn+`open/*"`),
		"team": `{"Effect":"Allow","Action":"appmesh:*","Resource":"*"},{"Effect":"Deny","Action":"appmesh:CreateMesh","Resource":"*","Condition":{"StringEquals":{"aws:RequestTag/stage":"prod"}}}`,
		"case": allow(`"AppMesh:listmeshes"`, `"*"`),
	})
	for _, name := range []string{"secret", "open", "Secret", "open*"} {
		s.do(t, "PUT", meshes, `{"meshName":"`+name+`"}`).ok(t)
	}
	s.do(t, "PUT", meshes+"/secret/virtualNodes", `{"virtualNodeName":"n","spec":{}}`).ok(t)
	tagged := func(of string) string { return "/v20190125/tags?resourceArn=" + url.QueryEscape(of) }
	for _, c := range []struct {
		name, user, method, path, body string
		status                         int
	}{
		{"the name", "kept", "GET", meshes + "/secret", "", 403},
		{"an escaped letter", "kept", "GET", meshes + "/%73ecret", "", 403},
		{"escaped in capitals", "kept", "GET", meshes + "/%73%65%63%72%65%74", "", 403},
		{"with its owner", "kept", "GET", meshes + "/secret?meshOwner=" + accountA, "", 403},
		{"below it", "kept", "GET", meshes + "/secret/virtualNodes/n", "", 403},
		{"a list below it", "kept", "GET", meshes + "/secret/virtualNodes", "", 403},
		{"by its ARN", "kept", "GET", tagged(arn + "secret"), "", 403},
		{"by its ARN with its owner", "kept", "GET", tagged(arn + "secret@" + accountA), "", 403},
		{"by a node's ARN with its owner", "kept", "GET", tagged(arn + "secret@" + accountA + "/virtualNode/n"), "", 403},
		{"another action on it", "kept", "PUT", "/v20190125/tag?resourceArn=" + url.QueryEscape(arn+"secret@"+accountA), `{"tags":[]}`, 403},
		{"explained", "kept", "GET", "/evermesh/v1/explain?resourceArn=" + url.QueryEscape(arn+"secret"), "", 403},
		{"planned", "kept", "POST", "/evermesh/v1/plan", changed("mesh", `{"meshName":"secret"}`, true), 403},
		{"settings", "kept", "GET", "/evermesh/v1/mesh-settings?meshName=secret", "", 403},
		{"another mesh in capitals", "kept", "GET", meshes + "/Secret", "", 200},
		{"a space behind", "kept", "GET", meshes + "/secret%20", "", 404},
		{"a NUL behind", "kept", "GET", meshes + "/secret%00", "", 400},
		{"a slash within", "kept", "GET", meshes + "/open%2Fsecret", "", 400},
		{"dots", "kept", "GET", meshes + "/open/../secret", "", 400},
		{"escaped dots", "kept", "GET", meshes + "/open/%2e%2e/secret", "", 404},
		{"what is allowed", "only", "GET", meshes + "/open", "", 200},
		{"in capitals", "only", "GET", meshes + "/OPEN", "", 403},
		{"a star in a name is a letter", "only", "GET", meshes + "/open*", "", 403},
		{"a star in a name is no wildcard", "only", "GET", meshes + "/%2A", "", 403},
		{"a tag that is denied", "team", "PUT", meshes, `{"meshName":"t1","tags":[{"key":"stage","value":"prod"}]}`, 403},
		{"in other letters", "team", "PUT", meshes, `{"meshName":"t2","tags":[{"key":"STAGE","value":"prod"}]}`, 403},
		{"hidden behind its like", "team", "PUT", meshes, `{"meshName":"t3","tags":[{"key":"Stage","value":"test"},{"key":"stage","value":"prod"}]}`, 403},
		{"hidden before its like", "team", "PUT", meshes, `{"meshName":"t4","tags":[{"key":"stage","value":"prod"},{"key":"Stage","value":"test"}]}`, 403},
		{"a look-alike is another", "team", "PUT", meshes, `{"meshName":"t5","tags":[{"key":"\u017ftage","value":"prod"}]}`, 200},
		{"actions have no case", "case", "GET", meshes, "", 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := s.by(t, c.user, c.method, c.path, c.body)
			if got.status != c.status {
				t.Errorf("status %d, want %d: %s", got.status, c.status, got.body)
			}
			if c.status == http.StatusForbidden && !strings.Contains(string(got.body), "is not authorized to perform: ") {
				t.Errorf("got %s", got.body)
			}
		})
	}
}
