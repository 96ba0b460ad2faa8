//go:build linux && spire

package spire

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

const (
	// wait bounds what is expected to happen soon.
	wait = time.Minute
	// port is where the application listens.
	port = 9080
	// lifetime is that of the workloads' certificates, in seconds. SPIRE dates them back by 10 s and rotates when half
	// is left, which is every few seconds.
	lifetime = 16
	meshName = "spire"
	service  = "shop.spire.local"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, what string, done func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	must(t, stage.Until(ctx, what, done))
}

func call(t *testing.T, operation, input string) {
	t.Helper()
	var doc map[string]any
	must(t, json.Unmarshal([]byte(input), &doc))
	doc["meshName"] = meshName
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	must(t, world.control.Evermesh.Call(ctx, operation, doc, nil))
}

// sds is a certificate or trust of the workload's own SDS server, in JSON.
func sds(name string) string { return fmt.Sprintf(`{"sds": {"secretName": %q}}`, name) }

// names is a validation by SPIRE's authorities, of this workload alone.
func names(workload string) string {
	return fmt.Sprintf(`{"trust": %s, "subjectAlternativeNames": {"match": {"exact": ["spiffe://example.org/%s"]}}}`, sds("spiffe://example.org"), workload)
}

// web is the virtual node that serves, for this client.
func web(client string) string {
	return fmt.Sprintf(`{"virtualNodeName": "web", "spec": {"serviceDiscovery": {"dns": {"hostname": "web.spire.local"}},
		"listeners": [{"portMapping": {"port": %d, "protocol": "http"}, "tls": {"mode": "STRICT", "certificate": %s, "validation": %s}}]}}`,
		port, sds("spiffe://example.org/web"), names(client))
}

// front is the virtual node that calls, and wants this server.
func front(server string) string {
	return fmt.Sprintf(`{"virtualNodeName": "front", "spec": {"backends": [{"virtualService": {"virtualServiceName": %q,
		"clientPolicy": {"tls": {"certificate": %s, "validation": %s}}}}]}}`, service, sds("spiffe://example.org/front"), names(server))
}

// host is a host with an Envoy of its own path, by which SPIRE knows it.
func host(t *testing.T, a *authority, name, appPorts string) (*ground.Host, *stage.Sidecar) {
	t.Helper()
	h, err := world.Host(meshName + "-" + name)
	must(t, err)
	world.DNS().Set(name+".spire.local", h.Addr())
	program := filepath.Join(a.dir, "envoy-"+name)
	text, err := os.ReadFile(world.Programs.Envoy)
	must(t, err)
	must(t, os.WriteFile(program, text, 0o755))
	a.workload(name, program, lifetime)
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	s, err := world.Sidecar(ctx, h, stage.SidecarOptions{
		Resource: "mesh/" + meshName + "/virtualNode/" + name, AppPorts: appPorts, XDS: []*stage.Control{world.control},
		Env: []string{"ENVOY_PATH=" + program, "APPMESH_SDS_SOCKET_PATH=" + a.socket},
	})
	must(t, err)
	return h, s
}

// serials are those of the certificates that the sidecar's Envoy has.
func serials(t *testing.T, s *stage.Sidecar) (out []string) {
	t.Helper()
	text, err := s.Admin(t.Context(), "/certs")
	must(t, err)
	var certs struct {
		Certificates []struct {
			Chain []struct {
				Serial string `json:"serial_number"`
			} `json:"cert_chain"`
		} `json:"certificates"`
	}
	must(t, json.Unmarshal([]byte(text), &certs))
	for _, c := range certs.Certificates {
		for _, x := range c.Chain {
			out = append(out, x.Serial)
		}
	}
	return out
}

func stat(t *testing.T, s *stage.Sidecar, name string) int {
	t.Helper()
	n, err := s.Stat(t.Context(), name)
	must(t, err)
	return n
}

func TestWorkloadsOfSPIRE(t *testing.T) {
	t.Log("real envoy:", world.envoy)
	a := newAuthority(t)
	call(t, "CreateMesh", `{"spec": {"egressFilter": {"type": "DROP_ALL"}}}`)
	call(t, "CreateVirtualNode", web("front"))
	call(t, "CreateVirtualService", fmt.Sprintf(`{"virtualServiceName": %q, "spec": {"provider": {"virtualNode": {"virtualNodeName": "web"}}}}`, service))
	call(t, "CreateVirtualNode", front("web"))
	server, serving := host(t, a, "web", fmt.Sprint(port))
	_, err := world.App(server, stage.App{Name: "web", Listen: []string{fmt.Sprintf(":%d", port)}})
	must(t, err)
	world.DNS().Set(service, server.Addr())
	client, calling := host(t, a, "front", "")
	url := fmt.Sprintf("http://%s:%d/", service, port)
	ask := func() stage.Answer { return stage.Ask(client.Client(), url) }
	answered := func(context.Context) bool { return ask().App == "web" }
	until(t, "a request passes", answered)

	t.Run("TLS-011 MTLS-004 each shows the SVID of its workload", func(t *testing.T) {
		t.Log("real envoy:", world.envoy)
		if n := stat(t, serving, "listener.0.0.0.0_15000.ssl.handshake"); n < 1 {
			t.Errorf("ssl.handshake of the server is %d", n)
		}
		if n := stat(t, serving, "listener.0.0.0.0_15000.ssl.no_certificate"); n != 0 {
			t.Errorf("%d clients showed no certificate", n)
		}
		text, err := calling.Admin(t.Context(), "/certs")
		must(t, err)
		if want := "spiffe://example.org/front"; !strings.Contains(text, want) {
			t.Errorf("the client has no certificate of %s:\n%s", want, text)
		}
	})
	t.Run("MTLS-012 a server of another name is refused", func(t *testing.T) {
		t.Log("real envoy:", world.envoy)
		call(t, "UpdateVirtualNode", front("other"))
		until(t, "requests fail", func(context.Context) bool { return ask().Fault != "" })
		if n := stat(t, calling, "cluster.cds_egress_spire_web_http_9080.ssl.fail_verify_san"); n < 1 {
			t.Errorf("ssl.fail_verify_san is %d", n)
		}
		call(t, "UpdateVirtualNode", front("web"))
		until(t, "requests pass", answered)
	})
	t.Run("a client of another name is refused", func(t *testing.T) {
		t.Log("real envoy:", world.envoy)
		call(t, "UpdateVirtualNode", web("other"))
		until(t, "requests fail", func(context.Context) bool { return ask().Fault != "" })
		if n := stat(t, serving, "listener.0.0.0.0_15000.ssl.fail_verify_san"); n < 1 {
			t.Errorf("ssl.fail_verify_san is %d", n)
		}
		call(t, "UpdateVirtualNode", web("front"))
		until(t, "requests pass", answered)
	})
	t.Run("TLS-011 SVIDs rotate and nothing fails", func(t *testing.T) {
		t.Log("real envoy:", world.envoy)
		steady := stage.NewSteady(client, url, 4, 2*time.Millisecond)
		defer steady.Stop()
		began := time.Now()
		seen := [2]map[string]bool{{}, {}}
		until(t, "both have had four certificates", func(context.Context) bool {
			for i, s := range []*stage.Sidecar{serving, calling} {
				for _, serial := range serials(t, s) {
					seen[i][serial] = true
				}
			}
			return len(seen[0]) >= 4 && len(seen[1]) >= 4
		})
		tally := steady.Count(began, time.Time{})
		t.Logf("%d certificates of the server and %d of the client in %v: %d of %d requests failed %v",
			len(seen[0]), len(seen[1]), time.Since(began).Round(time.Second), tally.Failed, tally.Requests, tally.Faults)
		if tally.Failed > 0 || tally.Requests < 1000 {
			t.Errorf("%d of %d requests failed: %v", tally.Failed, tally.Requests, tally.Faults)
		}
	})
}
