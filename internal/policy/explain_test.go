package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/policy"
)

const explained = `{
  "Version": "2012-10-17",
  "Statement": [
    {"Sid": "Other", "Effect": "Allow", "Action": "appmesh:ListMeshes", "Resource": "*"},
    {"Sid": "Mesh", "Effect": "Allow", "Action": "appmesh:*", "Resource": "arn:aws:appmesh:*:*:mesh/other"},
    {"Effect": "Allow", "Action": "appmesh:CreateMesh", "Resource": "*",
     "Condition": {"StringEquals": {"aws:RequestTag/teamName": "booksTeam"}}}
  ]
}`

// A refusal can be explained: which statement, which resource, which condition.
func TestExplain_IAM_041(t *testing.T) {
	set := policy.Set{Identity: []*policy.Document{parse(t, explained)}}
	r := policy.Request{Action: "appmesh:CreateMesh", Resource: "arn:aws:appmesh:us-west-2:111122223333:mesh/apps", Keys: policy.Map{"aws:requesttag/teamname": {"carsTeam"}}}
	lines := func(r policy.Request) []string {
		d, findings := policy.Explain(r, set)
		out := []string{d.Outcome.String() + " " + d.Because(r.Action)}
		for _, f := range findings {
			line := fmt.Sprintf("%s at %d:%d misses %q", f.Statement.Name(), f.Statement.Start().Line, f.Statement.Start().Column, f.Missed)
			if f.Unmet != nil {
				line += ": " + f.Unmet.String()
			}
			out = append(out, line)
		}
		return out
	}
	want := []string{
		"implicitDeny because no identity-based policy allows the appmesh:CreateMesh action",
		`Mesh at 5:5 misses "resource"`,
		`statement 3 at 6:5 misses "condition": StringEquals of aws:requesttag/teamname, which is carsTeam, with booksTeam`,
	}
	if diff := cmp.Diff(want, lines(r)); diff != "" {
		t.Error(diff)
	}
	r.Keys = nil
	want[2] = `statement 3 at 6:5 misses "condition": StringEquals of aws:requesttag/teamname, which the request does not have, with booksTeam`
	if diff := cmp.Diff(want, lines(r)); diff != "" {
		t.Error(diff)
	}
	r.Keys = policy.Map{"aws:requesttag/teamname": {"booksTeam"}}
	want[0], want[2] = "allowed because no identity-based policy allows the appmesh:CreateMesh action", `statement 3 at 6:5 misses ""`
	if diff := cmp.Diff(want[1:], lines(r)[1:]); diff != "" {
		t.Error(diff)
	}
}

// The ends of refusals are AWS's.
func TestRefusalsEnd_IAM_016(t *testing.T) {
	for want, d := range map[string]policy.Decision{
		"because no identity-based policy allows the a:B action":  {Layer: policy.Identity},
		"because no permissions boundary allows the a:B action":   {Layer: policy.Boundary},
		"because no session policy allows the a:B action":         {Layer: policy.Session},
		"because no service control policy allows the a:B action": {Layer: policy.Guard},
		"because no resource-based policy allows the a:B action":  {Layer: policy.Resource},
		"because no role trust policy allows the a:B action":      {Layer: policy.Trust},
		"with an explicit deny in an identity-based policy":       {Layer: policy.Identity, Outcome: policy.ExplicitDeny},
		"with an explicit deny in a permissions boundary":         {Layer: policy.Boundary, Outcome: policy.ExplicitDeny},
		"with an explicit deny in a session policy":               {Layer: policy.Session, Outcome: policy.ExplicitDeny},
		"with an explicit deny in a service control policy":       {Layer: policy.Guard, Outcome: policy.ExplicitDeny},
		"with an explicit deny in a resource-based policy":        {Layer: policy.Resource, Outcome: policy.ExplicitDeny},
		"with an explicit deny in a role trust policy":            {Layer: policy.Trust, Outcome: policy.ExplicitDeny},
	} {
		if got := d.Because("a:B"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Where statements stand, in characters, for MatchedStatements.
func TestPositionsOfStatements(t *testing.T) {
	d := parse(t, "{\"Statement\": [\n  {\"Resource\": \"é:\", \"Effect\": \"Allow\", \"Action\": \"*\"}, {\"Effect\": \"Deny\",\n\"Action\": \"*\"}]}")
	got := [][2]policy.Position{}
	for _, s := range d.Statements {
		got = append(got, [2]policy.Position{s.Start(), s.End()})
	}
	want := [][2]policy.Position{{{2, 3}, {2, 54}}, {{2, 57}, {3, 14}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// GetContextKeysForCustomPolicy wants what a policy asks of a request.
func TestContextKeys(t *testing.T) {
	d := parse(t, `{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "arn:aws:iam::*:user/${aws:UserName}",
		"Condition": {"StringLike": {"aws:RequestTag/Team": ["${aws:PrincipalTag/team, 'x'}", "${*}"]}, "ArnLike": {"aws:SourceArn": "arn:aws:sns:*:${aws:PrincipalAccount}:*"}, "Null": {"aws:username": "true"}}}}`)
	want := []string{"aws:username", "aws:requesttag/team", "aws:principaltag/team", "aws:sourcearn", "aws:principalaccount"}
	if diff := cmp.Diff(want, d.ContextKeys()); diff != "" {
		t.Error(diff)
	}
}

// Every operator of IAM's is in the tables of testdata/conditions.
func TestEveryOperatorHasACase_IAM_039(t *testing.T) {
	files, err := filepath.Glob("testdata/conditions/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	for _, operator := range []string{
		"StringEquals", "StringNotEquals", "StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", "StringLike", "StringNotLike",
		"NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericLessThanEquals", "NumericGreaterThan", "NumericGreaterThanEquals",
		"DateEquals", "DateNotEquals", "DateLessThan", "DateLessThanEquals", "DateGreaterThan", "DateGreaterThanEquals",
		"Bool", "BinaryEquals", "IpAddress", "NotIpAddress", "ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike", "Null",
	} {
		if !strings.Contains(all.String(), `{"`+operator+`": {`) {
			t.Errorf("%s has no case", operator)
		}
	}
}
