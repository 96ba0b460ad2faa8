//go:build linux

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// explain is what `evermesh explain` tells of a resource.
func (m *mesh) explain(ctx context.Context, arn string) (out api.Explanation, err error) {
	programs, err := stage.Find() // the stage has only what it runs itself
	if err != nil {
		return out, err
	}
	text, err := m.Home().Run(ctx, ground.Command{
		Name: m.name + "-explain", Path: filepath.Join(filepath.Dir(programs.Evermeshd), "evermesh"),
		Args: []string{"explain", arn, "-o", "json", "--data-dir", m.control.DataDir}, Env: []string{"HOME=" + m.t.TempDir()},
	})
	if err == nil {
		err = json.Unmarshal([]byte(text), &out)
	}
	return out, err
}

// active fails when App Mesh's own status of a resource is not ACTIVE.
func (m *mesh) active(t *testing.T, kind, input string) {
	t.Helper()
	doc := map[string]any{}
	if err := json.Unmarshal([]byte(input), &doc); err != nil {
		t.Fatal(err)
	}
	doc["meshName"] = m.name
	ctx, cancel := m.context()
	defer cancel()
	var out map[string]struct{ Status struct{ Status string } }
	if err := m.control.Evermesh.Call(ctx, "Describe"+kind, doc, &out); err != nil {
		t.Fatal(err)
	}
	for _, r := range out {
		if r.Status.Status != "ACTIVE" {
			t.Errorf("the status is %s", r.Status.Status)
		}
	}
}

// holds is all that an Envoy was given, each resource with its version and when it came, in one order.
func (m *mesh) holds(t *testing.T, s *stage.Sidecar) []string {
	t.Helper()
	var dump struct{ Configs []map[string]any }
	if err := json.Unmarshal([]byte(m.admin(s, "/config_dump")), &dump); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, of := range dump.Configs {
		for member, list := range of {
			if all, is := list.([]any); is && strings.HasPrefix(member, "dynamic_") {
				for _, one := range all {
					text, err := json.MarshalIndent(one, "", " ") // members sorted
					if err != nil {
						t.Fatal(err)
					}
					out = append(out, string(text))
				}
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("Envoy was given nothing")
	}
	slices.Sort(out)
	return out
}

// TestNothingHarmsTheRest writes what cannot act. What it is part of goes on without it, a bystander's Envoy is not
// touched, explain names the fault, and when the cause goes away all is well without anything else.
func TestNothingHarmsTheRest(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "harm", "DROP_ALL")
	m.app("blue")
	m.app("green")
	shop := m.service("shop", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	odd := m.service("odd", appPort, map[string]string{"rest": to("blue", `{"prefix": "/"}`)})
	stream := func(name string, port int) (service, router string) {
		service = m.hostname(name)
		m.create("VirtualNode", name, fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "tcp"}}], "serviceDiscovery": {"dns": {"hostname": %q}}}`, appPort, m.hostname("green")))
		m.create("VirtualRouter", name, fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "tcp"}}]}`, port))
		m.route(name, "all", fmt.Sprintf(`{"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": %q, "weight": 1}]}}}`, name))
		m.create("VirtualService", service, fmt.Sprintf(`{"provider": {"virtualRouter": {"virtualRouterName": %q}}}`, name))
		m.DNS().Set(service, nobody)
		return service, name
	}
	first, _ := stream("first", 7000)
	second, secondRouter := stream("second", 7000)
	later := m.hostname("later")
	m.DNS().Set(later, nobody)

	// victim calls everything and has a listener; bystander calls what is never broken.
	victimHost := m.program("victim")
	spec := func(listener, logging string) string {
		node := m.nodeWith("victim", listener)
		return "{" + logging + node[1:len(node)-1] + ", " + callerSpec(shop, odd, first, second, later)[1:]
	}
	victimARN := m.create("VirtualNode", "victim", spec("", ""))
	m.create("VirtualNode", "bystander", callerSpec(shop))
	victim := m.sidecar(victimHost, stage.SidecarOptions{Resource: "victim", AppPorts: fmt.Sprint(appPort)})
	bystanderHost := m.host("bystander")
	bystander := m.sidecar(bystanderHost, stage.SidecarOptions{Resource: "bystander"})
	get := func(h *ground.Host, service string, port int, path string) string {
		ctx, cancel := m.context()
		defer cancel()
		a, err := send(ctx, h, request{URL: fmt.Sprintf("http://%s:%d%s", service, port, path)})
		switch {
		case err != nil:
			return "no answer"
		case a.App != "":
			return a.App
		}
		return fmt.Sprint(a.Status)
	}
	dir, root := victim.Dir, sdstest.NewAuthority(t, "root")
	pair := fmt.Sprintf(`, "tls": {"mode": "STRICT", "certificate": {"file": {"certificateChain": %q, "privateKey": %q}}}`, filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key"))
	visitor := m.host("visitor")
	shake := func() string {
		ctx, cancel := m.context()
		defer cancel()
		conn, err := visitor.Dial(ctx, "tcp", fmt.Sprintf("%s:%d", victimHost.Addr(), appPort))
		if err != nil {
			return "no connection"
		}
		defer conn.Close()
		c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // whose certificate it is does not matter here
		if err := c.HandshakeContext(ctx); err != nil {
			return "no TLS"
		}
		return "TLS"
	}
	describe := func(kind, name string) [2]string {
		return [2]string{kind, fmt.Sprintf(`{%q: %q}`, strings.ToLower(kind[:1])+kind[1:]+"Name", name)}
	}
	route := [2]string{"Route", `{"virtualRouterName": "odd", "routeName": "bad"}`}

	for _, c := range []struct {
		name   string
		harm   func() (arn string) // of what has the fault
		of     [2]string           // how that is described
		reason string
		words  string
		// sees is what the victim sees of its fault, in the meantime and afterwards.
		sees       func() string
		then, well string
		heal       func()
	}{
		{
			name:   "a regex that is too large",
			harm:   func() string { return m.route("odd", "bad", when("green", `{"path": {"regex": "/bad(x{1000})?"}}`)) },
			of:     route,
			reason: "Invalid", words: "too large",
			sees: func() string { return get(victimHost, odd, appPort, "/bad") },
			then: "blue", well: "green", // the route of all else has it meanwhile
			heal: func() { m.put("Update", "Route", "odd", "bad", when("green", `{"path": {"regex": "/bad"}}`)) },
		},
		{
			name: "EMS-050 a log format that Envoy would refuse",
			harm: func() string {
				return m.update("VirtualNode", "victim", spec("", `"logging": {"accessLog": {"file": {"path": "/dev/null", "format": {"text": "%NONSENSE(%"}}}}, `))
			},
			of:     describe("VirtualNode", "victim"),
			reason: "Invalid", words: "logging",
			sees: func() string { return get(victimHost, shop, appPort, "/") },
			then: "blue", well: "blue",
			heal: func() {
				m.update("VirtualNode", "victim", spec("", `"logging": {"accessLog": {"file": {"path": "/dev/null", "format": {"text": "%RESPONSE_CODE%"}}}}, `))
			},
		},
		{
			name:   "a certificate that is not there yet",
			harm:   func() string { return m.update("VirtualNode", "victim", spec(pair, "")) },
			of:     describe("VirtualNode", "victim"),
			reason: "SecretRefused", words: "c.pem",
			sees: shake, then: "no TLS", well: "TLS",
			heal: func() {
				one := root.Issue(t, m.hostname("victim"))
				for name, text := range map[string][]byte{"c.key": one.Key, "c.pem": one.Chain} {
					if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			},
		},
		{
			name:   "EMS-035 two tcp services on one port",
			harm:   func() string { return "mesh/" + m.name + "/virtualService/" + second },
			of:     describe("VirtualService", second),
			reason: "Conflict", words: "port 7000",
			sees: func() string { return get(victimHost, second, 7001, "/") },
			then: "no answer", well: "green",
			heal: func() {
				m.update("VirtualRouter", secondRouter, `{"listeners": [{"portMapping": {"port": 7001, "protocol": "tcp"}}]}`)
			},
		},
		{
			name:   "a backend that does not exist yet",
			harm:   func() string { return victimARN },
			of:     describe("VirtualNode", "victim"),
			reason: "NotFound", words: later,
			sees: func() string { return get(victimHost, later, appPort, "/") },
			then: "404", well: "blue", // others listen on the port
			heal: func() {
				m.create("VirtualService", later, `{"provider": {"virtualNode": {"virtualNodeName": "blue"}}}`)
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := m.holds(t, bystander)
			arn := c.harm()
			is := func(p api.Problem) bool { return p.Reason == c.reason && strings.Contains(p.Message, c.words) }
			explained := func(t *testing.T, named bool) {
				t.Helper()
				ctx, cancel := m.context()
				defer cancel()
				var e api.Explanation
				var failed error
				if err := stage.Until(ctx, fmt.Sprintf("explain names the fault: %v", named), func(ctx context.Context) bool {
					e, failed = m.explain(ctx, arn)
					return failed == nil && slices.ContainsFunc(e.Problems, is) == named
				}); err != nil {
					t.Fatalf("%v; it names %+v (%v)", err, e.Problems, failed)
				}
			}
			explained(t, true)
			m.active(t, c.of[0], c.of[1])
			m.until("the victim sees "+c.then, func(context.Context) bool { return c.sees() == c.then })
			for path, h := range map[string]*ground.Host{"/victim": victimHost, "/bystander": bystanderHost} {
				if got := get(h, shop, appPort, path); got != "blue" {
					t.Errorf("with the fault %s answers to %s", got, path)
				}
			}
			c.heal()
			m.until("it heals", func(context.Context) bool { return c.sees() == c.well })
			explained(t, false)
			if diff := cmp.Diff(before, m.holds(t, bystander)); diff != "" {
				t.Errorf("the bystander's configuration became another (-before +after):\n%s", diff)
			}
		})
	}
	t.Run("a node that routes lead to cannot be deleted", func(t *testing.T) {
		before := m.holds(t, bystander)
		_, err := m.try("DeleteVirtualNode", `{"virtualNodeName": "blue"}`)
		if refusal, ok := errors.AsType[*api.Error](err); !ok || refusal.Code != api.CodeResourceInUse {
			t.Errorf("%v, want %s", err, api.CodeResourceInUse)
		}
		if diff := cmp.Diff(before, m.holds(t, bystander)); diff != "" {
			t.Errorf("the bystander's configuration became another (-before +after):\n%s", diff)
		}
		if got := get(victimHost, shop, appPort, "/"); got != "blue" {
			t.Errorf("%s answers", got)
		}
	})
}
