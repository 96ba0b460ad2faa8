package share

import (
	"context"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/ramapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

func (s *Service) accept(ctx context.Context, c *service.Call, in *ramapi.AcceptResourceShareInvitationRequest) (*ramapi.AcceptResourceShareInvitationResponse, error) {
	return reply(ctx, s, c, in.ResourceShareInvitationARN, in.ClientToken, func(x *share, v *invitation, p *entity) *ramapi.AcceptResourceShareInvitationResponse {
		v.Status, p.Status, p.Updated = accepted, associated, s.Now().UTC()
		answer := s.invitation(x, *v)
		return &ramapi.AcceptResourceShareInvitationResponse{ClientToken: in.ClientToken, ResourceShareInvitation: &answer}
	})
}

func (s *Service) reject(ctx context.Context, c *service.Call, in *ramapi.RejectResourceShareInvitationRequest) (*ramapi.RejectResourceShareInvitationResponse, error) {
	return reply(ctx, s, c, in.ResourceShareInvitationARN, in.ClientToken, func(x *share, v *invitation, p *entity) *ramapi.RejectResourceShareInvitationResponse {
		v.Status, p.Status, p.Updated, p.Message = rejected, failed, s.Now().UTC(), "The invitation was rejected."
		answer := s.invitation(x, *v)
		return &ramapi.RejectResourceShareInvitationResponse{ClientToken: in.ClientToken, ResourceShareInvitation: &answer}
	})
}

// absentInvitation is the refusal of an invitation that does not exist, or that is for
// another account.
func absentInvitation(arn string) error {
	return api.Errorf(ramapi.CodeResourceShareInvitationARNNotFound, "ResourceShareInvitation %s could not be found.", arn)
}

// reply answers an invitation of the caller's. fn does what the answer says to the share,
// the invitation and the principal, which are copies.
func reply[Out any](ctx context.Context, s *Service, c *service.Call, arn string, token *string, fn func(*share, *invitation, *entity) *Out) (*Out, error) {
	owner, id, err := s.parse(arn, "resource-share-invitation")
	if err != nil {
		return nil, err
	}
	if err := given(ctx, c, arn, nil); err != nil {
		return nil, err
	}
	// Which share it is of, its ARN does not say, and it never changes.
	all, _, err := s.load(ctx, owner)
	if err != nil {
		return nil, err
	}
	n := slices.IndexFunc(all, func(x *share) bool { return x.Owner == owner && x.invited(id) != nil })
	if n < 0 {
		return nil, absentInvitation(arn)
	}
	return write(ctx, s, c, scope(owner), token, func(tx *store.Tx) (*Out, error) {
		x, err := s.held(tx, owner, all[n].ID)
		if err != nil {
			return nil, err
		}
		if x == nil {
			return nil, absentInvitation(arn)
		}
		v := x.invited(id)
		if v == nil || v.Account != c.Principal.Account {
			return nil, absentInvitation(arn)
		}
		switch v.Status {
		case accepted:
			return nil, api.Errorf(ramapi.CodeResourceShareInvitationAlreadyAccepted, "ResourceShareInvitation %s has already been accepted.", arn)
		case rejected:
			return nil, api.Errorf(ramapi.CodeResourceShareInvitationAlreadyRejected, "ResourceShareInvitation %s has already been rejected.", arn)
		case expired:
			return nil, api.Errorf(ramapi.CodeResourceShareInvitationExpired, "ResourceShareInvitation %s has expired.", arn)
		}
		p := find(x.Principals, v.Account)
		if p == nil {
			return nil, absentInvitation(arn)
		}
		out := fn(x, v, p)
		x.Updated = s.Now().UTC()
		s.put(tx, x)
		return out, nil
	})
}

func (x *share) invited(id string) *invitation {
	for i := range x.Invitations {
		if x.Invitations[i].ID == id {
			return &x.Invitations[i]
		}
	}
	return nil
}

func (s *Service) invitation(x *share, v invitation) ramapi.ResourceShareInvitation {
	arn, shareARN := s.invitationARN(x.Owner, v.ID), s.shareARN(x.Owner, x.ID)
	return ramapi.ResourceShareInvitation{
		ResourceShareInvitationARN: &arn, ResourceShareARN: &shareARN, ResourceShareName: &x.Name,
		SenderAccountID: &x.Owner, ReceiverAccountID: &v.Account, InvitationTimestamp: stamp(v.Sent), Status: v.Status,
	}
}

// getInvitations lists the invitations of the caller's account.
func (s *Service) getInvitations(ctx context.Context, c *service.Call, in *ramapi.GetResourceShareInvitationsRequest) (*ramapi.GetResourceShareInvitationsResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	for _, arn := range in.ResourceShareInvitationARNs {
		if _, _, err := s.parse(arn, "resource-share-invitation"); err != nil {
			return nil, err
		}
	}
	all, _, err := s.load(ctx, "") // whoever sent it
	if err != nil {
		return nil, err
	}
	var out []ramapi.ResourceShareInvitation
	for _, x := range all {
		for _, v := range x.Invitations {
			if v.Account != c.Principal.Account || x.deleted() && v.Status != accepted {
				continue
			}
			one := s.invitation(x, v)
			if among(in.ResourceShareInvitationARNs, *one.ResourceShareInvitationARN) && among(in.ResourceShareARNs, *one.ResourceShareARN) {
				out = append(out, one)
			}
		}
	}
	for _, arn := range in.ResourceShareInvitationARNs {
		if !slices.ContainsFunc(out, func(v ramapi.ResourceShareInvitation) bool { return *v.ResourceShareInvitationARN == arn }) && len(in.ResourceShareARNs) == 0 {
			return nil, absentInvitation(arn)
		}
	}
	page, next, err := pageOf(out, func(v ramapi.ResourceShareInvitation) string { return *v.ResourceShareInvitationARN }, in.MaxResults, in.NextToken)
	return &ramapi.GetResourceShareInvitationsResponse{ResourceShareInvitations: page, NextToken: next}, err
}

// listPending lists what an invitation is for, before it is accepted.
func (s *Service) listPending(ctx context.Context, c *service.Call, in *ramapi.ListPendingInvitationResourcesRequest) (*ramapi.ListPendingInvitationResourcesResponse, error) {
	owner, id, err := s.parse(in.ResourceShareInvitationARN, "resource-share-invitation")
	if err != nil {
		return nil, err
	}
	if err := given(ctx, c, in.ResourceShareInvitationARN, nil); err != nil {
		return nil, err
	}
	all, _, err := s.load(ctx, owner)
	if err != nil {
		return nil, err
	}
	n := slices.IndexFunc(all, func(x *share) bool {
		v := x.invited(id)
		return x.Owner == owner && v != nil && v.Account == c.Principal.Account && !x.deleted()
	})
	if n < 0 {
		return nil, absentInvitation(in.ResourceShareInvitationARN)
	}
	switch all[n].invited(id).Status {
	case rejected:
		return nil, api.Errorf(ramapi.CodeResourceShareInvitationAlreadyRejected, "ResourceShareInvitation %s has already been rejected.", in.ResourceShareInvitationARN)
	case expired:
		return nil, api.Errorf(ramapi.CodeResourceShareInvitationExpired, "ResourceShareInvitation %s has expired.", in.ResourceShareInvitationARN)
	}
	var out []ramapi.Resource
	for _, e := range all[n].Meshes {
		if !e.over() && in.ResourceRegionScope != ramapi.ResourceRegionScopeFilterGlobal {
			out = append(out, s.resource(all[n], e))
		}
	}
	page, next, err := pageOf(out, func(r ramapi.Resource) string { return *r.ARN }, in.MaxResults, in.NextToken)
	return &ramapi.ListPendingInvitationResourcesResponse{Resources: page, NextToken: next}, err
}
