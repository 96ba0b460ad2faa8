//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/stage"
)

// newAccount makes an account and returns its root key, which this replica knows, and the API as it has it.
func newAccount(t *testing.T, c *stage.Control, id string) (aws.Credentials, *client.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	text, err := c.Run(ctx, "account", "add", id, "--data-dir", c.DataDir, "--credentials-file", "-")
	if err != nil {
		t.Fatal(err)
	}
	key := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, "=")
		key[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	root := aws.Credentials{AccessKeyID: key["aws_access_key_id"], SecretAccessKey: key["aws_secret_access_key"]}
	facts, err := client.ReadFacts(c.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	out, err := client.New(client.Config{
		Endpoint: facts.APIEndpoint, Region: facts.Region,
		Credentials: credentials.NewStaticCredentialsProvider(root.AccessKeyID, root.SecretAccessKey, ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the new account's key is known", func() bool { return out.Call(ctx, "ListMeshes", map[string]any{}, nil) == nil })
	return root, out
}

// TestOwners lets another account try what the owner alone may, while real traffic shows whose word counts.
func TestOwners(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "owners", "DROP_ALL")
	for _, name := range []string{"blue", "green"} {
		m.app(name)
	}
	service := m.service("web", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	m.create("VirtualGateway", "gate", fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}]}`, appPort))
	gatewayRoute := func(service string) string {
		return fmt.Sprintf(`{"httpRoute": {"match": {"prefix": "/"}, "action": {"target": {"virtualService": {"virtualServiceName": %q}}}}}`, service)
	}
	m.put("Create", "GatewayRoute", "gate", "rest", gatewayRoute(service))
	m.create("VirtualNode", "client", callerSpec(service))
	caller, gate := m.host("client"), m.host("gate")
	m.sidecar(caller, stage.SidecarOptions{Resource: "client"})
	m.sidecar(gate, stage.SidecarOptions{Resource: "mesh/" + m.name + "/virtualGateway/gate", Alone: true})
	outside := m.host("outside")

	_, other := newAccount(t, m.control, "999900001111")
	call := func(operation, input string) error {
		var doc map[string]any
		if err := json.Unmarshal([]byte(input), &doc); err != nil {
			t.Fatal(err)
		}
		doc["meshName"], doc["meshOwner"] = m.name, m.control.Account
		ctx, cancel := m.context()
		defer cancel()
		return other.Call(ctx, operation, doc, nil)
	}
	who := func() string {
		return ask(t, caller, request{URL: fmt.Sprintf("http://%s:%d/", service, appPort)}).App + " and " +
			ask(t, outside, request{URL: fmt.Sprintf("http://%s:%d/", m.hostname("gate"), appPort)}).App
	}
	route := when("green", `{"prefix": "/"}`)
	for name, c := range map[string]struct{ operation, input string }{
		"RT-040 no route in the router":               {"CreateRoute", `{"virtualRouterName": "web", "routeName": "mine", "spec": ` + route + `}`},
		"RT-040 no other route than there was":        {"UpdateRoute", `{"virtualRouterName": "web", "routeName": "rest", "spec": ` + route + `}`},
		"GR-019 no gateway route":                     {"CreateGatewayRoute", `{"virtualGatewayName": "gate", "gatewayRouteName": "mine", "spec": ` + prioritised(1, gatewayRoute(service)) + `}`},
		"GR-019 no end of a gateway route":            {"DeleteGatewayRoute", `{"virtualGatewayName": "gate", "gatewayRouteName": "rest"}`},
		"VS-014 no end of the service":                {"DeleteVirtualService", `{"virtualServiceName": "` + service + `"}`},
		"VR-008 no end of the router":                 {"DeleteVirtualRouter", `{"virtualRouterName": "web"}`},
		"VN-033 no end of a node that is not its own": {"DeleteVirtualNode", `{"virtualNodeName": "green"}`},
	} {
		t.Run(name, func(t *testing.T) {
			err := call(c.operation, c.input)
			if refusal, ok := errors.AsType[*api.Error](err); !ok || refusal.Code != api.CodeForbidden {
				t.Errorf("the other account's %s: %v, want %s", c.operation, err, api.CodeForbidden)
			}
			if got := who(); got != "blue and blue" {
				t.Errorf("after that, %s answer", got)
			}
		})
	}
	t.Run("RT-040 the owner may", func(t *testing.T) {
		m.settle(m.route("web", "mine", route))
		m.until("green answers both", func(context.Context) bool { return who() == "green and green" })
	})
	t.Run("VN-033 VR-008 VS-014 the owner may end them", func(t *testing.T) {
		m.call("DeleteGatewayRoute", `{"virtualGatewayName": "gate", "gatewayRouteName": "rest"}`)
		m.call("DeleteVirtualService", fmt.Sprintf(`{"virtualServiceName": %q}`, service))
		for _, name := range []string{"mine", "rest"} {
			m.call("DeleteRoute", fmt.Sprintf(`{"virtualRouterName": "web", "routeName": %q}`, name))
		}
		m.call("DeleteVirtualRouter", `{"virtualRouterName": "web"}`)
		m.call("DeleteVirtualNode", `{"virtualNodeName": "green"}`)
	})
}

// TestAdvice follows what the control plane advises, and sees what it is good for.
func TestAdvice(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "advice", "DROP_ALL")
	m.app("blue")
	poor := `{"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "blue", "weight": 1}]},
		"retryPolicy": {"maxRetries": 1, "perRetryTimeout": {"unit": "s", "value": 5}, "httpRetryEvents": ["client-error"]}}}`
	good := strings.NewReplacer(`"maxRetries": 1`, `"maxRetries": 2`, `["client-error"]`, `["stream-error", "gateway-error"], "tcpRetryEvents": ["connection-error"]`).Replace(poor)
	service := m.service("web", appPort, map[string]string{"all": poor})
	m.create("VirtualNode", "client", callerSpec(service))
	caller := m.host("client")
	m.sidecar(caller, stage.SidecarOptions{Resource: "client"})
	advice := func() string {
		ctx, cancel := m.context()
		defer cancel()
		var out api.ExplainOutput
		arn := fmt.Sprintf("arn:aws:appmesh:%s:%s:mesh/%s/virtualRouter/web/route/all", m.control.Region, m.control.Account, m.name)
		if err := m.control.Evermesh.Call(ctx, "Explain", map[string]any{"resourceArn": arn}, &out); err != nil {
			t.Fatal(err)
		}
		return strings.Join(out.Explanation.Advice, "\n")
	}
	failing := func(id string) int {
		return ask(t, caller, request{URL: fmt.Sprintf("http://%s:%d/", service, appPort), Header: map[string]string{"X-Fail": id + ",2"}}).Status
	}
	t.Run("RT-033 a poor retry policy is advised on", func(t *testing.T) {
		const want = `spec.httpRoute.retryPolicy.maxRetries is 1: at least 2 are recommended
spec.httpRoute.retryPolicy.httpRetryEvents is without stream-error, which is recommended
spec.httpRoute.retryPolicy.httpRetryEvents is without gateway-error, which is recommended
spec.httpRoute.retryPolicy.tcpRetryEvents is without connection-error, which is recommended
spec.httpRoute loses requests while a replica of virtual node blue ends: the node is found by DNS and has no healthCheck by HTTP or gRPC, and the route repeats neither connection-error nor stream-error
spec.httpRoute.retryPolicy may add 5s to a request: maxRetries 1 × perRetryTimeout 5s. A try at an endpoint that is gone takes all of its 5s`
		if got := advice(); got != want {
			t.Errorf("advice is\n%s\nwant\n%s", got, want)
		}
		if got := failing("poor"); got != 503 {
			t.Errorf("a request that fails twice is answered %d, want 503", got)
		}
	})
	t.Run("RT-033 BP-002 BP-003 what is advised helps, and is advised no more; what it may take is told", func(t *testing.T) {
		m.settle(m.put("Update", "Route", "web", "all", good))
		const want = `spec.httpRoute.retryPolicy may add 10s to a request: maxRetries 2 × perRetryTimeout 5s. A try at an endpoint that is gone takes all of its 5s`
		if got := advice(); got != want {
			t.Errorf("advice is\n%s\nwant\n%s", got, want)
		}
		if got := failing("good"); got != 200 {
			t.Errorf("a request that fails twice is answered %d, want 200", got)
		}
	})
}
