package share

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/ramapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// Service is RAM's API. Its answers come from the store, so that every replica sees
// every write that was acknowledged (API-023).
type Service struct {
	*Shares
}

// Service offers the operations of RAM.
func (s *Shares) Service() (*service.Service, error) {
	x := &Service{s}
	return service.New("ram", "ram", map[string]service.Operation{
		"CreateResourceShare":                 service.Op(x.create),
		"UpdateResourceShare":                 service.Op(x.update),
		"DeleteResourceShare":                 service.Op(x.delete),
		"AssociateResourceShare":              service.Op(x.associate),
		"DisassociateResourceShare":           service.Op(x.disassociate),
		"GetResourceShares":                   service.Read(x.getShares),
		"GetResourceShareAssociations":        service.Read(x.getAssociations),
		"GetResourceShareInvitations":         service.Read(x.getInvitations),
		"AcceptResourceShareInvitation":       service.Op(x.accept),
		"RejectResourceShareInvitation":       service.Op(x.reject),
		"ListPendingInvitationResources":      service.Read(x.listPending),
		"ListResources":                       service.Read(x.listResources),
		"ListPrincipals":                      service.Read(x.listPrincipals),
		"ListResourceTypes":                   service.Read(x.listTypes),
		"GetResourcePolicies":                 service.Read(x.getPolicies),
		"EnableSharingWithAwsOrganization":    service.Op(x.enable),
		"ListPermissions":                     service.Read(x.listPermissions),
		"GetPermission":                       service.Read(x.getPermission),
		"ListResourceSharePermissions":        service.Read(x.listSharePermissions),
		"AssociateResourceSharePermission":    service.Op(x.associatePermission),
		"DisassociateResourceSharePermission": service.Op(x.disassociatePermission),
		"TagResource":                         service.Op(x.tag),
		"UntagResource":                       service.Op(x.untag),
	})
}

// released is when the permission came to be, for those who sort by it.
func released() api.Timestamp {
	return api.Timestamp{Time: time.Date(2020, time.May, 1, 0, 0, 0, 0, time.UTC)}
}

func stamp(t time.Time) *api.Timestamp { return &api.Timestamp{Time: t} }

// shareARN is a share's ARN, invitationARN an invitation's: both are of the account that
// shares.
func (s *Service) shareARN(owner, id string) string {
	return s.Realm.ResourceName("ram", owner, "resource-share/"+id)
}

func (s *Service) invitationARN(owner, id string) string {
	return s.Realm.ResourceName("ram", owner, "resource-share-invitation/"+id)
}

// parse takes an ARN of a share or an invitation apart.
func (s *Service) parse(arn, kind string) (owner, id string, err error) {
	n, ok := api.ParseResourceName(arn)
	id, one := strings.CutPrefix(n.Resource, kind+"/")
	if !ok || n.Partition != s.Realm.Partition || n.Service != "ram" || n.Region != s.Realm.Region || !accountForm.MatchString(n.Account) ||
		!one || id == "" || strings.Contains(id, "/") {
		return "", "", api.Errorf(ramapi.CodeMalformedARN, "The specified resource ARN %s is not valid. Verify the ARN and try again.", arn)
	}
	return n.Account, id, nil
}

// meshARN takes the ARN of a mesh apart and says whether an account may share it: only
// its owner may (SHARE-015).
func (s *Service) mesh(arn, account string) (api.Key, error) {
	if _, ok := api.ParseResourceName(arn); !ok {
		return api.Key{}, api.Errorf(ramapi.CodeMalformedARN, "The specified resource ARN %s is not valid. Verify the ARN and try again.", arn)
	}
	a, err := api.ParseARN(arn)
	if err != nil || a.Kind != api.KindMesh {
		return api.Key{}, api.Errorf(ramapi.CodeMalformedARN, "You cannot share the selected resource type: %s is not the ARN of a mesh.", arn)
	}
	if a.Partition != s.Realm.Partition || a.Region != s.Realm.Region || !accountForm.MatchString(a.Account) {
		return api.Key{}, api.Errorf(ramapi.CodeMalformedARN, "The specified resource ARN %s is not valid: this control plane is partition %s and region %s. Verify the ARN and try again.", arn, s.Realm.Partition, s.Realm.Region)
	}
	if a.Account != account || a.MeshOwner != "" && a.MeshOwner != account {
		return api.Key{}, api.Errorf(ramapi.CodeOperationNotPermitted, "Resource %s is not owned by account %s: only the owner of a mesh can share it.", arn, account)
	}
	key := api.Key{Owner: account, Mesh: a.Mesh, Kind: api.KindMesh, Name: a.Mesh}
	if own := s.Realm.ARN(key, account); arn != own {
		// Policies were asked by ram:ResourceArn: what it names has no other spelling.
		return api.Key{}, api.Errorf(ramapi.CodeMalformedARN, "The specified resource ARN %s is not valid: the mesh of account %s is %s.", arn, account, own)
	}
	return key, nil
}

// load reads the shares of an account, or all where owner is empty, as they are now, and
// what the organization is.
func (s *Service) load(ctx context.Context, owner string) ([]*share, together, error) {
	t, err := s.organization(ctx)
	if err != nil {
		return nil, t, err
	}
	below := Tail
	if owner != "" {
		below = scope(owner).Tail("share", "")
	}
	records, _, err := s.Store.Records(ctx, below)
	if err != nil {
		return nil, t, err
	}
	now := s.Now()
	var out []*share
	for _, r := range records {
		x, err := read(r)
		if err != nil {
			return nil, t, err
		}
		if x != nil && (!x.deleted() || now.Sub(x.Deleted) < remembers) {
			out = append(out, x.at(now))
		}
	}
	// In the order in which they were made.
	slices.SortStableFunc(out, func(a, b *share) int { return a.Created.Compare(b.Created) })
	return out, t, nil
}

// unknown is the refusal of a share that does not exist, or that the caller does not
// own.
func unknown(arn string) error {
	return api.Errorf(ramapi.CodeUnknownResource, "ResourceShare %s could not be found.", arn)
}

func pair(t ramapi.Tag) (key, value string) { return deref(t.Key), deref(t.Value) }

// keys are the condition keys of a share that exists.
func (x *share) keys() map[string][]string {
	return service.Keys(service.TagKeys(service.Pairs(x.Tags, pair), "aws:resourcetag/"), map[string][]string{
		"ram:resourcesharename": {x.Name}, "ram:allowsexternalprincipals": {fmt.Sprint(x.External)},
	})
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// given is Call.Allow for what another account has given to the caller, such as an
// invitation: its ARN is the other's.
func given(ctx context.Context, c *service.Call, arn string, keys map[string][]string) error {
	one := *c
	one.Authorizer = shared{c.Authorizer}
	return one.Allow(ctx, arn, keys)
}

// shared is an Authorizer for what was shared.
type shared struct{ auth.Authorizer }

// Authorize satisfies auth.Authorizer.
func (a shared) Authorize(ctx context.Context, q auth.Question) error {
	q.Shared = true
	return a.Authorizer.Authorize(ctx, q)
}

// write runs a change in a transaction on a scope and answers with what fn
// made. A client token makes it idempotent. It returns when this replica goes by it.
func write[Out any](ctx context.Context, s *Service, c *service.Call, in store.Scope, token *string, fn func(tx *store.Tx) (*Out, error)) (*Out, error) {
	claim, err := claimOf(c, deref(token))
	if err != nil {
		return nil, err
	}
	var out *Out
	revision, err := s.Store.Update(ctx, []store.Scope{in}, func(tx *store.Tx) error {
		var err error
		if out, err = fn(tx); err != nil {
			return err
		}
		c.Commit(tx, out)
		if claim == nil {
			return nil
		}
		if claim.Result, err = json.Marshal(out); err != nil {
			return fmt.Errorf("encode answer: %w", err)
		}
		tx.Claim(*claim)
		return nil
	})
	var taken *store.TokenTaken
	var refusal *api.Error
	switch {
	case err == nil:
		s.settle(ctx, revision)
		return out, nil
	case errors.As(err, &taken):
		return replay[Out](claim, &taken.Token)
	case claim != nil && errors.As(err, &refusal) && refusal.Code != api.CodeServiceUnavailable && refusal.Code != api.CodeAccessDenied:
		// A repeat is refused by what the first request did before the transaction could
		// see the token. Who may not do it is not told what came of it either.
		earlier, terr := s.Store.Token(ctx, claim.Key)
		if terr != nil {
			return nil, terr
		}
		if earlier != nil {
			return replay[Out](claim, earlier)
		}
	}
	return nil, err
}

// replay is the answer that the first request with a token got.
func replay[Out any](now, earlier *store.Token) (*Out, error) {
	if now.Fingerprint != earlier.Fingerprint {
		return nil, api.Errorf(ramapi.CodeIdempotentParameterMismatch, "The client token was used before with other parameters: use a new token for a new request.")
	}
	out := new(Out)
	if err := json.Unmarshal(earlier.Result, out); err != nil {
		return nil, fmt.Errorf("read answer of an earlier request: %w", err)
	}
	return out, nil
}

// claimOf is the record of a client token; nil where there is none. Its key is of this
// service and account alone.
func claimOf(c *service.Call, token string) (*store.Token, error) {
	if token == "" {
		return nil, nil
	}
	input, err := json.Marshal(c.Input)
	if err != nil {
		return nil, fmt.Errorf("encode input: %w", err)
	}
	sum := sha256.Sum256(append([]byte(c.Operation+"\n"), input...))
	key := sha256.Sum256([]byte("ram\n" + c.Principal.Account + "\n" + token))
	return &store.Token{Key: hex.EncodeToString(key[:]), Fingerprint: hex.EncodeToString(sum[:])}, nil
}

// held is a share of the owner's in a transaction, as it is now; nil when there is none,
// or it was deleted.
func (s *Service) held(tx *store.Tx, owner, id string) (*share, error) {
	r := tx.Record(shareTail(owner, id))
	if r == nil {
		return nil, nil
	}
	x, err := read(*r)
	if err != nil || x == nil || x.deleted() {
		return nil, err
	}
	return x.at(s.Now()), nil
}

// put stores a share that was changed.
func (s *Service) put(tx *store.Tx, x *share) { tx.PutRecord(shareType(), shareTail(x.Owner, x.ID), x) }

// organization is what the organization is now. It is read beside the transaction that
// needs it: a share may as well have changed a moment before the organization did, and
// accounts that share have no lock in common.
func (s *Service) organization(ctx context.Context) (together, error) {
	t := newTogether(s.Realm, s.Management)
	records, _, err := s.Store.Records(ctx, organizationScope().Tail(""))
	if err != nil {
		return t, err
	}
	for _, r := range records {
		if err := t.take(r.Key, r.Body); err != nil {
			return t, err
		}
	}
	return t, nil
}
