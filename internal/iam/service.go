package iam

import (
	"maps"

	"github.com/evermesh/evermesh/internal/api/iamapi"
	"github.com/evermesh/evermesh/internal/service"
)

// Service is IAM, as package rest serves it.
func (s *Server) Service() (*service.Service, error) {
	operations := map[string]service.Operation{
		"CreateUser":   writes(s, (*desk).createUser),
		"GetUser":      reads(s, (*desk).getUser),
		"UpdateUser":   writes(s, (*desk).updateUser),
		"DeleteUser":   writes(s, (*desk).deleteUser),
		"ListUsers":    reads(s, (*desk).listUsers),
		"TagUser":      writes(s, (*desk).tagUser),
		"UntagUser":    writes(s, (*desk).untagUser),
		"ListUserTags": reads(s, (*desk).listUserTags),

		"CreateGroup":         writes(s, (*desk).createGroup),
		"GetGroup":            reads(s, (*desk).getGroup),
		"DeleteGroup":         writes(s, (*desk).deleteGroup),
		"ListGroups":          reads(s, (*desk).listGroups),
		"AddUserToGroup":      writes(s, (*desk).addUserToGroup),
		"RemoveUserFromGroup": writes(s, (*desk).removeUserFromGroup),
		"ListGroupsForUser":   reads(s, (*desk).listGroupsForUser),

		"CreateRole":             writes(s, (*desk).createRole),
		"GetRole":                reads(s, (*desk).getRole),
		"UpdateRole":             writes(s, (*desk).updateRole),
		"UpdateRoleDescription":  writes(s, (*desk).updateRoleDescription),
		"DeleteRole":             writes(s, (*desk).deleteRole),
		"ListRoles":              reads(s, (*desk).listRoles),
		"UpdateAssumeRolePolicy": writes(s, (*desk).updateAssumeRolePolicy),
		"TagRole":                writes(s, (*desk).tagRole),
		"UntagRole":              writes(s, (*desk).untagRole),
		"ListRoleTags":           reads(s, (*desk).listRoleTags),

		"CreateAccessKey":      seals(s, (*desk).createAccessKey),
		"UpdateAccessKey":      writes(s, (*desk).updateAccessKey),
		"DeleteAccessKey":      writes(s, (*desk).deleteAccessKey),
		"ListAccessKeys":       reads(s, (*desk).listAccessKeys),
		"GetAccessKeyLastUsed": reads(s, (*desk).getAccessKeyLastUsed),

		"CreatePolicy":   writes(s, (*desk).createPolicy),
		"GetPolicy":      reads(s, (*desk).getPolicy),
		"DeletePolicy":   writes(s, (*desk).deletePolicy),
		"ListPolicies":   reads(s, (*desk).listPolicies),
		"TagPolicy":      writes(s, (*desk).tagPolicy),
		"UntagPolicy":    writes(s, (*desk).untagPolicy),
		"ListPolicyTags": reads(s, (*desk).listPolicyTags),

		"CreatePolicyVersion":     writes(s, (*desk).createPolicyVersion),
		"GetPolicyVersion":        reads(s, (*desk).getPolicyVersion),
		"ListPolicyVersions":      reads(s, (*desk).listPolicyVersions),
		"DeletePolicyVersion":     writes(s, (*desk).deletePolicyVersion),
		"SetDefaultPolicyVersion": writes(s, (*desk).setDefaultPolicyVersion),
		"ListEntitiesForPolicy":   reads(s, (*desk).listEntitiesForPolicy),

		"CreateServiceLinkedRole":            writes(s, (*desk).createLinked),
		"DeleteServiceLinkedRole":            writes(s, (*desk).deleteLinked),
		"GetServiceLinkedRoleDeletionStatus": reads(s, (*desk).deletionStatus),

		"CreateInstanceProfile":         writes(s, (*desk).createInstanceProfile),
		"GetInstanceProfile":            reads(s, (*desk).getInstanceProfile),
		"DeleteInstanceProfile":         writes(s, (*desk).deleteInstanceProfile),
		"ListInstanceProfiles":          reads(s, (*desk).listInstanceProfiles),
		"ListInstanceProfilesForRole":   reads(s, (*desk).listInstanceProfilesForRole),
		"AddRoleToInstanceProfile":      writes(s, (*desk).addRoleToInstanceProfile),
		"RemoveRoleFromInstanceProfile": writes(s, (*desk).removeRoleFromInstanceProfile),

		"CreateOpenIDConnectProvider":             writes(s, (*desk).createProvider),
		"GetOpenIDConnectProvider":                reads(s, (*desk).getProvider),
		"ListOpenIDConnectProviders":              reads(s, (*desk).listProviders),
		"DeleteOpenIDConnectProvider":             writes(s, (*desk).deleteProvider),
		"AddClientIDToOpenIDConnectProvider":      writes(s, (*desk).addClient),
		"RemoveClientIDFromOpenIDConnectProvider": writes(s, (*desk).removeClient),
		"UpdateOpenIDConnectProviderThumbprint":   writes(s, (*desk).updateThumbprint),
		"TagOpenIDConnectProvider":                writes(s, (*desk).tagProvider),
		"UntagOpenIDConnectProvider":              writes(s, (*desk).untagProvider),
		"ListOpenIDConnectProviderTags":           reads(s, (*desk).listProviderTags),

		"SimulatePrincipalPolicy": reads(s, (*desk).simulatePrincipal),
		"SimulateCustomPolicy":    reads(s, (*desk).simulateCustom),
	}
	maps.Copy(operations, s.userPolicies())
	maps.Copy(operations, s.groupPolicies())
	maps.Copy(operations, s.rolePolicies())
	return service.New("iam", "iam", operations)
}

// userPolicies are the operations on the policies of users.
func (s *Server) userPolicies() map[string]service.Operation {
	return map[string]service.Operation{
		"AttachUserPolicy": writes(s, func(d *desk, in *iamapi.AttachUserPolicyRequest) (*nothing, error) {
			return d.attach(userKind, in.UserName, in.PolicyARN)
		}),
		"DetachUserPolicy": writes(s, func(d *desk, in *iamapi.DetachUserPolicyRequest) (*nothing, error) {
			return d.detach(userKind, in.UserName, in.PolicyARN)
		}),
		"ListAttachedUserPolicies": reads(s, func(d *desk, in *iamapi.ListAttachedUserPoliciesRequest) (*iamapi.ListAttachedUserPoliciesResponse, error) {
			list, p, err := d.attached(userKind, in.UserName, in.PathPrefix, in.Marker, in.MaxItems)
			return &iamapi.ListAttachedUserPoliciesResponse{AttachedPolicies: list, IsTruncated: p.Truncated, Marker: p.Marker}, err
		}),
		"PutUserPolicy": writes(s, func(d *desk, in *iamapi.PutUserPolicyRequest) (*nothing, error) {
			return d.putInline(userKind, in.UserName, in.PolicyName, in.PolicyDocument)
		}),
		"GetUserPolicy": reads(s, func(d *desk, in *iamapi.GetUserPolicyRequest) (*iamapi.GetUserPolicyResponse, error) {
			i, p, err := d.getInline(userKind, in.UserName, in.PolicyName)
			if err != nil {
				return nil, err
			}
			return &iamapi.GetUserPolicyResponse{UserName: i.Name, PolicyName: p.Name, PolicyDocument: encodeDocument(p.Document)}, nil
		}),
		"DeleteUserPolicy": writes(s, func(d *desk, in *iamapi.DeleteUserPolicyRequest) (*nothing, error) {
			return d.deleteInline(userKind, in.UserName, in.PolicyName)
		}),
		"ListUserPolicies": reads(s, func(d *desk, in *iamapi.ListUserPoliciesRequest) (*iamapi.ListUserPoliciesResponse, error) {
			names, p, err := d.inlineNames(userKind, in.UserName, in.Marker, in.MaxItems)
			return &iamapi.ListUserPoliciesResponse{PolicyNames: names, IsTruncated: p.Truncated, Marker: p.Marker}, err
		}),
		"PutUserPermissionsBoundary": writes(s, func(d *desk, in *iamapi.PutUserPermissionsBoundaryRequest) (*nothing, error) {
			return d.setBoundary(userKind, in.UserName, in.PermissionsBoundary)
		}),
		"DeleteUserPermissionsBoundary": writes(s, func(d *desk, in *iamapi.DeleteUserPermissionsBoundaryRequest) (*nothing, error) {
			return d.clearBoundary(userKind, in.UserName)
		}),
	}
}

// groupPolicies are the operations on the policies of groups.
func (s *Server) groupPolicies() map[string]service.Operation {
	return map[string]service.Operation{
		"AttachGroupPolicy": writes(s, func(d *desk, in *iamapi.AttachGroupPolicyRequest) (*nothing, error) {
			return d.attach(groupKind, in.GroupName, in.PolicyARN)
		}),
		"DetachGroupPolicy": writes(s, func(d *desk, in *iamapi.DetachGroupPolicyRequest) (*nothing, error) {
			return d.detach(groupKind, in.GroupName, in.PolicyARN)
		}),
		"ListAttachedGroupPolicies": reads(s, func(d *desk, in *iamapi.ListAttachedGroupPoliciesRequest) (*iamapi.ListAttachedGroupPoliciesResponse, error) {
			list, p, err := d.attached(groupKind, in.GroupName, in.PathPrefix, in.Marker, in.MaxItems)
			return &iamapi.ListAttachedGroupPoliciesResponse{AttachedPolicies: list, IsTruncated: p.Truncated, Marker: p.Marker}, err
		}),
		"PutGroupPolicy": writes(s, func(d *desk, in *iamapi.PutGroupPolicyRequest) (*nothing, error) {
			return d.putInline(groupKind, in.GroupName, in.PolicyName, in.PolicyDocument)
		}),
		"GetGroupPolicy": reads(s, func(d *desk, in *iamapi.GetGroupPolicyRequest) (*iamapi.GetGroupPolicyResponse, error) {
			i, p, err := d.getInline(groupKind, in.GroupName, in.PolicyName)
			if err != nil {
				return nil, err
			}
			return &iamapi.GetGroupPolicyResponse{GroupName: i.Name, PolicyName: p.Name, PolicyDocument: encodeDocument(p.Document)}, nil
		}),
		"DeleteGroupPolicy": writes(s, func(d *desk, in *iamapi.DeleteGroupPolicyRequest) (*nothing, error) {
			return d.deleteInline(groupKind, in.GroupName, in.PolicyName)
		}),
		"ListGroupPolicies": reads(s, func(d *desk, in *iamapi.ListGroupPoliciesRequest) (*iamapi.ListGroupPoliciesResponse, error) {
			names, p, err := d.inlineNames(groupKind, in.GroupName, in.Marker, in.MaxItems)
			return &iamapi.ListGroupPoliciesResponse{PolicyNames: names, IsTruncated: p.Truncated, Marker: p.Marker}, err
		}),
	}
}

// rolePolicies are the operations on the policies of roles.
func (s *Server) rolePolicies() map[string]service.Operation {
	return map[string]service.Operation{
		"AttachRolePolicy": writes(s, func(d *desk, in *iamapi.AttachRolePolicyRequest) (*nothing, error) {
			return d.attach(roleKind, in.RoleName, in.PolicyARN)
		}),
		"DetachRolePolicy": writes(s, func(d *desk, in *iamapi.DetachRolePolicyRequest) (*nothing, error) {
			return d.detach(roleKind, in.RoleName, in.PolicyARN)
		}),
		"ListAttachedRolePolicies": reads(s, func(d *desk, in *iamapi.ListAttachedRolePoliciesRequest) (*iamapi.ListAttachedRolePoliciesResponse, error) {
			list, p, err := d.attached(roleKind, in.RoleName, in.PathPrefix, in.Marker, in.MaxItems)
			return &iamapi.ListAttachedRolePoliciesResponse{AttachedPolicies: list, IsTruncated: p.Truncated, Marker: p.Marker}, err
		}),
		"PutRolePolicy": writes(s, func(d *desk, in *iamapi.PutRolePolicyRequest) (*nothing, error) {
			return d.putInline(roleKind, in.RoleName, in.PolicyName, in.PolicyDocument)
		}),
		"GetRolePolicy": reads(s, func(d *desk, in *iamapi.GetRolePolicyRequest) (*iamapi.GetRolePolicyResponse, error) {
			i, p, err := d.getInline(roleKind, in.RoleName, in.PolicyName)
			if err != nil {
				return nil, err
			}
			return &iamapi.GetRolePolicyResponse{RoleName: i.Name, PolicyName: p.Name, PolicyDocument: encodeDocument(p.Document)}, nil
		}),
		"DeleteRolePolicy": writes(s, func(d *desk, in *iamapi.DeleteRolePolicyRequest) (*nothing, error) {
			return d.deleteInline(roleKind, in.RoleName, in.PolicyName)
		}),
		"ListRolePolicies": reads(s, func(d *desk, in *iamapi.ListRolePoliciesRequest) (*iamapi.ListRolePoliciesResponse, error) {
			names, p, err := d.inlineNames(roleKind, in.RoleName, in.Marker, in.MaxItems)
			return &iamapi.ListRolePoliciesResponse{PolicyNames: names, IsTruncated: p.Truncated, Marker: p.Marker}, err
		}),
		"PutRolePermissionsBoundary": writes(s, func(d *desk, in *iamapi.PutRolePermissionsBoundaryRequest) (*nothing, error) {
			return d.setBoundary(roleKind, in.RoleName, in.PermissionsBoundary)
		}),
		"DeleteRolePermissionsBoundary": writes(s, func(d *desk, in *iamapi.DeleteRolePermissionsBoundaryRequest) (*nothing, error) {
			return d.clearBoundary(roleKind, in.RoleName)
		}),
	}
}
