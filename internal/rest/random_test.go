package rest_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/model/modeltest"
)

// Documents that follow from the model, sent over HTTP to a server before etcd.
// EVERMESH_DOCUMENTS is how many broken ones are drawn; a fifth as many valid ones are.

func documents(t *testing.T) int {
	t.Helper()
	text, set := os.LookupEnv("EVERMESH_DOCUMENTS")
	if !set {
		return 10_000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// documented is a server with what the documents refer to, and its model.
func documented(t *testing.T) (*server, *model.Model) {
	t.Helper()
	s := serve(t, nil)
	s.mesh(t)
	s.do(t, "PUT", meshes+"/apps/virtualNodes", `{"virtualNodeName": "n", "spec": {}}`).ok(t)
	s.do(t, "PUT", meshes+"/apps/virtualRouters", `{"virtualRouterName": "r", "spec": {}}`).ok(t)
	s.do(t, "PUT", meshes+"/apps/virtualServices", `{"virtualServiceName": "s", "spec": {}}`).ok(t)
	s.do(t, "PUT", meshes+"/apps/virtualGateways", `{"virtualGatewayName": "g", "spec": {"listeners": []}}`).ok(t)
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	return s, m
}

// Whatever valid document is written, the answers to create, describe and update
// have it unchanged.
func TestValidDocumentsRoundTrip(t *testing.T) {
	t.Parallel()
	s, m := documented(t)
	taken, refused := map[string]int{}, map[string]int{}
	n := 0
	// roundTrip creates or updates and reads back; rules may refuse what the model takes.
	roundTrip := func(try rapid.TB, row api.KindRow, doc map[string]any) bool {
		n++
		name := fmt.Sprintf("x%d", n)
		a := s.do(t, "PUT", listPath(row), bodyOf(t, map[string]any{row.Name: name, "spec": doc}))
		if a.status != 200 {
			if a.status >= 500 || a.header.Get("X-Amzn-Errortype") == "" {
				try.Fatalf("%v\ngot %d %s", doc, a.status, a.body)
			}
			refused[row.Type+": "+string(a.body)]++
			return false
		}
		taken[row.Type]++
		want := decode(t, []byte(bodyOf(t, doc)))
		at := listPath(row) + "/" + name
		for verb, got := range map[string]answer{
			"create": a, "describe": s.do(t, "GET", at, ""), "update": s.do(t, "PUT", at, bodyOf(t, map[string]any{"spec": doc})), "delete": s.do(t, "DELETE", at, ""),
		} {
			if got.status != 200 {
				try.Fatalf("%s of %s: %d %s", verb, at, got.status, got.body)
			}
			if diff := cmp.Diff(any(want), decode(t, got.body)["spec"]); diff != "" {
				try.Fatalf("%s of %s:\n%s", verb, at, diff)
			}
		}
		return true
	}
	for _, row := range api.Kinds() {
		t.Run(row.Type, func(t *testing.T) {
			for range max(1, documents(t)/3500) {
				rapid.Check(t, func(rt *rapid.T) {
					doc := modeltest.Draw(rt, m, row.Type+"Spec").(map[string]any)
					fit(row.Kind, doc)
					roundTrip(rt, row, doc)
				})
			}
			if taken[row.Type] < 50 {
				t.Errorf("%d were taken: the others show nothing. Refused: %v", taken[row.Type], slices.Sorted(maps.Keys(refused)))
			}
		})
	}
	for _, c := range []struct {
		name string
		kind api.Kind
		spec string
	}{
		{"RT-003 a weight of zero", api.KindRoute, `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "n", "weight": 0}]}}}`},
		{"a priority of zero, no match at all", api.KindRoute, `{"priority": 0, "tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "n", "weight": 0}]}}}`},
		{"a duration of nothing", api.KindRoute, `{"httpRoute": {"match": {}, "action": {"weightedTargets": [{"virtualNode": "n", "weight": 1}]}, "timeout": {"idle": {"unit": "ms", "value": 0}, "perRequest": {}}}}`},
		{"false stays", api.KindRoute, `{"http2Route": {"match": {"prefix": "/", "headers": [{"name": "h", "invert": false}]}, "action": {"weightedTargets": [{"virtualNode": "n", "weight": 1}]}}}`},
		{"empty lists", api.KindVirtualNode, `{"backends": [], "listeners": []}`},
		{"an empty list that means nothing else", api.KindVirtualGateway, `{"listeners": []}`},
		{"empty structures", api.KindVirtualNode, `{"backendDefaults": {}, "logging": {}}`},
		{"a node without anything", api.KindVirtualNode, `{}`},
		{"a router without anything", api.KindVirtualRouter, `{}`},
		{"a service without anything", api.KindVirtualService, `{}`},
		{"a mesh without anything", api.KindMesh, `{}`},
		{"no escapes for what needs none in JSON", api.KindVirtualNode, `{"logging": {"accessLog": {"file": {"path": "/<&>\u2028é世"}}}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			row, _ := c.kind.Row()
			if !roundTrip(t, row, decode(t, []byte(c.spec))) {
				t.Errorf("refused: %v", refused)
			}
		})
	}
	for _, row := range api.Kinds() {
		t.Run("everything optional left out of a "+row.Type, func(t *testing.T) {
			doc, _ := modeltest.Least(m, row.Type+"Spec").(map[string]any)
			fit(row.Kind, doc)
			if !roundTrip(t, row, doc) {
				t.Errorf("refused: %v", refused)
			}
		})
	}
}

func bodyOf(t testing.TB, doc any) string {
	t.Helper()
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every constraint of the model, broken alone in the body of every operation
// that has it, is a 400 that names the path.
func TestEveryConstraintIsRefused(t *testing.T) {
	t.Parallel()
	s, m := documented(t)
	tried := 0
	for _, row := range api.Kinds() {
		for _, verb := range []string{"Create", "Update"} {
			op := m.Operations[verb+row.Type]
			sent := m.In(op, "body")
			at := listPath(row)
			if verb == "Update" {
				at += "/x"
			}
			t.Run(op.Name, func(t *testing.T) {
				for _, b := range modeltest.Every(m, op.Input.Shape) {
					member, _, _ := strings.Cut(b.Path, ".")
					if sent[member] == "" {
						continue // it is in the path
					}
					tried++
					body := bodyOf(t, b.Doc)
					refusedAt(t, s.do(t, "PUT", at, body), b.Path, b.What, body)
				}
			})
		}
	}
	if tried < 3000 {
		t.Errorf("only %d constraints were tried", tried)
	}
}

// One constraint of a random document broken at random, ten thousand times: a
// 400 that names the path, never a fault of the server.
func TestTenThousandBrokenDocuments(t *testing.T) {
	t.Parallel()
	s, m := documented(t)
	done := map[string]int{}
	for many := 0; many < documents(t); {
		rapid.Check(t, func(rt *rapid.T) {
			row := rapid.SampledFrom(api.Kinds()).Draw(rt, "kind")
			doc := modeltest.Draw(rt, m, row.Type+"Spec").(map[string]any)
			path, what, broken := modeltest.Break(rt, m, row.Type+"Spec", doc)
			if !broken {
				return // an empty document has no constraint
			}
			many++
			done[what]++
			body := bodyOf(t, map[string]any{row.Name: "x", "spec": doc})
			refusedAt(rt, s.do(t, "PUT", listPath(row), body), "spec."+path, what, body)
		})
	}
	if len(done) < 15 {
		t.Errorf("only these kinds of constraints were broken: %v", done)
	}
}

// refusedAt checks a refusal for one broken constraint. App Mesh's sentence for
// a validation context without trust, or with two, names no path.
func refusedAt(t rapid.TB, a answer, path, what, sent string) {
	t.Helper()
	named := strings.Contains(string(a.body), "'"+path+"'") || strings.HasSuffix(path, "trust") && strings.Contains(string(a.body), "One type of TLS Validation Context Trust must be set.")
	if a.status != 400 || a.header.Get("X-Amzn-Errortype") != "BadRequestException" || !named {
		t.Fatalf("%s at %s, sent %.300s\ngot %d %s", what, path, sent, a.status, a.body)
	}
}

// listPath is where resources of the kind are created in these tests.
func listPath(row api.KindRow) string {
	switch row.Kind {
	case api.KindMesh:
		return meshes
	case api.KindRoute:
		return meshes + "/apps/virtualRouter/r/routes"
	case api.KindGatewayRoute:
		return meshes + "/apps/virtualGateway/g/gatewayRoutes"
	}
	return meshes + "/apps/" + row.List
}

// Whatever stands in the request line, the answer is an operation's, or an error
// with a type; it is never a redirect nor a fault.
func FuzzPath(f *testing.F) {
	for _, path := range []string{
		"/v20190125/meshes", "/v20190125/meshes/a%2Fb", "/v20190125/meshes/../meshes", "/v20190125//meshes?limit=1", "/v20190125/meshes/%2e%2e/virtualNodes/%00",
		"/v20190125/tags?resourceArn=arn:aws:appmesh:us-east-1:111111111111:mesh/apps", "/v20190125/meshes/a?meshOwner=%ff", "//evil.example/v20190125/meshes", "/%",
		"/evermesh/v1/proxies?nextToken=_", "/v20190125/meshes/a/virtualRouter/b/routes/c;d", "/v20190125/meshes/é/virtualNodes?limit=-1&nextToken=YQ",
	} {
		f.Add("GET", path, "")
	}
	f.Add("PUT", "/v20190125/meshes", `{"meshName": "a"}`)
	f.Add("OPTIONS", "*", "")
	s := serve(f, nil)
	f.Fuzz(func(t *testing.T, method, uri, body string) {
		if strings.HasPrefix(uri, "/evermesh/") {
			return // needs a ledger
		}
		u, err := url.ParseRequestURI(uri)
		if err != nil || method == "" || strings.ContainsAny(method, " \r\n") {
			return // net/http refuses it before any handler
		}
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", strings.NewReader(body))
		r.Method, r.URL, r.RequestURI = method, u, uri
		r.Header.Set(headerAccount, accountA)
		w := httptest.NewRecorder()
		s.Config.Handler.ServeHTTP(w, r)
		code := w.Header().Get("X-Amzn-Errortype")
		if w.Code >= 500 || w.Code/100 == 3 || (w.Code != http.StatusOK && code == "") || w.Header().Get("X-Amzn-Requestid") == "" {
			t.Fatalf("%s %q: %d %q %s", method, uri, w.Code, code, w.Body)
		}
	})
}

// Whatever stands in a body, the answer is a document or an error with a type,
// and what was taken reads back.
func FuzzBody(f *testing.F) {
	for _, spec := range []string{
		`{}`, `{"listeners": []}`, `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}], "serviceDiscovery": {"dns": {"hostname": "a.local"}}}`,
		`{"backends": [{"virtualService": {"virtualServiceName": "s"}}], "logging": {"accessLog": {"file": {"path": "/dev/stdout"}}}}`,
		`{"listeners": [null]}`, `{"a": 1e400}`, `{"backends": [{"virtualService": {"virtualServiceName": "\ud800"}}]}`, `[]`, `"`,
	} {
		f.Add(`{"virtualNodeName": "n", "spec": `+spec+`}`, "application/json")
	}
	f.Add(`{"virtualNodeName": "a", "tags": [{"key": "k"}], "clientToken": "t"}`, "text/plain")
	s := serve(f, nil)
	s.mesh(f)
	f.Fuzz(func(t *testing.T, body, contentType string) {
		send := func(method, path, body string) *httptest.ResponseRecorder {
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
			r.Header.Set(headerAccount, accountA)
			r.Header.Set("Content-Type", contentType)
			w := httptest.NewRecorder()
			s.Config.Handler.ServeHTTP(w, r)
			return w
		}
		w := send("PUT", meshes+"/apps/virtualNodes", body)
		if w.Code != http.StatusOK {
			if code := w.Header().Get("X-Amzn-Errortype"); w.Code < 400 || w.Code >= 500 || code == "" {
				t.Fatalf("%q: %d %q %s", body, w.Code, code, w.Body)
			}
			return
		}
		made := decode(t, w.Body.Bytes())
		at := meshes + "/apps/virtualNodes/" + url.PathEscape(made["virtualNodeName"].(string))
		if got := send("GET", at, ""); got.Code != http.StatusOK || got.Body.String() != w.Body.String() {
			t.Fatalf("made %s\nread %d %s", w.Body, got.Code, got.Body)
		}
		if gone := send("DELETE", at, ""); gone.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", at, gone.Code, gone.Body)
		}
	})
}
