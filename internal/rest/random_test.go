package rest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/model/modeltest"
)

// Random documents, valid and with one constraint broken, to every kind: the
// first are taken or refused by a rule, what is taken reads back as sent, the
// second are a 400 that names the path; nothing is ever a fault of the server.
// EVERMESH_DOCUMENTS is how many (300).
func TestRandomDocuments(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.mesh(t)
	s.do(t, "PUT", meshes+"/apps/virtualRouters", `{"virtualRouterName": "r", "spec": {}}`).ok(t)
	s.do(t, "PUT", meshes+"/apps/virtualGateways", `{"virtualGatewayName": "g", "spec": {"listeners": []}}`).ok(t)
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	many := 300
	if text, set := os.LookupEnv("EVERMESH_DOCUMENTS"); set {
		if many, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	property := func(rt *rapid.T) {
		row := rapid.SampledFrom(api.Kinds()).Draw(rt, "kind")
		doc := modeltest.Draw(rt, m, row.Type+"Spec").(map[string]any)
		path, what, broken := "", "", false
		if rapid.Bool().Draw(rt, "break") {
			path, what, broken = modeltest.Break(rt, m, row.Type+"Spec", doc)
		}
		n++
		name := fmt.Sprintf("x%d", n)
		sent, err := json.Marshal(map[string]any{row.Name: name, "spec": doc})
		if err != nil {
			rt.Fatal(err)
		}
		a := s.do(t, "PUT", listPath(row), string(sent))
		switch {
		case a.status >= 500:
			rt.Fatalf("%s\ngot %d %s", sent, a.status, a.body)
		case broken && (a.status != 400 || !strings.Contains(string(a.body), path) && !strings.HasSuffix(path, "trust")):
			rt.Fatalf("%s: %s at %s\ngot %d %s", sent, what, path, a.status, a.body)
		case !broken && a.status == 200:
			want := decode(t, sent)["spec"]
			if diff := cmp.Diff(want, s.do(t, "GET", listPath(row)+"/"+name, "").ok(t)["spec"]); diff != "" {
				rt.Fatal(diff)
			}
		}
	}
	for n < many {
		rapid.Check(t, property)
	}
}

// listPath is where resources of the kind are created in this test.
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
