package iam

import (
	"maps"
	"slices"

	"github.com/evermesh/evermesh/internal/api/iamapi"
)

const keysPerUser = 2

// inactive is the status of a key that is refused; an empty one is of a key that is
// not.
const inactive = string(iamapi.StatusTypeInactive)

func (b *keyBody) status() iamapi.StatusType {
	if b.Status == inactive {
		return iamapi.StatusTypeInactive
	}
	return iamapi.StatusTypeActive
}

// createAccessKey makes a key and tells its secret, the only time that it does.
func (d *desk) createAccessKey(in *iamapi.CreateAccessKeyRequest) (*iamapi.CreateAccessKeyResponse, error) {
	u, err := d.keyOwner(in.UserName)
	if err != nil {
		return nil, err
	}
	have, err := d.keysOf(u)
	if err != nil {
		return nil, err
	}
	if len(have) >= keysPerUser {
		return nil, exceeded("AccessKeysPerUser", keysPerUser)
	}
	k, err := newAccessKey()
	if err != nil {
		return nil, err
	}
	secret, err := d.keys.box.Seal(d.tx, owner(d.account, k.ID), []byte(k.Secret))
	if err != nil {
		return nil, err
	}
	b := &keyBody{Created: d.stamp(), Secret: secret, User: u.ID}
	d.put(userKeyType(), userKeyTail(d.account, k.ID), b)
	return &iamapi.CreateAccessKeyResponse{AccessKey: iamapi.AccessKey{
		AccessKeyID: k.ID, SecretAccessKey: string(k.Secret), Status: b.status(), UserName: u.Name, CreateDate: timestamp(b.Created),
	}}, nil
}

// accessKey finds a user's key.
func (d *desk) accessKey(user, id string) (*keyBody, error) {
	u, err := d.keyOwner(user)
	if err != nil {
		return nil, err
	}
	b, err := read[keyBody](d, userKeyTail(d.account, id))
	if err != nil {
		return nil, err
	}
	if b == nil || b.User != u.ID {
		return nil, absent("The Access Key with id %s cannot be found.", id)
	}
	return b, nil
}

// updateAccessKey takes a key out of use, or back into it. Every replica refuses it as
// soon as its watch tells.
func (d *desk) updateAccessKey(in *iamapi.UpdateAccessKeyRequest) (*nothing, error) {
	b, err := d.accessKey(in.UserName, in.AccessKeyID)
	if err != nil {
		return nil, err
	}
	b.Status = string(in.Status)
	d.put(userKeyType(), userKeyTail(d.account, in.AccessKeyID), b)
	return &nothing{}, nil
}

func (d *desk) deleteAccessKey(in *iamapi.DeleteAccessKeyRequest) (*nothing, error) {
	if _, err := d.accessKey(in.UserName, in.AccessKeyID); err != nil {
		return nil, err
	}
	d.remove(userKeyType(), userKeyTail(d.account, in.AccessKeyID))
	return &nothing{}, nil
}

func (d *desk) listAccessKeys(in *iamapi.ListAccessKeysRequest) (*iamapi.ListAccessKeysResponse, error) {
	u, err := d.keyOwner(in.UserName)
	if err != nil {
		return nil, err
	}
	have, err := d.keysOf(u)
	if err != nil {
		return nil, err
	}
	list := []iamapi.AccessKeyMetadata{}
	for _, id := range slices.Sorted(maps.Keys(have)) {
		list = append(list, iamapi.AccessKeyMetadata{AccessKeyID: id, CreateDate: timestamp(have[id].Created), Status: have[id].status(), UserName: u.Name})
	}
	list, p, err := cut(list, func(m iamapi.AccessKeyMetadata) string { return m.AccessKeyID }, in.Marker, in.MaxItems)
	return &iamapi.ListAccessKeysResponse{AccessKeyMetadata: list, IsTruncated: p.Truncated, Marker: p.Marker}, err
}

// getAccessKeyLastUsed tells when a key was used, to a quarter of an hour.
func (d *desk) getAccessKeyLastUsed(in *iamapi.GetAccessKeyLastUsedRequest) (*iamapi.GetAccessKeyLastUsedResponse, error) {
	b, err := read[keyBody](d, userKeyTail(d.account, in.AccessKeyID))
	if err != nil {
		return nil, err
	}
	var user *identity
	if b != nil && b.User != "" {
		users, err := all[identity](d, recordsTail(d.account, string(userKind)))
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(users, func(u *identity) bool { return u.ID == b.User }); i >= 0 {
			user = users[i]
		}
	}
	arn := d.arn(d.account, string(userKind), "/", "*")
	if user != nil {
		arn = d.identityARN(userKind, user)
	}
	if err := d.allow(arn); err != nil {
		return nil, err
	}
	if b == nil {
		return nil, absent("The Access Key with id %s cannot be found.", in.AccessKeyID)
	}
	out := &iamapi.GetAccessKeyLastUsedResponse{AccessKeyLastUsed: &iamapi.AccessKeyLastUsed{Region: "N/A", ServiceName: "N/A"}}
	if user != nil {
		out.UserName = user.Name
	}
	u, err := d.keys.used.read(d.ctx, d.store, d.account, in.AccessKeyID)
	if err != nil {
		return nil, err
	}
	if !u.At.IsZero() {
		out.AccessKeyLastUsed = &iamapi.AccessKeyLastUsed{LastUsedDate: timestamp(u.At), Region: u.Region, ServiceName: u.Service}
	}
	return out, nil
}
