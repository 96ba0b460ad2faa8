package service

import (
	"iter"
	"maps"
	"slices"

	"github.com/evermesh/evermesh/internal/policy"
)

// Pairs are the keys and values of tags, whatever type a service has for them.
func Pairs[T any](tags []T, of func(T) (key, value string)) iter.Seq2[string, string] {
	return func(yield func(key, value string) bool) {
		for _, t := range tags {
			if !yield(of(t)) {
				return
			}
		}
	}
}

// RequestTags are the condition keys of tags that a request gives: aws:requesttag/K
// and aws:tagkeys. There are none without tags.
func RequestTags(tags iter.Seq2[string, string]) map[string][]string {
	out := TagKeys(tags, "aws:requesttag/")
	for key := range tags {
		out["aws:tagkeys"] = append(out["aws:tagkeys"], key)
	}
	slices.Sort(out["aws:tagkeys"])
	return out
}

// TagKeys are the condition keys of tags under prefixes, such as aws:resourcetag/ for
// those that a resource has, by the names that policies compare. Tags that differ in
// case alone have one condition key, with the values of all.
func TagKeys(tags iter.Seq2[string, string], prefixes ...string) map[string][]string {
	out := map[string][]string{}
	for key, value := range tags {
		for _, prefix := range prefixes {
			name := policy.KeyName(prefix + key)
			out[name] = append(out[name], value)
		}
	}
	return out
}

// Keys are condition keys of several places in one; of one key the last place counts.
func Keys(places ...map[string][]string) map[string][]string {
	out := map[string][]string{}
	for _, keys := range places {
		maps.Copy(out, keys)
	}
	return out
}
