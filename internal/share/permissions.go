package share

import (
	"context"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/ramapi"
	"github.com/evermesh/evermesh/internal/service"
)

// The operations on permissions, of which there is one, and on tags.

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// known refuses a permission that does not exist.
func (s *Service) known(arn string) error {
	if arn == permissionARN(s.Realm) {
		return nil
	}
	if !strings.HasPrefix(arn, "arn:") {
		return api.Errorf(ramapi.CodeMalformedARN, "The specified permission ARN %s is not valid. Verify the ARN and try again.", arn)
	}
	return api.Errorf(ramapi.CodeUnknownResource, "Permission %s could not be found: meshes are shared with %s.", arn, permissionARN(s.Realm))
}

// versioned refuses a version of the permission that does not exist.
func versioned(v *int64) error {
	if v != nil && *v != 1 {
		return api.Errorf(ramapi.CodeInvalidParameter, "Version %d of the permission could not be found: there is version %s.", *v, permissionVersion)
	}
	return nil
}

func (s *Service) listPermissions(ctx context.Context, c *service.Call, in *ramapi.ListPermissionsRequest) (*ramapi.ListPermissionsResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	if in.ResourceType != nil && !strings.EqualFold(*in.ResourceType, resourceType) {
		return nil, api.Errorf(ramapi.CodeInvalidParameter, "Invalid resource type: %s", *in.ResourceType)
	}
	all := []ramapi.ResourceSharePermissionSummary{s.permissionSummary()}
	if in.PermissionType == ramapi.PermissionTypeFilterCustomerManaged {
		all = nil
	}
	page, next, err := pageOf(all, func(p ramapi.ResourceSharePermissionSummary) string { return *p.ARN }, in.MaxResults, in.NextToken)
	return &ramapi.ListPermissionsResponse{Permissions: page, NextToken: next}, err
}

func (s *Service) getPermission(ctx context.Context, c *service.Call, in *ramapi.GetPermissionRequest) (*ramapi.GetPermissionResponse, error) {
	// It is everyone's, so its ARN names no account.
	if err := given(ctx, c, in.PermissionARN, nil); err != nil {
		return nil, err
	}
	if err := s.known(in.PermissionARN); err != nil {
		return nil, err
	}
	if err := versioned(in.PermissionVersion); err != nil {
		return nil, err
	}
	detail := s.permissionDetail()
	return &ramapi.GetPermissionResponse{Permission: &detail}, nil
}

func (s *Service) listSharePermissions(ctx context.Context, c *service.Call, in *ramapi.ListResourceSharePermissionsRequest) (*ramapi.ListResourceSharePermissionsResponse, error) {
	owner, id, err := s.parse(in.ResourceShareARN, "resource-share")
	if err != nil {
		return nil, err
	}
	if err := given(ctx, c, in.ResourceShareARN, nil); err != nil {
		return nil, err
	}
	all, t, err := s.load(ctx, owner)
	if err != nil {
		return nil, err
	}
	n := slices.IndexFunc(all, func(x *share) bool {
		return x.Owner == owner && x.ID == id && !x.deleted() && (owner == c.Principal.Account || reachedBy(t, x, c.Principal.Account))
	})
	if n < 0 {
		return nil, unknown(in.ResourceShareARN)
	}
	var list []ramapi.ResourceSharePermissionSummary
	if all[n].Permitted {
		list = append(list, s.permissionSummary())
	}
	page, next, err := pageOf(list, func(p ramapi.ResourceSharePermissionSummary) string { return *p.ARN }, in.MaxResults, in.NextToken)
	return &ramapi.ListResourceSharePermissionsResponse{Permissions: page, NextToken: next}, err
}

// mayPermit says whether the caller may give the permission to a share or take it, and
// whether there is one of that name.
func (s *Service) mayPermit(ctx context.Context, c *service.Call, x *share, arn, permission string) error {
	keys := x.keys()
	keys["ram:permissionarn"] = []string{permission}
	if err := c.Allow(ctx, arn, keys); err != nil {
		return err
	}
	return s.known(permission)
}

func (s *Service) associatePermission(ctx context.Context, c *service.Call, in *ramapi.AssociateResourceSharePermissionRequest) (*ramapi.AssociateResourceSharePermissionResponse, error) {
	return own(ctx, s, c, in.ResourceShareARN, in.ClientToken, func(x *share) (*ramapi.AssociateResourceSharePermissionResponse, error) {
		if err := s.mayPermit(ctx, c, x, in.ResourceShareARN, in.PermissionARN); err != nil {
			return nil, err
		}
		if err := versioned(in.PermissionVersion); err != nil {
			return nil, err
		}
		x.Permitted = true
		yes := true
		return &ramapi.AssociateResourceSharePermissionResponse{ClientToken: in.ClientToken, ReturnValue: &yes}, nil
	})
}

// disassociatePermission takes the permission from a share without meshes: one with
// meshes has to have one.
func (s *Service) disassociatePermission(ctx context.Context, c *service.Call, in *ramapi.DisassociateResourceSharePermissionRequest) (*ramapi.DisassociateResourceSharePermissionResponse, error) {
	return own(ctx, s, c, in.ResourceShareARN, in.ClientToken, func(x *share) (*ramapi.DisassociateResourceSharePermissionResponse, error) {
		if err := s.mayPermit(ctx, c, x, in.ResourceShareARN, in.PermissionARN); err != nil {
			return nil, err
		}
		if !x.Permitted {
			return nil, api.Errorf(ramapi.CodeUnknownResource, "Permission %s is not associated with the resource share.", in.PermissionARN)
		}
		if slices.ContainsFunc(x.Meshes, func(e entity) bool { return !e.over() }) {
			return nil, api.Errorf(ramapi.CodeOperationNotPermitted, "The permission cannot be disassociated while the resource share has resources of type %s.", resourceType)
		}
		x.Permitted = false
		yes := true
		return &ramapi.DisassociateResourceSharePermissionResponse{ClientToken: in.ClientToken, ReturnValue: &yes}, nil
	})
}

// checkTags refuses tags that a share cannot have.
func checkTags(tags []ramapi.Tag) error {
	seen := map[string]bool{}
	for _, t := range tags {
		key := deref(t.Key)
		switch {
		case key == "" || len(key) > 128 || len(deref(t.Value)) > 256:
			return api.Errorf(ramapi.CodeInvalidParameter, "The tag %q is not valid: keys have 1 to 128 characters, values at most 256.", key)
		case strings.HasPrefix(strings.ToLower(key), "aws:"):
			return api.Errorf(ramapi.CodeInvalidParameter, "The tag key %q cannot be used: keys that begin with aws: are reserved.", key)
		case seen[key]:
			return api.Errorf(ramapi.CodeInvalidParameter, "The tag key %q stands twice in the request.", key)
		}
		seen[key] = true
	}
	if len(tags) > mostTags {
		return api.Errorf(ramapi.CodeTagLimitExceeded, "A resource share has at most %d tags.", mostTags)
	}
	return nil
}

// taggedARN is the share that a request to tag names.
func taggedARN(share, resource *string) (string, error) {
	if arn := deref(share); arn != "" {
		return arn, nil
	}
	if arn := deref(resource); arn != "" {
		return arn, nil
	}
	return "", api.Errorf(ramapi.CodeInvalidParameter, "Name the resource share by resourceShareArn or resourceArn.")
}

func (s *Service) tag(ctx context.Context, c *service.Call, in *ramapi.TagResourceRequest) (*ramapi.TagResourceResponse, error) {
	arn, err := taggedARN(in.ResourceShareARN, in.ResourceARN)
	if err != nil {
		return nil, err
	}
	if err := checkTags(in.Tags); err != nil {
		return nil, err
	}
	return own(ctx, s, c, arn, nil, func(x *share) (*ramapi.TagResourceResponse, error) {
		if err := c.Allow(ctx, arn, service.Keys(x.keys(), service.RequestTags(service.Pairs(in.Tags, pair)))); err != nil {
			return nil, err
		}
		for _, t := range in.Tags {
			x.Tags = slices.DeleteFunc(x.Tags, func(o ramapi.Tag) bool { return deref(o.Key) == deref(t.Key) })
			x.Tags = append(x.Tags, t)
		}
		return &ramapi.TagResourceResponse{}, checkTags(x.Tags)
	})
}

func (s *Service) untag(ctx context.Context, c *service.Call, in *ramapi.UntagResourceRequest) (*ramapi.UntagResourceResponse, error) {
	arn, err := taggedARN(in.ResourceShareARN, in.ResourceARN)
	if err != nil {
		return nil, err
	}
	return own(ctx, s, c, arn, nil, func(x *share) (*ramapi.UntagResourceResponse, error) {
		if err := c.Allow(ctx, arn, service.Keys(x.keys(), map[string][]string{"aws:tagkeys": in.TagKeys})); err != nil {
			return nil, err
		}
		x.Tags = slices.DeleteFunc(x.Tags, func(o ramapi.Tag) bool { return slices.Contains(in.TagKeys, deref(o.Key)) })
		return &ramapi.UntagResourceResponse{}, nil
	})
}
