package iam

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
)

const profileARN = "instance-profile"

func (d *desk) profile(name string) (*profile, error) {
	p, err := read[profile](d, recordTail(d.account, profileRecord, name))
	if err != nil {
		return nil, err
	}
	path, full, keys := "/", name, map[string][]string(nil)
	if p != nil {
		path, full, keys = p.Path, p.Name, ofTags(p.Tags)
	}
	if err := d.allowNamed(profileARN, path, full, name, keys); err != nil {
		return nil, err
	}
	if p == nil {
		return nil, absent("Instance Profile %s cannot be found.", name)
	}
	return p, nil
}

func (d *desk) putProfile(p *profile) {
	d.put(profileType(), recordTail(d.account, profileRecord, p.Name), p)
}

// tell is how an instance profile is told, with its role.
func (d *desk) tell(p *profile) (iamapi.InstanceProfile, error) {
	out := iamapi.InstanceProfile{
		ARN: d.arn(d.account, profileARN, p.Path, p.Name), CreateDate: *timestamp(p.Created), InstanceProfileID: p.ID,
		InstanceProfileName: p.Name, Path: p.Path, Roles: []iamapi.Role{}, Tags: tagList(p.Tags),
	}
	if p.Role == "" {
		return out, nil
	}
	r, err := read[identity](d, recordTail(d.account, string(roleKind), p.Role))
	if r != nil {
		out.Roles = append(out.Roles, d.role(r, false))
	}
	return out, err
}

func (d *desk) createInstanceProfile(in *iamapi.CreateInstanceProfileRequest) (*iamapi.CreateInstanceProfileResponse, error) {
	path, err := checkPath(in.Path)
	if err != nil {
		return nil, err
	}
	if err := d.allowNew(d.arn(d.account, profileARN, path, in.InstanceProfileName), "iam:TagInstanceProfile", in.Tags); err != nil {
		return nil, err
	}
	if d.Record(recordTail(d.account, profileRecord, in.InstanceProfileName)) != nil {
		return nil, taken("Instance Profile %s already exists.", in.InstanceProfileName)
	}
	p := &profile{Name: in.InstanceProfileName, Path: path, Created: d.stamp()}
	if p.Tags, err = withTags(nil, in.Tags); err != nil {
		return nil, err
	}
	if p.ID, err = newID(profileID); err != nil {
		return nil, err
	}
	d.putProfile(p)
	told, err := d.tell(p)
	return &iamapi.CreateInstanceProfileResponse{InstanceProfile: told}, err
}

func (d *desk) getInstanceProfile(in *iamapi.GetInstanceProfileRequest) (*iamapi.GetInstanceProfileResponse, error) {
	p, err := d.profile(in.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	told, err := d.tell(p)
	return &iamapi.GetInstanceProfileResponse{InstanceProfile: told}, err
}

func (d *desk) deleteInstanceProfile(in *iamapi.DeleteInstanceProfileRequest) (*nothing, error) {
	p, err := d.profile(in.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	if p.Role != "" {
		return nil, conflict("Cannot delete entity, must remove roles from instance profile first.")
	}
	d.remove(profileType(), recordTail(d.account, profileRecord, p.Name))
	return &nothing{}, nil
}

func (d *desk) profileList(list []*profile, marker string, most *int64) ([]iamapi.InstanceProfile, page, error) {
	list, p, err := cut(list, func(p *profile) string { return strings.ToLower(p.Name) }, marker, most)
	out := []iamapi.InstanceProfile{}
	for _, one := range list {
		var told iamapi.InstanceProfile
		if told, err = d.tell(one); err != nil {
			return nil, page{}, err
		}
		out = append(out, told)
	}
	return out, p, err
}

func (d *desk) listInstanceProfiles(in *iamapi.ListInstanceProfilesRequest) (*iamapi.ListInstanceProfilesResponse, error) {
	if err := d.allowList(profileARN, in.PathPrefix); err != nil {
		return nil, err
	}
	list, err := all[profile](d, recordsTail(d.account, profileRecord))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(p *profile) bool { return !strings.HasPrefix(p.Path, in.PathPrefix) })
	told, p, err := d.profileList(list, in.Marker, in.MaxItems)
	return &iamapi.ListInstanceProfilesResponse{InstanceProfiles: told, IsTruncated: p.Truncated, Marker: p.Marker}, err
}

// profilesOf are the instance profiles that have a role.
func (d *desk) profilesOf(role *identity) ([]*profile, error) {
	list, err := all[profile](d, recordsTail(d.account, profileRecord))
	return slices.DeleteFunc(list, func(p *profile) bool { return p.Role != lower(role) }), err
}

func (d *desk) listInstanceProfilesForRole(in *iamapi.ListInstanceProfilesForRoleRequest) (*iamapi.ListInstanceProfilesForRoleResponse, error) {
	r, err := d.identity(roleKind, in.RoleName)
	if err != nil {
		return nil, err
	}
	list, err := d.profilesOf(r)
	if err != nil {
		return nil, err
	}
	told, p, err := d.profileList(list, in.Marker, in.MaxItems)
	return &iamapi.ListInstanceProfilesForRoleResponse{InstanceProfiles: told, IsTruncated: p.Truncated, Marker: p.Marker}, err
}

// addRoleToInstanceProfile hands a role to whoever has the profile: that takes
// iam:PassRole on the role.
func (d *desk) addRoleToInstanceProfile(in *iamapi.AddRoleToInstanceProfileRequest) (*nothing, error) {
	p, err := d.profile(in.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	r, err := d.roleOf(in.RoleName)
	if err != nil {
		return nil, err
	}
	keys := map[string][]string{"iam:passedtoservice": {"ec2.amazonaws.com"}}
	if err := d.call.AllowAction(d.ctx, "iam:PassRole", d.identityARN(roleKind, r), keys); err != nil {
		return nil, err
	}
	switch {
	case r.Service != "":
		return nil, protected(r.Name)
	case p.Role != "":
		return nil, exceeded("InstanceSessionsPerInstanceProfile", 1)
	}
	p.Role = lower(r)
	d.putProfile(p)
	return &nothing{}, nil
}

func (d *desk) roleOf(name string) (*identity, error) {
	r, err := read[identity](d, recordTail(d.account, string(roleKind), name))
	if err == nil && r == nil {
		err = absent("The role with name %s cannot be found.", name)
	}
	return r, err
}

func (d *desk) removeRoleFromInstanceProfile(in *iamapi.RemoveRoleFromInstanceProfileRequest) (*nothing, error) {
	p, err := d.profile(in.InstanceProfileName)
	if err != nil {
		return nil, err
	}
	if p.Role == "" || p.Role != strings.ToLower(in.RoleName) {
		return nil, absent("The role with name %s cannot be found in the instance profile.", in.RoleName)
	}
	p.Role = ""
	d.putProfile(p)
	return &nothing{}, nil
}

// malformed is the refusal of a policy, with what is wrong in it.
func malformed(err error) error {
	return api.Errorf(iamapi.CodeMalformedPolicyDocument, "%s", err.Error())
}
