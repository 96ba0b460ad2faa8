package intercept

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSpellings compares what nft prints with what it was given, where there is /etc/protocols, and where, as in images,
// there is none.
func TestSpellings(t *testing.T) {
	want := canonicalNFT("meta l4proto tcp ip daddr 169.254.169.254 return\nmeta l4proto udp return\n")
	if diff := cmp.Diff(want, canonicalNFT("\t\tmeta l4proto 6 ip daddr 169.254.169.254 return\n\t\tmeta l4proto 17 return\n")); diff != "" {
		t.Error(diff)
	}
	if got := canonicalNFT("meta l4proto 58 return"); got[0] != "meta l4proto 58 return" {
		t.Errorf("another protocol became %q", got[0])
	}
}
