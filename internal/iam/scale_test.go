package iam_test

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// document is a policy with so many statements, of which the one with that number
// allows what busy asks.
func document(statements, allows int) string {
	var b strings.Builder
	b.WriteString(`{"Version":"2012-10-17","Statement":[`)
	for i := range statements {
		if i > 0 {
			b.WriteString(",")
		}
		action := fmt.Sprintf("service%d:Get*", i)
		if i == allows {
			action = "appmesh:Describe*"
		}
		fmt.Fprintf(&b, `{"Effect":"Allow","Action":"%s","Resource":"arn:aws:appmesh:*:*:mesh/m*","Condition":{"StringLike":{"aws:username":"u*"}}}`, action)
	}
	b.WriteString("]}")
	return b.String()
}

func account(n int) string { return fmt.Sprintf("%012d", 100000+n) }

// crowd are the records of so many accounts, each with 10 policies and 10 users, to
// whom they are attached. In the first, u0 is busy: it has 10 policies of 100
// statements and 10 more by a group.
func crowd(accounts int) store.RecordBatch {
	b := store.RecordBatch{Reset: true, Revision: 1}
	add := func(account, kind, name string, body any) {
		text, err := json.Marshal(body)
		if err != nil {
			panic(err)
		}
		b.Records = append(b.Records, store.Record{Key: store.AccountScope(account).Tail(kind, name), Type: kind, Schema: 1, Body: text})
	}
	small := document(5, 3)
	for a := range accounts {
		id := account(a)
		for i := range 10 {
			name := fmt.Sprintf("p%d", i)
			add(id, "policy", name, map[string]any{"name": name, "path": "/", "id": "ANPA" + name, "versions": []any{map[string]string{"id": "v1", "document": small}}, "default": "v1", "next": 2})
			add(id, "user", fmt.Sprintf("u%d", i), map[string]any{"name": fmt.Sprintf("u%d", i), "path": "/", "id": fmt.Sprintf("AIDA%d", i), "attached": []string{"arn:aws:iam::" + id + ":policy/" + name}})
		}
	}
	var own, group []string
	for i := range 20 {
		name := fmt.Sprintf("busy%d", i)
		allows := -1
		if i == 19 {
			allows = 99
		}
		add(account(0), "policy", name, map[string]any{"name": name, "path": "/", "id": "ANPA" + name, "versions": []any{map[string]string{"id": "v1", "document": document(100, allows)}}, "default": "v1", "next": 2})
		arn := "arn:aws:iam::" + account(0) + ":policy/" + name
		if i < 10 {
			own = append(own, arn)
		} else {
			group = append(group, arn)
		}
	}
	add(account(0), "group", "g", map[string]any{"name": "g", "path": "/", "id": "AGPA0", "attached": group})
	add(account(0), "user", "u0", map[string]any{"name": "u0", "path": "/", "id": "AIDABUSY", "attached": own, "groups": []string{"g"}})
	return b
}

func busy() auth.Question {
	id := account(0)
	return auth.Question{
		Principal: auth.Principal{Account: id, ARN: "arn:aws:iam::" + id + ":user/u0", Type: auth.User, ID: "AIDABUSY", AccessKeyID: "AKIAIOSFODNN7EXAMPLE"},
		Action:    "appmesh:DescribeMesh", Resource: "arn:aws:appmesh:us-east-1:" + id + ":mesh/m1",
		Keys: map[string][]string{"aws:sourceip": {"127.0.0.1"}, "aws:securetransport": {"true"}},
	}
}

// What one authorisation costs does not depend on how many accounts and policies
// there are, and policies that nobody asks are not even parsed.
func TestAuthorisationAmongAThousandAccounts(t *testing.T) {
	const accounts = 1000
	k := open(t, replica(storetest.New(t), t.TempDir()))
	a, ctx := k.Authorizer(), context.Background()
	measure := func(accounts int) (looked int, allocations float64) {
		k.Take(crowd(accounts))
		if parsed, _ := k.Directory().Parsed(); parsed != 0 {
			t.Fatalf("%d policies were parsed before one was asked", parsed)
		}
		d, err := a.Decide(ctx, busy(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Authorize(ctx, busy()); err != nil {
			t.Fatal(err)
		}
		return d.Looked, testing.AllocsPerRun(100, func() { _ = a.Authorize(ctx, busy()) })
	}
	oneLooked, oneAllocations := measure(1)
	looked, allocations := measure(accounts)
	parsed, all := k.Directory().Parsed()
	t.Logf("%d policies in %d accounts: %d statements of 2,000 looked at, %.0f allocations", all, accounts, looked, allocations)
	if all != 10*accounts+20 || parsed != 20 {
		t.Errorf("%d of %d policies were parsed, want the 20 that were asked", parsed, all)
	}
	if looked != oneLooked || looked > 5 {
		t.Errorf("%d statements were looked at, %d with one account, of which one fits", looked, oneLooked)
	}
	if allocations > oneAllocations || allocations > 40 {
		t.Errorf("%.0f allocations, %.0f with one account", allocations, oneAllocations)
	}
	// A change anywhere else costs it nothing; one of its own account is put together
	// again and parses nothing else.
	k.Take(store.RecordBatch{Revision: 2, Records: crowd(2).Records[20:21]})
	if err := a.Authorize(ctx, busy()); err != nil {
		t.Fatal(err)
	}
	if again, _ := k.Directory().Parsed(); again != parsed {
		t.Errorf("%d policies are parsed after a change of another account", again)
	}
}

func BenchmarkAuthorize(b *testing.B) {
	for _, accounts := range []int{1, 1000} {
		b.Run(fmt.Sprintf("accounts=%d", accounts), func(b *testing.B) {
			c := replica(storetest.New(b), b.TempDir())
			k, err := iam.Open(b.Context(), c)
			if err != nil {
				b.Fatal(err)
			}
			k.Take(crowd(accounts))
			a, q, ctx := k.Authorizer(), busy(), context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if err := a.Authorize(ctx, q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLoad is a start with 1,000 accounts, 10,000 users and 10,000 policies.
func BenchmarkLoad(b *testing.B) {
	k, err := iam.Open(b.Context(), replica(storetest.New(b), b.TempDir()))
	if err != nil {
		b.Fatal(err)
	}
	batch := crowd(1000)
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / 1e6
	}
	k.Take(crowd(0))
	before := heap()
	for b.Loop() {
		k.Take(batch)
	}
	b.ReportMetric(heap()-before, "MB")
	runtime.KeepAlive(batch)
	runtime.KeepAlive(k)
}

// Questions are answered while accounts change; each by one state of its account.
func TestQuestionsWhileAccountsChange(t *testing.T) {
	t.Parallel()
	k := open(t, replica(storetest.New(t), t.TempDir()))
	k.Take(crowd(20))
	a, q := k.Authorizer(), busy()
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for range 500 {
				if err := a.Authorize(context.Background(), q); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	// Both states allow it: the policies as they are, and one more that allows all.
	group := store.Record{Key: store.AccountScope(account(0)).Tail("group", "g"), Type: "group", Schema: 1}
	for i := range 200 {
		inline := ""
		if i%2 == 0 {
			inline = `,"inline":[{"name":"all","document":"{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"*\"}]}"}]`
		}
		group.Body = []byte(`{"name":"g","path":"/","id":"AGPA0","attached":["arn:aws:iam::` + account(0) + `:policy/busy19"]` + inline + `}`)
		k.Take(store.RecordBatch{Revision: int64(i + 2), Records: []store.Record{group}})
		if i%50 == 0 {
			k.Take(crowd(20))
		}
	}
	asking.Wait()
}
