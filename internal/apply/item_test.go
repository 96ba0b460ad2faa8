package apply

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
)

func key(kind api.Kind, parent, name string) api.Key {
	return api.Key{Mesh: "m", Kind: kind, Parent: parent, Name: name}
}

func TestInOrder(t *testing.T) {
	t.Parallel()
	doc := map[string]any{}
	in := []Item{
		{Key: key(api.KindVirtualNode, "", "gone")},
		{Key: key(api.KindGatewayRoute, "g", "r"), Doc: doc},
		{Key: key(api.KindRoute, "r", "gone")},
		{Key: key(api.KindRoute, "r", "b"), Doc: doc},
		{Key: key(api.KindRoute, "r", "a"), Doc: doc},
		{Key: key(api.KindVirtualService, "", "s"), Doc: doc},
		{Key: key(api.KindVirtualGateway, "", "g"), Doc: doc},
		{Key: key(api.KindVirtualNode, "", "n"), Doc: doc},
		{Key: api.Key{Owner: "111122223333", Mesh: "m", Kind: api.KindMesh, Name: "m"}, Doc: doc},
		{Key: key(api.KindVirtualRouter, "", "r"), Doc: doc},
	}
	var got []string
	for _, i := range InOrder(in) {
		got = append(got, i.Path())
	}
	want := []string{
		"mesh/m@111122223333", "mesh/m/virtualNode/n", "mesh/m/virtualRouter/r",
		"mesh/m/virtualRouter/r/route/b", "mesh/m/virtualRouter/r/route/a", // as they stood
		"mesh/m/virtualService/s", "mesh/m/virtualGateway/g", "mesh/m/virtualGateway/g/gatewayRoute/r",
		"mesh/m/virtualRouter/r/route/gone", "mesh/m/virtualNode/gone", // the other way round
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got)\n%s", diff)
	}
}

func TestDifferingTags(t *testing.T) {
	t.Parallel()
	have := []api.TagRef{{Key: "same", Value: "1"}, {Key: "other", Value: "1"}, {Key: "gone", Value: "1"}}
	set, drop := differingTags(have, map[string]string{"same": "1", "other": "2", "new": "", "a": "<"})
	if diff := cmp.Diff([]api.TagRef{{Key: "a", Value: "<"}, {Key: "new"}, {Key: "other", Value: "2"}}, set); diff != "" {
		t.Errorf("to set (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"gone"}, drop); diff != "" {
		t.Errorf("to drop (-want +got)\n%s", diff)
	}
}

// Specs are the same whatever the order of their members and white space, and
// not the same when a list's order, a 0 or an empty list differs.
func TestSpecsAreComparedAsDocuments(t *testing.T) {
	t.Parallel()
	const have = `{"a":[1,2],"b":{"weight":0},"c":[]}`
	for _, c := range []struct {
		name, want string
		same       bool
	}{
		{"in another order", `{ "c":[], "b":{"weight":0}, "a":[1,2] }`, true},
		{"a list in another order", `{"a":[2,1],"b":{"weight":0},"c":[]}`, false},
		{"without the 0", `{"a":[1,2],"b":{},"c":[]}`, false},
		{"without the empty list", `{"a":[1,2],"b":{"weight":0}}`, false},
		{"a text for a number", `{"a":["1",2],"b":{"weight":0},"c":[]}`, false},
	} {
		want, err := plain([]byte(c.want))
		if err != nil {
			t.Fatal(err)
		}
		if same, err := equal([]byte(have), want); err != nil || same != c.same {
			t.Errorf("%s: same is %v, %v", c.name, same, err)
		}
	}
}
