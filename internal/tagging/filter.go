package tagging

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/taggingapi"
)

// filter is which resources are wanted: of each list that is given, one has to fit; of
// tags, all keys have to.
type filter struct {
	arns  []string
	kinds []api.Kind // nil for all
	tags  []taggingapi.TagFilter
}

// prefix is that of App Mesh's types: appmesh:mesh, appmesh:virtualNode.
const prefix = "appmesh"

func newFilter(in *taggingapi.GetResourcesInput) (filter, error) {
	f := filter{arns: in.ResourceARNLIst, tags: in.TagFilters}
	if len(f.arns) > 0 && (len(f.tags) > 0 || len(in.ResourceTypeFilters) > 0 || in.ResourcesPerPage != nil || in.TagsPerPage != nil || in.PaginationToken != nil && *in.PaginationToken != "") {
		return f, api.Errorf(taggingapi.CodeInvalidParameter, "ResourceARNList cannot be used together with filters or pages.")
	}
	switch {
	case in.ResourcesPerPage != nil && in.TagsPerPage != nil:
		return f, api.Errorf(taggingapi.CodeInvalidParameter, "ResourcesPerPage and TagsPerPage cannot be used together.")
	case in.ResourcesPerPage != nil && (*in.ResourcesPerPage < 1 || *in.ResourcesPerPage > 100):
		return f, api.Errorf(taggingapi.CodeInvalidParameter, "ResourcesPerPage must be from 1 to 100.")
	case in.TagsPerPage != nil && (*in.TagsPerPage < 100 || *in.TagsPerPage > 500 || *in.TagsPerPage%100 != 0):
		return f, api.Errorf(taggingapi.CodeInvalidParameter, "TagsPerPage must be from 100 to 500, in steps of 100.")
	case in.ExcludeCompliantResources != nil && *in.ExcludeCompliantResources && (in.IncludeComplianceDetails == nil || !*in.IncludeComplianceDetails):
		return f, api.Errorf(taggingapi.CodeInvalidParameter, "ExcludeCompliantResources needs IncludeComplianceDetails.")
	}
	for _, t := range f.tags {
		if t.Key == "" {
			return f, api.Errorf(taggingapi.CodeInvalidParameter, "A tag filter needs a key.")
		}
	}
	if len(in.ResourceTypeFilters) > 0 {
		f.kinds = []api.Kind{}
	}
	for _, t := range in.ResourceTypeFilters {
		kinds, err := kindsOf(t)
		if err != nil {
			return f, err
		}
		f.kinds = append(f.kinds, kinds...)
	}
	return f, nil
}

// kindsOf are the kinds that a type filter means: none for another service, all for
// appmesh.
func kindsOf(filter string) ([]api.Kind, error) {
	service, name, typed := strings.Cut(filter, ":")
	if service != prefix {
		return nil, nil
	}
	var all []api.Kind
	for _, row := range api.Kinds() {
		word := strings.TrimPrefix(name, "mesh/")
		if string(row.Kind) == word {
			return []api.Kind{row.Kind}, nil
		}
		all = append(all, row.Kind)
	}
	if typed {
		return nil, api.Errorf(taggingapi.CodeInvalidParameter, "%s is no type of resources of App Mesh: use appmesh:mesh, appmesh:virtualNode and so on.", filter)
	}
	return all, nil
}

func (f filter) matches(r tagged) bool {
	if f.arns != nil && !slices.Contains(f.arns, r.arn) || f.kinds != nil && !slices.Contains(f.kinds, r.kind) {
		return false
	}
	for _, wanted := range f.tags {
		if !slices.ContainsFunc(r.tags, func(t api.TagRef) bool {
			return t.Key == wanted.Key && (len(wanted.Values) == 0 || slices.Contains(wanted.Values, t.Value))
		}) {
			return false
		}
	}
	return true
}
