package share

import (
	"context"
	"fmt"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/ramapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// Bounds of what one account shares. A share is one record, so what is in it is
// bounded.
const (
	mostShares   = 1000
	mostEntities = 500 // meshes of a share, and principals of it
	mostTags     = 50
)

// notPermitted is RAM's text for an account outside the organization and a share that
// does not leave it.
const notPermitted = "The resource you are attempting to share can only be shared within your AWS Organization. This error may also occur if you have not enabled sharing with your AWS organization, or that onboarding process is still in progress."

// policyActions are what who shares a mesh must be allowed on it (SHARE-003): they are
// permissions only, and no operations.
func policyActions() []string {
	return []string{"appmesh:GetMeshPolicy", "appmesh:PutMeshPolicy", "appmesh:DeleteMeshPolicy"}
}

// create makes a share, with what is in it from the beginning (SHARE-018).
func (s *Service) create(ctx context.Context, c *service.Call, in *ramapi.CreateResourceShareRequest) (*ramapi.CreateResourceShareResponse, error) {
	if err := checkTags(in.Tags); err != nil {
		return nil, err
	}
	if len(in.Sources) > 0 {
		return nil, sourcesRefused()
	}
	for _, arn := range in.PermissionARNs {
		if err := s.known(arn); err != nil {
			return nil, err
		}
	}
	owner, now := c.Principal.Account, s.Now().UTC()
	x := &share{
		ID: s.NewID(), Owner: owner, Name: in.Name, External: in.AllowExternalPrincipals == nil || *in.AllowExternalPrincipals,
		Retain:  in.ResourceShareConfiguration != nil && deref(in.ResourceShareConfiguration.RetainSharingOnAccountLeaveOrganization),
		Created: now, Updated: now, Tags: in.Tags, Permitted: len(in.PermissionARNs) > 0,
	}
	keys := service.Keys(s.requested(in.ResourceARNs, in.Principals), service.RequestTags(service.Pairs(in.Tags, pair)))
	keys["ram:requestedallowsexternalprincipals"] = []string{fmt.Sprint(x.External)}
	if err := c.Allow(ctx, "*", keys); err != nil {
		return nil, err
	}
	meshes, err := s.owned(ctx, owner, in.ResourceARNs)
	if err != nil {
		return nil, err
	}
	gone, count, err := s.forgotten(ctx, owner)
	if err != nil {
		return nil, err
	}
	if count >= mostShares {
		return nil, api.Errorf(ramapi.CodeResourceShareLimitExceeded, "Account %s has %d resource shares already, and no more are allowed.", owner, count)
	}
	t, err := s.organization(ctx)
	if err != nil {
		return nil, err
	}
	return write(ctx, s, c, scope(owner), in.ClientToken, func(tx *store.Tx) (*ramapi.CreateResourceShareResponse, error) {
		made := *x
		if err := s.join(ctx, c, t, &made, meshes, in.Principals); err != nil {
			return nil, err
		}
		for _, id := range gone {
			tx.DeleteRecord(shareType(), shareTail(owner, id))
		}
		s.put(tx, &made)
		answer := s.answer(&made)
		return &ramapi.CreateResourceShareResponse{ClientToken: in.ClientToken, ResourceShare: &answer}, nil
	})
}

// requested are the condition keys of what is asked to be shared, and with whom: meshes
// by their ARNs, which have one spelling, and accounts by their ids, however the caller
// spells them.
func (s *Service) requested(resources, principals []string) map[string][]string {
	out := map[string][]string{}
	if len(resources) > 0 {
		out["ram:resourcearn"], out["ram:requestedresourcetype"] = resources, []string{resourceType}
	}
	for _, p := range principals {
		out["ram:principal"] = append(out["ram:principal"], s.plain(p))
	}
	return out
}

func sourcesRefused() error {
	return api.Errorf(ramapi.CodeInvalidParameter, "Sources narrow what service principals may do, and a mesh is not shared with those: leave sources out.")
}

// forgotten are shares of an account that were deleted long enough ago, and how many
// there are beside them.
func (s *Service) forgotten(ctx context.Context, owner string) (gone []string, count int, err error) {
	records, _, err := s.Store.Records(ctx, scope(owner).Tail("share", ""))
	if err != nil {
		return nil, 0, err
	}
	for _, r := range records {
		x, err := read(r)
		switch {
		case err != nil:
			return nil, 0, err
		case x != nil && x.deleted() && s.Now().Sub(x.Deleted) >= remembers:
			if len(gone) < 50 { // a transaction is not to grow without end
				gone = append(gone, x.ID)
			}
		case x != nil && !x.deleted():
			count++
		}
	}
	return gone, count, nil
}

// own changes a share of the caller's. fn changes its copy.
func own[Out any](ctx context.Context, s *Service, c *service.Call, arn string, token *string, fn func(x *share) (*Out, error)) (*Out, error) {
	owner, id, err := s.parse(arn, "resource-share")
	if err != nil {
		return nil, err
	}
	if owner != c.Principal.Account {
		// Whether another account has such a share is not said.
		if err := given(ctx, c, arn, nil); err != nil {
			return nil, err
		}
		return nil, unknown(arn)
	}
	return write(ctx, s, c, scope(owner), token, func(tx *store.Tx) (*Out, error) {
		x, err := s.held(tx, owner, id)
		if err != nil {
			return nil, err
		}
		if x == nil {
			if err := c.Allow(ctx, arn, nil); err != nil {
				return nil, err
			}
			return nil, unknown(arn)
		}
		out, err := fn(x)
		if err != nil {
			return nil, err
		}
		x.Updated = s.Now().UTC()
		s.put(tx, x)
		return out, nil
	})
}

func (s *Service) update(ctx context.Context, c *service.Call, in *ramapi.UpdateResourceShareRequest) (*ramapi.UpdateResourceShareResponse, error) {
	return own(ctx, s, c, in.ResourceShareARN, in.ClientToken, func(x *share) (*ramapi.UpdateResourceShareResponse, error) {
		keys := x.keys()
		if in.AllowExternalPrincipals != nil {
			keys["ram:requestedallowsexternalprincipals"] = []string{fmt.Sprint(*in.AllowExternalPrincipals)}
		}
		if err := c.Allow(ctx, in.ResourceShareARN, keys); err != nil {
			return nil, err
		}
		if in.Name != nil {
			x.Name = *in.Name
		}
		if in.AllowExternalPrincipals != nil {
			outside := func(p entity) bool { return p.External && !p.over() }
			if !*in.AllowExternalPrincipals && slices.ContainsFunc(x.Principals, outside) {
				return nil, api.Errorf(ramapi.CodeOperationNotPermitted, "The resource share has principals outside of your organization: disassociate them first.")
			}
			x.External = *in.AllowExternalPrincipals
		}
		x.Updated = s.Now().UTC()
		answer := s.answer(x)
		return &ramapi.UpdateResourceShareResponse{ClientToken: in.ClientToken, ResourceShare: &answer}, nil
	})
}

// delete ends a share, and all access by it (SHARE-019).
func (s *Service) delete(ctx context.Context, c *service.Call, in *ramapi.DeleteResourceShareRequest) (*ramapi.DeleteResourceShareResponse, error) {
	return own(ctx, s, c, in.ResourceShareARN, in.ClientToken, func(x *share) (*ramapi.DeleteResourceShareResponse, error) {
		if err := c.Allow(ctx, in.ResourceShareARN, x.keys()); err != nil {
			return nil, err
		}
		now := s.Now().UTC()
		for _, list := range [][]entity{x.Meshes, x.Principals} {
			for i := range list {
				leave(&list[i], s)
			}
		}
		for i := range x.Invitations {
			if x.Invitations[i].Status == pending {
				x.Invitations[i].Status = expired
			}
		}
		x.Deleted = now
		yes := true
		return &ramapi.DeleteResourceShareResponse{ClientToken: in.ClientToken, ReturnValue: &yes}, nil
	})
}
