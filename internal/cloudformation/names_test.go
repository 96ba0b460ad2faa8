package cloudformation

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// The names are made from the model by one rule with nine exceptions. The list
// says what AWS has published, so that both are held to the same.
func TestPropertiesAreThoseThatAWSPublished(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/properties.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			want = append(want, strings.TrimSpace(line))
		}
	}
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range api.Kinds() {
		for _, name := range readOnly {
			got = append(got, fmt.Sprintf("%s %s read-only", row.Type, name))
		}
		if row.Kind == api.KindMesh {
			got = append(got, "Mesh MeshOwner read-only")
		}
		got = append(got, leaves(m, row.Type, "Create"+row.Type+"Input", "")...)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-published +ours)\n%s", diff)
	}
}

// leaves are the properties of a type that hold a scalar.
func leaves(m *model.Model, kind, shape, path string) []string {
	s := m.Shapes[shape]
	switch s.Type {
	case "structure":
		var out []string
		for member, ref := range s.Members {
			if member != "clientToken" {
				out = append(out, leaves(m, kind, ref.Shape, strings.TrimPrefix(path+"."+property(member), "."))...)
			}
		}
		return out
	case "list":
		return leaves(m, kind, s.Member.Shape, path+"[]")
	case "long":
		return []string{kind + " " + path + " integer"}
	}
	return []string{kind + " " + path + " " + s.Type}
}

func TestMeant(t *testing.T) {
	t.Parallel()
	known := []string{"Backends", "BackendDefaults", "Listeners", "Logging", "ServiceDiscovery"}
	for name, want := range map[string]string{
		"Listener":                 "; did you mean Listeners?",
		"listeners":                "; did you mean Listeners?",
		"Backend":                  "; did you mean Backends?",
		"ServiceDiscvery":          "; did you mean ServiceDiscovery?",
		"Weather":                  "",
		"":                         "",
		strings.Repeat("x", 1<<16): "",
	} {
		if got := meant(name, known); got != want {
			t.Errorf("%.20s: got %q, want %q", name, got, want)
		}
	}
}
