package service_test

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
)

// heard keeps what it was asked.
type heard struct{ keys map[string][]string }

// Authorize satisfies auth.Authorizer.
func (h *heard) Authorize(_ context.Context, q auth.Question) error {
	h.keys = q.Keys
	return nil
}

// However a service writes the key of a tag, policies find it: and only that one, not
// one that looks like it.
func TestConditionKeysHaveNoCase_IAM_010(t *testing.T) {
	h := &heard{}
	request := map[string][]string{"aws:sourceip": {"10.0.0.1"}, "aws:requesttag/team": {"of the request"}}
	c := service.Call{Service: &service.Service{Prefix: "ram"}, Operation: "X", Authorizer: h, Keys: request}
	err := c.Allow(t.Context(), "*", map[string][]string{"aws:RequestTag/Team": {"a"}, "aws:requesttag/team": {"b"}, "aws:RequestTag/\u212aey": {"c"}})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(h.keys["aws:requesttag/team"])
	want := map[string][]string{"aws:sourceip": {"10.0.0.1"}, "aws:requesttag/team": {"a", "b"}, "aws:requesttag/\u212aey": {"c"}}
	if diff := cmp.Diff(want, h.keys); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"of the request"}, request["aws:requesttag/team"]); diff != "" {
		t.Errorf("the request's own keys were changed: %s", diff)
	}
}
