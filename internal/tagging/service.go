package tagging

import (
	"context"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/taggingapi"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/service"
)

// Server answers the Tagging API. All fields are required.
type Server struct {
	Realm api.Realm
	// Snapshot is every resource as it is now, or later.
	Snapshot func(context.Context) (*mesh.Snapshot, error)
	// Shared says whether a mesh of another account's is shared with one.
	Shared func(account string, mesh api.Key) bool
	// Do does an operation of App Mesh for who called.
	Do func(ctx context.Context, asked *service.Call, operation string, input map[string]any) (any, error)
}

// Service offers the operations.
func (s *Server) Service() (*service.Service, error) {
	return service.New("tagging", "tag", map[string]service.Operation{
		"GetResources":   service.Read(s.getResources),
		"GetTagKeys":     service.Read(s.getKeys),
		"GetTagValues":   service.Read(s.getValues),
		"TagResources":   service.Op(s.tag),
		"UntagResources": service.Op(s.untag),
	})
}

// tagged is a resource with tags and its ARN.
type tagged struct {
	arn  string
	kind api.Kind
	tags []api.TagRef
}

// mine are the resources with tags that an account created, in its own meshes and in
// those that are shared with it, sorted by ARN. When a share has ended they are the
// owner's of the mesh to read (SHARE-019).
func (s *Server) mine(ctx context.Context, account string) ([]tagged, error) {
	snapshot, err := s.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	var out []tagged
	for r := range snapshot.All() {
		if r.Owner == account && len(r.Tags) > 0 && (r.Key.Owner == account || s.Shared(account, r.Key.MeshKey())) {
			out = append(out, tagged{s.Realm.ARN(r.Key, r.Owner), r.Key.Kind, r.Tags})
		}
	}
	slices.SortFunc(out, func(a, b tagged) int { return strings.Compare(a.arn, b.arn) })
	return out, nil
}

const (
	// perPage is how many resources a page has by itself.
	perPage = 50
	// wordsPerPage is how many keys or values a page has.
	wordsPerPage = 500
)

func (s *Server) getResources(ctx context.Context, c *service.Call, in *taggingapi.GetResourcesInput) (*taggingapi.GetResourcesOutput, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	wanted, err := newFilter(in)
	if err != nil {
		return nil, err
	}
	after, err := behind(in.PaginationToken)
	if err != nil {
		return nil, err
	}
	all, err := s.mine(ctx, c.Principal.Account)
	if err != nil {
		return nil, err
	}
	page := perPage
	if in.ResourcesPerPage != nil {
		page = int(*in.ResourcesPerPage)
	}
	tags := 0
	out := &taggingapi.GetResourcesOutput{PaginationToken: new(""), ResourceTagMappingList: []taggingapi.ResourceTagMapping{}}
	for _, r := range all {
		if r.arn <= after || !wanted.matches(r) {
			continue
		}
		tags += len(r.tags)
		n := len(out.ResourceTagMappingList)
		if n > 0 && (n == page || in.TagsPerPage != nil && tags > int(*in.TagsPerPage)) {
			out.PaginationToken = service.Token(out.ResourceTagMappingList[n-1].ResourceARN)
			break
		}
		m := taggingapi.ResourceTagMapping{ResourceARN: r.arn, Tags: []taggingapi.Tag{}}
		for _, t := range r.tags {
			m.Tags = append(m.Tags, taggingapi.Tag{Key: t.Key, Value: t.Value})
		}
		if in.IncludeComplianceDetails != nil && *in.IncludeComplianceDetails {
			m.ComplianceDetails = &taggingapi.ComplianceDetails{ComplianceStatus: new(true)} // there are no tag policies
		}
		out.ResourceTagMappingList = append(out.ResourceTagMappingList, m)
	}
	if in.ExcludeCompliantResources != nil && *in.ExcludeCompliantResources {
		out.ResourceTagMappingList, out.PaginationToken = []taggingapi.ResourceTagMapping{}, new("")
	}
	return out, nil
}

func (s *Server) getKeys(ctx context.Context, c *service.Call, in *taggingapi.GetTagKeysInput) (*taggingapi.GetTagKeysOutput, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	page, next, err := s.words(ctx, c.Principal.Account, in.PaginationToken, func(t api.TagRef) (string, bool) { return t.Key, true })
	return &taggingapi.GetTagKeysOutput{TagKeys: page, PaginationToken: next}, err
}

func (s *Server) getValues(ctx context.Context, c *service.Call, in *taggingapi.GetTagValuesInput) (*taggingapi.GetTagValuesOutput, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	page, next, err := s.words(ctx, c.Principal.Account, in.PaginationToken, func(t api.TagRef) (string, bool) { return t.Value, t.Key == in.Key })
	return &taggingapi.GetTagValuesOutput{TagValues: page, PaginationToken: next}, err
}

// words is a page of the texts that are taken from an account's tags, sorted, each once.
func (s *Server) words(ctx context.Context, account string, given *string, take func(api.TagRef) (string, bool)) ([]string, *string, error) {
	after, err := behind(given)
	if err != nil {
		return nil, nil, err
	}
	all, err := s.mine(ctx, account)
	if err != nil {
		return nil, nil, err
	}
	words := []string{}
	for _, r := range all {
		for _, t := range r.tags {
			if word, ok := take(t); ok && (given == nil || *given == "" || word > after) {
				words = append(words, word)
			}
		}
	}
	slices.Sort(words)
	words = slices.Compact(words)
	if len(words) > wordsPerPage {
		return words[:wordsPerPage], service.Token(words[wordsPerPage-1]), nil
	}
	return words, new(""), nil
}

// behind is the key that a token continues after; none, and an empty one, begin.
func behind(token *string) (after string, err error) {
	after, ok := service.After(token)
	if !ok {
		return "", api.Errorf(taggingapi.CodeInvalidParameter, "The PaginationToken is not one that an answer had.")
	}
	return after, nil
}
