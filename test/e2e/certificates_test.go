//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/test/stage"
)

// TestCertificateFiles has virtual nodes with certificates in files, laid out as Kubernetes mounts secrets: one whose
// files come late, and two that rotate all that they have while a client never stops.
func TestCertificateFiles(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "papers", "DROP_ALL")
	root := sdstest.NewAuthority(t, "root")
	dir, err := os.MkdirTemp("", "certificates")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // Envoy is another user, who watches it
		t.Fatal(err)
	}
	issue := func(by *sdstest.Authority, name string) string {
		t.Helper()
		c := by.Issue(t, m.hostname(name))
		mountSecret(t, filepath.Join(dir, name), map[string][]byte{"tls.crt": c.Chain, "tls.key": c.Key})
		return strings.ToLower(c.Pair(t).Leaf.SerialNumber.Text(16))
	}
	authorities := func(all []byte) { mountSecret(t, filepath.Join(dir, "ca"), map[string][]byte{"ca.crt": all}) }
	authorities(root.PEM)
	trust := fmt.Sprintf(`{"trust": {"file": {"certificateChain": %q}}}`, filepath.Join(dir, "ca", "ca.crt"))
	pair := func(name string) string {
		return fmt.Sprintf(`{"file": {"certificateChain": %q, "privateKey": %q}}`, filepath.Join(dir, name, "tls.crt"), filepath.Join(dir, name, "tls.key"))
	}
	tls := func(name string) string {
		return fmt.Sprintf(`, "tls": {"mode": "STRICT", "certificate": %s, "validation": %s}`, pair(name), trust)
	}
	issue(root, "green")
	issue(root, "client")
	sidecars, arns := map[string]*stage.Sidecar{}, map[string]string{}
	for _, name := range []string{"green", "late"} {
		h := m.program(name)
		arns[name] = m.create("VirtualNode", name, m.nodeWith(name, tls(name)))
		sidecars[name] = m.sidecar(h, stage.SidecarOptions{Resource: name, AppPorts: fmt.Sprint(appPort)})
	}
	books := m.service("books", appPort, map[string]string{"rest": to("green", `{"prefix": "/"}`), "late": to("late", `{"prefix": "/late"}`)})
	arns["client"] = m.create("VirtualNode", "client", fmt.Sprintf(`{"backendDefaults": {"clientPolicy": {"tls": {"certificate": %s, "validation": %s}}}, %s`,
		pair("client"), trust, strings.TrimPrefix(callerSpec(books), "{")))
	host := m.host("client")
	sidecars["client"] = m.sidecar(host, stage.SidecarOptions{Resource: "client"})
	url := fmt.Sprintf("http://%s:%d", books, appPort)
	m.settle(arns["green"], arns["late"], arns["client"])
	status := func(path string) int { return ask(t, host, request{URL: url + path}).Status }
	explained := func(name string) (problems string, programmed string) {
		var out api.ExplainOutput
		ctx, cancel := m.context()
		defer cancel()
		if err := m.control.Evermesh.Call(ctx, "Explain", map[string]any{"resourceArn": arns[name]}, &out); err != nil {
			t.Fatal(err)
		}
		for _, p := range out.Explanation.Problems {
			problems += p.Reason + ": " + p.Message + "\n"
		}
		for _, c := range out.Explanation.Conditions {
			if c.Type == api.ConditionTypeProgrammed {
				programmed = c.Reason
			}
		}
		return problems, programmed
	}

	t.Run("a file that is missing is told by explain, and fails alone", func(t *testing.T) {
		if got := status("/"); got != http.StatusOK {
			t.Errorf("the other node answers %d", got)
		}
		if got := status("/late"); got != http.StatusServiceUnavailable {
			t.Errorf("a node without its certificate answers %d", got)
		}
		missing := filepath.Join(dir, "late") + "/"
		m.until("explain tells it", func(context.Context) bool {
			problems, programmed := explained("late")
			return strings.Contains(problems, "SecretRefused: Secret file-certificate:"+missing) &&
				strings.Contains(problems, "was refused by Envoy: ") && strings.Count(problems, missing) == 3 && programmed == "ProgrammedInPart"
		})
		if problems, _ := explained("green"); problems != "" {
			t.Errorf("the other node has the problems %s", problems)
		}
	})
	t.Run("a file that appears is used within 6 s", func(t *testing.T) {
		issue(root, "late")
		began := time.Now()
		m.until("the node answers", func(context.Context) bool { return status("/late") == http.StatusOK })
		took := time.Since(began)
		t.Logf("answered %v after the file appeared", took.Round(time.Millisecond))
		if took > 6*time.Second {
			t.Errorf("it answered after %v", took)
		}
		m.until("explain has no problem any more", func(context.Context) bool {
			problems, programmed := explained("late")
			return problems == "" && programmed == "Programmed"
		})
	})
	t.Run("TLS-028 mounted secrets of certificates and authorities change, and nothing fails", func(t *testing.T) {
		steady := stage.NewSteady(host, url+"/", 4, 10*time.Millisecond)
		defer steady.Stop()
		start := time.Now()
		many := 0
		more := func() {
			t.Helper()
			// More at once than ever before: each time there are connections that are new.
			many += 4
			var slow []func(*testing.T) answer
			for range many {
				slow = append(slow, later(t, host, request{URL: url + "/", Header: map[string]string{"X-Delay": "100ms"}}))
			}
			for _, wait := range slow {
				if a := wait(t); a.Status != http.StatusOK {
					t.Errorf("a request on a new connection: %d %s", a.Status, a.Body)
				}
			}
			ctx, cancel := m.context()
			defer cancel()
			if err := steady.Wait(ctx, time.Now(), 300); err != nil {
				t.Fatal(err)
			}
		}
		rotate := func(by *sdstest.Authority) {
			t.Helper()
			for _, name := range []string{"green", "client"} {
				serial, began := issue(by, name), time.Now()
				m.until(name+" has its new certificate", func(context.Context) bool {
					return strings.Contains(m.admin(sidecars[name], "/certs"), strings.TrimLeft(serial, "0"))
				})
				took := time.Since(began)
				t.Logf("%s has its new certificate %v after it was there", name, took.Round(time.Millisecond))
				if took > 5*time.Second {
					t.Errorf("%s has its new certificate after %v", name, took)
				}
				more()
			}
		}
		handshakes := m.stat(sidecars["green"], "listener.0.0.0.0_15000.ssl.handshake")
		rotate(root)
		next := sdstest.NewAuthority(t, "next")
		authorities(slices.Concat(root.PEM, next.PEM))
		more()
		rotate(next)
		authorities(next.PEM)
		more()
		tally := steady.Count(start, time.Time{})
		handshakes = m.stat(sidecars["green"], "listener.0.0.0.0_15000.ssl.handshake") - handshakes
		t.Logf("%d of %d requests failed %v; %d handshakes", tally.Failed, tally.Requests, tally.Faults, handshakes)
		if handshakes < many/2 {
			t.Errorf("%d handshakes: too few to show anything", handshakes)
		}
		if tally.Failed > 0 {
			t.Errorf("%d of %d requests failed: %v", tally.Failed, tally.Requests, tally.Faults)
		}
	})
}

// mountSecret puts files into dir as Kubernetes does with a mounted secret: they are links through ..data, which leads
// to a directory with the files of now and is replaced with a rename.
func mountSecret(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(dir, 0o755))
	now, err := os.MkdirTemp(dir, "..")
	must(err)
	must(os.Chmod(now, 0o755))
	for name, text := range files {
		must(os.WriteFile(filepath.Join(now, name), text, 0o644))
	}
	data := filepath.Join(dir, "..data")
	must(os.Symlink(filepath.Base(now), data+"_tmp"))
	must(os.Rename(data+"_tmp", data))
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
}
