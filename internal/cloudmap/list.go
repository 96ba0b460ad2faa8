package cloudmap

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
)

// mostListed is how long a page of a list is, at most and by default.
const mostListed = 100

func invalid(format string, args ...any) *api.Error {
	return api.Errorf(cloudmapapi.CodeInvalidInput, format, args...)
}

// paged is the page of a list behind a token, which names the last item of the
// page before by its key (D2). Items are in the order of their keys.
func paged[T any](all []T, token *string, most *int64, otherwise int, key func(T) string) (page []T, next *string, err error) {
	if token != nil && *token != "" {
		last, err := base64.RawURLEncoding.DecodeString(*token)
		if err != nil {
			return nil, nil, invalid("The NextToken is not one that this list gave out: repeat the list without it.")
		}
		i := slices.IndexFunc(all, func(item T) bool { return key(item) > string(last) })
		if i < 0 {
			i = len(all)
		}
		all = all[i:]
	}
	limit := otherwise
	if most != nil {
		limit = int(*most)
	}
	if len(all) <= limit {
		return all, nil, nil
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(key(all[limit-1])))
	return all[:limit], &text, nil
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
