package cloudmap

import (
	"context"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// mostTags is how many tags a resource may have.
const mostTags = 50

// checkTags refuses tags that a resource that has some cannot take.
func checkTags(more, before []cloudmapapi.Tag) error {
	seen := map[string]bool{}
	for _, t := range more {
		if strings.HasPrefix(strings.ToLower(t.Key), "aws:") {
			return invalid("The tag key %s begins with aws:, which is reserved.", t.Key)
		}
		if seen[t.Key] {
			return invalid("The tag key %s is given twice.", t.Key)
		}
		seen[t.Key] = true
	}
	if n := len(merged(before, more)); n > mostTags {
		return api.Errorf(cloudmapapi.CodeTooManyTags, "The resource would have %d tags: at most %d are allowed.", n, mostTags)
	}
	return nil
}

// merged are the tags with more of them, which win.
func merged(before, more []cloudmapapi.Tag) []cloudmapapi.Tag {
	out := slices.Clone(before)
	for _, t := range more {
		if i := slices.IndexFunc(out, func(b cloudmapapi.Tag) bool { return b.Key == t.Key }); i >= 0 {
			out[i] = t
		} else {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b cloudmapapi.Tag) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// taggable is what an ARN names: a namespace or a service of the caller's.
func (a *API) taggable(c *service.Call, arn string) (kind, id string, err error) {
	rest, ok := strings.CutPrefix(arn, a.arn(c.Principal.Account, "", "")[:len(a.arn(c.Principal.Account, "", ""))-1])
	kind, id, two := strings.Cut(rest, "/")
	if !ok || !two || kind != "namespace" && kind != "service" {
		return "", "", noResource(arn)
	}
	return kind, id, nil
}

func noResource(arn string) error {
	return api.Errorf(cloudmapapi.CodeResourceNotFound, "Resource %s does not exist", arn)
}

// tagsOf reads the tags of what an ARN names, for a caller who may do the call's
// action on it.
func (a *API) tagsOf(ctx context.Context, c *service.Call, arn string, keys map[string][]string) (kind, id string, tags []cloudmapapi.Tag, err error) {
	kind, id, missing := a.taggable(c, arn)
	there := false
	switch kind {
	case "namespace":
		n, err := namespaces.read(ctx, a.Store, namespaceTail(c.Principal.Account, id))
		if err != nil {
			return "", "", nil, err
		}
		if there = n != nil; there {
			tags = n.Tags
		}
	case "service":
		d, _, err := a.load(ctx, c.Principal.Account, id)
		if err != nil {
			return "", "", nil, err
		}
		if there = d != nil; there {
			tags = d.Tags
		}
	}
	if err := c.Allow(ctx, arn, tagged(keys, tags)); err != nil {
		return "", "", nil, err
	}
	if missing == nil && !there {
		missing = noResource(arn)
	}
	return kind, id, tags, missing
}

func (a *API) listTags(ctx context.Context, c *service.Call, in *cloudmapapi.ListTagsForResourceRequest) (*cloudmapapi.ListTagsForResourceResponse, error) {
	_, _, tags, err := a.tagsOf(ctx, c, in.ResourceARN, nil)
	if err != nil {
		return nil, err
	}
	return &cloudmapapi.ListTagsForResourceResponse{Tags: append([]cloudmapapi.Tag{}, tags...)}, nil
}

func (a *API) tag(ctx context.Context, c *service.Call, in *cloudmapapi.TagResourceRequest) (*cloudmapapi.TagResourceResponse, error) {
	return &cloudmapapi.TagResourceResponse{}, a.retag(ctx, c, in.ResourceARN, requested(in.Tags), func(before []cloudmapapi.Tag) ([]cloudmapapi.Tag, error) {
		return merged(before, in.Tags), checkTags(in.Tags, before)
	})
}

func (a *API) untag(ctx context.Context, c *service.Call, in *cloudmapapi.UntagResourceRequest) (*cloudmapapi.UntagResourceResponse, error) {
	return &cloudmapapi.UntagResourceResponse{}, a.retag(ctx, c, in.ResourceARN, map[string][]string{"aws:tagkeys": in.TagKeys}, func(before []cloudmapapi.Tag) ([]cloudmapapi.Tag, error) {
		return slices.DeleteFunc(slices.Clone(before), func(t cloudmapapi.Tag) bool { return slices.Contains(in.TagKeys, t.Key) }), nil
	})
}

// retag replaces the tags of what an ARN names.
func (a *API) retag(ctx context.Context, c *service.Call, arn string, keys map[string][]string, edit func([]cloudmapapi.Tag) ([]cloudmapapi.Tag, error)) error {
	kind, id, _, err := a.tagsOf(ctx, c, arn, keys)
	if err != nil {
		return err
	}
	account := c.Principal.Account
	scope := names(account)
	if kind == "service" {
		scope = home(account, id)
	}
	_, err = update(ctx, a, c, []store.Scope{scope}, func(tx *store.Tx) (*struct{}, error) {
		if kind == "service" {
			d, _, err := a.service(tx, account, id)
			if err != nil {
				return nil, noResource(arn)
			}
			if d.Tags, err = edit(d.Tags); err != nil {
				return nil, err
			}
			definitions.put(tx, scope.Tail("service"), d)
			return &struct{}{}, nil
		}
		n, err := namespaces.get(tx, namespaceTail(account, id))
		if err != nil {
			return nil, err
		}
		if n == nil {
			return nil, noResource(arn)
		}
		if n.Tags, err = edit(n.Tags); err != nil {
			return nil, err
		}
		namespaces.put(tx, namespaceTail(account, id), n)
		return &struct{}{}, nil
	})
	return err
}
