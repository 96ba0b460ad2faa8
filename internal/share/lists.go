package share

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/ramapi"
	"github.com/evermesh/evermesh/internal/service"
)

// mostOfPage is the size of a page that asks for none, and of the largest.
const mostOfPage = 500

// pageOf is a page of a list, whose items each have a name of their own.
func pageOf[T any](all []T, name func(T) string, most *int64, token *string) ([]T, *string, error) {
	if most != nil && (*most < 1 || *most > mostOfPage) {
		return nil, nil, api.Errorf(ramapi.CodeInvalidMaxResults, "The specified value for MaxResults isn't valid: want 1 to %d.", mostOfPage)
	}
	page, next, ok := service.PageAsListed(all, name, token, most, mostOfPage)
	if !ok {
		return nil, nil, api.Errorf(ramapi.CodeInvalidNextToken, "The specified value for NextToken isn't valid: repeat the list without it.")
	}
	return page, next, nil
}

// among says whether a filter lets a value through; an empty one lets all.
func among(filter []string, value string) bool {
	return len(filter) == 0 || slices.Contains(filter, value)
}

// answer is a share as RAM describes it.
func (s *Service) answer(x *share) ramapi.ResourceShare {
	arn, external := s.shareARN(x.Owner, x.ID), x.External
	out := ramapi.ResourceShare{
		ResourceShareARN: &arn, Name: &x.Name, OwningAccountID: &x.Owner, AllowExternalPrincipals: &external,
		CreationTime: stamp(x.Created), LastUpdatedTime: stamp(x.Updated), Status: ramapi.ResourceShareStatusActive,
		FeatureSet: ramapi.ResourceShareFeatureSetStandard, Tags: x.Tags,
	}
	if x.Retain {
		yes := true
		out.ResourceShareConfiguration = &ramapi.ResourceShareConfiguration{RetainSharingOnAccountLeaveOrganization: &yes}
	}
	if x.deleted() {
		out.Status = ramapi.ResourceShareStatusDeleted
	}
	return out
}

func (s *Service) association(x *share, e entity, kind ramapi.ResourceShareAssociationType) ramapi.ResourceShareAssociation {
	arn, external := s.shareARN(x.Owner, x.ID), e.External
	out := ramapi.ResourceShareAssociation{
		ResourceShareARN: &arn, ResourceShareName: &x.Name, AssociatedEntity: &e.ID, AssociationType: kind, Status: e.Status,
		CreationTime: stamp(e.Created), LastUpdatedTime: stamp(e.Updated), External: &external,
	}
	if e.Message != "" {
		out.StatusMessage = &e.Message
	}
	return out
}

// resource is a mesh in a share.
func (s *Service) resource(x *share, e entity) ramapi.Resource {
	arn, kind := s.shareARN(x.Owner, x.ID), resourceType
	out := ramapi.Resource{
		ARN: &e.ID, Type: &kind, ResourceShareARN: &arn, CreationTime: stamp(e.Created), LastUpdatedTime: stamp(e.Updated),
		Status: ramapi.ResourceStatusAvailable, ResourceRegionScope: ramapi.ResourceRegionScopeRegional,
	}
	if key, ok := meshOf(e); ok && s.Mesh != nil && s.Mesh(key) != e.UID {
		text := "The mesh was deleted."
		out.Status, out.StatusMessage = ramapi.ResourceStatusUnavailable, &text
	}
	return out
}

// visible are the shares of the caller's account, or those of others that reach it.
func (s *Service) visible(all []*share, t together, account string, of ramapi.ResourceOwner) []*share {
	return slices.DeleteFunc(slices.Clone(all), func(x *share) bool {
		if of == ramapi.ResourceOwnerSelf {
			return x.Owner != account
		}
		return x.Owner == account || !reachedBy(t, x, account)
	})
}

// ownerOf is whose shares a list is about: the caller's alone, or anybody's.
func ownerOf(c *service.Call, of ramapi.ResourceOwner) string {
	if of == ramapi.ResourceOwnerSelf {
		return c.Principal.Account
	}
	return ""
}

func reachedBy(t together, x *share, account string) bool {
	return !x.deleted() && slices.ContainsFunc(x.Principals, func(p entity) bool { return t.reaches(x, p, account) })
}

func (s *Service) getShares(ctx context.Context, c *service.Call, in *ramapi.GetResourceSharesRequest) (*ramapi.GetResourceSharesResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	if err := s.parseAll(in.ResourceShareARNs); err != nil {
		return nil, err
	}
	all, t, err := s.load(ctx, ownerOf(c, in.ResourceOwner))
	if err != nil {
		return nil, err
	}
	var out []ramapi.ResourceShare
	for _, x := range s.visible(all, t, c.Principal.Account, in.ResourceOwner) {
		one := s.answer(x)
		if in.ResourceOwner != ramapi.ResourceOwnerSelf {
			one.Tags = nil // tags are their owner's
		}
		switch {
		case !among(in.ResourceShareARNs, *one.ResourceShareARN), in.Name != nil && x.Name != *in.Name, !tagged(x, in.TagFilters),
			in.ResourceShareStatus != "" && in.ResourceShareStatus != one.Status,
			in.PermissionARN != nil && (!x.Permitted || *in.PermissionARN != permissionARN(s.Realm)):
			continue
		}
		out = append(out, one)
	}
	for _, arn := range in.ResourceShareARNs {
		owner, id, _ := s.parse(arn, "resource-share")
		if !slices.ContainsFunc(all, func(x *share) bool {
			return x.Owner == owner && x.ID == id && (owner == c.Principal.Account || reachedBy(t, x, c.Principal.Account))
		}) {
			return nil, unknown(arn)
		}
	}
	page, next, err := pageOf(out, func(x ramapi.ResourceShare) string { return *x.ResourceShareARN }, in.MaxResults, in.NextToken)
	return &ramapi.GetResourceSharesResponse{ResourceShares: page, NextToken: next}, err
}

func (s *Service) parseAll(arns []string) error {
	for _, arn := range arns {
		if _, _, err := s.parse(arn, "resource-share"); err != nil {
			return err
		}
	}
	return nil
}

// tagged says whether a share has one of the values of every key of the filters.
func tagged(x *share, filters []ramapi.TagFilter) bool {
	for _, f := range filters {
		if !slices.ContainsFunc(x.Tags, func(t ramapi.Tag) bool {
			return deref(t.Key) == deref(f.TagKey) && among(f.TagValues, deref(t.Value))
		}) {
			return false
		}
	}
	return true
}

func (s *Service) getAssociations(ctx context.Context, c *service.Call, in *ramapi.GetResourceShareAssociationsRequest) (*ramapi.GetResourceShareAssociationsResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	kind := in.AssociationType
	switch {
	case kind == ramapi.ResourceShareAssociationTypePrincipal && in.ResourceARN != nil:
		return nil, api.Errorf(ramapi.CodeInvalidParameter, "You cannot specify a resource ARN when the association type is PRINCIPAL.")
	case kind == ramapi.ResourceShareAssociationTypeResource && in.Principal != nil:
		return nil, api.Errorf(ramapi.CodeInvalidParameter, "You cannot specify a principal when the association type is RESOURCE.")
	}
	if err := s.parseAll(in.ResourceShareARNs); err != nil {
		return nil, err
	}
	all, t, err := s.load(ctx, "")
	if err != nil {
		return nil, err
	}
	account := c.Principal.Account
	var out []ramapi.ResourceShareAssociation
	for _, x := range all {
		mine := x.Owner == account
		if !mine && !reachedBy(t, x, account) || !among(in.ResourceShareARNs, s.shareARN(x.Owner, x.ID)) {
			continue
		}
		list, want := x.Principals, in.Principal
		switch kind {
		case ramapi.ResourceShareAssociationTypeResource:
			list, want = x.Meshes, in.ResourceARN
		case ramapi.ResourceShareAssociationTypeSource:
			list = nil // a mesh is shared with no service
		}
		for _, e := range list {
			if want != nil && *want != e.ID || in.AssociationStatus != "" && in.AssociationStatus != e.Status {
				continue
			}
			// With whom else something is shared is the owner's to know.
			if !mine && (e.over() || kind == ramapi.ResourceShareAssociationTypePrincipal && !t.reaches(x, e, account)) {
				continue
			}
			out = append(out, s.association(x, e, kind))
		}
	}
	page, next, err := pageOf(out, func(a ramapi.ResourceShareAssociation) string {
		return *a.ResourceShareARN + " " + *a.AssociatedEntity + " " + a.CreationTime.String()
	}, in.MaxResults, in.NextToken)
	return &ramapi.GetResourceShareAssociationsResponse{ResourceShareAssociations: page, NextToken: next}, err
}

// typed refuses a type of resources that cannot be shared.
func typed(kind *string) error {
	if kind != nil && *kind != resourceType {
		return api.Errorf(ramapi.CodeInvalidResourceType, "Invalid resource type: %s. What can be shared is %s.", *kind, resourceType)
	}
	return nil
}

func (s *Service) listResources(ctx context.Context, c *service.Call, in *ramapi.ListResourcesRequest) (*ramapi.ListResourcesResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	if err := typed(in.ResourceType); err != nil {
		return nil, err
	}
	all, t, err := s.load(ctx, ownerOf(c, in.ResourceOwner))
	if err != nil {
		return nil, err
	}
	var out []ramapi.Resource
	for _, x := range s.visible(all, t, c.Principal.Account, in.ResourceOwner) {
		if x.deleted() || !among(in.ResourceShareARNs, s.shareARN(x.Owner, x.ID)) || in.ResourceRegionScope == ramapi.ResourceRegionScopeFilterGlobal {
			continue
		}
		if in.Principal != nil && (in.ResourceOwner == ramapi.ResourceOwnerSelf && find(x.Principals, *in.Principal) == nil || in.ResourceOwner != ramapi.ResourceOwnerSelf && x.Owner != *in.Principal) {
			continue
		}
		for _, e := range x.Meshes {
			if !e.over() && among(in.ResourceARNs, e.ID) {
				out = append(out, s.resource(x, e))
			}
		}
	}
	page, next, err := pageOf(out, func(r ramapi.Resource) string { return *r.ResourceShareARN + " " + *r.ARN }, in.MaxResults, in.NextToken)
	return &ramapi.ListResourcesResponse{Resources: page, NextToken: next}, err
}

func (s *Service) listPrincipals(ctx context.Context, c *service.Call, in *ramapi.ListPrincipalsRequest) (*ramapi.ListPrincipalsResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	if err := typed(in.ResourceType); err != nil {
		return nil, err
	}
	all, t, err := s.load(ctx, ownerOf(c, in.ResourceOwner))
	if err != nil {
		return nil, err
	}
	var out []ramapi.Principal
	for _, x := range s.visible(all, t, c.Principal.Account, in.ResourceOwner) {
		arn := s.shareARN(x.Owner, x.ID)
		if x.deleted() || !among(in.ResourceShareARNs, arn) || in.ResourceARN != nil && find(x.Meshes, *in.ResourceARN) == nil {
			continue
		}
		if in.ResourceOwner != ramapi.ResourceOwnerSelf {
			// Who shares with the caller.
			external := !t.inside(x.Owner, c.Principal.Account)
			if among(in.Principals, x.Owner) {
				out = append(out, ramapi.Principal{ID: &x.Owner, ResourceShareARN: &arn, CreationTime: stamp(x.Created), LastUpdatedTime: stamp(x.Updated), External: &external})
			}
			continue
		}
		for _, e := range x.Principals {
			if !e.over() && among(in.Principals, e.ID) {
				out = append(out, ramapi.Principal{ID: &e.ID, ResourceShareARN: &arn, CreationTime: stamp(e.Created), LastUpdatedTime: stamp(e.Updated), External: &e.External})
			}
		}
	}
	page, next, err := pageOf(out, func(p ramapi.Principal) string { return *p.ResourceShareARN + " " + *p.ID }, in.MaxResults, in.NextToken)
	return &ramapi.ListPrincipalsResponse{Principals: page, NextToken: next}, err
}

func (s *Service) listTypes(ctx context.Context, c *service.Call, in *ramapi.ListResourceTypesRequest) (*ramapi.ListResourceTypesResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	name, kind := "appmesh", resourceType
	all := []ramapi.ServiceNameAndResourceType{{ServiceName: &name, ResourceType: &kind, ResourceRegionScope: ramapi.ResourceRegionScopeRegional}}
	if in.ResourceRegionScope == ramapi.ResourceRegionScopeFilterGlobal {
		all = nil
	}
	page, next, err := pageOf(all, func(x ramapi.ServiceNameAndResourceType) string { return *x.ResourceType }, in.MaxResults, in.NextToken)
	return &ramapi.ListResourceTypesResponse{ResourceTypes: page, NextToken: next}, err
}

// getPolicies are the policies that shares have put on meshes of the caller's: what
// App Mesh calls the mesh's policy (SHARE-014).
func (s *Service) getPolicies(ctx context.Context, c *service.Call, in *ramapi.GetResourcePoliciesRequest) (*ramapi.GetResourcePoliciesResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	for _, arn := range in.ResourceARNs {
		if _, err := s.mesh(arn, c.Principal.Account); err != nil {
			return nil, err
		}
	}
	all, t, err := s.load(ctx, c.Principal.Account)
	if err != nil {
		return nil, err
	}
	type named struct{ name, text string }
	var out []named
	for _, arn := range in.ResourceARNs {
		var statements []map[string]any
		for _, x := range all {
			if x.Owner != c.Principal.Account || x.deleted() || !x.Permitted || find(x.Meshes, arn) == nil {
				continue
			}
			statements = append(statements, statementsOf(t, x, arn, in.Principal)...)
		}
		if statements == nil {
			continue
		}
		text, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
		if err != nil {
			return nil, err
		}
		out = append(out, named{arn, string(text)})
	}
	page, next, err := pageOf(out, func(n named) string { return n.name }, in.MaxResults, in.NextToken)
	answer := &ramapi.GetResourcePoliciesResponse{NextToken: next}
	for _, n := range page {
		answer.Policies = append(answer.Policies, n.text)
	}
	return answer, err
}

// statementsOf says in the language of policies what a share says of a mesh.
func statementsOf(t together, x *share, arn string, only *string) []map[string]any {
	var out []map[string]any
	for _, p := range x.Principals {
		if p.Status != associated || only != nil && *only != p.ID {
			continue
		}
		one := map[string]any{
			"Effect": "Allow", "Action": Permitted(), "Resource": arn,
			"Principal": map[string]any{"AWS": "arn:" + t.partition + ":iam::" + p.ID + ":root"},
		}
		switch {
		case p.ID == t.arn():
			one["Principal"], one["Condition"] = "*", map[string]any{"StringEquals": map[string]string{"aws:PrincipalOrgID": t.ID}}
		case !accountForm.MatchString(p.ID):
			_, path, _ := cutLast(p.ID, ":ou/")
			one["Principal"], one["Condition"] = "*", map[string]any{"ForAnyValue:StringLike": map[string]string{"aws:PrincipalOrgPaths": path + "/*"}}
		}
		out = append(out, one)
	}
	return out
}
