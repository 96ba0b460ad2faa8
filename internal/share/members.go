package share

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/ramapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// owned are the meshes of that account that ARNs name, each with its uid.
func (s *Service) owned(ctx context.Context, owner string, arns []string) ([]entity, error) {
	var out []entity
	for _, arn := range arns {
		key, err := s.mesh(arn, owner)
		if err != nil {
			return nil, err
		}
		found, err := s.Store.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		if found == nil {
			return nil, api.Errorf(ramapi.CodeUnknownResource, "Resource %s could not be found.", arn)
		}
		if !slices.ContainsFunc(out, func(e entity) bool { return e.UID == found.UID }) {
			out = append(out, entity{ID: s.Realm.ARN(key, owner), UID: found.UID, Status: associated})
		}
	}
	return out, nil
}

// join adds meshes and principals to a share. The caller has to be allowed to change the
// policy of every mesh that the share then opens to someone it was not open to.
func (s *Service) join(ctx context.Context, c *service.Call, t together, x *share, meshes []entity, principals []string) error {
	now := s.Now().UTC()
	for _, e := range meshes {
		e.Created, e.Updated = now, now
		if old := find(x.Meshes, e.ID); old != nil {
			old.UID = e.UID // another mesh of the name, perhaps
			continue
		}
		x.Meshes = append(x.Meshes, e)
		x.Permitted = true
	}
	for _, p := range principals {
		if err := s.invite(ctx, t, x, p); err != nil {
			return err
		}
	}
	touched := meshes
	if len(principals) > 0 {
		touched = x.Meshes
	}
	for _, e := range touched {
		for _, action := range policyActions() {
			if e.over() {
				continue
			}
			if err := c.AllowAction(ctx, action, e.ID, nil); err != nil {
				return err
			}
		}
	}
	if len(x.Meshes) > mostEntities || len(x.Principals) > mostEntities {
		return api.Errorf(ramapi.CodeResourceShareLimitExceeded, "A resource share holds at most %d resources and %d principals.", mostEntities, mostEntities)
	}
	return nil
}

// invite adds a principal to a share; one that is there already stays as it is. An
// account that is not in the organization, or while sharing within it is off, is sent an
// invitation (SHARE-016); so is one that does not exist, for whom it waits.
func (s *Service) invite(ctx context.Context, t together, x *share, principal string) error {
	id, group, err := s.principal(t, x.Owner, principal)
	switch {
	case err != nil:
		return err
	case id == x.Owner:
		return api.Errorf(ramapi.CodeInvalidParameter, "Account %s owns the resource share and cannot be a principal of it.", id)
	case find(x.Principals, id) != nil:
		return nil
	}
	now := s.Now().UTC()
	e := entity{ID: id, Created: now, Updated: now, Status: associated}
	inside := group || t.inside(x.Owner, id)
	if inside && !group && s.Account != nil {
		if inside, err = s.Account(ctx, id); err != nil {
			return err
		}
	}
	if !inside {
		if !x.External {
			return api.Errorf(ramapi.CodeOperationNotPermitted, notPermitted)
		}
		e.External, e.Status = true, associating
		x.Invitations = append(x.Invitations, invitation{ID: s.NewID(), Account: id, Sent: now, Status: pending})
	}
	x.Principals = append(x.Principals, e)
	return nil
}

// plain is a principal as policies are asked about it and shares keep it: an account is
// its id, also where its root's ARN names it.
func (s *Service) plain(p string) string {
	n, ok := api.ParseResourceName(p)
	if root := (api.ResourceName{Partition: s.Realm.Partition, Service: "iam", Account: n.Account, Resource: "root"}); ok && n == root && accountForm.MatchString(n.Account) {
		return n.Account
	}
	return p
}

// principal is a principal as a share of the owner's keeps it; group says that it is no account.
func (s *Service) principal(t together, owner, p string) (id string, group bool, err error) {
	if account := s.plain(p); accountForm.MatchString(account) {
		return account, false, nil
	}
	if n, ok := api.ParseResourceName(p); ok && n.Partition == s.Realm.Partition && n.Region == "" && accountForm.MatchString(n.Account) {
		kind, name, _ := strings.Cut(n.Resource, "/")
		switch {
		case n.Service == "iam" && (kind == "user" || kind == "role"):
			return "", false, api.Errorf(ramapi.CodeInvalidParameter, "A mesh is shared with accounts, organizational units and the organization: %s is neither. Name its account.", p)
		case n.Service == "organizations" && kind == "organization":
			if !t.enabled || p != t.arn() || !t.member(owner) {
				return "", false, api.Errorf(ramapi.CodeUnknownResource, "Organization %s could not be found.", name)
			}
			return p, true, nil
		case n.Service == "organizations" && kind == "ou":
			_, unit, _ := strings.Cut(name, "/")
			if _, known := t.Units[unit]; !t.enabled || !known || p != t.unitARN(unit) || !t.member(owner) {
				return "", false, api.Errorf(ramapi.CodeUnknownResource, "OrganizationalUnit %s in unknown organization could not be found.", unit)
			}
			return p, true, nil
		}
	}
	return "", false, api.Errorf(ramapi.CodeInvalidParameter, "Principal ID %s is malformed. Verify the ID and try again.", p)
}

// leave ends an association.
func leave(e *entity, s *Service) {
	if !e.over() {
		e.Status, e.Updated, e.Message = disassociated, s.Now().UTC(), ""
	}
}

// associate adds meshes and principals.
func (s *Service) associate(ctx context.Context, c *service.Call, in *ramapi.AssociateResourceShareRequest) (*ramapi.AssociateResourceShareResponse, error) {
	if len(in.Sources) > 0 {
		return nil, sourcesRefused()
	}
	if len(in.ResourceARNs)+len(in.Principals) == 0 {
		return nil, api.Errorf(ramapi.CodeInvalidParameter, "Name at least one resource or principal to associate.")
	}
	t, err := s.organization(ctx)
	if err != nil {
		return nil, err
	}
	return own(ctx, s, c, in.ResourceShareARN, in.ClientToken, func(x *share) (*ramapi.AssociateResourceShareResponse, error) {
		keys := x.keys()
		maps.Copy(keys, s.requested(in.ResourceARNs, in.Principals))
		if err := c.Allow(ctx, in.ResourceShareARN, keys); err != nil {
			return nil, err
		}
		meshes, err := s.owned(ctx, x.Owner, in.ResourceARNs)
		if err != nil {
			return nil, err
		}
		if err := s.join(ctx, c, t, x, meshes, in.Principals); err != nil {
			return nil, err
		}
		out := &ramapi.AssociateResourceShareResponse{ClientToken: in.ClientToken}
		for _, e := range meshes {
			out.ResourceShareAssociations = append(out.ResourceShareAssociations, s.association(x, *find(x.Meshes, e.ID), ramapi.ResourceShareAssociationTypeResource))
		}
		for _, p := range in.Principals {
			id, _, _ := s.principal(t, x.Owner, p) // join has read it
			out.ResourceShareAssociations = append(out.ResourceShareAssociations, s.association(x, *find(x.Principals, id), ramapi.ResourceShareAssociationTypePrincipal))
		}
		return out, nil
	})
}

// disassociate takes meshes and principals out of a share, and what they had by it ends
// (SHARE-019). A principal may take itself out of another account's share.
func (s *Service) disassociate(ctx context.Context, c *service.Call, in *ramapi.DisassociateResourceShareRequest) (*ramapi.DisassociateResourceShareResponse, error) {
	if len(in.Sources) > 0 {
		return nil, sourcesRefused()
	}
	if len(in.ResourceARNs)+len(in.Principals) == 0 {
		return nil, api.Errorf(ramapi.CodeInvalidParameter, "Name at least one resource or principal to disassociate.")
	}
	owner, id, err := s.parse(in.ResourceShareARN, "resource-share")
	if err != nil {
		return nil, err
	}
	if owner != c.Principal.Account && len(in.ResourceARNs) == 0 && len(in.Principals) == 1 && s.plain(in.Principals[0]) == c.Principal.Account {
		return s.quit(ctx, c, owner, id, in)
	}
	return own(ctx, s, c, in.ResourceShareARN, in.ClientToken, func(x *share) (*ramapi.DisassociateResourceShareResponse, error) {
		keys := x.keys()
		maps.Copy(keys, s.requested(in.ResourceARNs, in.Principals))
		if err := c.Allow(ctx, in.ResourceShareARN, keys); err != nil {
			return nil, err
		}
		out := &ramapi.DisassociateResourceShareResponse{ClientToken: in.ClientToken}
		for _, arn := range in.ResourceARNs {
			e := find(x.Meshes, arn)
			if e == nil {
				return nil, api.Errorf(ramapi.CodeUnknownResource, "Resource %s is not associated with the resource share.", arn)
			}
			leave(e, s)
			out.ResourceShareAssociations = append(out.ResourceShareAssociations, s.association(x, *e, ramapi.ResourceShareAssociationTypeResource))
		}
		for _, p := range in.Principals {
			e := find(x.Principals, s.plain(p))
			if e == nil {
				return nil, api.Errorf(ramapi.CodeUnknownResource, "Principal %s is not associated with the resource share.", p)
			}
			x.remove(e, s)
			out.ResourceShareAssociations = append(out.ResourceShareAssociations, s.association(x, *e, ramapi.ResourceShareAssociationTypePrincipal))
		}
		return out, nil
	})
}

// remove ends what a principal has, and its invitation.
func (x *share) remove(e *entity, s *Service) {
	leave(e, s)
	for i := range x.Invitations {
		if v := &x.Invitations[i]; v.Account == e.ID && v.Status == pending {
			v.Status = expired
		}
	}
}

// quit takes the caller out of another account's share.
func (s *Service) quit(ctx context.Context, c *service.Call, owner, id string, in *ramapi.DisassociateResourceShareRequest) (*ramapi.DisassociateResourceShareResponse, error) {
	return write(ctx, s, c, scope(owner), in.ClientToken, func(tx *store.Tx) (*ramapi.DisassociateResourceShareResponse, error) {
		if err := given(ctx, c, in.ResourceShareARN, s.requested(nil, in.Principals)); err != nil {
			return nil, err
		}
		x, err := s.held(tx, owner, id)
		if err != nil {
			return nil, err
		}
		if x == nil {
			return nil, unknown(in.ResourceShareARN)
		}
		e := find(x.Principals, c.Principal.Account)
		switch {
		case e == nil || e.Status != associated:
			return nil, unknown(in.ResourceShareARN)
		case !e.External:
			return nil, api.Errorf(ramapi.CodeOperationNotPermitted, "An account of the organization does not leave a resource share by itself: ask account %s.", owner)
		}
		x.remove(e, s)
		x.Updated = s.Now().UTC()
		s.put(tx, x)
		return &ramapi.DisassociateResourceShareResponse{ClientToken: in.ClientToken, ResourceShareAssociations: []ramapi.ResourceShareAssociation{
			s.association(x, *e, ramapi.ResourceShareAssociationTypePrincipal),
		}}, nil
	})
}
