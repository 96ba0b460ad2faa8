package iam

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
)

const tagLimit = 50

// withTags adds tags to those that something has. Keys are one without case.
func withTags(have []tag, more []iamapi.Tag) ([]tag, error) {
	out := slices.Clone(have)
	seen := map[string]bool{}
	for _, t := range more {
		lower := strings.ToLower(t.Key)
		if seen[lower] {
			return nil, api.Errorf(iamapi.CodeInvalidInput, "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		seen[lower] = true
		if strings.HasPrefix(lower, "aws:") {
			return nil, api.Errorf(iamapi.CodeInvalidInput, "Tag keys that begin with aws: are reserved for system use.")
		}
		i := slices.IndexFunc(out, func(h tag) bool { return strings.EqualFold(h.Key, t.Key) })
		if i >= 0 {
			out[i] = tag(t)
		} else {
			out = append(out, tag(t))
		}
	}
	if len(out) > tagLimit {
		return nil, api.Errorf(iamapi.CodeLimitExceeded, "The number of tags has reached the maximum limit.")
	}
	slices.SortFunc(out, func(a, b tag) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// withoutTags takes tags away; what is not there is no fault.
func withoutTags(have []tag, keys []string) []tag {
	return slices.DeleteFunc(slices.Clone(have), func(t tag) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return strings.EqualFold(k, t.Key) })
	})
}

func tagKey(t iamapi.Tag) string { return t.Key }

func (d *desk) tagIdentity(k kind, name string, tags []iamapi.Tag) (*nothing, error) {
	i, err := d.changeable(k, name, requestTags(tags))
	if err != nil {
		return nil, err
	}
	if i.Tags, err = withTags(i.Tags, tags); err != nil {
		return nil, err
	}
	d.putIdentity(k, i)
	return &nothing{}, nil
}

func (d *desk) untagIdentity(k kind, name string, keys []string) (*nothing, error) {
	i, err := d.changeable(k, name, map[string][]string{"aws:tagkeys": keys})
	if err != nil {
		return nil, err
	}
	i.Tags = withoutTags(i.Tags, keys)
	d.putIdentity(k, i)
	return &nothing{}, nil
}

func (d *desk) tagUser(in *iamapi.TagUserRequest) (*nothing, error) {
	return d.tagIdentity(userKind, in.UserName, in.Tags)
}

func (d *desk) untagUser(in *iamapi.UntagUserRequest) (*nothing, error) {
	return d.untagIdentity(userKind, in.UserName, in.TagKeys)
}

func (d *desk) listUserTags(in *iamapi.ListUserTagsRequest) (*iamapi.ListUserTagsResponse, error) {
	i, err := d.identity(userKind, in.UserName)
	if err != nil {
		return nil, err
	}
	tags, p, err := cut(tagList(i.Tags), tagKey, in.Marker, in.MaxItems)
	return &iamapi.ListUserTagsResponse{Tags: tags, IsTruncated: p.Truncated, Marker: p.Marker}, err
}

func (d *desk) tagRole(in *iamapi.TagRoleRequest) (*nothing, error) {
	return d.tagIdentity(roleKind, in.RoleName, in.Tags)
}

func (d *desk) untagRole(in *iamapi.UntagRoleRequest) (*nothing, error) {
	return d.untagIdentity(roleKind, in.RoleName, in.TagKeys)
}

func (d *desk) listRoleTags(in *iamapi.ListRoleTagsRequest) (*iamapi.ListRoleTagsResponse, error) {
	i, err := d.identity(roleKind, in.RoleName)
	if err != nil {
		return nil, err
	}
	tags, p, err := cut(tagList(i.Tags), tagKey, in.Marker, in.MaxItems)
	return &iamapi.ListRoleTagsResponse{Tags: tags, IsTruncated: p.Truncated, Marker: p.Marker}, err
}

func (d *desk) tagPolicy(in *iamapi.TagPolicyRequest) (*nothing, error) {
	m, err := d.ownPolicy(in.PolicyARN, requestTags(in.Tags))
	if err != nil {
		return nil, err
	}
	if m.Tags, err = withTags(m.Tags, in.Tags); err != nil {
		return nil, err
	}
	d.putPolicy(m)
	return &nothing{}, nil
}

func (d *desk) untagPolicy(in *iamapi.UntagPolicyRequest) (*nothing, error) {
	m, err := d.ownPolicy(in.PolicyARN, map[string][]string{"aws:tagkeys": in.TagKeys})
	if err != nil {
		return nil, err
	}
	m.Tags = withoutTags(m.Tags, in.TagKeys)
	d.putPolicy(m)
	return &nothing{}, nil
}

func (d *desk) listPolicyTags(in *iamapi.ListPolicyTagsRequest) (*iamapi.ListPolicyTagsResponse, error) {
	m, err := d.anyPolicy(in.PolicyARN)
	if err != nil {
		return nil, err
	}
	tags, p, err := cut(tagList(m.Tags), tagKey, in.Marker, in.MaxItems)
	return &iamapi.ListPolicyTagsResponse{Tags: tags, IsTruncated: p.Truncated, Marker: p.Marker}, err
}

// tagProvider tags a provider. One that becomes a cluster's is its from now on: who
// had said so before in another account stays the first (sts.Provider.Created).
func (d *desk) tagProvider(in *iamapi.TagOpenIDCOnnectProviderRequest) (*nothing, error) {
	p, err := d.provider(in.OpenIDCOnnectProviderARN, requestTags(in.Tags))
	if err != nil {
		return nil, err
	}
	tags, err := withTags(p.Tags, in.Tags)
	if err != nil {
		return nil, err
	}
	return d.retag(p, tags)
}

func (d *desk) untagProvider(in *iamapi.UntagOpenIDCOnnectProviderRequest) (*nothing, error) {
	p, err := d.provider(in.OpenIDCOnnectProviderARN, map[string][]string{"aws:tagkeys": in.TagKeys})
	if err != nil {
		return nil, err
	}
	return d.retag(p, withoutTags(p.Tags, in.TagKeys))
}

func (d *desk) retag(p *provider, tags []tag) (*nothing, error) {
	cluster := tagMap(p.Tags)[ClusterTag]
	p.Tags = tags
	if now := tagMap(tags)[ClusterTag]; now != cluster {
		others, err := all[provider](d, recordsTail(d.account, providerRecord))
		if err != nil {
			return nil, err
		}
		if err := p.alone(others); err != nil {
			return nil, err
		}
		p.Bound = d.stamp()
	}
	d.putProvider(p)
	return &nothing{}, nil
}

func (d *desk) listProviderTags(in *iamapi.ListOpenIDCOnnectProviderTagsRequest) (*iamapi.ListOpenIDCOnnectProviderTagsResponse, error) {
	p, err := d.provider(in.OpenIDCOnnectProviderARN)
	if err != nil {
		return nil, err
	}
	tags, cut, err := cut(tagList(p.Tags), tagKey, in.Marker, in.MaxItems)
	return &iamapi.ListOpenIDCOnnectProviderTagsResponse{Tags: tags, IsTruncated: cut.Truncated, Marker: cut.Marker}, err
}
