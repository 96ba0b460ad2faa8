package policy_test

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

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

// TestFaults reads testdata/faults: texts that are no policies, and what is said.
func TestFaults(t *testing.T) {
	cases(t, "faults", func(t *testing.T, a *txtar.Archive) {
		for _, f := range a.Files {
			t.Run(f.Name, func(t *testing.T) {
				text, want, _ := strings.Cut("\n"+string(f.Data), "\n=> ")
				_, err := policy.Parse(strings.TrimPrefix(text, "\n"))
				wrong, ok := errors.AsType[*policy.Error](err)
				if !ok || wrong.Message != strings.TrimSpace(want) {
					t.Errorf("got %v", err)
				}
			})
		}
	})
}

// What only some kinds of policies may have.
func TestPoliciesOfEachKind_IAM_034(t *testing.T) {
	const trust = `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Principal": {"Service": ["ec2.amazonaws.com"]}, "Action": ["sts:AssumeRole"]%s}}`
	for name, c := range map[string]struct {
		text            string
		identity, trust string // what is wrong with it; empty for nothing
	}{
		"the guide's trust policy for EC2": {
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":["ec2.amazonaws.com"]},"Action":["sts:AssumeRole"]}]}`,
			"Policy document should not specify a principal.", "",
		},
		"with a resource":   {fmt.Sprintf(trust, `, "Resource": "*"`), "Policy document should not specify a principal.", "Has prohibited field Resource"},
		"with no resources": {fmt.Sprintf(trust, `, "NotResource": []`), "Policy document should not specify a principal.", "Has prohibited field NotResource"},
		"of the older version": {
			`{"Version":"2008-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}]}`,
			"Policy document must be version 2012-10-17 or greater.", "",
		},
		"an ordinary one": {
			`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Resource":"*"}}`,
			"", "Has prohibited field Resource",
		},
		"without resource and principal": {
			`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"sts:AssumeRole"}}`,
			"Policy statement must contain resources.", "Missing required field Principal",
		},
		"about meshes": {
			`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"appmesh:*","Principal":"*"}}`,
			"Policy document should not specify a principal.", "AssumeRole policy may only specify STS AssumeRole actions.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := parse(t, c.text)
			if got := fmt.Sprint(d.ForIdentity()); got != cmp.Or(c.identity, "<nil>") {
				t.Errorf("of an identity: %s", got)
			}
			if got := fmt.Sprint(d.ForTrust()); got != cmp.Or(c.trust, "<nil>") {
				t.Errorf("of trust: %s", got)
			}
		})
	}
}
