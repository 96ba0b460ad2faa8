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
			got, notes := traitsOf(n)
			lacks := strings.Join(notes, " ")
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
	if got, notes := traitsOf(&corev3.Node{}); got != (mesh.Traits{}) || notes != nil {
		t.Errorf("a node that says nothing has %+v and the notes %q", got, notes)
	}
}

func TestInterceptionOfANode(t *testing.T) {
	const node = "mesh/shop/virtualNode/front"
	for _, c := range []struct {
		name, id       string
		said           any
		address, ports string
		want           mesh.Direct
		note           string
	}{
		{"redirected, and says so", node, "redirect", "", "", "", ""},
		{"without, and with nothing to listen for", node, "none", "", "", "none", "DROP_ALL keeps its application from nothing else"},
		{"without, at an address", node, "none", "10.0.0.7", "", "none 10.0.0.7", "without interception"},
		{"without, with ports of the application", node, "none", "", "9090:1, 8080:18080", "none 8080:18080 9090:1", "without interception"},
		{"the order of ports and spaces make no difference", node, "none", "", " 8080:18080,9090:1,9090:1", "none 8080:18080 9090:1", "without interception"},
		{"an address in IPv6's form of IPv4", node, "none", "::ffff:10.0.0.7", "", "none 10.0.0.7", "without interception"},
		{"an address that is every one", node, "none", "0.0.0.0", "", "none", "is no address of a workload"},
		{"an address that leads Envoy to itself", node, "none", "127.0.0.1", "", "none", "is no address of a workload"},
		{"a port that is none", node, "none", "", "8080:0", "none", "is no pair of ports"},
		{"a port with two meanings", node, "none", "", "8080:1,8080:2", "none", "there twice"},
		{"a word of a later version", node, "socks", "", "", "", "\"socks\" that is not known here"},
		{"no text", node, 1.0, "", "", "", ""},
		{"ICPT-026 a gateway", "mesh/shop/virtualGateway/gate", "none", "10.0.0.7", "8080:18080", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := structpb.NewStruct(map[string]any{
				"evermesh.interception": c.said, "evermesh.ingress": map[string]any{"address": c.address, "ports": c.ports},
			})
			if err != nil {
				t.Fatal(err)
			}
			got, notes := traitsOf(&corev3.Node{Id: c.id, Metadata: m})
			note := strings.Join(notes, " ")
			if got.Direct != c.want || (note == "") != (c.note == "") || !strings.Contains(note, c.note) {
				t.Errorf("traits are %+v with the notes %q", got, notes)
			}
		})
	}
}
