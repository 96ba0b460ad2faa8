package relay

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

func TestProof(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const role = "arn:aws:iam::111122223333:role/orders"
	s := &signer{proof: settings.Proof{TokenFile: file, Role: role, Account: "111122223333"}}
	secure := settings.Endpoint{Network: "tcp", Address: "control.example:7071", Authority: "control.example:7071", TLS: true}
	for _, token := range []string{"first.token.x", "second.token.x"} { // it is replaced all the time
		write(token + "\n")
		md, err := s.sign(t.Context(), secure, "/m")
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join([]string{md.Get("authorization")[0], md.Get(roleHeader)[0], md.Get(accountHeader)[0]}, " ")
		if want := "Bearer " + token + " " + role + " 111122223333"; got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
	}
	plain := secure
	plain.TLS = false
	if md, err := s.sign(t.Context(), plain, "/m"); err == nil {
		t.Errorf("a token goes out in plaintext: %v", md)
	}
	for _, local := range []settings.Endpoint{{Network: "unix", Address: "/run/xds.sock"}, {Network: "tcp", Address: "127.0.0.1:7071"}} {
		if _, err := s.sign(t.Context(), local, "/m"); err != nil {
			t.Errorf("to %s: %v", local.Address, err)
		}
	}
	for _, bad := range []string{"", " \n", "two words", strings.Repeat("x", maxToken+1)} {
		write(bad)
		if md, err := s.sign(t.Context(), secure, "/m"); err == nil {
			t.Errorf("%.20q is sent as %v", bad, md)
		}
	}
}
