package ads

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/structpb"
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
	const can, cannot = "envoy.access_loggers.stats", "envoy.access_loggers.file"
	for _, c := range []struct {
		name      string
		level     any
		extension *corev3.Extension
		metrics   bool
		noted     bool
	}{
		{"asked for, and Envoy can", "1", &corev3.Extension{Name: can}, true, false},
		{"asked for, and Envoy cannot", "1", &corev3.Extension{Name: cannot}, false, true},
		{"asked for, and switched off in Envoy", "1", &corev3.Extension{Name: can, Disabled: true}, false, true},
		{"not asked for", nil, &corev3.Extension{Name: can}, false, false},
		{"another version", "2", &corev3.Extension{Name: can}, false, false},
		{"no text", 1.0, &corev3.Extension{Name: can}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := structpb.NewStruct(map[string]any{"aws.appmesh.metric_filter": map[string]any{"level": c.level}})
			if err != nil {
				t.Fatal(err)
			}
			got, lacks := traitsOf(&corev3.Node{Metadata: m, Extensions: []*corev3.Extension{{Name: cannot}, c.extension}})
			if got.Metrics != c.metrics || (lacks != "") != c.noted {
				t.Errorf("traits are %+v with the note %q", got, lacks)
			}
		})
	}
	if got, lacks := traitsOf(&corev3.Node{}); got.Metrics || lacks != "" {
		t.Errorf("a node that says nothing has %+v and the note %q", got, lacks)
	}
}
