package bootstrap

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

func TestAdminOf(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		want settings.Admin // Given left out; the zero value for none that can be asked
	}{
		"everywhere":                    {"admin: {address: {socketAddress: {address: 0.0.0.0, portValue: 9901}}}", settings.Admin{Port: 9901}},
		"everywhere, by both families":  {"admin: {address: {socket_address: {address: \"::\", port_value: 1, ipv4_compat: true}}}", settings.Admin{Port: 1}},
		"everywhere of IPv6":            {"admin: {address: {socket_address: {address: \"::\", port_value: 1}}}", settings.Admin{Address: "::1", Port: 1}},
		"one address, the port as text": {"admin: {address: {socket_address: {address: 127.0.0.2, port_value: \"65535\"}}}", settings.Admin{Address: "127.0.0.2", Port: 65535}},
		"a pipe":                        {"admin: {address: {pipe: {path: /run/a.sock}}}", settings.Admin{Socket: "/run/a.sock"}},
		"none":                          {"node: {}", settings.Admin{}},
		"no address":                    {"admin: {access_log: []}", settings.Admin{}},
		"any port":                      {"admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}", settings.Admin{}},
		"both spellings":                {"admin: {address: {socket_address: {}, socketAddress: {address: 127.0.0.1, portValue: 1}}}", settings.Admin{}},
		"no YAML":                       {"{", settings.Admin{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := AdminOf([]byte(test.text))
			if ok != (test.want != settings.Admin{}) || ok != got.Given {
				t.Errorf("got %+v, %t", got, ok)
			}
			if got.Given = false; got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// An Envoy that cannot be asked can neither be watched nor drained.
func TestAdminWithoutAddressIsRefused(t *testing.T) {
	t.Parallel()
	_, _, err := merged(t, "ENVOY_RESOURCES_CONFIG_FILE", "admin: {access_log: []}")
	if err == nil || !strings.Contains(err.Error(), "ENVOY_RESOURCES_CONFIG_FILE: user.yaml: admin: has no address") {
		t.Errorf("got %v", err)
	}
}
