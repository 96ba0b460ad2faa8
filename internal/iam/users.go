package iam

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
	"github.com/evermesh/evermesh/internal/auth"
)

func (d *desk) createUser(in *iamapi.CreateUserRequest) (*iamapi.CreateUserResponse, error) {
	i, err := d.newIdentity(userKind, userID, in.UserName, in.Path, in.Tags, in.PermissionsBoundary, nil)
	if err != nil {
		return nil, err
	}
	u := d.user(i, true)
	return &iamapi.CreateUserResponse{User: &u}, nil
}

// getUser is about the caller when it names nobody: also a root is a user then.
func (d *desk) getUser(in *iamapi.GetUserRequest) (*iamapi.GetUserResponse, error) {
	name := in.UserName
	if p := d.call.Principal; name == "" && p.Type == auth.Root {
		if err := d.allow(p.ARN); err != nil {
			return nil, err
		}
		made, err := read[accountBody](d, accountTail(d.account))
		if err != nil {
			return nil, err
		}
		u := iamapi.User{ARN: p.ARN, UserID: d.account, Path: "/"}
		if made != nil {
			u.CreateDate = *timestamp(made.Created)
		}
		return &iamapi.GetUserResponse{User: u}, nil
	}
	if name == "" {
		var err error
		if name, err = d.callerName(); err != nil {
			return nil, err
		}
	}
	i, err := d.identity(userKind, name)
	if err != nil {
		return nil, err
	}
	return &iamapi.GetUserResponse{User: d.user(i, true)}, nil
}

// updateUser gives a user another name or path. Its id stays, so its keys and its
// memberships do as well; policies that name its ARN do not follow.
func (d *desk) updateUser(in *iamapi.UpdateUserRequest) (*nothing, error) {
	i, err := d.identity(userKind, in.UserName)
	if err != nil {
		return nil, err
	}
	before, changed := i.Name, false
	if in.NewPath != "" && in.NewPath != i.Path {
		if i.Path, err = checkPath(in.NewPath); err != nil {
			return nil, err
		}
		changed = true
	}
	if in.NewUserName != "" && in.NewUserName != i.Name {
		if !strings.EqualFold(in.NewUserName, before) && d.Record(recordTail(d.account, string(userKind), in.NewUserName)) != nil {
			return nil, taken("User with name %s already exists.", in.NewUserName)
		}
		i.Name, changed = in.NewUserName, true
	}
	if !changed {
		return &nothing{}, nil
	}
	if err := d.allow(d.identityARN(userKind, i), ofTags(i.Tags)); err != nil { // the one that it is to be
		return nil, err
	}
	if !strings.EqualFold(i.Name, before) {
		d.remove(identityType(userKind), recordTail(d.account, string(userKind), before))
	}
	d.putIdentity(userKind, i)
	return &nothing{}, nil
}

func (d *desk) deleteUser(in *iamapi.DeleteUserRequest) (*nothing, error) {
	i, err := d.identity(userKind, in.UserName)
	if err != nil {
		return nil, err
	}
	if err := i.emptied(); err != nil {
		return nil, err
	}
	if len(i.Groups) > 0 {
		return nil, conflict("Cannot delete entity, must remove user from group first.")
	}
	keys, err := d.keysOf(i)
	if err != nil {
		return nil, err
	}
	if len(keys) > 0 {
		return nil, conflict("Cannot delete entity, must delete access keys first.")
	}
	d.remove(identityType(userKind), recordTail(d.account, string(userKind), i.Name))
	return &nothing{}, nil
}

func (d *desk) listUsers(in *iamapi.ListUsersRequest) (*iamapi.ListUsersResponse, error) {
	list, err := d.identities(userKind, in.PathPrefix)
	if err != nil {
		return nil, err
	}
	list, p, err := cut(list, lower, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	out := &iamapi.ListUsersResponse{Users: []iamapi.User{}, IsTruncated: p.Truncated, Marker: p.Marker}
	for _, i := range list {
		out.Users = append(out.Users, d.user(i, false))
	}
	return out, nil
}

func (d *desk) createGroup(in *iamapi.CreateGroupRequest) (*iamapi.CreateGroupResponse, error) {
	i, err := d.newIdentity(groupKind, groupID, in.GroupName, in.Path, nil, "", nil)
	if err != nil {
		return nil, err
	}
	return &iamapi.CreateGroupResponse{Group: d.group(i)}, nil
}

// members are the users in a group.
func (d *desk) members(group *identity) ([]*identity, error) {
	users, err := all[identity](d, recordsTail(d.account, string(userKind)))
	return slices.DeleteFunc(users, func(u *identity) bool { return !slices.Contains(u.Groups, lower(group)) }), err
}

func (d *desk) getGroup(in *iamapi.GetGroupRequest) (*iamapi.GetGroupResponse, error) {
	g, err := d.identity(groupKind, in.GroupName)
	if err != nil {
		return nil, err
	}
	users, err := d.members(g)
	if err != nil {
		return nil, err
	}
	users, p, err := cut(users, lower, in.Marker, in.MaxItems)
	if err != nil {
		return nil, err
	}
	out := &iamapi.GetGroupResponse{Group: d.group(g), Users: []iamapi.User{}, IsTruncated: p.Truncated, Marker: p.Marker}
	for _, u := range users {
		out.Users = append(out.Users, d.user(u, false))
	}
	return out, nil
}

func (d *desk) deleteGroup(in *iamapi.DeleteGroupRequest) (*nothing, error) {
	g, err := d.identity(groupKind, in.GroupName)
	if err != nil {
		return nil, err
	}
	if err := g.emptied(); err != nil {
		return nil, err
	}
	users, err := d.members(g)
	if err != nil {
		return nil, err
	}
	if len(users) > 0 {
		return nil, conflict("Cannot delete entity, must remove users from group first.")
	}
	d.remove(identityType(groupKind), recordTail(d.account, string(groupKind), g.Name))
	return &nothing{}, nil
}

func (d *desk) groupList(list []*identity, marker string, most *int64) ([]iamapi.Group, page, error) {
	list, p, err := cut(list, lower, marker, most)
	out := []iamapi.Group{}
	for _, g := range list {
		out = append(out, d.group(g))
	}
	return out, p, err
}

func (d *desk) listGroups(in *iamapi.ListGroupsRequest) (*iamapi.ListGroupsResponse, error) {
	list, err := d.identities(groupKind, in.PathPrefix)
	if err != nil {
		return nil, err
	}
	groups, p, err := d.groupList(list, in.Marker, in.MaxItems)
	return &iamapi.ListGroupsResponse{Groups: groups, IsTruncated: p.Truncated, Marker: p.Marker}, err
}

func (d *desk) listGroupsForUser(in *iamapi.ListGroupsForUserRequest) (*iamapi.ListGroupsForUserResponse, error) {
	u, err := d.identity(userKind, in.UserName)
	if err != nil {
		return nil, err
	}
	var list []*identity
	for _, name := range u.Groups {
		g, err := read[identity](d, recordTail(d.account, string(groupKind), name))
		if err != nil {
			return nil, err
		}
		if g != nil { // deleted meanwhile
			list = append(list, g)
		}
	}
	groups, p, err := d.groupList(list, in.Marker, in.MaxItems)
	return &iamapi.ListGroupsForUserResponse{Groups: groups, IsTruncated: p.Truncated, Marker: p.Marker}, err
}

const groupsPerUser = 10

// member finds a group, on which the call is asked for, and a user.
func (d *desk) member(group, user string) (g, u *identity, err error) {
	if g, err = d.identity(groupKind, group); err != nil {
		return nil, nil, err
	}
	u, err = read[identity](d, recordTail(d.account, string(userKind), user))
	if err == nil && u == nil {
		err = absent("The user with name %s cannot be found.", user)
	}
	return g, u, err
}

func (d *desk) addUserToGroup(in *iamapi.AddUserToGroupRequest) (*nothing, error) {
	g, u, err := d.member(in.GroupName, in.UserName)
	if err != nil {
		return nil, err
	}
	if slices.Contains(u.Groups, lower(g)) {
		return &nothing{}, nil
	}
	if len(u.Groups) >= groupsPerUser {
		return nil, exceeded("GroupsPerUser", groupsPerUser)
	}
	u.Groups = append(u.Groups, lower(g))
	d.putIdentity(userKind, u)
	return &nothing{}, nil
}

func (d *desk) removeUserFromGroup(in *iamapi.RemoveUserFromGroupRequest) (*nothing, error) {
	g, u, err := d.member(in.GroupName, in.UserName)
	if err != nil {
		return nil, err
	}
	i := slices.Index(u.Groups, lower(g))
	if i < 0 {
		return nil, absent("User %s is not in group %s.", u.Name, g.Name)
	}
	u.Groups = slices.Delete(u.Groups, i, i+1)
	d.putIdentity(userKind, u)
	return &nothing{}, nil
}

// keysOf are a user's access keys, by id.
func (d *desk) keysOf(u *identity) (map[string]*keyBody, error) {
	out := map[string]*keyBody{}
	for _, r := range d.Records(recordsTail(d.account, userKeyRecord)) {
		b, err := body[keyBody](r)
		if err != nil {
			return nil, err
		}
		if _, id, ok := parseKeyTail(r.Key); ok && b.User == u.ID {
			out[id] = b
		}
	}
	return out, nil
}

// keyOwner is the user whose access keys a call is about: the caller, when it names
// nobody. A root's key is made and changed by the operator alone.
func (d *desk) keyOwner(name string) (*identity, error) {
	if name == "" {
		if d.call.Principal.Type == auth.Root {
			if err := d.allow(d.call.Principal.ARN); err != nil {
				return nil, err
			}
			return nil, api.Errorf(iamapi.CodeInvalidInput, "The root's access key is made and changed on the machine of the control plane, by evermeshd credentials reset: give a UserName.")
		}
		var err error
		if name, err = d.callerName(); err != nil {
			return nil, err
		}
	}
	return d.identity(userKind, name)
}
