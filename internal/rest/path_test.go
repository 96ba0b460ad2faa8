package rest_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// tricks are what may stand for a name in a path, as it goes over the wire.
var tricks = []string{
	"", ".", "..", "...", "%2e", "%2e%2e", "%2E%2e", "..%2f..", "%2F", "%2f", "a%2Fb", "%5c..%5c", "a%5Cb", "%252e%252e", "%252F",
	"%00", "a%00", "%0a", "%0d%0aX-Evil:%201", "%7f", "%c2%85", "%ff", "%c3%28", "%ed%a0%80", "%e2%80%ae", "*", "**", "{meshName}", "%7Bname...%7D",
	";x=1", "a;b", "a,b", "a:b", "@", "a@b", "%3f", "%23", "%20", "+", "a+b", "%25", "~", "$", "&", "=", "'", "%22", "%3Cscript%3E",
	"%C3%A9", "%E4%B8%96%E7%95%8C", "%F0%9F%95%B8", "arn%3Aaws%3Aappmesh%3Aus-east-1%3A1%3Amesh%2Fm",
}

// Whatever stands where a name belongs, in whichever operation, the answer is an
// error of the API that says what is wrong: no redirect, no fault, no silence,
// and nothing is made or found by it.
func TestPathTricksInEveryOperation(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.mesh(t)
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	all := append([]string{strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("%C3%A9", 255), strings.Repeat("%C3%A9", 256), strings.Repeat("%2e", 300)}, tricks...)
	tried := 0
	for name, op := range m.Operations {
		segments := strings.Split(op.HTTP.RequestURI, "/")
		for i, segment := range segments {
			if !strings.HasPrefix(segment, "{") {
				continue
			}
			for _, trick := range all {
				path := filled(segments, i, trick)
				var a answer
				took := time.Hour
				for range 2 { // once more where the machine was at something else
					start := time.Now()
					a = s.do(t, op.HTTP.Method, path, "")
					if took = min(took, time.Since(start)); took < time.Second {
						break
					}
				}
				tried++
				shown := path[:min(len(path), 120)]
				if a.status < 400 || a.status > 499 || a.header.Get("X-Amzn-Errortype") == "" || a.header.Get("Location") != "" {
					t.Errorf("%s: %s %s: %d %s", name, op.HTTP.Method, shown, a.status, a.body)
				}
				if message, _ := decode(t, a.body)["message"].(string); len(message) < 20 {
					t.Errorf("%s: %s %s says only %q", name, op.HTTP.Method, shown, message)
				}
				if took > 5*time.Second {
					t.Errorf("%s: %s %s took %s", name, op.HTTP.Method, shown, took)
				}
			}
		}
	}
	if tried < 2000 {
		t.Errorf("only %d requests were made", tried)
	}
}

// filled is a path with the trick at one place and names that may exist at the
// others.
func filled(segments []string, at int, trick string) string {
	out := slices.Clone(segments)
	for i, segment := range out {
		if strings.HasPrefix(segment, "{") {
			out[i] = "apps"
		}
	}
	out[at] = trick
	return strings.Join(out, "/")
}

// What names a resource in a body is refused where no path could name it again,
// and is one name in both places where one can.
func TestNamesInBodies(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.mesh(t)
	s.do(t, "PUT", meshes+"/apps/virtualRouters", `{"virtualRouterName": "r", "spec": {}}`).ok(t)
	s.do(t, "PUT", meshes+"/apps/virtualGateways", `{"virtualGatewayName": "g", "spec": {"listeners": []}}`).ok(t)
	for _, row := range api.Kinds() {
		t.Run("API-035 "+row.Type, func(t *testing.T) {
			t.Parallel()
			spec := map[string]any{}
			if row.Kind == api.KindVirtualGateway {
				spec["listeners"] = []any{}
			}
			create := func(name string) answer {
				return s.do(t, "PUT", listPath(row), bodyOf(t, map[string]any{row.Name: name, "spec": spec}))
			}
			for _, name := range []string{"", ".", "..", "a/b", "/", "../..", "a\x00b", "\n", "a\u0085", strings.Repeat("a", 256), strings.Repeat("é", 256)} {
				a := create(name)
				if a.status != http.StatusBadRequest || !strings.Contains(string(a.body), row.Name) {
					t.Errorf("%.20q: %d %s", name, a.status, a.body)
				}
			}
			if row.Nested() {
				return // their specs cannot be empty: what is refused is refused before
			}
			for _, name := range []string{"...", "a..b", " ", "%2e%2e", "a%2Fb", "+", "?", "#", "a;b", "世界", "é", "e\u0301", "\u202e", "🕸", "*", "{x}", strings.Repeat("a", 255), strings.Repeat("世", 255)} {
				create(name).ok(t)
				at := listPath(row) + "/" + url.PathEscape(name)
				if got := s.do(t, "GET", at, "").ok(t)[row.Name]; got != name {
					t.Errorf("%.20q came back as %.20q", name, got)
				}
				if got := s.do(t, "DELETE", at, ""); got.status != http.StatusOK {
					t.Errorf("%.20q is not deleted: %d %s", name, got.status, got.body)
				}
			}
		})
	}
}

// Bodies that are wrong below any operation are refused alike by every operation
// that takes one.
func TestMalformedBodiesInEveryOperation(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.mesh(t)
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string]struct{ body, says string }{
		"cut off":              {`{"spec": {"listeners": [`, "it ends too early"},
		"no value":             {`{"spec": }`, "invalid character"},
		"single quotes":        {`{'spec': {}}`, "invalid character"},
		"a comma too many":     {`{"spec": {},}`, "invalid character"},
		"a comment":            {`{"spec": {} /* none */}`, "invalid character"},
		"not a number":         {`{"spec": NaN}`, "invalid character"},
		"a number's beginning": {`{"spec": 01}`, "invalid character"},
		"a byte order mark":    {"\ufeff{}", "invalid character"},
		"a list":               {`[{"spec": {}}]`, "it is not a JSON object"},
		"a text":               {`"spec"`, "it is not a JSON object"},
		"null":                 {`null`, "it is not a JSON object"},
		"two documents":        {`{"spec": {}}{"spec": {}}`, "something follows the JSON object"},
		"a key twice":          {`{"spec": {}, "spec": {}}`, `key "spec" stands twice in one object`},
		"a key twice, escaped": {`{"spec": {}, "s\u0070ec": {}}`, `key "spec" stands twice in one object`},
		"lists too deep":       {`{"spec": ` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`, "it is nested too deeply"},
		"objects too deep":     {`{"spec": ` + strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000) + `}`, "it is nested too deeply"},
		"deep and cut off":     {strings.Repeat(`[`, 1_000_000), "it is nested too deeply"},
		"zeros":                {strings.Repeat("\x00", 1000), "invalid character"},
		"a control character":  {"{\"spec\": \"\x01\"}", "invalid character"},
	}
	for name, op := range m.Operations {
		if len(m.In(op, "body")) == 0 {
			continue
		}
		path := filled(strings.Split(op.HTTP.RequestURI, "/"), 0, "")
		if name == "TagResource" || name == "UntagResource" {
			path += "?resourceArn=arn:aws:appmesh:us-east-1:" + accountA + ":mesh/apps"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for what, b := range bodies {
				a := s.do(t, op.HTTP.Method, path, b.body)
				if a.status != 400 || a.header.Get("X-Amzn-Errortype") != "BadRequestException" || !strings.Contains(strings.ReplaceAll(string(a.body), `\"`, `"`), "The request's body is not valid: "+b.says) {
					t.Errorf("%s: %d %.200s", what, a.status, a.body)
				}
			}
			for _, method := range []string{"PATCH", "TRACE", "BREW"} {
				if a := s.do(t, method, path, ""); a.status != 405 {
					t.Errorf("%s: %d %s", method, a.status, a.body)
				}
			}
		})
	}
}
