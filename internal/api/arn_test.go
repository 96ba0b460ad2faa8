package api_test

import (
	"testing"

	"github.com/evermesh/evermesh/internal/api"
)

func TestNamesOfWhateverService(t *testing.T) {
	want := api.ResourceName{Partition: "aws", Service: "iam", Account: "111122223333", Resource: "role/a:b"}
	if got, ok := api.ParseResourceName("arn:aws:iam::111122223333:role/a:b"); !ok || got != want {
		t.Errorf("got %+v, %v", got, ok)
	}
	realm := api.Realm{Partition: "aws", Region: "us-east-1"}
	if got, ok := api.ParseResourceName(realm.ResourceName("ram", "111122223333", "resource-share/x")); !ok || got.Region != "us-east-1" || got.Resource != "resource-share/x" {
		t.Errorf("what was made is read as %+v, %v", got, ok)
	}
	for _, text := range []string{"", "*", "arn", "arn:aws:iam::111122223333", "ARN:aws:iam::111122223333:role/a", "mesh/arn:aws:iam::1:x"} {
		if got, ok := api.ParseResourceName(text); ok || got != (api.ResourceName{}) {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

// An ARN's key is its mesh owner's, whoever owns the resource.
func TestKeyOfARN(t *testing.T) {
	for text, owner := range map[string]string{
		"arn:aws:appmesh:us-east-1:111122223333:mesh/m/virtualNode/n":              "111122223333",
		"arn:aws:appmesh:us-east-1:111122223333:mesh/m@444455556666/virtualNode/n": "444455556666",
	} {
		a, err := api.ParseARN(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := a.Key("999999999999"), (api.Key{Owner: owner, Mesh: "m", Kind: api.KindVirtualNode, Name: "n"}); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
	short := api.ARN{Mesh: "m", Kind: api.KindVirtualNode, Name: "n"}
	if got, want := short.Key("999999999999"), (api.Key{Owner: "999999999999", Mesh: "m", Kind: api.KindVirtualNode, Name: "n"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}
