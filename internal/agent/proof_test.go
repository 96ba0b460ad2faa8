package agent

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	s := &signer{proof: Proof{TokenFile: file, Role: role, Account: "111122223333"}}
	secure := Endpoint{Network: "tcp", Address: "control.example:7071", Authority: "control.example:7071", TLS: true}
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
	for _, local := range []Endpoint{{Network: "unix", Address: "/run/xds.sock"}, {Network: "tcp", Address: "127.0.0.1:7071"}} {
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

func TestProofSettings(t *testing.T) {
	t.Parallel()
	parse := func(extra map[string]string) (Settings, error) {
		env := map[string]string{"APPMESH_RESOURCE_ARN": "arn:aws:appmesh:us-east-1:111122223333:mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT": "control.example:7071"}
		maps.Copy(env, extra)
		return Parse(func(name string) string { return env[name] }, Flags{}, 1337)
	}
	const role = "arn:aws:iam::111122223333:role/orders"
	s, err := parse(map[string]string{"EVERMESH_TOKEN_FILE": "/t", "EVERMESH_ROLE_ARN": role})
	if want := (Proof{TokenFile: "/t", Role: role, Account: "111122223333"}); err != nil || s.Proof != want {
		t.Errorf("got %+v, %v", s.Proof, err)
	}
	if s, err := parse(nil); err != nil || s.Proof.unsigned() {
		t.Errorf("without proof: %+v, %v", s.Proof, err)
	}
	if s, err := parse(map[string]string{"APPMESH_XDS_CLIENT_CERT_FILE": "/c", "APPMESH_XDS_CLIENT_KEY_FILE": "/k"}); err != nil || s.Proof.unsigned() {
		t.Errorf("a certificate without a role is no proof: %+v, %v", s.Proof, err)
	}
	for variable, extra := range map[string]map[string]string{
		"APPMESH_XDS_CLIENT_CERT_FILE": {"APPMESH_XDS_CLIENT_CERT_FILE": "/c"},
		"EVERMESH_ROLE_ARN":            {"EVERMESH_ROLE_ARN": "orders", "EVERMESH_TOKEN_FILE": "/t"},
	} {
		_, err := parse(extra)
		if wrong, ok := errors.AsType[*ConfigError](err); !ok || wrong.Variable != variable {
			t.Errorf("%v: got %v", extra, err)
		}
	}
	if _, err := parse(map[string]string{"EVERMESH_ROLE_ARN": role}); err == nil {
		t.Error("a role without a proof is taken")
	}
}
