package ads

import (
	"fmt"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// Addresses by which others reach a proxy are kept, whatever else a node says.
func TestAddressesOf(t *testing.T) {
	t.Parallel()
	many := make([]any, 40)
	for i := range many {
		many[i] = fmt.Sprintf("10.1.0.%d/16", i)
	}
	for name, test := range map[string]struct {
		told any
		want int
		text string
	}{
		"both families":              {map[string]any{"ipv4": map[string]any{"eth0": []any{"10.0.0.2/24"}, "eth1": []any{"10.0.0.1/24", "10.0.0.2/24"}}, "ipv6": map[string]any{"eth0": []any{"2001:DB8::1/64"}}}, 3, "10.0.0.1 10.0.0.2 2001:db8::1"},
		"loopback and links":         {map[string]any{"ipv4": map[string]any{"lo": []any{"127.0.0.1/8"}, "eth0": []any{"169.254.172.2/22", "0.0.0.0/0", "224.0.0.1/4"}}, "ipv6": map[string]any{"lo": []any{"::1/128"}, "eth0": []any{"fe80::1/64", "fe80::1%eth0/64"}}}, 0, ""},
		"without a prefix length":    {map[string]any{"ipv4": map[string]any{"eth0": []any{"10.0.0.1"}}}, 1, "10.0.0.1"},
		"IPv4 in IPv6":               {map[string]any{"ipv6": map[string]any{"eth0": []any{"::ffff:10.0.0.1/120"}}}, 1, "10.0.0.1"},
		"other types":                {map[string]any{"ipv4": "10.0.0.1", "ipv6": []any{"2001:db8::1"}}, 0, ""},
		"what is no address":         {map[string]any{"ipv4": map[string]any{"eth0": []any{"ten", 10, nil, "/24"}, "eth1": "10.0.0.1"}}, 0, ""},
		"no list":                    {"none", 0, ""},
		"many, of which 16 are kept": {map[string]any{"ipv4": map[string]any{"eth0": many}}, 16, ""},
	} {
		told, err := structpb.NewValue(test.told)
		if err != nil {
			t.Fatal(err)
		}
		got := addressesOf(&corev3.Node{Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"aws.appmesh.task.interfaces": told}}})
		if len(got) != test.want || test.text != "" && strings.Join(got, " ") != test.text {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := addressesOf(&corev3.Node{}); got != nil {
		t.Errorf("a node that says nothing: %v", got)
	}
}
