package rest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"github.com/evermesh/evermesh/internal/rest"
)

const reused = "The client token was used before with another input: use a new token for a new request."

func TestClientTokens(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.mesh(t)
	nodes := meshes + "/apps/virtualNodes"
	t.Run("API-031 a repeated create gets the first answer", func(t *testing.T) {
		t.Parallel()
		first := s.do(t, "PUT", nodes, `{"virtualNodeName": "a", "clientToken": "create", "spec": {}}`)
		first.ok(t)
		again := s.do(t, "PUT", nodes, `{"spec": {}, "virtualNodeName": "a", "clientToken": "create"}`)
		if !bytes.Equal(first.body, again.body) {
			t.Errorf("first %s\nagain %s", first.body, again.body)
		}
	})
	t.Run("API-031 with another input it is a conflict", func(t *testing.T) {
		t.Parallel()
		s.do(t, "PUT", nodes, `{"virtualNodeName": "b", "clientToken": "other", "spec": {}}`).ok(t)
		s.do(t, "PUT", nodes, `{"virtualNodeName": "b", "clientToken": "other", "spec": {"backends": []}}`).refused(t, 409, "ConflictException", reused)
		s.do(t, "PUT", nodes, `{"virtualNodeName": "c", "clientToken": "other", "spec": {}}`).refused(t, 409, "ConflictException", reused)
		s.do(t, "PUT", meshes, `{"meshName": "b", "clientToken": "other"}`).refused(t, 409, "ConflictException", reused)
	})
	t.Run("API-031 a repeated update counts no version", func(t *testing.T) {
		t.Parallel()
		s.do(t, "PUT", nodes, `{"virtualNodeName": "d", "spec": {}}`).ok(t)
		for range 2 {
			s.do(t, "PUT", nodes+"/d", `{"clientToken": "update", "spec": {"backends": []}}`).ok(t)
		}
		if got := s.do(t, "GET", nodes+"/d", "").ok(t); fmt.Sprint(at(got, "metadata", "version")) != "2" {
			t.Errorf("got %v", got)
		}
		s.do(t, "PUT", nodes+"/d", `{"spec": {}}`).ok(t)
		s.do(t, "PUT", nodes+"/d", `{"clientToken": "update", "spec": {"backends": []}}`).ok(t)
		if got := s.do(t, "GET", nodes+"/d", "").ok(t); fmt.Sprint(at(got, "metadata", "version")) != "3" {
			t.Errorf("a late repeat wrote again: %v", got)
		}
	})
	t.Run("API-031 the token of a resource that is gone", func(t *testing.T) {
		t.Parallel()
		first := s.do(t, "PUT", nodes, `{"virtualNodeName": "e", "clientToken": "gone", "spec": {}}`)
		s.do(t, "DELETE", nodes+"/e", "").ok(t)
		if again := s.do(t, "PUT", nodes, `{"virtualNodeName": "e", "clientToken": "gone", "spec": {}}`); !bytes.Equal(first.body, again.body) {
			t.Errorf("first %s\nagain %s", first.body, again.body)
		}
		if a := s.do(t, "GET", nodes+"/e", ""); a.status != 404 {
			t.Errorf("the repeat made it again: %s", a.body)
		}
	})
	t.Run("a refused request leaves its token free", func(t *testing.T) {
		t.Parallel()
		s.do(t, "PUT", meshes+"/apps/virtualRouter/later/routes", `{"routeName": "x", "clientToken": "refused", "spec": {}}`).refused(t, 404, "NotFoundException", "VirtualRouter with name later is not present under mesh apps for account 111111111111")
		s.do(t, "PUT", nodes, `{"virtualNodeName": "f", "clientToken": "refused", "spec": {}}`).ok(t)
	})
	t.Run("two accounts may use one token", func(t *testing.T) {
		t.Parallel()
		s.do(t, "PUT", meshes, `{"meshName": "mine", "clientToken": "both"}`).ok(t)
		s.as(t, accountB, "PUT", meshes, `{"meshName": "yours", "clientToken": "both"}`).ok(t)
	})
	t.Run("API-031 many at once make one", func(t *testing.T) {
		t.Parallel()
		answers := make([]answer, 16)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() {
				answers[i] = s.do(t, "PUT", nodes, `{"virtualNodeName": "g", "clientToken": "many", "spec": {}}`)
			})
		}
		all.Wait()
		for _, a := range answers {
			a.ok(t)
			if !bytes.Equal(a.body, answers[0].body) {
				t.Errorf("got %s\nand %s", a.body, answers[0].body)
			}
		}
	})
}

func TestTags(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	const arn = "?resourceArn=arn:aws:appmesh:us-east-1:111111111111:mesh/apps"
	tags := func(t *testing.T) string {
		t.Helper()
		a := s.do(t, "GET", "/v20190125/tags"+arn, "")
		a.ok(t)
		return string(a.body)
	}
	s.do(t, "PUT", meshes, `{"meshName": "apps", "tags": [{"key": "z", "value": "1"}, {"key": "a", "value": ""}]}`).ok(t)
	t.Run("API-032 given with the creation, in the order of insertion", func(t *testing.T) {
		if got := tags(t); got != `{"tags":[{"key":"z","value":"1"},{"key":"a","value":""}]}` {
			t.Errorf("got %s", got)
		}
	})
	t.Run("replaced in place, added, removed", func(t *testing.T) {
		s.do(t, "PUT", "/v20190125/tag"+arn, `{"tags": [{"key": "z", "value": "2"}, {"key": "m", "value": "3"}]}`).ok(t)
		s.do(t, "PUT", "/v20190125/untag"+arn, `{"tagKeys": ["a", "none"]}`).ok(t)
		if got := tags(t); got != `{"tags":[{"key":"z","value":"2"},{"key":"m","value":"3"}]}` {
			t.Errorf("got %s", got)
		}
	})
	t.Run("TAG-005 not part of a description, nor a version", func(t *testing.T) {
		got := s.do(t, "GET", meshes+"/apps", "").ok(t)
		if fmt.Sprint(at(got, "metadata", "version")) != "1" || got["tags"] != nil {
			t.Errorf("got %v", got)
		}
	})
	t.Run("API-032 a refused creation leaves none", func(t *testing.T) {
		s.do(t, "PUT", meshes, `{"meshName": "twice", "tags": [{"key": "k", "value": "1"}, {"key": "k", "value": "2"}]}`).refused(t, 400, "BadRequestException", `The tag key "k" stands twice in the request.`)
		s.do(t, "GET", meshes+"/twice", "").refused(t, 404, "NotFoundException", "Mesh with name twice is not present for account 111111111111")
	})
	t.Run("reserved keys", func(t *testing.T) {
		s.do(t, "PUT", "/v20190125/tag"+arn, `{"tags": [{"key": "AWS:x", "value": "1"}]}`).refused(t, 400, "BadRequestException", `The tag key "AWS:x" cannot be used: keys that begin with aws: are reserved.`)
	})
	t.Run("TAG-002 at most fifty", func(t *testing.T) {
		for i := range 48 {
			s.do(t, "PUT", "/v20190125/tag"+arn, fmt.Sprintf(`{"tags": [{"key": "k%02d", "value": ""}]}`, i)).ok(t)
		}
		s.do(t, "PUT", "/v20190125/tag"+arn, `{"tags": [{"key": "one more", "value": ""}]}`).refused(t, 400, "TooManyTagsException", "The resource would have 51 tags; at most 50 are allowed.")
		s.do(t, "PUT", "/v20190125/tag"+arn, `{"tags": [{"key": "z", "value": "again"}]}`).ok(t)
	})
	t.Run("API-030 tags are paged", func(t *testing.T) {
		n, token := 0, ""
		for {
			page := s.do(t, "GET", "/v20190125/tags"+arn+"&limit=20"+token, "").ok(t)
			n += len(page["tags"].([]any))
			next, more := page["nextToken"].(string)
			if !more {
				break
			}
			token = "&nextToken=" + next
		}
		if n != 50 {
			t.Errorf("%d tags, want 50", n)
		}
	})
	t.Run("of what is not there", func(t *testing.T) {
		s.do(t, "GET", "/v20190125/tags"+arn+"/virtualNode/n", "").refused(t, 404, "NotFoundException", "VirtualNode with name n is not present under mesh apps for account 111111111111")
	})
	t.Run("of what is no ARN", func(t *testing.T) {
		s.do(t, "GET", "/v20190125/tags?resourceArn=mesh/apps", "").refused(t, 400, "BadRequestException", `The resourceArn is not valid: "mesh/apps" is not an ARN: want arn:partition:appmesh:region:account:mesh/….`)
	})
}

// Tags that come and go between pages neither repeat nor hide those that stay.
func TestTagsChangeMeanwhile(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	const of = "?resourceArn=arn:aws:appmesh:us-east-1:111111111111:mesh/"
	page := func(t *testing.T, mesh, query string) (keys, token string) {
		t.Helper()
		got := s.do(t, "GET", "/v20190125/tags"+of+mesh+query, "").ok(t)
		for _, tag := range got["tags"].([]any) {
			keys += at(tag, "key").(string)
		}
		token, _ = got["nextToken"].(string)
		return keys, token
	}
	for i, c := range []struct{ name, untag, tag, first, second string }{
		{"nothing changes", `"none"`, "", "ba", "dc"},
		{"the last of the page goes", `"a"`, "", "ba", "dc"},
		{"the whole page goes", `"a", "b"`, "", "ba", "dc"},
		{"one of the next page goes", `"d"`, "", "ba", "c"},
		{"all that follow go", `"d", "c"`, "", "ba", ""},
		{"one goes and another comes", `"b"`, "e", "ba", "dce"},
		{"one of the page goes and comes back", `"b"`, "b", "ba", "dc"},
	} {
		t.Run("API-030 "+c.name, func(t *testing.T) {
			t.Parallel()
			mesh := fmt.Sprintf("m%d", i)
			s.do(t, "PUT", meshes, `{"meshName": "`+mesh+`", "tags": [{"key": "b", "value": ""}, {"key": "a", "value": ""}, {"key": "d", "value": ""}, {"key": "c", "value": ""}]}`).ok(t)
			first, token := page(t, mesh, "&limit=2")
			s.do(t, "PUT", "/v20190125/untag"+of+mesh, `{"tagKeys": [`+c.untag+`]}`).ok(t)
			if c.tag != "" {
				s.do(t, "PUT", "/v20190125/tag"+of+mesh, `{"tags": [{"key": "`+c.tag+`", "value": ""}]}`).ok(t)
			}
			second, last := page(t, mesh, "&nextToken="+token)
			if first != c.first || second != c.second || last != "" {
				t.Errorf("got %s and %s %s, want %s and %s", first, second, last, c.first, c.second)
			}
		})
	}
	t.Run("a token of nobody", func(t *testing.T) {
		t.Parallel()
		for _, mesh := range []string{"x", "y"} {
			s.do(t, "PUT", meshes, `{"meshName": "`+mesh+`", "tags": [{"key": "a", "value": ""}, {"key": "b", "value": ""}]}`).ok(t)
		}
		_, token := page(t, "x", "&limit=1")
		for _, wrong := range []string{"y&nextToken=" + token, "x&nextToken=enp6", "x&nextToken=" + token + "enp6", "x&nextToken=" + token[:11]} {
			a := s.do(t, "GET", "/v20190125/tags"+of+wrong, "")
			if a.status != 400 || a.header.Get("X-Amzn-ErrorType") != "BadRequestException" {
				t.Errorf("%s: got %d %s", wrong, a.status, a.body)
			}
		}
	})
}

// A repeat may reach a replica of another release: what tells inputs apart is what it was
// in all of them, the hash of package json's text.
func TestFingerprintsStayAsTheyWere(t *testing.T) {
	for name, input := range map[string]map[string]any{
		"texts":    {"meshName": "apps", "virtualNodeName": "é \"quoted\" \u2028"},
		"escapes":  {"meshName": "<a>&b"},
		"a spec":   {"routeName": "r", "spec": json.RawMessage(`{"priority":1,"a":[true,null,1.50]}`)},
		"HTML":     {"spec": json.RawMessage(`{"prefix":"<&>"}`)},
		"anything": {"tags": []any{map[string]any{"key": "k", "value": "v"}}, "limit": json.Number("10")},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := json.Marshal(input)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(append([]byte("CreateNode\n"), text...))
			input["clientToken"] = "token"
			got, err := rest.Fingerprint("CreateNode", input)
			if want := hex.EncodeToString(sum[:]); err != nil || got != want {
				t.Errorf("got %s, %v, want %s", got, err, want)
			}
		})
	}
}
