package policy_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/policy"
)

// statement is one that is drawn.
type statement map[string]any

var (
	drawnActions   = []string{"a:B", "a:C", "a:*", "*", "a:?", "b:B", "b:*"}
	drawnResources = []string{"*", "arn:aws:a:r:111122223333:x/1", "arn:aws:a:r:111122223333:x/*", "arn:aws:a:*:*:x/${aws:username}", "arn:aws:a:*:444455556666:*"}
)

func drawStatement(t *rapid.T, effect string) statement {
	pick := func(of []string, name string) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 1, 3, rapid.ID[string]).Draw(t, name)
	}
	s := statement{"Effect": effect}
	s[rapid.SampledFrom([]string{"Action", "Action", "NotAction"}).Draw(t, "action")] = pick(drawnActions, "actions")
	s[rapid.SampledFrom([]string{"Resource", "Resource", "NotResource"}).Draw(t, "resource")] = pick(drawnResources, "resources")
	if operator := rapid.SampledFrom([]string{"", "StringEquals", "StringNotEquals", "StringLikeIfExists", "ForAllValues:StringEquals", "ForAnyValue:StringNotLike", "Null"}).Draw(t, "operator"); operator != "" {
		values := []string{"u", "v", "${aws:username}"}
		if operator == "Null" {
			values = []string{"true", "false"}
		}
		s["Condition"] = map[string]any{operator: map[string]any{rapid.SampledFrom([]string{"a:k", "aws:username"}).Draw(t, "key"): pick(values, "values")[:1]}}
	}
	return s
}

func drawStatements(t *rapid.T, least int) []statement {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) statement {
		return drawStatement(t, rapid.SampledFrom([]string{"Allow", "Allow", "Deny"}).Draw(t, "effect"))
	}), least, 5).Draw(t, "statements")
}

func document(t *rapid.T, statements []statement) *policy.Document {
	text, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
	if err != nil {
		t.Fatal(err)
	}
	d, err := policy.Parse(string(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return d
}

func drawRequest(t *rapid.T) policy.Request {
	keys := policy.Map{}
	for _, key := range []string{"a:k", "aws:username"} {
		if values := rapid.SliceOfN(rapid.SampledFrom([]string{"u", "v", "w", "*"}), 0, 2).Draw(t, key); len(values) > 0 {
			keys[key] = values
		}
	}
	return policy.Request{
		Principal: policy.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":user/u"},
		Action:    rapid.SampledFrom([]string{"a:B", "a:C", "a:Other", "b:B", "c:D"}).Draw(t, "asked"),
		Resource:  rapid.SampledFrom([]string{"*", "arn:aws:a:r:111122223333:x/1", "arn:aws:a:r:111122223333:x/u", "arn:aws:a::444455556666:y"}).Draw(t, "of"),
		Keys:      keys,
	}
}

func allowed(r policy.Request, s policy.Set) bool {
	return policy.Evaluate(r, s).Outcome == policy.Allowed
}

// What has to hold whatever the policies say.
func TestWhateverPoliciesSay(t *testing.T) {
	t.Run("IAM-001 one more deny allows nothing, one more allow denies nothing", rapid.MakeCheck(func(t *rapid.T) {
		statements := drawStatements(t, 1)
		r := drawRequest(t)
		before := allowed(r, policy.Set{Identity: []*policy.Document{document(t, statements)}})
		with := func(effect string) bool {
			return allowed(r, policy.Set{Identity: []*policy.Document{document(t, append(slices.Clone(statements), drawStatement(t, effect)))}})
		}
		if !before && with("Deny") {
			t.Fatal("a deny allowed it")
		}
		if before && !with("Allow") {
			t.Fatal("an allow denied it")
		}
	}))
	t.Run("IAM-015 a boundary, a session policy and a guard never widen", rapid.MakeCheck(func(t *rapid.T) {
		set := policy.Set{Identity: []*policy.Document{document(t, drawStatements(t, 1))}}
		r := drawRequest(t)
		before := allowed(r, set)
		bound := document(t, drawStatements(t, 1))
		for name, set := range map[string]policy.Set{
			"boundary": {Identity: set.Identity, Boundary: bound},
			"session":  {Identity: set.Identity, Session: []*policy.Document{bound}},
			"guard":    {Identity: set.Identity, Guards: []*policy.Document{bound}},
		} {
			got := allowed(r, set)
			if want := before && allowed(r, policy.Set{Identity: []*policy.Document{bound}}); got != want {
				t.Fatalf("%s: allowed is %v, but both together say %v", name, got, want)
			}
		}
	}))
	t.Run("IAM-001 order and division of statements do not matter", rapid.MakeCheck(func(t *rapid.T) {
		statements := drawStatements(t, 2)
		r := drawRequest(t)
		once := allowed(r, policy.Set{Identity: []*policy.Document{document(t, statements)}})
		shuffled := slices.Clone(statements)
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		cut := rapid.IntRange(1, len(shuffled)-1).Draw(t, "cut")
		if got := allowed(r, policy.Set{Identity: []*policy.Document{document(t, shuffled[:cut]), document(t, shuffled[cut:])}}); got != once {
			t.Fatalf("allowed is %v, and was %v in another order", got, once)
		}
	}))
	t.Run("IAM-041 what is explained is what is decided", rapid.MakeCheck(func(t *rapid.T) {
		set := policy.Set{Identity: []*policy.Document{document(t, drawStatements(t, 1)), document(t, drawStatements(t, 1))}}
		r := drawRequest(t)
		d, findings := policy.Explain(r, set)
		var denies, allows bool
		for _, f := range findings {
			denies = denies || f.Missed == "" && f.Statement.Effect == policy.Deny
			allows = allows || f.Missed == "" && f.Statement.Effect == policy.Allow
			if (f.Unmet != nil) != (f.Missed == policy.ByCondition) {
				t.Fatalf("%s of %s names condition %v", f.Missed, f.Statement.Name(), f.Unmet)
			}
		}
		want := policy.ImplicitDeny
		switch {
		case denies:
			want = policy.ExplicitDeny
		case allows:
			want = policy.Allowed
		}
		if d.Outcome != want {
			t.Fatalf("decided %s, but the findings say %s: %+v", d.Outcome, want, findings)
		}
	}))
}
