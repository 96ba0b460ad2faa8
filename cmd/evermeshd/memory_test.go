package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/evermesh/evermesh/internal/client"
)

// Whoever is refused by what a replica remembers has it look at the store first: calls,
// streams, and what is asked on the port of the streams. Who is allowed does not.
func TestRefusalsLookAtTheStoreFirst(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	facts, err := client.ReadFacts(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	reads := func() float64 { return value(p.scrape(t), "evermesh_catchup_reads_total") }
	nobody := aws.Credentials{AccessKeyID: "AKIANOBODY0000000000", SecretAccessKey: "x"}
	strange, err := client.New(client.Config{
		Endpoint: facts.APIEndpoint, Region: facts.Region,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return nobody, nil }),
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := p.call(t.Context(), "ListMeshes", json.RawMessage(`{}`), nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := reads(); got != 0 {
		t.Errorf("%v reads for calls that are allowed", got)
	}
	at := strings.TrimPrefix(facts.XDSEndpoint, "http://")
	for name, refused := range map[string]func(t *testing.T){
		"a call": func(t *testing.T) {
			if err := strange.Call(t.Context(), "ListMeshes", json.RawMessage(`{}`), nil); err == nil {
				t.Error("nobody is let in")
			}
		},
		"a call of another account's mesh": func(t *testing.T) {
			if err := p.call(t.Context(), "DescribeMesh", json.RawMessage(`{"meshName": "m", "meshOwner": "111122223333"}`), nil); err == nil {
				t.Error("a mesh of another account is described")
			}
		},
		"a stream": func(t *testing.T) {
			s := proxy(t, at, "mesh/m/virtualNode/n", nobody)
			s.Wait(t, "the stream ends", func() bool { return len(s.Ends()) > 0 })
		},
		"a drain": func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, facts.XDSEndpoint+"/evermesh/v1/proxies/p/drain", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer x")
			r.Header.Set("X-Evermesh-Role-Arn", "arn:aws:iam::000000000000:role/none")
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("got %d", resp.StatusCode)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := reads()
			eventually(t, "the store is looked at", func() bool { refused(t); return reads() > before })
		})
	}
}
