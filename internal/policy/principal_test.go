package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/policy"
)

// A document names those whom it was bound to, and nobody else who has their names.
func TestBoundPrincipals_IAM_038(t *testing.T) {
	const user, role, session = "arn:aws:iam::111122223333:user/u", "arn:aws:iam::111122223333:role/r", "arn:aws:sts::111122223333:assumed-role/r/s"
	const text = `{"Statement": [{"Effect": "Allow", "Principal": {"AWS": ["` + user + `", "111122223333", "` + session + `"], "Service": "x.example"}, "Action": "sts:AssumeRole"},
		{"Effect": "Allow", "Principal": {"AWS": "` + role + `"}, "Action": "sts:TagSession"}]}`
	parse := func() *policy.Document {
		d, err := policy.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if diff := cmp.Diff([]string{user, session, role}, parse().Named()); diff != "" {
		t.Error(diff)
	}
	const want = `{"Statement": [{"Effect": "Allow", "Principal": {"AWS": ["AIDA1", "111122223333", "` + session + `"], "Service": "x.example"}, "Action": "sts:AssumeRole"},
		{"Effect": "Allow", "Principal": {"AWS": "AROA1"}, "Action": "sts:TagSession"}]}`
	if diff := cmp.Diff(want, parse().Renamed(map[string]string{user: "AIDA1", role: "AROA1"})); diff != "" {
		t.Error(diff)
	}
	bound := parse().Bound(map[string]string{user: "AIDA1", role: "AROA1", session: "AROA1:s"})
	for _, c := range []struct {
		who    policy.Principal
		action string
		lets   bool
	}{
		{policy.Principal{ARN: user, ID: "AIDA1"}, "sts:AssumeRole", true},
		{policy.Principal{ARN: user, ID: "AIDA2"}, "sts:AssumeRole", false},
		{policy.Principal{ARN: session, Issuer: role, ID: "AROA1:s"}, "sts:AssumeRole", true},
		{policy.Principal{ARN: session, Issuer: role, ID: "AROA2:s"}, "sts:AssumeRole", false},
		{policy.Principal{ARN: session + "2", Issuer: role, ID: "AROA1:s2"}, "sts:AssumeRole", false},
		{policy.Principal{ARN: session, Issuer: role, ID: "AROA1:s"}, "sts:TagSession", true},
		{policy.Principal{ARN: session, Issuer: role, ID: "AROA2:s"}, "sts:TagSession", false},
	} {
		c.who.Account = "444455556666" // the account's own word is not asked
		got := policy.Evaluate(policy.Request{Principal: c.who, Action: c.action, Resource: role}, policy.Set{Resource: bound, Trust: true, Identity: []*policy.Document{all(t)}})
		if (got.Outcome == policy.Allowed) != c.lets {
			t.Errorf("%s of %s: %v", c.action, c.who.ID, got.Outcome)
		}
	}
}

func all(t *testing.T) *policy.Document {
	t.Helper()
	d, err := policy.Parse(`{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}`)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
