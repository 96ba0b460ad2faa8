package compat

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/testenv"
)

// Every operation of every service around the mesh, called by one account with what
// names another's things, tells nothing that only the other knows, and changes nothing
// of it. What is called comes from the models, so that no new operation is forgotten.
func TestServicesKeepAccountsApart(t *testing.T) {
	t.Parallel()
	a := another(t)
	b := a
	b.account = "444455556666"
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "credentials")
	if out, err := exec.CommandContext(t.Context(), path, "account", "add", b.account, "--data-dir", a.data, "--credentials-file", file).CombinedOutput(); err != nil {
		t.Fatalf("account add: %v\n%s", err, out)
	}
	if b.key, err = readKey(t.Context(), a.region, file); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the new account's key is known", func() bool {
		_, err := newGoClient(t, b).call(t.Context(), "ListMeshes", map[string]any{})
		return err == nil
	})
	cmd := exec.CommandContext(t.Context(), tool(t, "python"), "foreign.py", filepath.Join("..", "..", "internal", "model"),
		a.key.AccessKeyID, a.key.SecretAccessKey, b.key.AccessKeyID, b.key.SecretAccessKey)
	cmd.Env = append(environment(t, home(t, a.wrong), a), "PYTHONDONTWRITEBYTECODE=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	var got struct {
		Called  map[string]string
		Leaks   []string
		Changed map[string][2]string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, leak := range got.Leaks {
		t.Errorf("told to another account: %s", leak)
	}
	for name, c := range got.Changed {
		t.Errorf("another account has changed what the owner sees by %s\nbefore %s\nafter  %s", name, c[0], c[1])
	}
	counts := map[string]int{}
	for name, ended := range got.Called {
		counts[ended]++
		if ended == "ValidationError" || ended == "ValidationException" || ended == "MalformedArnException" || strings.HasPrefix(ended, "5") || strings.Contains(ended, "Internal") {
			t.Errorf("%s was not really asked: %s", name, ended)
		}
	}
	t.Logf("%d operations: %v", len(got.Called), counts)
}
