package settings

import (
	"errors"
	"maps"
	"testing"
)

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
	if s, err := parse(nil); err != nil || s.Proof.Unsigned() {
		t.Errorf("without proof: %+v, %v", s.Proof, err)
	}
	if s, err := parse(map[string]string{"APPMESH_XDS_CLIENT_CERT_FILE": "/c", "APPMESH_XDS_CLIENT_KEY_FILE": "/k"}); err != nil || s.Proof.Unsigned() {
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
