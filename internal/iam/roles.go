package iam

import (
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
)

// leastSession is how long sessions of a role may be when it does not say, in
// seconds.
const leastSession = 3600

func (d *desk) createRole(in *iamapi.CreateRoleRequest) (*iamapi.CreateRoleResponse, error) {
	if strings.HasPrefix(in.Path, linkedPath) {
		return nil, api.Errorf(iamapi.CodeInvalidInput, "Roles with the path %s are made by CreateServiceLinkedRole alone.", linkedPath)
	}
	i, err := d.newIdentity(roleKind, roleID, in.RoleName, in.Path, in.Tags, in.PermissionsBoundary, func(i *identity) error {
		i.Description, i.MaxSession = in.Description, leastSession
		if in.MaxSessionDuration != nil {
			i.MaxSession = *in.MaxSessionDuration
		}
		return d.setTrust(i, in.AssumeRolePolicyDocument)
	})
	if err != nil {
		return nil, err
	}
	return &iamapi.CreateRoleResponse{Role: d.role(i, true)}, nil
}

func (d *desk) getRole(in *iamapi.GetRoleRequest) (*iamapi.GetRoleResponse, error) {
	i, err := d.identity(roleKind, in.RoleName)
	if err != nil {
		return nil, err
	}
	return &iamapi.GetRoleResponse{Role: d.role(i, true)}, nil
}

// updateRole changes a role's description and longest session; of a service-linked
// role only the description (IAM-029).
func (d *desk) updateRole(in *iamapi.UpdateRoleRequest) (*iamapi.UpdateRoleResponse, error) {
	i, err := d.identity(roleKind, in.RoleName)
	if err != nil {
		return nil, err
	}
	if i.Service != "" && in.MaxSessionDuration != nil {
		return nil, protected(i.Name)
	}
	if in.Description != nil {
		i.Description = in.Description
	}
	if in.MaxSessionDuration != nil {
		i.MaxSession = *in.MaxSessionDuration
	}
	d.putIdentity(roleKind, i)
	return &iamapi.UpdateRoleResponse{}, nil
}

func (d *desk) updateRoleDescription(in *iamapi.UpdateRoleDescriptionRequest) (*iamapi.UpdateRoleDescriptionResponse, error) {
	i, err := d.identity(roleKind, in.RoleName)
	if err != nil {
		return nil, err
	}
	i.Description = &in.Description
	d.putIdentity(roleKind, i)
	r := d.role(i, true)
	return &iamapi.UpdateRoleDescriptionResponse{Role: &r}, nil
}

func (d *desk) updateAssumeRolePolicy(in *iamapi.UpdateAssumeRolePolicyRequest) (*nothing, error) {
	i, err := d.changeable(roleKind, in.RoleName)
	if err != nil {
		return nil, err
	}
	if err := d.setTrust(i, in.PolicyDocument); err != nil {
		return nil, err
	}
	d.putIdentity(roleKind, i)
	return &nothing{}, nil
}

func (d *desk) deleteRole(in *iamapi.DeleteRoleRequest) (*nothing, error) {
	i, err := d.changeable(roleKind, in.RoleName)
	if err != nil {
		return nil, err
	}
	if err := i.emptied(); err != nil {
		return nil, err
	}
	profiles, err := d.profilesOf(i)
	if err != nil {
		return nil, err
	}
	if len(profiles) > 0 {
		return nil, conflict("Cannot delete entity, must remove roles from instance profile first.")
	}
	d.remove(identityType(roleKind), recordTail(d.account, string(roleKind), i.Name))
	return &nothing{}, nil
}

func (d *desk) listRoles(in *iamapi.ListRolesRequest) (*iamapi.ListRolesResponse, error) {
	list, err := d.identities(roleKind, in.PathPrefix)
	if err != nil {
		return nil, err
	}
	list, p, err := cut(list, lower, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	out := &iamapi.ListRolesResponse{Roles: []iamapi.Role{}, IsTruncated: p.Truncated, Marker: p.Marker}
	for _, i := range list {
		out.Roles = append(out.Roles, d.role(i, false))
	}
	return out, nil
}
