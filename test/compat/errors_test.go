package compat

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

const region = "us-east-1"

// inProcess serves the API from this process, with what decides who the caller
// is. It is for what a running evermeshd does not do when asked.
func inProcess(t testing.TB, s *store.Store, verify func(context.Context, auth.Request) (auth.Principal, error)) endpoint {
	t.Helper()
	handler, err := rest.New(rest.Config{
		Store: s, Realm: api.Realm{Partition: "aws", Region: region}, Log: slog.New(slog.DiscardHandler),
		Verify: verify, Now: time.Now, NewID: uuid.NewString,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return endpoint{url: server.URL, region: region, key: aws.Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "secret"}}
}

// Every client knows also the two kinds of errors that a running evermeshd
// cannot be brought to: it hands out no sessions that could end (ExpiredToken),
// and has no users but the accounts' roots, whom it answers with Forbidden
// (AccessDenied). All others are in TestStory and refusals_test.go.
func TestKindsOfErrors(t *testing.T) {
	t.Parallel()
	// The name of the mesh that is asked for says which error it is to be.
	e := inProcess(t, storetest.New(t), func(_ context.Context, r auth.Request) (auth.Principal, error) {
		return auth.Principal{}, api.Errorf(path.Base(r.RequestURI), "Because of %s.", path.Base(r.RequestURI))
	})
	kinds := []string{"ExpiredTokenException 403", "AccessDeniedException 403"}
	for _, kind := range clients {
		t.Run("API-033 API-004 "+kind.name, func(t *testing.T) {
			t.Parallel()
			c := kind.make(t, e)
			for _, k := range kinds {
				code, _, _ := strings.Cut(k, " ")
				t.Run(code, func(t *testing.T) {
					_, err := c.call(t.Context(), "DescribeMesh", map[string]any{"meshName": code})
					checkFailure(t, err, k+" Because of "+code+".")
				})
			}
		})
	}
}

// Clients try again what they are told to, and no other refusal.
func TestRetries(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code  string
		tries int32
	}{
		{"TooManyRequestsException", 3}, {"ServiceUnavailableException", 3}, {"InternalServerErrorException", 3}, {"NotFoundException", 1},
	} {
		t.Run("API-004 the SDK for Go after "+c.code, func(t *testing.T) {
			t.Parallel()
			var tries atomic.Int32
			e := inProcess(t, storetest.New(t), func(context.Context, auth.Request) (auth.Principal, error) {
				if tries.Add(1) < 3 {
					return auth.Principal{}, api.Errorf(c.code, "not yet")
				}
				return auth.Principal{Account: "111122223333"}, nil
			})
			g := newGoClient(t, e).(*goClient)
			options := g.c.Options()
			options.RetryMaxAttempts = 3
			_, err := g.with(options).call(t.Context(), "ListMeshes", map[string]any{})
			if got := tries.Load(); got != c.tries || (err == nil) != (c.tries == 3) {
				t.Errorf("%d tries, want %d; then %v", got, c.tries, err)
			}
		})
	}
}

// Two accounts of one control plane have meshes, nodes and tokens of equal
// names; nothing crosses. The second is added while evermeshd runs.
func TestAccounts(t *testing.T) {
	t.Parallel()
	a := another(t)
	b := a
	b.account = "444455556666"
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "credentials")
	if out, err := exec.CommandContext(t.Context(), path, "account", "add", b.account, "--data-dir", a.data, "--credentials-file", file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b.key = rootKey(t, file)
	newcomer := newGoClient(t, b)
	testenv.Eventually(t, "the new account's key is known", func() bool {
		_, err := newcomer.call(t.Context(), "ListMeshes", map[string]any{})
		return err == nil
	})
	for i, kind := range clients {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			mesh := "equal-" + string(rune('a'+i))
			callers := []struct {
				endpoint
				client
			}{{a, kind.make(t, a)}, {b, kind.make(t, b)}}
			node := map[string]any{"meshName": mesh, "virtualNodeName": "n"}
			for _, c := range callers {
				must(t, c.client, "CreateMesh", map[string]any{"meshName": mesh, "clientToken": mesh})
				must(t, c.client, "CreateVirtualNode", map[string]any{"meshName": mesh, "virtualNodeName": "n", "clientToken": mesh + "-n", "spec": document(t, `{"logging": {"accessLog": {"file": {"path": "/`+c.account+`"}}}}`)})
			}
			for _, c := range callers {
				contains(t, c.account, must(t, c.client, "DescribeVirtualNode", node), document(t, `{"virtualNode": {"spec": {"logging": {"accessLog": {"file": {"path": "/`+c.account+`"}}}}, "metadata": {"meshOwner": "`+c.account+`", "arn": "arn:aws:appmesh:us-east-1:`+c.account+`:mesh/`+mesh+`/virtualNode/n"}}}`))
				for _, m := range must(t, c.client, "ListMeshes", map[string]any{})["meshes"].([]any) {
					if owner := m.(map[string]any)["meshOwner"]; owner != c.account {
						t.Errorf("%s sees a mesh of %v", c.account, owner)
					}
				}
			}
			_, err := callers[1].call(t.Context(), "DeleteVirtualNode", map[string]any{"meshName": mesh, "virtualNodeName": "n", "meshOwner": a.account})
			checkFailure(t, err, "ForbiddenException 403 User: arn:aws:iam::"+b.account+":root is not authorized to perform: appmesh:DeleteVirtualNode on resource: arn:aws:appmesh:us-east-1:"+a.account+":mesh/"+mesh+"/virtualNode/n")
			must(t, callers[1].client, "DeleteVirtualNode", node)
			must(t, callers[0].client, "DescribeVirtualNode", node)
		})
	}
}

func must(t testing.TB, c client, operation string, input map[string]any) map[string]any {
	t.Helper()
	output, err := c.call(t.Context(), operation, input)
	if err != nil {
		t.Fatalf("%s: %v", operation, err)
	}
	return output
}
