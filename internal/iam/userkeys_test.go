package iam_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Two replicas that make keys of one user at once make two of them, and no more; all
// secrets that were told are good on both.
func TestKeysThatAreMadeAtOnce(t *testing.T) {
	t.Parallel()
	stores, dir := storetest.Replicas(t, 2), t.TempDir()
	one, two := open(t, replica(stores[0], dir)), open(t, replica(stores[1], dir))
	run(t, one)
	run(t, two)
	replicas := []*iam.Keys{one, two}
	first, err := iam.NewServer(one).Service()
	if err != nil {
		t.Fatal(err)
	}
	second, err := iam.NewServer(two).Service()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, first, one, "CreateUser", map[string]any{"UserName": "u"}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var made []iamapi.AccessKey
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			s, k := first, one
			if i%2 == 1 {
				s, k = second, two
			}
			out, err := call(t, s, k, "CreateAccessKey", map[string]any{"UserName": "u"})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made = append(made, out.(*iamapi.CreateAccessKeyResponse).AccessKey)
				return
			}
			if refusal, ok := errors.AsType[*api.Error](err); !ok || refusal.Code != iamapi.CodeLimitExceeded {
				t.Errorf("got %v", err)
			}
		})
	}
	all.Wait()
	if len(made) != 2 {
		t.Fatalf("%d keys were made, want 2", len(made))
	}
	for _, k := range replicas {
		for _, m := range made {
			testenv.Eventually(t, "the key is known", func() bool {
				got, ok := known(t, k, m.AccessKeyID)
				return ok && string(got.Secret) == m.SecretAccessKey && got.Principal.Type == auth.User
			})
		}
	}
}

// The master key changes under users' keys too, and a user's key never becomes a
// root's.
func TestRotateSealsUsersKeys(t *testing.T) {
	t.Parallel()
	s, dir := storetest.New(t), t.TempDir()
	k := open(t, replica(s, dir))
	offered, err := iam.NewServer(k).Service()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, offered, k, "CreateUser", map[string]any{"UserName": "u"}); err != nil {
		t.Fatal(err)
	}
	out, err := call(t, offered, k, "CreateAccessKey", map[string]any{"UserName": "u"})
	if err != nil {
		t.Fatal(err)
	}
	made := out.(*iamapi.CreateAccessKeyResponse).AccessKey
	if n, err := k.Box().Rotate(context.Background(), places(), seal.RotateOptions{Alone: true, Say: func(string) {}}); n != 3 || err != nil {
		t.Fatalf("sealed %d, error %v; want 3: two keys and that of texts", n, err)
	}
	again := open(t, replica(s, dir))
	got, ok := known(t, again, made.AccessKeyID)
	if !ok || string(got.Secret) != made.SecretAccessKey || got.Principal.Type != auth.User || got.Principal.ARN != "arn:aws:iam::"+first+":user/u" {
		t.Errorf("the key is known: %v, as %v", ok, got.Principal)
	}
	if root := rootOf(t, filepath.Join(dir, "credentials")); root.ID == made.AccessKeyID {
		t.Error("the credentials file holds a user's key")
	}
}

// The use of a key is written once in a quarter of an hour, however often it is used,
// and every replica tells of it.
func TestTheUseOfAKeyIsWrittenSeldom(t *testing.T) {
	t.Parallel()
	stores, dir := storetest.Replicas(t, 2), t.TempDir()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	c := replica(stores[0], dir)
	c.Now = func() time.Time { return now }
	k, other := open(t, c), open(t, replica(stores[1], dir))
	offered, err := iam.NewServer(k).Service()
	if err != nil {
		t.Fatal(err)
	}
	there, err := iam.NewServer(other).Service()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, offered, k, "CreateUser", map[string]any{"UserName": "u"}); err != nil {
		t.Fatal(err)
	}
	out, err := call(t, offered, k, "CreateAccessKey", map[string]any{"UserName": "u"})
	if err != nil {
		t.Fatal(err)
	}
	id := out.(*iamapi.CreateAccessKeyResponse).AccessKey.AccessKeyID
	q := auth.Question{
		Principal: auth.Principal{Account: first, ARN: "arn:aws:iam::" + first + ":user/u", Type: auth.User, ID: "AIDA", AccessKeyID: id},
		Action:    "appmesh:ListMeshes", Resource: "*", Keys: map[string][]string{"aws:requestedregion": {"eu-west-1"}},
	}
	use := func() (writes int) {
		t.Helper()
		for range 1000 {
			_ = k.Authorizer().Authorize(context.Background(), q)
			writes += k.DueUsed()
			if err := k.WriteUsed(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		return writes
	}
	told := func() *iamapi.AccessKeyLastUsed {
		t.Helper()
		out, err := call(t, there, other, "GetAccessKeyLastUsed", map[string]any{"AccessKeyId": id})
		if err != nil {
			t.Fatal(err)
		}
		return out.(*iamapi.GetAccessKeyLastUsedResponse).AccessKeyLastUsed
	}
	if u := told(); u.LastUsedDate != nil || u.ServiceName != "N/A" {
		t.Errorf("before its use it is %+v", u)
	}
	if n := use(); n != 1 {
		t.Errorf("1000 uses are %d writes", n)
	}
	if u := told(); !u.LastUsedDate.Equal(now) || u.ServiceName != "appmesh" || u.Region != "eu-west-1" {
		t.Errorf("it is %+v", u)
	}
	now = now.Add(16 * time.Minute)
	if n := use(); n != 1 {
		t.Errorf("1000 uses more are %d writes", n)
	}
	if u := told(); !u.LastUsedDate.Equal(now) {
		t.Errorf("it is %+v", u)
	}
}
