package ads

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/evermesh/evermesh/internal/mesh"
)

func TestInstance(t *testing.T) {
	platform := func(name, key, value string) map[string]any {
		return map[string]any{"aws.appmesh.platformInfo": map[string]any{name: map[string]any{key: value}}}
	}
	own := platform("k8sPlatformInfo", "podUid", "pod-1")
	own["evermesh.instance"] = "i-1"
	for _, c := range []struct {
		name     string
		metadata map[string]any
		want     string
	}{
		{"the agent's id comes first", own, "i-1"},
		{"an ECS task", platform("ecsPlatformInfo", "ecsTaskArn", "arn:aws:ecs:task"), "arn:aws:ecs:task"},
		{"a pod", platform("k8sPlatformInfo", "podUid", "pod-1"), "pod-1"},
		{"anything else", map[string]any{"evermesh.instance": 7.0}, "10.0.0.1:99"},
		{"nothing", nil, "10.0.0.1:99"},
		{"nothing to print", map[string]any{"evermesh.instance": "a\n\x1b[31mb\u202e"}, "a??[31mb?"},
		{"something too long", map[string]any{"evermesh.instance": strings.Repeat("x", 1000)}, strings.Repeat("x", 255)},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := structpb.NewStruct(c.metadata)
			if err != nil {
				t.Fatal(err)
			}
			if got := instanceOf(&corev3.Node{Metadata: m}, "10.0.0.1:99"); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestEnvoyVersion(t *testing.T) {
	if v := versionOf(&corev3.Node{}); v != nil {
		t.Errorf("got %q from a node that says nothing", *v)
	}
	v := versionOf(&corev3.Node{UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
		Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40, Patch: 2},
	}}})
	if v == nil || *v != "1.40.2" {
		t.Errorf("got %v", v)
	}
}

func TestTraits(t *testing.T) {
	const logger, filter = "envoy.access_loggers.stats", "envoy.access_loggers.extension_filters.cel"
	able := func() *corev3.Node {
		return &corev3.Node{
			Extensions: []*corev3.Extension{{Name: "envoy.access_loggers.file"}, {Name: filter}, {Name: logger}},
			UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
				Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 39},
			}},
		}
	}
	for _, c := range []struct {
		name    string
		level   any
		change  func(n *corev3.Node)
		metrics bool
		lacks   string
	}{
		{"asked for, and Envoy can", "1", nil, true, ""},
		{"a newer Envoy", "1", func(n *corev3.Node) { n.GetUserAgentBuildVersion().Version.MinorNumber = 52 }, true, ""},
		{"an older Envoy", "1", func(n *corev3.Node) { n.GetUserAgentBuildVersion().Version.MinorNumber = 38 }, false, "older than 1.39"},
		{"an Envoy that does not tell its version", "1", func(n *corev3.Node) { n.UserAgentVersionType = nil }, false, "older than 1.39"},
		{"an Envoy without the logger", "1", func(n *corev3.Node) { n.Extensions = n.Extensions[:2] }, false, "no " + logger},
		{"an Envoy without the filter", "1", func(n *corev3.Node) { n.Extensions[1].Name = "other" }, false, "no " + filter},
		{"switched off in Envoy", "1", func(n *corev3.Node) { n.Extensions[2].Disabled = true }, false, "no " + logger},
		{"not asked for", nil, nil, false, ""},
		{"another version of the extension", "2", nil, false, ""},
		{"no text", 1.0, nil, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := able()
			var err error
			if n.Metadata, err = structpb.NewStruct(map[string]any{"aws.appmesh.metric_filter": map[string]any{"level": c.level}}); err != nil {
				t.Fatal(err)
			}
			if c.change != nil {
				c.change(n)
			}
			got, lacks := traitsOf(n)
			if got.Metrics != c.metrics || (lacks == "") != (c.lacks == "") || !strings.Contains(lacks, c.lacks) {
				t.Errorf("traits are %+v with the note %q", got, lacks)
			}
		})
	}
	for said, want := range map[string]bool{"none": true, "": false, "some": false} {
		m, err := structpb.NewStruct(map[string]any{"evermesh.sds": said})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := traitsOf(&corev3.Node{Metadata: m}); got.NoSDS != want {
			t.Errorf("said %q, traits are %+v", said, got)
		}
	}
	if got, lacks := traitsOf(&corev3.Node{}); got != (mesh.Traits{}) || lacks != "" {
		t.Errorf("a node that says nothing has %+v and the note %q", got, lacks)
	}
}
