package share_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/share"
	"github.com/evermesh/evermesh/internal/store"
)

// many makes n accounts, each of which shares a mesh with the next, all in one
// organization.
func many(t testing.TB, data *store.Store, n int) *share.Shares {
	t.Helper()
	management := fmt.Sprintf("%012d", 0)
	s, stop := follow(t, data, management)
	t.Cleanup(stop)
	ram, err := s.Service()
	if err != nil {
		t.Fatal(err)
	}
	run := func(account, operation string, input map[string]any) {
		if _, err := ram.Operations[operation].Run(context.Background(), &service.Call{
			Service: ram, Operation: operation, Input: input, Authorizer: auth.Roots{},
			Principal: auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":root", Type: auth.Root},
		}); err != nil {
			t.Fatal(err)
		}
	}
	run(management, "EnableSharingWithAwsOrganization", nil)
	for i := range n {
		account := fmt.Sprintf("%012d", i)
		key := put(t, data, account, "m")
		run(account, "CreateResourceShare", map[string]any{
			"name": "s", "resourceArns": []any{realm.ARN(key, account)}, "principals": []any{fmt.Sprintf("%012d", i+1)},
		})
	}
	return s
}

// put makes a mesh.
func put(t testing.TB, data *store.Store, account, mesh string) api.Key {
	t.Helper()
	key := api.Key{Owner: account, Mesh: mesh, Kind: api.KindMesh, Name: mesh}
	if _, err := data.Update(context.Background(), []store.Scope{store.MeshScope(account, mesh)}, func(tx *store.Tx) error {
		tx.Put(&api.Resource{Key: key, UID: uuid.NewString(), Version: 1, Created: time.Now(), Updated: time.Now(), Owner: account, Document: []byte(`{}`), Spec: &api.MeshSpec{}})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return key
}

// follow opens shares and follows the store until stop.
func follow(t testing.TB, data *store.Store, management string) (s *share.Shares, stop func()) {
	t.Helper()
	s, err := share.Open(context.Background(), share.Config{Store: data, Realm: realm, Management: management, Log: slog.New(slog.DiscardHandler), Now: time.Now, NewID: uuid.NewString})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx) // it ends with ctx
	}()
	return s, func() {
		cancel()
		<-done
	}
}
