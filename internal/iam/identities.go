package iam

import (
	"net/url"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
	"github.com/evermesh/evermesh/internal/auth"
)

// identity finds a user, group or role and asks whether the call may be done on it; a
// caller who may not is not told whether it exists.
func (d *desk) identity(k kind, name string, layers ...map[string][]string) (*identity, error) {
	i, err := read[identity](d, recordTail(d.account, string(k), name))
	if err != nil {
		return nil, err
	}
	if i == nil {
		if err := d.allow(d.arn(d.account, string(k), "/", name), layers...); err != nil {
			return nil, err
		}
		return nil, absent("The %s with name %s cannot be found.", k, name)
	}
	if err := d.allowNamed(string(k), i.Path, i.Name, name, append(layers, ofTags(i.Tags))...); err != nil {
		return nil, err
	}
	return i, nil
}

// changeable is identity for a call that changes it: service-linked roles are changed
// by their service alone (IAM-029).
func (d *desk) changeable(k kind, name string, layers ...map[string][]string) (*identity, error) {
	i, err := d.identity(k, name, layers...)
	if err == nil && i.Service != "" {
		err = protected(i.Name)
	}
	if err != nil {
		return nil, err
	}
	return i, nil
}

// bounded is changeable for a call that changes what the identity may do: policies may
// allow it, or deny it, by the boundary that the identity has.
func (d *desk) bounded(k kind, name string, layers ...map[string][]string) (*identity, error) {
	i, err := read[identity](d, recordTail(d.account, string(k), name))
	if err != nil {
		return nil, err
	}
	if i != nil && i.Boundary != "" {
		layers = append(layers, map[string][]string{"iam:permissionsboundary": {i.Boundary}})
	}
	return d.changeable(k, name, layers...)
}

func protected(role string) error {
	return api.Errorf(iamapi.CodeUnmodifiableEntity, "Cannot perform the operation on the protected role '%s' - this role is only modifiable by AWS", role)
}

func (d *desk) putIdentity(k kind, i *identity) {
	d.put(identityType(k), recordTail(d.account, string(k), i.Name), i)
}

func (d *desk) identityARN(k kind, i *identity) string {
	return d.arn(d.account, string(k), i.Path, i.Name)
}

// newIdentity makes one that is not there yet.
func (d *desk) newIdentity(k kind, idPrefix, name, path string, tags []iamapi.Tag, boundary string, prepare func(i *identity) error) (*identity, error) {
	path, err := checkPath(path)
	if err != nil {
		return nil, err
	}
	var keys map[string][]string
	if boundary != "" {
		keys = map[string][]string{"iam:permissionsboundary": {boundary}}
	}
	if err := d.allowNew(d.arn(d.account, string(k), path, name), "iam:Tag"+k.title(), tags, keys); err != nil {
		return nil, err
	}
	old, err := read[identity](d, recordTail(d.account, string(k), name))
	if err != nil {
		return nil, err
	}
	if old != nil {
		return nil, taken("%s with name %s already exists.", k.title(), name)
	}
	i := &identity{Name: name, Path: path, Created: d.stamp(), Boundary: boundary}
	if i.Tags, err = withTags(nil, tags); err != nil {
		return nil, err
	}
	if err := d.checkBoundary(boundary); err != nil {
		return nil, err
	}
	if i.ID, err = newID(idPrefix); err != nil {
		return nil, err
	}
	if prepare != nil {
		if err := prepare(i); err != nil {
			return nil, err
		}
	}
	d.putIdentity(k, i)
	return i, nil
}

// checkPath returns the path, which begins and ends with a slash.
func checkPath(path string) (string, error) {
	if path == "" {
		return "/", nil
	}
	if !strings.HasPrefix(path, "/") || !strings.HasSuffix(path, "/") ||
		strings.ContainsFunc(path, func(r rune) bool { return r < '!' || r > '~' }) {
		return "", api.Errorf(codeValidation, "The specified value for path is invalid. It must begin and end with / and contain only alphanumeric characters and/or / characters.")
	}
	return path, nil
}

// emptied refuses to delete what still has policies.
func (i *identity) emptied() error {
	switch {
	case len(i.Inline) > 0:
		return conflict("Cannot delete entity, must delete policies first.")
	case len(i.Attached) > 0:
		return conflict("Cannot delete entity, must detach all policies first.")
	}
	return nil
}

// identities lists those of a kind below a path.
func (d *desk) identities(k kind, pathPrefix string) ([]*identity, error) {
	if err := d.allowList(string(k), pathPrefix); err != nil {
		return nil, err
	}
	list, err := all[identity](d, recordsTail(d.account, string(k)))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(i *identity) bool { return !strings.HasPrefix(i.Path, pathPrefix) }), nil
}

// lower is what lists are sorted by.
func lower(i *identity) string { return strings.ToLower(i.Name) }

// boundary is how a permissions boundary is told.
func boundary(arn string) *iamapi.AttachedPermissionsBoundary {
	if arn == "" {
		return nil
	}
	return &iamapi.AttachedPermissionsBoundary{PermissionsBoundaryARN: arn, PermissionsBoundaryType: "Policy"}
}

// tagList is how tags are told.
func tagList(tags []tag) []iamapi.Tag {
	out := make([]iamapi.Tag, 0, len(tags))
	for _, t := range tags {
		out = append(out, iamapi.Tag{Key: t.Key, Value: t.Value})
	}
	return out
}

// user, group and role are how they are told in lists; full ones have tags and
// boundary as well.
func (d *desk) user(i *identity, full bool) iamapi.User {
	u := iamapi.User{ARN: d.identityARN(userKind, i), CreateDate: *timestamp(i.Created), Path: i.Path, UserID: i.ID, UserName: i.Name}
	if full {
		u.Tags, u.PermissionsBoundary = tagList(i.Tags), boundary(i.Boundary)
	}
	return u
}

func (d *desk) group(i *identity) iamapi.Group {
	return iamapi.Group{ARN: d.identityARN(groupKind, i), CreateDate: *timestamp(i.Created), GroupID: i.ID, GroupName: i.Name, Path: i.Path}
}

func (d *desk) role(i *identity, full bool) iamapi.Role {
	session := i.MaxSession
	r := iamapi.Role{
		ARN: d.identityARN(roleKind, i), CreateDate: *timestamp(i.Created), Path: i.Path, RoleID: i.ID, RoleName: i.Name,
		AssumeRolePolicyDocument: encodeDocument(d.toldTrust(i)), Description: i.Description, MaxSessionDuration: &session,
	}
	if full {
		r.Tags, r.PermissionsBoundary, r.RoleLastUsed = tagList(i.Tags), boundary(i.Boundary), &iamapi.RoleLastUsed{}
	}
	return r
}

// encodeDocument writes a policy as IAM's answers have it: percent-encoded by RFC
// 3986.
func encodeDocument(text string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }

// callerName is the name of the user who calls, for operations that are about the
// caller when they name nobody.
func (d *desk) callerName() (string, error) {
	p := d.call.Principal
	if p.Type != auth.User {
		return "", api.Errorf(codeValidation, "Must specify userName when calling with non-User credentials")
	}
	return p.ARN[strings.LastIndexByte(p.ARN, '/')+1:], nil
}
