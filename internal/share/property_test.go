package share_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/ramapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/share"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// world is what random calls should have come to, said in the plainest way: for each
// share, which meshes and principals are in it.
type world struct {
	meshes   map[string][]string        // of a share, by its ARN: names
	members  map[string]map[string]bool // whom it is for; false is for who has yet to accept
	external map[string]map[string]bool // who came by an invitation
	inside   []string                   // accounts of the organization
	enabled  bool
}

// has says whether a mesh is open to an account.
func (w *world) has(account, mesh string) bool {
	for arn, meshes := range w.meshes {
		if !slices.Contains(meshes, mesh) {
			continue
		}
		member := slices.Contains(w.inside, account) && w.enabled
		if w.members[arn][account] && (w.external[arn][account] || member) || w.members[arn][organization] && member {
			return true
		}
	}
	return false
}

const organization = "arn:aws:organizations::" + owner + ":organization/" + share.DefaultOrganization

// Whatever is called in whatever order, who may come into which mesh is what the calls
// say, by the memory of a replica that watches and by that of one that has just started.
func TestSharesAreWhatWasCalled(t *testing.T) {
	t.Parallel()
	t.Run("SHARE-001 SHARE-016 SHARE-019", func(t *testing.T) {
		others := []string{consumer, stranger, "444444444444"}
		rapid.Check(t, func(r *rapid.T) {
			data := storetest.New(t)
			for _, mesh := range []string{"m0", "m1"} {
				put(t, data, owner, mesh)
			}
			s, stop := follow(t, data, owner)
			defer stop()
			ram, err := s.Service()
			if err != nil {
				r.Fatal(err)
			}
			w := &world{meshes: map[string][]string{}, members: map[string]map[string]bool{}, external: map[string]map[string]bool{}}
			call := func(account, operation string, input map[string]any) (any, error) {
				return ram.Operations[operation].Run(t.Context(), &service.Call{
					Service: ram, Operation: operation, Input: input, Authorizer: auth.Roots{},
					Principal: auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":root", Type: auth.Root},
				})
			}
			must := func(account, operation string, input map[string]any) any {
				out, err := call(account, operation, input)
				if err != nil {
					r.Fatalf("%s: %v", operation, err)
				}
				return out
			}
			meshARN := func(name string) string { return "arn:aws:appmesh:us-east-1:" + owner + ":mesh/" + name }
			set := func(inside []string) {
				if err := share.SetOrganization(context.Background(), data, share.Organization{ID: share.DefaultOrganization, Accounts: inside}); err != nil {
					r.Fatal(err)
				}
				w.inside = inside
			}
			set([]string{consumer})
			any_ := func() string {
				arns := []string{""}
				for arn := range w.meshes {
					arns = append(arns, arn)
				}
				slices.Sort(arns)
				return rapid.SampledFrom(arns).Draw(r, "share")
			}
			join := func(arn, p string) {
				if _, there := w.members[arn][p]; there {
					return
				}
				inside := p == organization || w.enabled && slices.Contains(w.inside, p)
				w.members[arn][p], w.external[arn][p] = inside, !inside
			}
			r.Repeat(map[string]func(*rapid.T){
				"create": func(r *rapid.T) {
					mesh := rapid.SampledFrom([]string{"m0", "m1"}).Draw(r, "mesh")
					p := rapid.SampledFrom(others).Draw(r, "principal")
					out := must(owner, "CreateResourceShare", map[string]any{"name": "s", "resourceArns": []any{meshARN(mesh)}, "principals": []any{p}})
					arn := *out.(*ramapi.CreateResourceShareResponse).ResourceShare.ResourceShareARN
					w.meshes[arn], w.members[arn], w.external[arn] = []string{mesh}, map[string]bool{}, map[string]bool{}
					join(arn, p)
				},
				"associate": func(r *rapid.T) {
					arn := any_()
					if arn == "" {
						r.Skip()
					}
					p := rapid.SampledFrom(append([]string{organization}, others...)).Draw(r, "principal")
					_, err := call(owner, "AssociateResourceShare", map[string]any{"resourceShareArn": arn, "principals": []any{p}})
					if p == organization && !w.enabled {
						if refusal, ok := errors.AsType[*api.Error](err); !ok || refusal.Code != ramapi.CodeUnknownResource {
							r.Fatalf("the organization before it enabled sharing: %v", err)
						}
						return
					}
					if err != nil {
						r.Fatal(err)
					}
					join(arn, p)
				},
				"add a mesh": func(r *rapid.T) {
					arn := any_()
					if arn == "" {
						r.Skip()
					}
					mesh := rapid.SampledFrom([]string{"m0", "m1"}).Draw(r, "mesh")
					must(owner, "AssociateResourceShare", map[string]any{"resourceShareArn": arn, "resourceArns": []any{meshARN(mesh)}})
					if !slices.Contains(w.meshes[arn], mesh) {
						w.meshes[arn] = append(w.meshes[arn], mesh)
					}
				},
				"take a mesh out": func(r *rapid.T) {
					arn := any_()
					if arn == "" || len(w.meshes[arn]) == 0 {
						r.Skip()
					}
					mesh := rapid.SampledFrom(w.meshes[arn]).Draw(r, "mesh")
					must(owner, "DisassociateResourceShare", map[string]any{"resourceShareArn": arn, "resourceArns": []any{meshARN(mesh)}})
					w.meshes[arn] = slices.DeleteFunc(w.meshes[arn], func(m string) bool { return m == mesh })
				},
				"take a principal out": func(r *rapid.T) {
					arn := any_()
					p := rapid.SampledFrom(append([]string{organization}, others...)).Draw(r, "principal")
					if _, there := w.members[arn][p]; !there {
						r.Skip()
					}
					must(owner, "DisassociateResourceShare", map[string]any{"resourceShareArn": arn, "principals": []any{p}})
					delete(w.members[arn], p)
				},
				"answer": func(r *rapid.T) {
					p := rapid.SampledFrom(others).Draw(r, "account")
					for _, v := range must(p, "GetResourceShareInvitations", nil).(*ramapi.GetResourceShareInvitationsResponse).ResourceShareInvitations {
						if v.Status != ramapi.ResourceShareInvitationStatusPending {
							continue
						}
						if rapid.Bool().Draw(r, "accept") {
							must(p, "AcceptResourceShareInvitation", map[string]any{"resourceShareInvitationArn": *v.ResourceShareInvitationARN})
							w.members[*v.ResourceShareARN][p] = true
						} else {
							must(p, "RejectResourceShareInvitation", map[string]any{"resourceShareInvitationArn": *v.ResourceShareInvitationARN})
							delete(w.members[*v.ResourceShareARN], p)
						}
					}
				},
				"enable": func(*rapid.T) {
					must(owner, "EnableSharingWithAwsOrganization", nil)
					w.enabled = true
				},
				"reorganize": func(r *rapid.T) {
					set(rapid.SampledFrom([][]string{{consumer}, {stranger}, {consumer, stranger}, nil, {"555555555555"}}).Draw(r, "inside"))
					if w.inside == nil { // all accounts are in it
						w.inside = others
					}
				},
				"delete": func(r *rapid.T) {
					arn := any_()
					if arn == "" {
						r.Skip()
					}
					must(owner, "DeleteResourceShare", map[string]any{"resourceShareArn": arn})
					delete(w.meshes, arn)
				},
				"": func(r *rapid.T) {
					fresh, err := share.Open(context.Background(), s.Config)
					if err != nil {
						r.Fatal(err)
					}
					for _, account := range append([]string{owner}, others...) {
						for _, mesh := range []string{"m0", "m1"} {
							key := api.Key{Owner: owner, Mesh: mesh, Kind: api.KindMesh, Name: mesh}
							want := account != owner && w.has(account, mesh)
							if got := fresh.Shared(account, key, "appmesh:CreateVirtualNode"); got != want {
								r.Fatalf("%s in %s: %v, want %v: %+v", account, mesh, got, want, w)
							}
							// Who watches knows what was written here with the answer, and what
							// the operator said soon.
							testenv.Eventually(t, "who watches knows "+mesh+" for "+account, func() bool {
								return s.Shared(account, key, "appmesh:CreateVirtualNode") == want && slices.Contains(s.Meshes(account), key) == want
							})
							if fresh.Shared(account, key, "appmesh:DeleteMesh") {
								r.Fatalf("%s deletes %s", account, mesh)
							}
						}
					}
				},
			})
		})
	})
}

// A thousand accounts that share with each other cost a look, not a walk.
func BenchmarkShared(b *testing.B) {
	data := storetest.New(b)
	s := many(b, data, 1000)
	key := api.Key{Owner: fmt.Sprintf("%012d", 500), Mesh: "m", Kind: api.KindMesh, Name: "m"}
	b.ReportAllocs()
	for b.Loop() {
		if !s.Shared(fmt.Sprintf("%012d", 501), key, "appmesh:DescribeVirtualNode") {
			b.Fatal("it is not shared")
		}
	}
}
