package relay

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// The first key is what secrets are sealed with: an identity that did not change must not look like another one.
func TestKeysComeInOneOrder(t *testing.T) {
	dir := t.TempDir()
	p := settings.Proof{TokenFile: filepath.Join(dir, "token"), KeyFile: filepath.Join(dir, "key"), Role: "r"}
	for _, name := range []string{p.TokenFile, p.KeyFile} {
		if err := os.WriteFile(name, bytes.Repeat([]byte(filepath.Base(name)), leastKey), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u := &upstreams{signer: &signer{proof: p}}
	for range 64 {
		keys := u.keys(t.Context(), "")
		if len(keys) != 2 || !bytes.HasPrefix(keys[0], []byte("token\x00")) || !bytes.HasPrefix(keys[1], []byte("certificate\x00")) {
			t.Fatalf("got %q", keys)
		}
	}
}
