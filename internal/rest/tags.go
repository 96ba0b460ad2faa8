package rest

import (
	"context"
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/store"
)

// maxTags is the number of tags that a resource may carry.
const maxTags = 50

// newTags reads the tags of a request. Their order is kept.
func newTags(sent any) ([]api.TagRef, error) {
	list, _ := sent.([]any)
	var out []api.TagRef
	for _, item := range list {
		tag := item.(map[string]any)
		t := api.TagRef{Key: text(tag, "key"), Value: text(tag, "value")}
		if slices.ContainsFunc(out, func(o api.TagRef) bool { return o.Key == t.Key }) {
			return nil, api.Errorf(api.CodeBadRequest, "The tag key %q stands twice in the request.", t.Key)
		}
		if strings.HasPrefix(strings.ToLower(t.Key), "aws:") {
			return nil, api.Errorf(api.CodeBadRequest, "The tag key %q cannot be used: keys that begin with aws: are reserved.", t.Key)
		}
		out = append(out, t)
	}
	return out, nil
}

// tagged finds the resource that a call's ARN names and checks that the caller
// may tag it.
func (s *Server) tagged(ctx context.Context, c *call) (api.Key, error) {
	arn := text(c.doc, "resourceArn")
	a, err := api.ParseARN(arn)
	if err != nil {
		return api.Key{}, api.Errorf(api.CodeBadRequest, "The resourceArn is not valid: %v.", err)
	}
	if a.Partition != s.Realm.Partition || a.Region != s.Realm.Region {
		return api.Key{}, api.Errorf(api.CodeBadRequest, "The resourceArn %q is of partition %s and region %s; this control plane is %s and %s.", arn, a.Partition, a.Region, s.Realm.Partition, s.Realm.Region)
	}
	key := a.Key("")
	if a.MeshOwner == "" {
		if key, err = s.inShared(ctx, c, a, key); err != nil {
			return api.Key{}, err
		}
	}
	return key, s.allow(c, key)
}

// inShared is the key that an ARN without the mesh's owner means: that of a resource in
// a mesh of the ARN's account, or else of one that the account created in another's mesh,
// which is the caller's or is shared with the caller (D1).
func (s *Server) inShared(ctx context.Context, c *call, a api.ARN, key api.Key) (api.Key, error) {
	if a.Kind == api.KindMesh {
		return key, nil
	}
	var owners []string
	if c.principal.Account != a.Account {
		owners = append(owners, c.principal.Account)
	}
	if s.Shares != nil {
		for _, m := range s.Shares.Meshes(c.principal.Account) {
			if m.Mesh == a.Mesh {
				owners = append(owners, m.Owner)
			}
		}
	}
	if owners == nil {
		return key, nil
	}
	for _, owner := range append([]string{a.Account}, owners...) {
		one := key
		one.Owner = owner
		found, err := s.Store.Get(ctx, one)
		if err != nil {
			return key, err
		}
		if found != nil && found.Owner == a.Account {
			return one, nil
		}
	}
	return key, nil
}

// ownTags refuses the tags of what another account created: they are for the account
// that set them alone (SHARE-011, SHARE-023).
func (s *Server) ownTags(c *call, r *api.Resource) error {
	if r.Owner == c.principal.Account {
		return nil
	}
	return auth.Allow(c.principal, c.action, s.Realm.ARN(r.Key, r.Owner))
}

func (s *Server) tag(ctx context.Context, c *call) (any, error) {
	added, err := newTags(c.doc["tags"])
	if err != nil {
		return nil, err
	}
	c.tags = added
	return s.retag(ctx, c, func(tags []api.TagRef) ([]api.TagRef, error) {
		for _, t := range added {
			if i := slices.IndexFunc(tags, func(o api.TagRef) bool { return o.Key == t.Key }); i >= 0 {
				tags[i].Value = t.Value
				continue
			}
			tags = append(tags, t)
		}
		if len(tags) > maxTags {
			return nil, api.Errorf(api.CodeTooManyTags, "The resource would have %d tags; at most %d are allowed.", len(tags), maxTags)
		}
		return tags, nil
	})
}

func (s *Server) untag(ctx context.Context, c *call) (any, error) {
	gone, _ := c.doc["tagKeys"].([]any)
	for _, key := range gone {
		c.untags = append(c.untags, key.(string))
	}
	return s.retag(ctx, c, func(tags []api.TagRef) ([]api.TagRef, error) {
		return slices.DeleteFunc(tags, func(t api.TagRef) bool { return slices.Contains(gone, any(t.Key)) }), nil
	})
}

// retag changes a resource's tags. Tags are not part of the spec: the version
// and the time of the last update stay.
func (s *Server) retag(ctx context.Context, c *call, edit func([]api.TagRef) ([]api.TagRef, error)) (any, error) {
	key, err := s.tagged(ctx, c)
	if err != nil {
		return nil, err
	}
	return s.write(ctx, c, key, func(tx *store.Tx) (any, error) {
		old := tx.Get(key)
		if old == nil {
			return nil, missing(tx, key)
		}
		if err := s.ownTags(c, old); err != nil {
			return nil, err
		}
		made := *old
		if made.Tags, err = edit(slices.Clone(old.Tags)); err != nil {
			return nil, err
		}
		tx.Put(&made)
		return struct{}{}, nil
	})
}

// listTags pages through a resource's tags in the order of insertion.
func (s *Server) listTags(ctx context.Context, c *call) (any, error) {
	key, err := s.tagged(ctx, c)
	if err != nil {
		return nil, err
	}
	token, err := parsePageToken(c.doc)
	if err != nil {
		return nil, err
	}
	given, err := parseGiven(key, token)
	if err != nil {
		return nil, err
	}
	found, err := s.Store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := s.authorize(ctx, c, key, found); err != nil {
		return nil, err
	}
	if found == nil {
		return nil, s.absent(ctx, key)
	}
	if err := s.ownTags(c, found); err != nil {
		return nil, err
	}
	page, more := []api.TagRef{}, false
	now := []byte(tagMark(key, ""))
	for _, t := range found.Tags {
		mark := tagMark(key, t.Key)
		if !given[mark] {
			if len(page) == limitOf(c.doc) {
				more = true
				break
			}
			page = append(page, t)
		}
		now = append(now, mark...)
	}
	out := map[string]any{"tags": page}
	if more {
		out["nextToken"] = pageToken(string(now))
	}
	return out, nil
}

// markSize is the number of bytes that stand for a tag in a token.
const markSize = 8

// tagMark stands for a tag of a resource in a token; that of the empty key,
// which no tag has, for the resource itself.
func tagMark(of api.Key, tag string) string {
	sum := sha256.Sum256([]byte(of.String() + "\n" + tag))
	return string(sum[:markSize])
}

// parseGiven returns the marks of the tags that the pages before held. A token
// is the resource's mark and then theirs, at most fifty: with a place in the
// list, or the last key, tags that go between two pages would make others come
// twice or not at all.
func parseGiven(of api.Key, token string) (map[string]bool, error) {
	if token == "" {
		return nil, nil
	}
	rest, ok := strings.CutPrefix(token, tagMark(of, ""))
	if !ok || rest == "" || len(rest)%markSize != 0 {
		return nil, strangeToken()
	}
	given := map[string]bool{}
	for mark := range slices.Chunk([]byte(rest), markSize) {
		given[string(mark)] = true
	}
	return given, nil
}
