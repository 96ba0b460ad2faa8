package auth_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
)

// oneKey is a directory of one key, whose secret no input can hold.
type oneKey struct{}

func (oneKey) Credential(_ context.Context, id, _ string) (auth.Credential, bool, error) {
	if id != lastingID {
		return auth.Credential{}, false, nil
	}
	return auth.Credential{Secret: "never told to anybody: 9c1d", Principal: root}, true, nil
}

// Whatever a stranger sends as signature is refused with one of AWS's codes; it
// neither passes nor breaks the parser.
func FuzzVerify(f *testing.F) {
	f.Add("GET", "/v20190125/meshes?limit=5", "127.0.0.1:7070", "AWS4-HMAC-SHA256 Credential="+lastingID+"/20260301/us-east-1/appmesh/aws4_request, SignedHeaders=host;x-amz-date, Signature=00", "20260301T120000Z", "", "", []byte(nil))
	f.Add("PUT", "/v20190125/meshes", "appmesh.example", "AWS4-HMAC-SHA256 Credential="+lastingID+"/20260301/us-east-1/appmesh/aws4_request,SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature=ab", "20260301T120000Z", "UNSIGNED-PAYLOAD", "token", []byte(`{"meshName":"m"}`))
	f.Add("GET", "/v20190125/meshes/%2e%2e/..//?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential="+lastingID+"%2F20260301%2Fus-east-1%2Fappmesh%2Faws4_request&X-Amz-Date=20260301T120000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=0", "h", "", "", "", "", []byte(nil))
	f.Add("GET", "http://h/%zz?a&b=%", "", "AWS4-HMAC-SHA256 ,=,", "Sun, 01 Mar 2026 12:00:00 GMT", "STREAMING-X", "", []byte("x"))
	f.Fuzz(func(t *testing.T, method, uri, host, authorization, date, payload, session string, body []byte) {
		header := http.Header{}
		for name, value := range map[string]string{"Authorization": authorization, "X-Amz-Date": date, "X-Amz-Content-Sha256": payload, "X-Amz-Security-Token": session} {
			if value != "" {
				header.Set(name, value)
			}
		}
		v := auth.NewVerifier(oneKey{}, "us-east-1", []string{"appmesh"}, func() time.Time { return noon })
		p, err := v.Verify(t.Context(), auth.Request{Method: method, RequestURI: uri, Host: host, Header: header, Body: body})
		var refusal *api.Error
		if err == nil || !errors.As(err, &refusal) {
			t.Fatalf("got %+v, %v; want a refusal", p, err)
		}
		if s := refusal.Status(); s != 400 && s != 403 {
			t.Fatalf("refused with %d: %v", s, err)
		}
		if p != (auth.Principal{}) {
			t.Fatalf("a refused caller is %+v", p)
		}
	})
}
