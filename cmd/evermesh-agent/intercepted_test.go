package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/cni"
	"github.com/evermesh/evermesh/internal/intercept"
)

// script are the variables of the user guide's script, but for the owner.
func (w *workload) script(more ...string) []string {
	return append(append([]string{
		"APPMESH_START_ENABLED=1", "APPMESH_ENVOY_INGRESS_PORT=15000", "APPMESH_ENVOY_EGRESS_PORT=15001", "APPMESH_APP_PORTS=8080",
		"APPMESH_EGRESS_IGNORED_PORTS=" + ignoredPorts, "APPMESH_EGRESS_IGNORED_IP=169.254.169.254,fd00:ec2::254," + w.home.Addr().String(),
	}, w.ground.Owner().Env()...), more...)
}

// through checks that both directions pass through Envoy, or neither.
func (w *workload) through(t *testing.T, captured bool) {
	t.Helper()
	times := 0
	if captured {
		times = 1
	}
	w.passes(t, w.host, w.other.Addr(), "9080", "other:9080", 0, times)
	w.passes(t, w.other, w.host.Addr(), "8080", "app", times, 0)
}

// Redirection and agent together: Envoy's own connections are its user's, or carry its mark, and are not redirected to
// itself again.
func TestInterceptedTraffic(t *testing.T) {
	w := newWorkload(t, launch{install: func(w *workload) { inNamespace(t, w.host, nil, w.script(), strings.NewReader("")) }})
	none := strings.NewReader("")
	t.Run("ICPT-002 ICPT-013 ICPT-029 connections to others pass through Envoy once", func(t *testing.T) {
		w.passes(t, w.host, w.other.Addr(), "9080", "other:9080", 0, 1)
	})
	t.Run("ICPT-003 ICPT-014 arriving connections to application ports pass through Envoy", func(t *testing.T) {
		w.passes(t, w.other, w.host.Addr(), "8080", "app", 1, 0)
	})
	t.Run("ICPT-028 those to other ports do not", func(t *testing.T) {
		w.passes(t, w.other, w.host.Addr(), "8081", "unmodelled", 0, 0)
	})
	t.Run("ICPT-005 ICPT-011 ICPT-027 nor those to ignored ports", func(t *testing.T) {
		w.passes(t, w.host, w.other.Addr(), "2049", "other:2049", 0, 0)
		w.passes(t, w.host, w.other.Addr(), "22", "other:22", 0, 0)
	})
	t.Run("ICPT-006 nor those to the sixteenth ignored port and more, where App Mesh had an error", func(t *testing.T) {
		w.passes(t, w.host, w.other.Addr(), "2016", "other:2016", 0, 0)
	})
	t.Run("ICPT-004 nor those to ignored addresses", func(t *testing.T) {
		w.passes(t, w.host, w.home.Addr(), "9080", "home:9080", 0, 0)
	})
	t.Run("ICPT-008 ICPT-009 ICPT-010 wrong variables exit with 1 and App Mesh's words, and change nothing", func(t *testing.T) {
		for want, env := range map[string][]string{
			"Variables APPMESH_IGNORE_UID and/or APPMESH_IGNORE_GID must be set.":                                    {"APPMESH_ENVOY_EGRESS_PORT=15001"},
			"APPMESH_ENVOY_EGRESS_PORT must be defined to forward traffic from the application to the proxy.":        {"APPMESH_IGNORE_UID=1"},
			"APPMESH_ENVOY_INGRESS_PORT must be defined to forward traffic from the APPMESH_APP_PORTS to the proxy.": {"APPMESH_IGNORE_UID=1", "APPMESH_ENVOY_EGRESS_PORT=15001", "APPMESH_APP_PORTS=80"},
		} {
			if err := w.host.Do(func() error {
				err := intercepting(t.Context(), nil, environmentOf(env), env, none, &bytes.Buffer{})
				if err == nil || err.Error() != want {
					t.Errorf("got %v, want %s", err, want)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		w.through(t, true)
	})
	t.Run("ICPT-012 ICPT-022 a second run does the same, under the names that people look for", func(t *testing.T) {
		got := inNamespace(t, w.host, nil, w.script(), strings.NewReader("status\n"))
		if !strings.Contains(got, "APPMESH_INGRESS") || !strings.Contains(got, "APPMESH_EGRESS") || !strings.Contains(got, "nat") {
			t.Errorf("status:\n%s", got)
		}
		w.through(t, true)
	})
	t.Run("ICPT-019 ICPT-020 ICPT-021 it prints its marks and variables, and the end of input leaves the rules", func(t *testing.T) {
		got := inNamespace(t, w.host, nil, w.script(), none)
		for _, want := range []string{
			"=== Input configuration ===\n", "APPMESH_APP_PORTS=8080\n", "=== Initializing ===\n", "=== Enabling routing ===\n", "=== Entering main loop ===\n",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		w.through(t, true)
	})
	t.Run("ICPT-017 ICPT-018 rules wait for enable, and are gone after disable and quit", func(t *testing.T) {
		waiting := append(w.script(), "APPMESH_START_ENABLED=0")[1:]
		inNamespace(t, w.host, nil, waiting, none)
		w.through(t, false)
		inNamespace(t, w.host, nil, waiting, strings.NewReader("enable\n"))
		w.through(t, true)
		inNamespace(t, w.host, nil, w.script(), strings.NewReader("disable\n"))
		w.through(t, false)
		if got := inNamespace(t, w.host, nil, w.script(), strings.NewReader("what\nquit\n")); !strings.Contains(got, "Available commands: quit, status, enable, disable\n") {
			t.Errorf("got\n%s", got)
		}
		w.through(t, false)
	})
	t.Run("ICPT-024 ICPT-025 the variables of proxyinit, in this network namespace alone", func(t *testing.T) {
		inNamespace(t, w.host, nil, append([]string{
			"APPMESH_START_ENABLED=1", "APPMESH_ENVOY_INGRESS_PORT=15000", "APPMESH_ENVOY_EGRESS_PORT=15001", "APPMESH_APP_PORTS=80",
			"APPMESH_EGRESS_IGNORED_IP=169.254.169.254", "APPMESH_EGRESS_IGNORED_PORTS=22",
		}, w.ground.Owner().Env()...), none)
		w.passes(t, w.other, w.host.Addr(), "80", "app:80", 1, 0)
		w.passes(t, w.host, w.home.Addr(), "9080", "home:9080", 0, 1)
		w.passes(t, w.other, w.home.Addr(), "9080", "home:9080", 0, 0)
		untouched(t, w)
	})
	if w.host.Addr6().IsValid() {
		t.Run("ICPT-007 ICPT-015 ICPT-016 IPv6 passes through Envoy once it is asked for, from a list of both families", func(t *testing.T) {
			inNamespace(t, w.host, nil, w.script(), none)
			w.passes(t, w.host, w.other.Addr6(), "9080", "other:9080", 0, 0)
			ignored := "APPMESH_EGRESS_IGNORED_IP=" + w.home.Addr6().String() + "," + w.home.Addr().String()
			inNamespace(t, w.host, nil, append([]string{ignored}, w.script("APPMESH_ENABLE_IPV6=1")...), none)
			w.passes(t, w.host, w.other.Addr6(), "9080", "other:9080", 0, 1)
			w.passes(t, w.other, w.host.Addr6(), "8080", "app", 1, 0)
			w.passes(t, w.host, w.other.Addr6(), "22", "other:22", 0, 0)
			w.passes(t, w.host, w.home.Addr6(), "9080", "home:9080", 0, 0)
			w.passes(t, w.host, w.home.Addr(), "9080", "home:9080", 0, 0)
			w.through(t, true)
		})
	}
	if gid := w.ground.Owner().UID; gid != 0 {
		t.Run("ICPT-007 ICPT-013 Envoy is left out by its group as by its user", func(t *testing.T) {
			inNamespace(t, w.host, nil, append([]string{"APPMESH_IGNORE_UID=", fmt.Sprintf("APPMESH_IGNORE_GID=%d", gid)}, w.script()...), none)
			w.through(t, true)
		})
	}
	t.Run("--check proves it while Envoy runs", func(t *testing.T) {
		inNamespace(t, w.host, nil, w.script(), none)
		// Everything that a connection can reach stands for a control plane.
		got := inNamespace(t, w.host, []string{"--check"}, w.script("APPMESH_XDS_ENDPOINT=http://"+w.other.Addr().String()+":9080"), none)
		for _, want := range []string{"ok       rules: ", "ok       egress IPv4: ", "ok       ingress IPv4: ", "ok       Envoy's own (", "ok       control plane: "} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		w.through(t, true)
	})
	t.Run("--remove lets everything pass by, and --check says so", func(t *testing.T) {
		inNamespace(t, w.host, []string{"--remove"}, nil, none)
		w.through(t, false)
		var out bytes.Buffer
		if err := w.host.Do(func() error {
			return intercepting(t.Context(), []string{"--check"}, environmentOf(w.script()), nil, none, &out)
		}); err == nil || !strings.Contains(err.Error(), "interception does not work: 3 proofs failed") {
			t.Errorf("got %v\n%s", err, out.String())
		}
	})
}

// untouched checks that the other hosts have no rules.
func untouched(t *testing.T, w *workload) {
	t.Helper()
	tools, err := intercept.Find("auto")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range tools {
		if err := w.other.Do(func() error {
			text, err := b.Status(t.Context())
			if strings.Contains(text, "APPMESH_") {
				t.Errorf("another namespace has rules:\n%s", text)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// Any user may be Envoy's, as long as agent and rules agree.
func TestInterceptedUser(t *testing.T) {
	const uid = 2147483647
	w := newWorkload(t, launch{users: true, uid: uid, install: func(w *workload) {
		inNamespace(t, w.host, nil, append([]string{fmt.Sprintf("APPMESH_IGNORE_UID=%d", uid)}, w.script()...), strings.NewReader(""))
	}})
	t.Run("ICPT-023 the largest user id", func(t *testing.T) { w.through(t, true) })
}

// The agent of a gateway needs no rules: what is sent to its Envoy's ports is meant for it.
func TestInterceptedGateway(t *testing.T) {
	w := newWorkload(t, launch{resource: "mesh/m/virtualGateway/g", install: func(*workload) {}})
	t.Run("ICPT-026 a gateway's host has no rules, and nothing passes through its Envoy that was not sent to it", func(t *testing.T) {
		w.through(t, false)
		tools, err := intercept.Find("auto")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.host.Do(func() error {
			for _, b := range tools {
				if text, err := b.Status(t.Context()); err != nil || strings.Contains(text, "APPMESH_") {
					return fmt.Errorf("%w: rules of %s:\n%s", err, b.Name(), text)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

// The CNI plugin does the same as the route manager, from what ECS makes of a task definition.
func TestInterceptedByPlugin(t *testing.T) {
	// proxyConfiguration of the task definition, and ECS's two addresses behind those that are given.
	const config = `{"cniVersion":"0.3.0","name":"aws-appmesh","type":"aws-appmesh","ignoredUID":"1337","ignoredGID":"","proxyIngressPort":"15000","proxyEgressPort":"15001",
		"appPorts":["8080"],"egressIgnoredPorts":["2049"],"egressIgnoredIPs":["HOME","169.254.170.2","169.254.169.254"],"prevResult":{"cniVersion":"0.3.0","interfaces":[{"name":"eth0"}]}}`
	var netns string
	call := func(w *workload, command string) {
		t.Helper()
		env := map[string]string{"CNI_COMMAND": command, "CNI_CONTAINERID": "task", "CNI_NETNS": netns, "CNI_IFNAME": "aws-appmesh"}
		var stdout, stderr bytes.Buffer
		text := strings.Replace(config, "HOME", w.home.Addr().String(), 1)
		if code := cni.Run(context.WithoutCancel(t.Context()), func(name string) string { return env[name] }, strings.NewReader(text), &stdout, &stderr); code != 0 {
			t.Errorf("%s: exit %d: %s%s", command, code, stdout.String(), stderr.String())
		}
	}
	w := newWorkload(t, launch{users: true, install: func(w *workload) {
		netns = filepath.Join(w.ground.Dir(), "netns")
		if err := os.WriteFile(netns, nil, 0o444); err != nil {
			t.Fatal(err)
		}
		if err := w.host.Do(func() error { return unix.Mount("/proc/thread-self/ns/net", netns, "", unix.MS_BIND, "") }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(netns, unix.MNT_DETACH) })
		call(w, "ADD")
	}})
	t.Run("ICPT-001 ICPT-029 what is sent and what arrives passes through Envoy once", func(t *testing.T) { w.through(t, true) })
	t.Run("ICPT-002 ICPT-004 ICPT-005 but for ignored ports, port 22 and ignored addresses", func(t *testing.T) {
		w.passes(t, w.host, w.other.Addr(), "2049", "other:2049", 0, 0)
		w.passes(t, w.host, w.other.Addr(), "22", "other:22", 0, 0)
		w.passes(t, w.host, w.home.Addr(), "9080", "home:9080", 0, 0)
	})
	t.Run("ICPT-025 in this network namespace alone", func(t *testing.T) { untouched(t, w) })
	t.Run("until DEL", func(t *testing.T) {
		call(w, "DEL")
		w.through(t, false)
	})
}
