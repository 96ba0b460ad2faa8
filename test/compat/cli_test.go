package compat

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// What the user guide does with the AWS CLI beyond plain calls.
func TestCLI(t *testing.T) {
	t.Parallel()
	e := evermeshd(t)
	c := newCLIClient(t, e).(*cliClient)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "file://" + path
	}
	run := func(t *testing.T, arguments ...string) []byte {
		t.Helper()
		out, err := c.run(t.Context(), arguments...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	t.Run("API-005 names as flags, a spec as JSON", func(t *testing.T) {
		run(t, "create-mesh", "--mesh-name", "cli")
		run(t, "create-virtual-service", "--mesh-name", "cli", "--virtual-service-name", "servicea.apps.local", "--spec", "{}")
	})
	t.Run("API-024 a whole input from a file", func(t *testing.T) {
		run(t, "create-virtual-node", "--cli-input-json", file("node.json", `{
  "meshName": "cli",
  "spec": {
    "listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}],
    "serviceDiscovery": {"dns": {"hostname": "serviceBv1.apps.local"}}
  },
  "virtualNodeName": "serviceBv1"
}`))
	})
	t.Run("API-025 names as flags beside a file with the spec", func(t *testing.T) {
		out := run(t, "create-virtual-gateway", "--mesh-name", "cli", "--virtual-gateway-name", "gateway", "--cli-input-json",
			file("gateway.json", `{"spec": {"listeners": [{"portMapping": {"port": 9080, "protocol": "http"}}]}}`), "--query", "virtualGateway.spec.listeners[0].portMapping.port", "--output", "text")
		if got := strings.TrimSpace(string(out)); got != "9080" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("API-012 times as ISO 8601 with offset", func(t *testing.T) {
		out := run(t, "describe-mesh", "--mesh-name", "cli", "--query", "mesh.metadata.createdAt", "--output", "text")
		if got := strings.TrimSpace(string(out)); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}000)?[+-]\d\d:\d\d$`).MatchString(got) {
			t.Errorf("got %s", got)
		}
	})
	t.Run("skeletons", func(t *testing.T) {
		for _, operation := range []string{"create-virtual-node", "create-virtual-router", "create-route", "create-virtual-service"} {
			if out := run(t, operation, "--generate-cli-skeleton", "input"); !bytes.Contains(out, []byte(`"meshName"`)) {
				t.Errorf("%s: got %s", operation, out)
			}
		}
	})
	t.Run("API-047 the request id in --debug", func(t *testing.T) {
		id := regexp.MustCompile(`(?i)'x-amzn-requestid': '[0-9a-f-]{36}'`)
		if out := debug(t, c, "describe-mesh", "--mesh-name", "cli"); !id.Match(out) {
			t.Errorf("no request id in %s", out)
		}
	})
}

// debug returns what --debug writes.
func debug(t *testing.T, c *cliClient, arguments ...string) []byte {
	t.Helper()
	cmd := c.command(t.Context(), append(arguments, "--debug")...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// The clients' own pagination brings everything, two a page.
func TestPagination(t *testing.T) {
	t.Parallel()
	e := evermeshd(t)
	g := newGoClient(t, e)
	must(t, g, "CreateMesh", map[string]any{"meshName": "pages"})
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		must(t, g, "CreateVirtualNode", map[string]any{"meshName": "pages", "virtualNodeName": name, "spec": map[string]any{}})
	}
	for _, kind := range clients {
		t.Run("API-030 "+kind.name, func(t *testing.T) {
			t.Parallel()
			n, err := kind.make(t, e).all(t.Context(), "ListVirtualNodes", map[string]any{"meshName": "pages"})
			if err != nil || n != 5 {
				t.Errorf("%d nodes, %v; want 5", n, err)
			}
		})
	}
}

// Idempotency tokens are made by the clients themselves; a repeated one gets the
// first answer.
func TestClientTokens(t *testing.T) {
	t.Parallel()
	e := evermeshd(t)
	for i, kind := range clients {
		t.Run("API-031 "+kind.name, func(t *testing.T) {
			t.Parallel()
			c := kind.make(t, e)
			mesh := "token-" + string(rune('a'+i))
			input := map[string]any{"meshName": mesh, "clientToken": mesh}
			first, again := must(t, c, "CreateMesh", input), must(t, c, "CreateMesh", input)
			if one, two := text(t, first), text(t, again); one != two {
				t.Errorf("first %s\nagain %s", one, two)
			}
			input["spec"] = document(t, `{"egressFilter": {"type": "DROP_ALL"}}`)
			_, err := c.call(t.Context(), "CreateMesh", input)
			checkFailure(t, err, "ConflictException 409 The client token was used before with another input: use a new token for a new request.")
		})
	}
}

func text(t testing.TB, doc any) string {
	t.Helper()
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// rootKey reads the credentials file that the first start writes.
func rootKey(t testing.TB, file string) aws.Credentials {
	t.Helper()
	key, err := readKey(t.Context(), region, file)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
