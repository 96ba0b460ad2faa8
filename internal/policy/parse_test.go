package policy_test

import (
	"testing"

	"github.com/evermesh/evermesh/internal/policy"
)

func parse(t *testing.T, text string) *policy.Document {
	t.Helper()
	d, err := policy.Parse(text)
	if err != nil {
		t.Fatalf("parse %s: %v", text, err)
	}
	return d
}

// The guide's policy for creating a mesh names a resource that no mesh has.
func TestTheGuidesOddPolicy_IAM_009(t *testing.T) {
	d := parse(t, `{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": "appmesh:CreateMesh",
      "Resource": "arn:aws:appmesh:*:123456789012:CreateMesh"
    }
  ]
}`)
	if err := d.ForIdentity(); err != nil {
		t.Fatal(err)
	}
	for resource, want := range map[string]policy.Outcome{
		"arn:aws:appmesh:us-west-2:123456789012:mesh/apps":   policy.ImplicitDeny,
		"arn:aws:appmesh:us-west-2:123456789012:CreateMesh":  policy.Allowed,
		"arn:aws:appmesh:us-west-2:123456789012:CreateMesh2": policy.ImplicitDeny,
	} {
		got := policy.Evaluate(policy.Request{Action: "appmesh:CreateMesh", Resource: resource}, policy.Set{Identity: []*policy.Document{d}})
		if got.Outcome != want {
			t.Errorf("%s: %v, want %v", resource, got.Outcome, want)
		}
	}
}
