package main

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/ramapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/share"
	"github.com/evermesh/evermesh/internal/store"
)

// host is the account whose mesh scripts are guests in.
const host = "111122223333"

// sharing follows what is shared until the test ends.
func sharing(t testing.TB, data *store.Store, realm api.Realm) *share.Shares {
	t.Helper()
	s, err := share.Open(t.Context(), share.Config{
		Store: data, Realm: realm, Management: account, Log: slog.New(slog.DiscardHandler), Now: time.Now, NewID: uuid.NewString,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx) // it ends with ctx
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	return s
}

// sharedCommand makes a mesh of another account, with a node in it, and shares it with the
// script's: shared MESH NODE
func sharedCommand(t testing.TB) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		p := ts.Value(planeKey{}).(*plane)
		mesh := api.Key{Owner: host, Mesh: args[0], Kind: api.KindMesh, Name: args[0]}
		_, err := p.store.Update(t.Context(), []store.Scope{store.MeshScope(host, args[0])}, func(tx *store.Tx) error {
			for key, spec := range map[api.Key]any{mesh: &api.MeshSpec{}, mesh.In(api.KindVirtualNode, "", args[1]): &api.VirtualNodeSpec{}} {
				tx.Put(&api.Resource{Key: key, UID: uuid.NewString(), Version: 1, Created: time.Now(), Updated: time.Now(), Owner: host, Document: []byte(`{}`), Spec: spec})
			}
			return nil
		})
		ts.Check(err)
		ram, err := p.shares.Service()
		ts.Check(err)
		run := func(by, operation string, input map[string]any) any {
			out, err := ram.Operations[operation].Run(t.Context(), &service.Call{
				Service: ram, Operation: operation, Input: input, Authorizer: auth.Roots{}, At: time.Now(),
				Principal: auth.Principal{Account: by, ARN: "arn:aws:iam::" + by + ":root", Type: auth.Root},
			})
			ts.Check(err)
			return out
		}
		run(host, "CreateResourceShare", map[string]any{
			"name": args[0], "resourceArns": []any{"arn:aws:appmesh:us-east-1:" + host + ":mesh/" + args[0]}, "principals": []any{account},
		})
		for _, v := range run(account, "GetResourceShareInvitations", nil).(*ramapi.GetResourceShareInvitationsResponse).ResourceShareInvitations {
			run(account, "AcceptResourceShareInvitation", map[string]any{"resourceShareInvitationArn": *v.ResourceShareInvitationARN})
		}
	}
}
