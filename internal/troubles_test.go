package internal

import (
	"strings"
	"testing"
)

// TestTroublesAreFoundByTheirWords looks in docs/troubleshooting.md for what people search for: the texts of App Mesh's
// guide, and the means against each. What happens is shown elsewhere, by real proxies.
func TestTroublesAreFoundByTheirWords(t *testing.T) {
	t.Parallel()
	text := readFile(t, "docs/troubleshooting.md")
	for name, words := range map[string][]string{
		"TRBL-001 an image that cannot be pulled": {"CannotPullContainerError: Error response from daemon: pull access denied", "repository does not exist or may require 'docker login'", "pull secret"},
		"TRBL-003 the state of a proxy":           {"curl -s http://localhost:9901/server_info", "PRE_INITIALIZING", "LIVE"},
		"TRBL-005 a port that may not be opened":  {"cannot bind '0.0.0.0:80': Permission denied"},
		"TRBL-006 a name that does not resolve":   {"10.10.10.10", "/etc/hosts"},
		"TRBL-009 words of Envoy's log":           {"no healthy upstream", "No cluster match for URL", "no matching filter chain found"},
		"TRBL-011 TRBL-014 MySQL and EFS": {
			"ERROR 2013 (HY000): Lost connection to MySQL server at 'reading initial communication packet', system error: 0", "APPMESH_EGRESS_IGNORED_PORTS=3306", "25, 465 and 587",
			"ResourceInitializationError: failed to invoke EFS utils commands to set up EFS volumes: stderr: mount.nfs4: Connection refused : unsuccessful EFS utils command execution; code: 32", "APPMESH_EGRESS_IGNORED_PORTS=2049",
		},
		"TRBL-016 a forward proxy":                    {"NO_PROXY=localhost,127.0.0.1,169.254.169.254,169.254.170.2"},
		"TRBL-018 the PROXY protocol":                 {"dispatch error: http/1.1 protocol error: HPE_INVALID_METHOD", `"- - HTTP/1.1" 400 DPE 0 11 0 -`, "proxy_protocol_v2.enabled"},
		"TRBL-020 TRBL-021 scaling":                   {"drops.md", "Caught Segmentation fault, suspect faulting address 0x0", "139"},
		"TRBL-025 TRBL-026 TLS that does not come up": {"upstream connect error or disconnect/reset before headers. reset reason: connection failure", "transport failure reason: TLS error: 268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER"},
		"TRBL-031 a lost stream":                      {"gRPC config stream closed"},
		"TRBL-036 a pattern that looks ahead":         {"^prefix(?!suffix)", "^prefix(?:!suffix)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, w := range words {
				if !strings.Contains(text, w) {
					t.Errorf("docs/troubleshooting.md does not have %q", w)
				}
			}
		})
	}
}
