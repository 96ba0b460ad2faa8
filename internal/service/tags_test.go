package service_test

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/service"
)

// A key that differs from another in case alone does not hide that one's value.
func TestKeysOfTags_IAM_010(t *testing.T) {
	tags := maps.All(map[string]string{"Team": "a", "team": "a", "\u212aey": "b"})
	want := map[string][]string{
		"aws:requesttag/team": {"a", "a"}, "aws:requesttag/\u212aey": {"b"}, "aws:tagkeys": {"Team", "team", "\u212aey"},
	}
	if diff := cmp.Diff(want, service.RequestTags(tags)); diff != "" {
		t.Error(diff)
	}
	want = map[string][]string{"aws:resourcetag/team": {"a", "a"}, "aws:resourcetag/\u212aey": {"b"}}
	if diff := cmp.Diff(want, service.TagKeys(tags, "aws:resourcetag/")); diff != "" {
		t.Error(diff)
	}
	if got := service.RequestTags(maps.All(map[string]string{})); len(got) != 0 {
		t.Errorf("no tags have the keys %q", got)
	}
}
