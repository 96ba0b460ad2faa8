package rest_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/ramapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/share"
	"github.com/evermesh/evermesh/internal/testenv"
)

const accountC = "333333333333"

// sharing is a server with shares; accounts call it as clients do.
type sharing struct {
	*server
	shares *share.Shares
	ram    *service.Service
	ledger *ledger
}

func serveShares(t *testing.T) *sharing {
	t.Helper()
	s := &sharing{}
	l := &ledger{changed: make(chan struct{}), rollout: api.Rollout{State: api.RolloutStateDone}}
	for _, owner := range []string{accountA, accountB} {
		l.proxies = append(l.proxies, api.Proxy{ResourceARN: "arn:aws:appmesh:us-east-1:" + owner + ":mesh/apps/virtualNode/node-" + owner, Instance: owner})
	}
	l.rollout.Refused, l.rollout.Waiting = l.proxies, l.proxies
	l.rollout.Problems = []api.Problem{{ResourceARN: "arn", Reason: "Late", Message: "of someone"}}
	s.ledger = l
	s.server = serve(t, func(c *rest.Config) {
		c.Ledger = l
		var err error
		s.shares, err = share.Open(t.Context(), share.Config{
			Store: c.Store, Realm: c.Realm, Management: accountA, Log: slog.New(slog.DiscardHandler), Now: time.Now, NewID: uuid.NewString,
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Shares = s.shares
		c.Verify = func(_ context.Context, r auth.Request) (auth.Principal, error) {
			_, text, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=AKIA")
			account := cmp.Or(r.Header.Get(headerAccount), text[:min(12, len(text))])
			return auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":root", AccessKeyID: "AKIA" + account, Type: auth.Root}, nil
		}
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.shares.Run(ctx) // it ends with ctx
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	var err error
	if s.ram, err = s.shares.Service(); err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs an operation of RAM as an account's root.
func run[Out any](t *testing.T, s *sharing, account, operation string, input map[string]any) Out {
	t.Helper()
	out, err := s.ram.Operations[operation].Run(t.Context(), &service.Call{
		Service: s.ram, Operation: operation, Input: input, Authorizer: auth.Roots{}, At: time.Now(),
		Principal: auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":root", Type: auth.Root},
	})
	if err != nil {
		t.Fatal(err)
	}
	return *out.(*Out)
}

// share shares account A's mesh apps with account B, and returns the share's ARN.
func (s *sharing) share(t *testing.T) string {
	t.Helper()
	made := run[ramapi.CreateResourceShareResponse](t, s, accountA, "CreateResourceShare", map[string]any{
		"name": "apps", "resourceArns": []any{"arn:aws:appmesh:us-east-1:" + accountA + ":mesh/apps"}, "principals": []any{accountB},
	})
	for _, v := range run[ramapi.GetResourceShareInvitationsResponse](t, s, accountB, "GetResourceShareInvitations", nil).ResourceShareInvitations {
		if v.Status == ramapi.ResourceShareInvitationStatusPending {
			run[ramapi.AcceptResourceShareInvitationResponse](t, s, accountB, "AcceptResourceShareInvitation", map[string]any{"resourceShareInvitationArn": *v.ResourceShareInvitationARN})
		}
	}
	return *made.ResourceShare.ResourceShareARN
}

// client calls as an account.
func (s *sharing) client(t *testing.T, account string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Endpoint: s.URL, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("AKIA"+account, "secret", ""), HTTP: s.Client()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// call runs an operation as an account and returns the code of its refusal, or "ok".
func (s *sharing) call(t *testing.T, account, operation string, in, out any) string {
	t.Helper()
	err := s.client(t, account).Call(t.Context(), operation, in, out)
	if refusal, ok := errors.AsType[*api.Error](err); ok {
		return refusal.Code
	}
	if err != nil {
		t.Fatalf("%s: %v", operation, err)
	}
	return "ok"
}

// right is what a consumer of a share may do by an operation.
type right int

const (
	nothing right = iota
	all           // to whatever is in the mesh
	its           // to what it created
	makes         // new things, of which the input is one
	apart         // the operation concerns no mesh of others
	byName        // nothing, and the input has only the mesh's name: it means one's own
)

// rights of a consumer in a mesh that is shared with it. An operation that is not here
// fails the test: whoever adds one has to say.
func rights() map[string]right {
	return map[string]right{
		"CreateMesh": apart, "ListMeshes": apart, "ListProxies": apart, "DrainProxy": apart, "ResumeProxy": apart,
		"DescribeMesh": all, "UpdateMesh": byName, "DeleteMesh": byName,
		"CreateVirtualNode": makes, "DescribeVirtualNode": all, "ListVirtualNodes": all, "UpdateVirtualNode": its, "DeleteVirtualNode": its,
		"CreateVirtualRouter": makes, "DescribeVirtualRouter": all, "ListVirtualRouters": all, "UpdateVirtualRouter": its, "DeleteVirtualRouter": its,
		"CreateRoute": makes, "DescribeRoute": all, "ListRoutes": all, "UpdateRoute": its, "DeleteRoute": its,
		"CreateVirtualService": makes, "DescribeVirtualService": all, "ListVirtualServices": all, "UpdateVirtualService": its, "DeleteVirtualService": its,
		"CreateVirtualGateway": nothing, "DescribeVirtualGateway": all, "ListVirtualGateways": all, "UpdateVirtualGateway": nothing, "DeleteVirtualGateway": nothing,
		"CreateGatewayRoute": nothing, "DescribeGatewayRoute": all, "ListGatewayRoutes": all, "UpdateGatewayRoute": nothing, "DeleteGatewayRoute": nothing,
		"TagResource": its, "UntagResource": its, "ListTagsForResource": its,
		"DescribeRollout": all, "Explain": all, "Plan": all, "DescribeMeshSettings": all, "UpdateMeshSettings": nothing,
	}
}

// specs are those of what the ground has of each kind; of is the account whose node it
// is about.
func specs(of string) map[api.Kind]string {
	return map[api.Kind]string{
		api.KindMesh:           `{}`,
		api.KindVirtualNode:    `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}`,
		api.KindVirtualRouter:  `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}`,
		api.KindRoute:          `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "node-` + of + `", "weight": 1}]}}}`,
		api.KindVirtualService: `{"provider": {"virtualRouter": {"virtualRouterName": "router-` + of + `"}}}`,
		api.KindVirtualGateway: `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}`,
		api.KindGatewayRoute:   `{"httpRoute": {"match": {"prefix": "/"}, "action": {"target": {"virtualService": {"virtualServiceName": "service-` + of + `"}}}}}`,
	}
}

// short names what an account has of a kind.
func short(k api.Kind, of string) string {
	return map[api.Kind]string{
		api.KindMesh: "apps", api.KindVirtualNode: "node-" + of, api.KindVirtualRouter: "router-" + of, api.KindRoute: "route-" + of,
		api.KindVirtualService: "service-" + of, api.KindVirtualGateway: "gateway-" + accountA, api.KindGatewayRoute: "way-" + accountA,
	}[k]
}

// input is an input of the operation on what an account has in account A's mesh apps.
func input(t *testing.T, m *model.Model, operation, of string) map[string]any {
	t.Helper()
	shape := m.Shapes[m.Operations[operation].Input.Shape]
	out := map[string]any{}
	var row api.KindRow
	for _, k := range api.Kinds() {
		if strings.HasSuffix(operation, k.Type) || strings.HasSuffix(operation, k.Plural) {
			row = k
		}
		if _, has := shape.Members[k.Name]; has {
			out[k.Name] = short(k.Kind, of)
		}
	}
	arn := "arn:aws:appmesh:us-east-1:" + of + ":mesh/apps@" + accountA + "/virtualNode/node-" + of
	for name := range shape.Members {
		switch name {
		case "meshOwner":
			out[name] = accountA
		case "spec":
			out[name] = json.RawMessage(specs(of)[row.Kind])
		case "resourceArn":
			out[name] = arn
		case "tags":
			if operation == "TagResource" {
				out[name] = []any{map[string]any{"key": "k", "value": "v"}}
			}
		case "tagKeys":
			out[name] = []any{"k"}
		case "changes":
			text := fmt.Sprintf(`{"meshName": "apps", "meshOwner": %q, "virtualNodeName": "node-%s", "spec": {}}`, accountA, of)
			out[name] = []any{map[string]any{"kind": "virtualNode", "input": text}}
		}
	}
	if strings.HasPrefix(operation, "Create") {
		// Another thing than there is, in what the account has of its parent.
		out[row.Name] = "another-" + operation
	}
	return out
}

// ground makes one of each kind for account A, and what a consumer may make for B.
func (s *sharing) ground(t *testing.T, account string) {
	t.Helper()
	for _, row := range api.Kinds() {
		if account != accountA && (row.Kind == api.KindMesh || row.Kind == api.KindVirtualGateway || row.Kind == api.KindGatewayRoute) {
			continue
		}
		in := map[string]any{"meshName": "apps", row.Name: short(row.Kind, account), "spec": json.RawMessage(specs(account)[row.Kind])}
		if row.Nested() {
			parent, _ := row.Parent.Row()
			in[parent.Name] = short(row.Parent, account)
		}
		if row.Kind != api.KindMesh {
			in["meshOwner"] = accountA
		}
		if got := s.call(t, account, "Create"+row.Type, in, nil); got != "ok" {
			t.Fatalf("Create%s: %s", row.Type, got)
		}
	}
}

// TestSharedMeshOperations tries every operation of the models as the consumer of a
// shared mesh and as an account with which it is not shared, on what the mesh's owner has
// in it and on what the consumer has.
func TestSharedMeshOperations(t *testing.T) {
	t.Parallel()
	appMesh, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	evermesh, err := model.Evermesh()
	if err != nil {
		t.Fatal(err)
	}
	models := map[string]*model.Model{}
	for _, m := range []*model.Model{appMesh, evermesh} {
		for op := range m.Operations {
			models[op] = m
		}
	}
	known := rights()
	for op := range known {
		if models[op] == nil {
			t.Errorf("%s is no operation any more", op)
		}
	}
	s := serveShares(t)
	s.ground(t, accountA)
	before := s.share(t)
	s.ground(t, accountB)
	order := slices.SortedFunc(maps.Keys(models), func(a, b string) int {
		// Deletions last, each after what it leaves no use of: the table is walked once.
		return cmp.Or(cmp.Compare(late(a), late(b)), cmp.Compare(a, b))
	})
	forbidden := func(t *testing.T, account, op, of string) {
		t.Helper()
		if got := s.call(t, account, op, input(t, models[op], op, of), nil); got != api.CodeForbidden {
			t.Errorf("%s of account %s on what %s has: %s, want %s", op, account, of, got, api.CodeForbidden)
		}
	}
	t.Run("SHARE-019 without a share everything is refused", func(t *testing.T) {
		for _, op := range order {
			if right, said := known[op]; !said {
				t.Errorf("operation %s has no right in the table of shares", op)
			} else if right == byName {
				if got := s.call(t, accountC, op, input(t, models[op], op, accountA), nil); got != api.CodeNotFound {
					t.Errorf("%s: %s", op, got)
				}
			} else if right != apart {
				forbidden(t, accountC, op, accountA)
				forbidden(t, accountC, op, accountB)
			}
		}
	})
	t.Run("SHARE-010 SHARE-012 SHARE-013 a consumer may what its share lets it", func(t *testing.T) {
		for _, op := range order {
			expect := func(of, want string) {
				t.Helper()
				if got := s.call(t, accountB, op, input(t, models[op], op, of), nil); got != want {
					t.Errorf("%s on what %s has: %s, want %s", op, of, got, want)
				}
			}
			switch known[op] {
			case all:
				expect(accountA, "ok")
				expect(accountB, "ok")
			case its:
				expect(accountA, api.CodeForbidden)
				expect(accountB, "ok")
			case makes:
				expect(accountB, "ok")
				made, gone := input(t, models[op], op, accountB), strings.Replace(op, "Create", "Delete", 1)
				delete(made, "spec")
				if got := s.call(t, accountB, gone, made, nil); got != "ok" {
					t.Errorf("%s of what it made: %s", gone, got)
				}
			case nothing, byName:
				expect(accountA, api.CodeForbidden)
				expect(accountB, api.CodeForbidden)
			}
		}
	})
	t.Run("SHARE-019 after the share everything is refused again", func(t *testing.T) {
		run[ramapi.DeleteResourceShareResponse](t, s, accountA, "DeleteResourceShare", map[string]any{"resourceShareArn": before})
		for _, op := range order {
			if known[op] != apart && known[op] != byName {
				forbidden(t, accountB, op, accountA)
				forbidden(t, accountB, op, accountB)
			}
		}
	})
}

// late orders operations: deletions are last, of users before what they use.
func late(operation string) int {
	return slices.Index([]string{"UntagResource", "DeleteGatewayRoute", "DeleteVirtualGateway", "DeleteVirtualService", "DeleteRoute", "DeleteVirtualRouter", "DeleteVirtualNode", "DeleteMesh"}, operation)
}

// TestSharedMeshOwnership walks the rules about whose resource it is.
func TestSharedMeshOwnership(t *testing.T) {
	t.Parallel()
	s := serveShares(t)
	s.ground(t, accountA)
	s.share(t)
	s.ground(t, accountB)
	in := func(more map[string]any) map[string]any {
		out := map[string]any{"meshName": "apps", "meshOwner": accountA}
		maps.Copy(out, more)
		return out
	}
	node := func(of string) map[string]any {
		return in(map[string]any{"virtualNodeName": "node-" + of, "spec": json.RawMessage(specs(of)[api.KindVirtualNode])})
	}
	expect := func(t *testing.T, account, op string, doc map[string]any, want string) {
		t.Helper()
		if got := s.call(t, account, op, doc, nil); got != want {
			t.Errorf("%s by %s: %s, want %s", op, account, got, want)
		}
	}
	t.Run("SHARE-006 each account updates what it created, the owner of the mesh too", func(t *testing.T) {
		for _, by := range []string{accountA, accountB} {
			for _, of := range []string{accountA, accountB} {
				want := "ok"
				if by != of {
					want = api.CodeForbidden
				}
				expect(t, by, "UpdateVirtualNode", node(of), want)
			}
		}
		s.as(t, accountA, "PUT", meshes+"/apps/virtualNodes/node-"+accountB, `{"spec": {}}`).
			refused(t, 403, api.CodeForbidden, "VirtualNode node-"+accountB+" in mesh apps belongs to account "+accountB+": only that account changes it.")
	})
	t.Run("SHARE-004 SHARE-005 all see all of it", func(t *testing.T) {
		for _, account := range []string{accountA, accountB} {
			var out api.ListVirtualNodesOutput
			if got := s.call(t, account, "ListVirtualNodes", in(nil), &out); got != "ok" || len(out.VirtualNodes) != 2 {
				t.Errorf("%s sees %d nodes (%s)", account, len(out.VirtualNodes), got)
			}
			for _, of := range []string{accountA, accountB} {
				expect(t, account, "DescribeVirtualNode", in(map[string]any{"virtualNodeName": "node-" + of}), "ok")
			}
		}
	})
	t.Run("RT-040 routes come into a router from its owner", func(t *testing.T) {
		for _, by := range []string{accountA, accountB} {
			for _, of := range []string{accountA, accountB} {
				want := "ok"
				if by != of {
					want = api.CodeForbidden
				}
				expect(t, by, "CreateRoute", in(map[string]any{"virtualRouterName": "router-" + of, "routeName": "more-" + by, "spec": json.RawMessage(specs(of)[api.KindRoute])}), want)
			}
		}
	})
	t.Run("SHARE-008 SHARE-002 references go across accounts", func(t *testing.T) {
		expect(t, accountB, "UpdateRoute", in(map[string]any{"virtualRouterName": "router-" + accountB, "routeName": "route-" + accountB, "spec": json.RawMessage(specs(accountA)[api.KindRoute])}), "ok")
		expect(t, accountB, "UpdateVirtualService", in(map[string]any{"virtualServiceName": "service-" + accountB, "spec": json.RawMessage(specs(accountA)[api.KindVirtualService])}), "ok")
		expect(t, accountA, "CreateGatewayRoute", in(map[string]any{"virtualGatewayName": "gateway-" + accountA, "gatewayRouteName": "to-b", "spec": json.RawMessage(strings.Replace(specs(accountB)[api.KindGatewayRoute], `"/"`, `"/b"`, 1))}), "ok")
		expect(t, accountB, "DeleteVirtualService", in(map[string]any{"virtualServiceName": "service-" + accountB}), api.CodeResourceInUse)
		expect(t, accountA, "DeleteGatewayRoute", in(map[string]any{"virtualGatewayName": "gateway-" + accountA, "gatewayRouteName": "to-b"}), "ok")
	})
	t.Run("SHARE-011 SHARE-023 tags are for the account whose resource it is", func(t *testing.T) {
		for _, of := range []string{accountA, accountB} {
			for form, arn := range map[string]string{
				"with the mesh's owner": "arn:aws:appmesh:us-east-1:" + of + ":mesh/apps@" + accountA + "/virtualNode/node-" + of,
				"without":               "arn:aws:appmesh:us-east-1:" + of + ":mesh/apps/virtualNode/node-" + of,
			} {
				for _, by := range []string{accountA, accountB} {
					want := "ok"
					if by != of {
						want = api.CodeForbidden
					}
					t.Run(form+" "+of+" by "+by, func(t *testing.T) {
						expect(t, by, "TagResource", map[string]any{"resourceArn": arn, "tags": []any{map[string]any{"key": "team", "value": "x"}}}, want)
						expect(t, by, "ListTagsForResource", map[string]any{"resourceArn": arn}, want)
						expect(t, by, "UntagResource", map[string]any{"resourceArn": arn, "tagKeys": []any{"team"}}, want)
					})
				}
			}
		}
		expect(t, accountB, "ListTagsForResource", map[string]any{"resourceArn": "arn:aws:appmesh:us-east-1:" + accountA + ":mesh/apps"}, api.CodeForbidden)
	})
	t.Run("one rule for who sees which proxies", func(t *testing.T) {
		arn := "arn:aws:appmesh:us-east-1:" + accountA + ":mesh/apps@" + accountA + "/virtualNode/node-" + accountA
		for account, want := range map[string][]string{accountA: {accountA, accountB}, accountB: {accountB}} {
			var explained api.ExplainOutput
			var described api.DescribeRolloutOutput
			if got := s.call(t, account, "Explain", map[string]any{"resourceArn": arn}, &explained); got != "ok" {
				t.Fatal(got)
			}
			if got := s.call(t, account, "DescribeRollout", map[string]any{"resourceArn": arn}, &described); got != "ok" {
				t.Fatal(got)
			}
			rollout := described.Rollout
			for name, list := range map[string][]api.Proxy{"Explain": explained.Explanation.Proxies, "refused": rollout.Refused, "waiting": rollout.Waiting} {
				var saw []string
				for _, p := range list {
					saw = append(saw, p.Instance)
				}
				if !slices.Equal(saw, want) {
					t.Errorf("%s sees by %s the proxies of %v, want %v", account, name, saw, want)
				}
			}
			if told := len(rollout.Problems) > 0; told != (account == accountA) {
				t.Errorf("%s is told of others' problems: %v", account, told)
			}
		}
	})
	t.Run("a plan shows the configuration of one's own nodes", func(t *testing.T) {
		text, err := json.Marshal(map[string]any{"meshName": "apps", "meshOwner": accountA, "virtualServiceName": "service-" + accountB, "spec": json.RawMessage(specs(accountB)[api.KindVirtualService])})
		if err != nil {
			t.Fatal(err)
		}
		for _, of := range []string{accountA, accountB} {
			doc := node(of)
			doc["spec"] = json.RawMessage(`{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}], "backends": [{"virtualService": {"virtualServiceName": "service-` + accountB + `"}}]}`)
			expect(t, of, "UpdateVirtualNode", doc, "ok")
		}
		var planned api.PlanOutput
		if got := s.call(t, accountB, "Plan", map[string]any{"changes": []any{map[string]any{"kind": "virtualService", "input": string(text)}}}, &planned); got != "ok" {
			t.Fatal(got)
		}
		out := planned.Plan
		shown := map[string]bool{}
		for _, p := range out.Proxies {
			shown[p.ResourceARN[len(p.ResourceARN)-12:]] = len(p.Configurations) > 0
		}
		if len(shown) != 2 || shown[accountA] || !shown[accountB] {
			t.Errorf("the plan shows configurations of %v", shown)
		}
	})
	t.Run("MESH-010 the mesh is its owner's to delete", func(t *testing.T) {
		expect(t, accountB, "DeleteMesh", map[string]any{"meshName": "apps"}, api.CodeForbidden)
		expect(t, accountC, "DeleteMesh", map[string]any{"meshName": "apps"}, api.CodeNotFound)
		// A mesh of one's own by that name is meant first.
		expect(t, accountB, "CreateMesh", map[string]any{"meshName": "apps"}, "ok")
		expect(t, accountB, "DeleteMesh", map[string]any{"meshName": "apps"}, "ok")
		expect(t, accountA, "DescribeMesh", map[string]any{"meshName": "apps"}, "ok")
	})
	t.Run("SHARE-007 VN-033 VR-008 consumers delete their own, the owner everybody's", func(t *testing.T) {
		expect(t, accountB, "DeleteVirtualNode", in(map[string]any{"virtualNodeName": "node-" + accountA}), api.CodeForbidden)
		expect(t, accountB, "DeleteVirtualRouter", in(map[string]any{"virtualRouterName": "router-" + accountA}), api.CodeForbidden)
		expect(t, accountA, "DeleteVirtualService", in(map[string]any{"virtualServiceName": "service-" + accountB}), "ok")
		expect(t, accountA, "DeleteRoute", in(map[string]any{"virtualRouterName": "router-" + accountB, "routeName": "more-" + accountB}), "ok")
		expect(t, accountB, "DeleteRoute", in(map[string]any{"virtualRouterName": "router-" + accountB, "routeName": "route-" + accountB}), "ok")
		expect(t, accountA, "DeleteVirtualRouter", in(map[string]any{"virtualRouterName": "router-" + accountB}), "ok")
		expect(t, accountB, "DeleteVirtualNode", in(map[string]any{"virtualNodeName": "node-" + accountB}), "ok")
	})
}

// A watch that a consumer began ends with the share, also on what it created itself.
func TestWatchesEndWithTheShare(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"Explain", "DescribeRollout"} {
		t.Run("SHARE-019 "+op, func(t *testing.T) {
			t.Parallel()
			s := serveShares(t)
			s.ledger.set(api.Rollout{State: api.RolloutStateWaiting}, nil)
			s.ground(t, accountA)
			arn := s.share(t)
			s.ground(t, accountB)
			ended := make(chan error, 1)
			begun := make(chan struct{})
			first := sync.OnceFunc(func() { close(begun) })
			go func() {
				ended <- s.client(t, accountB).Stream(t.Context(), op, map[string]any{
					"resourceArn": "arn:aws:appmesh:us-east-1:" + accountB + ":mesh/apps@" + accountA + "/virtualNode/node-" + accountB, "watch": true,
				}, func(json.RawMessage) error { first(); return nil })
			}()
			<-begun
			run[ramapi.DeleteResourceShareResponse](t, s, accountA, "DeleteResourceShare", map[string]any{"resourceShareArn": arn})
			select {
			case <-ended:
			case <-time.After(testenv.Patience):
				t.Error("the watch goes on")
			}
		})
	}
}

// Lists of meshes go on from one's own to those that are shared, page by page.
func TestSharedMeshesInPages(t *testing.T) {
	t.Parallel()
	s := serveShares(t)
	arns := []any{}
	for _, name := range []string{"a", "b", "c"} {
		for _, account := range []string{accountA, accountB} {
			s.as(t, account, "PUT", meshes, `{"meshName": "`+name+`"}`).ok(t)
		}
		arns = append(arns, "arn:aws:appmesh:us-east-1:"+accountA+":mesh/"+name)
	}
	run[ramapi.CreateResourceShareResponse](t, s, accountA, "CreateResourceShare", map[string]any{"name": "all", "resourceArns": arns, "principals": []any{accountB}})
	v := run[ramapi.GetResourceShareInvitationsResponse](t, s, accountB, "GetResourceShareInvitations", nil).ResourceShareInvitations[0]
	run[ramapi.AcceptResourceShareInvitationResponse](t, s, accountB, "AcceptResourceShareInvitation", map[string]any{"resourceShareInvitationArn": *v.ResourceShareInvitationARN})
	want := []string{accountB + "/a", accountB + "/b", accountB + "/c", accountA + "/a", accountA + "/b", accountA + "/c"}
	for limit := 1; limit <= 7; limit++ {
		t.Run(fmt.Sprintf("SHARE-020 %d at a time", limit), func(t *testing.T) {
			var saw []string
			for token := ""; ; {
				page := s.as(t, accountB, "GET", fmt.Sprintf("%s?limit=%d%s", meshes, limit, token), "").ok(t)
				for _, m := range page["meshes"].([]any) {
					saw = append(saw, fmt.Sprint(at(m, "meshOwner"), "/", at(m, "meshName")))
				}
				next, more := page["nextToken"].(string)
				if !more {
					break
				}
				token = "&nextToken=" + next
			}
			if !slices.Equal(saw, want) {
				t.Errorf("saw %v", saw)
			}
		})
	}
	if len(s.shares.Meshes(accountC)) != 0 {
		t.Error("a stranger sees meshes")
	}
}

// What a mesh's quota counts, everybody's resources are counted for (SHARE-022).
func TestSharedMeshQuotas(t *testing.T) {
	t.Parallel()
	s := serveShares(t)
	s.ground(t, accountA)
	s.share(t)
	if got := s.call(t, accountA, "UpdateMeshSettings", map[string]any{"meshName": "apps", "quotas": "AWS"}, nil); got != "ok" {
		t.Fatal(got)
	}
	t.Run("SHARE-022 nodes of both accounts count", func(t *testing.T) {
		made := 1 // the ground has one
		for n := 0; ; n++ {
			account := []string{accountA, accountB}[n%2]
			got := s.call(t, account, "CreateVirtualNode", map[string]any{"meshName": "apps", "meshOwner": accountA, "virtualNodeName": fmt.Sprint("n", n), "spec": map[string]any{}}, nil)
			if got == api.CodeLimitExceeded {
				break
			}
			if got != "ok" || n > 300 {
				t.Fatalf("node %d: %s", n, got)
			}
			made++
		}
		if made != 200 {
			t.Errorf("%d nodes were made, want 200", made)
		}
		for _, account := range []string{accountA, accountB} {
			if got := s.call(t, account, "CreateVirtualNode", map[string]any{"meshName": "apps", "meshOwner": accountA, "virtualNodeName": "more", "spec": map[string]any{}}, nil); got != api.CodeLimitExceeded {
				t.Errorf("account %s: %s", account, got)
			}
		}
	})
	t.Run("SHARE-022 a consumer does not raise them", func(t *testing.T) {
		if got := s.call(t, accountB, "UpdateMeshSettings", map[string]any{"meshName": "apps", "meshOwner": accountA, "quotas": "NONE"}, nil); got != api.CodeForbidden {
			t.Error(got)
		}
	})
}
