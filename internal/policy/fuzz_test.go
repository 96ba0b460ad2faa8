package policy_test

import (
	"testing"

	"github.com/evermesh/evermesh/internal/policy"
)

// Whatever a policy says, reading and asking it comes to an end, and what is not
// understood allows nothing.
func FuzzParse(f *testing.F) {
	f.Add(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`, "appmesh:CreateMesh", "*")
	f.Add(`{"Statement":[{"Effect":"Deny","NotAction":["a:*"],"NotResource":["arn:*"],"Principal":{"AWS":"*"},"Condition":{"ForAllValues:StringLike":{"aws:TagKeys":["${aws:username}"]}}}]}`, "a:B", "arn:aws:a:::b")
	f.Add(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"a:B","Resource":"arn:aws:appmesh:*:123456789012:CreateMesh","Condition":{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"},"DateLessThan":{"aws:CurrentTime":"2026"}}}}`, "a:B", "*")
	f.Fuzz(func(t *testing.T, text, action, resource string) {
		d, err := policy.Parse(text)
		if err != nil {
			return
		}
		r := policy.Request{Action: action, Resource: resource, Keys: policy.Map{"aws:username": {text}, "aws:tagkeys": {action, resource}}}
		set := policy.Set{Identity: []*policy.Document{d}}
		got, findings := policy.Explain(r, set)
		if got.Outcome == policy.Allowed && (got.Statement == nil || len(findings) == 0) {
			t.Errorf("allowed by %v of %d findings", got.Statement, len(findings))
		}
		d.ContextKeys()
		_, _ = d.ForIdentity(), d.ForTrust()
	})
}
