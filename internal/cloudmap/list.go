package cloudmap

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/service"
)

// mostListed is how long a page of a list is, at most and by default.
const mostListed = 100

func invalid(format string, args ...any) *api.Error {
	return api.Errorf(cloudmapapi.CodeInvalidInput, format, args...)
}

// paged is a page of a list, whose items are in the order of their keys.
func paged[T any](all []T, token *string, most *int64, key func(T) string) (page []T, next *string, err error) {
	page, next, ok := service.Page(all, key, token, most, mostListed)
	if !ok {
		return nil, nil, invalid("The NextToken is not one that this list gave out: repeat the list without it.")
	}
	return page, next, nil
}

// condition is whether a value passes a filter; EQ is what is not said.
func condition(filter string, with cloudmapapi.FilterCondition, values []string, may ...cloudmapapi.FilterCondition) (func(string) bool, error) {
	if with == "" {
		with = cloudmapapi.FilterConditionEq
	}
	if !slices.Contains(may, with) {
		return nil, invalid("The filter %s does not take the condition %s.", filter, with)
	}
	if len(values) == 0 || len(values) > 1 && with != cloudmapapi.FilterConditionIn {
		return nil, invalid("The filter %s has %d values: want one for %s.", filter, len(values), with)
	}
	switch with {
	case cloudmapapi.FilterConditionBeginsWith:
		return func(v string) bool { return strings.HasPrefix(v, values[0]) }, nil
	case cloudmapapi.FilterConditionIn:
		return func(v string) bool { return slices.Contains(values, v) }, nil
	}
	return func(v string) bool { return v == values[0] }, nil
}

// owned is whether the caller's own things pass a filter RESOURCE_OWNER; there
// are none of other accounts, as namespaces are not shared.
func owned(values []string) (bool, error) {
	for _, v := range values {
		if v != "SELF" && v != "OTHER_ACCOUNTS" {
			return false, invalid("The filter RESOURCE_OWNER has the value %q: want SELF or OTHER_ACCOUNTS.", v)
		}
	}
	return slices.Contains(values, "SELF"), nil
}

// both is whether a value passes two conditions.
func both(a, b func(string) bool) func(string) bool {
	if a == nil {
		return b
	}
	return func(v string) bool { return a(v) && b(v) }
}
