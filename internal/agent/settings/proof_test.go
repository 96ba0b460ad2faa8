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
		"EVERMESH_XDS_SERVER_ID":       {"EVERMESH_XDS_SERVER_ID": "control.example"},
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

// What a pod has for AWS is its proof here, unless something says otherwise.
func TestProofOfThePod(t *testing.T) {
	t.Parallel()
	const role = "arn:aws:iam::111122223333:role/orders"
	irsa := map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "/irsa", "AWS_ROLE_ARN": role}
	pod := map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/pod"}
	taken := map[string]Proof{"/irsa": {TokenFile: "/irsa", Role: role, Pod: true}, "/pod": {TokenFile: "/pod", Pod: true}}
	for _, test := range []struct {
		name  string
		has   map[string]string
		extra map[string]string
		want  Proof
	}{
		{"the role of a service account", irsa, nil, taken["/irsa"]},
		{"a pod identity association", pod, nil, taken["/pod"]},
		{"the same over IPv6", pod, map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://[fd00:ec2::23]/v1/credentials"}, taken["/pod"]},
		{"another source of credentials", pod, map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "https://evermesh.internal:7070/x"}, Proof{}},
		{"an STS that is named", irsa, map[string]string{"AWS_ENDPOINT_URL_STS": "https://evermesh.internal:7070"}, Proof{}},
		{"an endpoint of AWS that is named", pod, map[string]string{"AWS_ENDPOINT_URL": "https://evermesh.internal:7070"}, Proof{}},
		{"a key", irsa, map[string]string{"AWS_ACCESS_KEY_ID": "AKIA"}, Proof{}},
		{"a shared file", pod, map[string]string{"AWS_SHARED_CREDENTIALS_FILE": "/c"}, Proof{}},
		{"a token of its own", irsa, map[string]string{"EVERMESH_TOKEN_FILE": "/t"}, Proof{TokenFile: "/t"}},
		{"plaintext", irsa, map[string]string{"APPMESH_XDS_ENDPOINT": "http://control.example:7071"}, Proof{}},
		{"plaintext on this machine", irsa, map[string]string{"APPMESH_XDS_ENDPOINT": "http://127.0.0.1:7071"}, taken["/irsa"]},
		{"no role", map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "/irsa"}, nil, Proof{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := map[string]string{"APPMESH_RESOURCE_ARN": "mesh/m/virtualNode/n", "APPMESH_XDS_ENDPOINT": "control.example:7071"}
			maps.Copy(env, test.has)
			maps.Copy(env, test.extra)
			s, err := Parse(func(name string) string { return env[name] }, Flags{}, 1337)
			if err != nil || s.Proof != test.want {
				t.Errorf("got %+v, %v, want %+v", s.Proof, err, test.want)
			}
		})
	}
}
