package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/policy"
)

// much is a policy of n statements, none of which is about a mesh called wanted; every
// fourth is about actions by wildcard.
func much(tb testing.TB, policies, n int) []*policy.Document {
	tb.Helper()
	var out []*policy.Document
	kinds := []string{"VirtualNode", "VirtualRouter", "Route", "VirtualService"}
	for p := range policies {
		var b strings.Builder
		b.WriteString(`{"Version": "2012-10-17", "Statement": [`)
		for i := range n {
			action := fmt.Sprintf("%s%s", []string{"Describe", "Update", "Delete"}[i%3], kinds[i%len(kinds)])
			if i%4 == 0 {
				action = []string{"Describe*", "Update*", "Delete*"}[i%3]
			}
			fmt.Fprintf(&b, `{"Effect": "Allow", "Action": "appmesh:%s", "Resource": "arn:aws:appmesh:us-west-2:111122223333:mesh/team-%d-%d/*"},`, action, p, i)
		}
		b.WriteString(`{"Effect": "Allow", "Action": ["iam:Get*", "iam:List*"], "Resource": "*"}]}`)
		d, err := policy.Parse(b.String())
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

var wanted = policy.Request{
	Principal: policy.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":user/alice"},
	Action:    "appmesh:UpdateVirtualRouter",
	Resource:  "arn:aws:appmesh:us-west-2:111122223333:mesh/wanted/virtualRouter/r",
	Keys:      policy.Map{"aws:username": {"alice"}},
}

// A question is put to the statements that name its action, not to all.
func TestFewStatementsAreLookedAt(t *testing.T) {
	set := policy.Set{Identity: much(t, 20, 100)}
	d := policy.Evaluate(wanted, set)
	if d.Outcome != policy.ImplicitDeny {
		t.Fatalf("%s by %v", d.Outcome, d.Statement)
	}
	// Of 100 statements 9 have the action itself, and 25 a wildcard of the service.
	if d.Looked > 20*40 {
		t.Errorf("looked at %d of %d statements", d.Looked, 20*101)
	}
	other := wanted
	other.Action = "acm:ListCertificates"
	if d := policy.Evaluate(other, set); d.Looked != 0 {
		t.Errorf("looked at %d statements for a service that none names", d.Looked)
	}
	if allocs := testing.AllocsPerRun(100, func() { policy.Evaluate(wanted, set) }); allocs > 6 {
		t.Errorf("an evaluation allocates %v times", allocs)
	}
}

func BenchmarkEvaluate(b *testing.B) {
	b.Run("20 policies of 100 statements", func(b *testing.B) {
		set := policy.Set{Identity: much(b, 20, 100)}
		b.ReportAllocs()
		for b.Loop() {
			policy.Evaluate(wanted, set)
		}
	})
	// What one principal has is all that its question touches, however many others
	// there are: 1,000 accounts with ten policies each.
	b.Run("one of 1,000 accounts with 10,000 policies", func(b *testing.B) {
		accounts := make([]policy.Set, 1000)
		for i := range accounts {
			accounts[i].Identity = much(b, 10, 8)
		}
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			policy.Evaluate(wanted, accounts[i%len(accounts)])
			i++
		}
	})
	b.Run("a condition and a variable", func(b *testing.B) {
		d, err := policy.Parse(`{"Version": "2012-10-17", "Statement": [
			{"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
			{"Effect": "Allow", "Action": "appmesh:*", "Resource": "arn:aws:appmesh:*:*:mesh/${aws:username}/*"}]}`)
		if err != nil {
			b.Fatal(err)
		}
		r := wanted
		r.Resource = "arn:aws:appmesh:us-west-2:111122223333:mesh/alice/virtualRouter/r"
		r.Keys = policy.Map{"aws:username": {"alice"}, "aws:sourceip": {"10.1.2.3"}}
		set := policy.Set{Identity: []*policy.Document{d}}
		b.ReportAllocs()
		for b.Loop() {
			if policy.Evaluate(r, set).Outcome != policy.Allowed {
				b.Fatal("refused")
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text := much(b, 1, 50)[0].String()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := policy.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
