package rest_test

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestLists(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.mesh(t)
	var names []string
	for i := range 7 {
		name := fmt.Sprintf("n%d", i)
		if i == 3 {
			name = "n 3%+ü" // sorts before digits in the store too
		}
		names = append(names, name)
		s.do(t, "PUT", meshes+"/apps/virtualNodes", fmt.Sprintf(`{"virtualNodeName": %q, "spec": {}}`, name)).ok(t)
	}
	nodes := meshes + "/apps/virtualNodes"
	t.Run("API-030 pages of any size hold everything once", func(t *testing.T) {
		t.Parallel()
		for limit := 1; limit <= 8; limit++ {
			var got []string
			token := ""
			for pages := 0; ; pages++ {
				page := s.do(t, "GET", fmt.Sprintf("%s?limit=%d%s", nodes, limit, token), "").ok(t)
				list := page["virtualNodes"].([]any)
				if len(list) > limit || pages > 7 {
					t.Fatalf("limit %d: page %d has %d items", limit, pages, len(list))
				}
				for _, item := range list {
					got = append(got, at(item, "virtualNodeName").(string))
				}
				next, more := page["nextToken"].(string)
				if !more {
					break
				}
				token = "&nextToken=" + url.QueryEscape(next)
			}
			slices.Sort(got)
			if want := slices.Sorted(slices.Values(names)); !slices.Equal(got, want) {
				t.Errorf("limit %d: got %v, want %v", limit, got, want)
			}
		}
	})
	t.Run("API-030 a full last page has no token", func(t *testing.T) {
		t.Parallel()
		if page := s.do(t, "GET", nodes+"?limit=7", "").ok(t); page["nextToken"] != nil || len(page["virtualNodes"].([]any)) != 7 {
			t.Errorf("got %v", page)
		}
	})
	t.Run("API-030 the bounds of limit", func(t *testing.T) {
		t.Parallel()
		s.do(t, "GET", nodes+"?limit=100", "").ok(t)
		s.do(t, "GET", nodes+"?limit=1", "").ok(t)
		s.do(t, "GET", nodes+"?limit=0", "").refused(t, 400, "BadRequestException", "1 validation error detected: Value '0' at 'limit' failed to satisfy constraint: Member must have value greater than or equal to 1")
		s.do(t, "GET", nodes+"?limit=101", "").refused(t, 400, "BadRequestException", "1 validation error detected: Value '101' at 'limit' failed to satisfy constraint: Member must have value less than or equal to 100")
		s.do(t, "GET", nodes+"?limit=ten", "").refused(t, 400, "BadRequestException", "1 validation error detected: Value 'ten' at 'limit' failed to satisfy constraint: Member must be a whole number")
		s.do(t, "GET", nodes+"?limit=1&limit=2", "").refused(t, 400, "BadRequestException", "The query parameter limit stands 2 times in the request.")
	})
	t.Run("a token of nobody", func(t *testing.T) {
		t.Parallel()
		s.do(t, "GET", nodes+"?nextToken=!", "").refused(t, 400, "BadRequestException", "The nextToken is not one that this service gave out: repeat the list without it.")
		s.do(t, "GET", nodes+"?nextToken=%0A", "").refused(t, 400, "BadRequestException", "The nextToken is not one that this service gave out: repeat the list without it.")
		nobody := base64.RawURLEncoding.EncodeToString([]byte(accountA + "/apps/virtualNode/"))
		s.do(t, "GET", nodes+"?nextToken="+nobody, "").refused(t, 400, "BadRequestException", "The nextToken is not one that this list gave out: repeat the list without it.")
		s.do(t, "GET", nodes+"?nextToken=YWJj", "").refused(t, 400, "BadRequestException", "The nextToken is not one that this list gave out: repeat the list without it.")
	})
	t.Run("a token of another list", func(t *testing.T) {
		t.Parallel()
		token := s.do(t, "GET", nodes+"?limit=1", "").ok(t)["nextToken"].(string)
		s.do(t, "GET", meshes+"/apps/virtualRouters?nextToken="+token, "").refused(t, 400, "BadRequestException", "The nextToken is not one that this list gave out: repeat the list without it.")
	})
	t.Run("API-034 a list of what is not there", func(t *testing.T) {
		t.Parallel()
		s.do(t, "GET", meshes+"/none/virtualNodes", "").refused(t, 404, "NotFoundException", "Mesh with name none is not present for account 111111111111")
		s.do(t, "GET", meshes+"/apps/virtualRouter/none/routes", "").refused(t, 404, "NotFoundException", "VirtualRouter with name none is not present under mesh apps for account 111111111111")
	})
	t.Run("an empty list", func(t *testing.T) {
		t.Parallel()
		if a := s.do(t, "GET", meshes+"/apps/virtualServices", ""); string(a.body) != `{"virtualServices":[]}` {
			t.Errorf("got %s", a.body)
		}
	})
}

// A list that changes between pages neither repeats nor skips what stays.
func TestListChangesMeanwhile(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.mesh(t)
	nodes := meshes + "/apps/virtualNodes"
	for _, name := range []string{"b", "d", "f", "h"} {
		s.do(t, "PUT", nodes, `{"virtualNodeName": "`+name+`", "spec": {}}`).ok(t)
	}
	first := s.do(t, "GET", nodes+"?limit=2", "").ok(t)
	s.do(t, "DELETE", nodes+"/d", "").ok(t) // the last of the page
	s.do(t, "PUT", nodes, `{"virtualNodeName": "a", "spec": {}}`).ok(t)
	second := s.do(t, "GET", nodes+"?nextToken="+first["nextToken"].(string), "").ok(t)
	var got []string
	for _, item := range second["virtualNodes"].([]any) {
		got = append(got, at(item, "virtualNodeName").(string))
	}
	if strings.Join(got, "") != "fh" {
		t.Errorf("got %v, want f and h", got)
	}
}

func TestMeshesArePaged(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	for i := range 5 {
		s.do(t, "PUT", meshes, fmt.Sprintf(`{"meshName": "m%d"}`, i)).ok(t)
	}
	t.Run("API-030 meshes, with their owners", func(t *testing.T) {
		first := s.do(t, "GET", meshes+"?limit=3", "").ok(t)
		second := s.do(t, "GET", meshes+"?limit=3&nextToken="+first["nextToken"].(string), "").ok(t)
		if second["nextToken"] != nil {
			t.Errorf("a third page: %v", second)
		}
		for i, item := range append(first["meshes"].([]any), second["meshes"].([]any)...) {
			if at(item, "meshName") != fmt.Sprintf("m%d", i) || at(item, "meshOwner") != accountA || at(item, "resourceOwner") != accountA {
				t.Errorf("item %d is %v", i, item)
			}
		}
	})
}
