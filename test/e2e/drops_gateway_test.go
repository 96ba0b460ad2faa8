//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/stage"
)

// TestGatewayChangesUnderTraffic changes what is behind a virtual gateway, and the gateway, while someone outside of the
// mesh never stops calling.
func TestGatewayChangesUnderTraffic(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "gating", "DROP_ALL")
	services := map[string]string{}
	for _, name := range []string{"blue", "green"} {
		m.app(name)
		services[name] = m.service("to-"+name, appPort, map[string]string{"r": weighted(noRetry, name, 1)})
	}
	const only = `{"listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}]}`
	m.create("VirtualGateway", "front", only)
	m.put("Create", "GatewayRoute", "front", "root", toService(services["blue"], `{"prefix": "/"}`, ""))
	front := m.sidecar(m.host("front"), stage.SidecarOptions{Resource: "mesh/" + m.name + "/virtualGateway/front", Alone: true})
	steady := stage.NewSteady(m.host("visitor"), fmt.Sprintf("http://%s:8088/", m.hostname("front")), 8, 5*time.Millisecond)
	defer steady.Stop()
	m.reaches(t, steady, "blue")

	t.Run("GR-001 EMS-052 gateway routes come, change and go", func(t *testing.T) {
		m.during(t, steady, "gateway route added, changed and removed", 100, func() {
			first := strings.Replace(toService(services["green"], `{"prefix": "/"}`, ""), "{", `{"priority": 1, `, 1)
			m.settle(m.put("Create", "GatewayRoute", "front", "first", first))
			m.reaches(t, steady, "green")
			m.settle(m.put("Update", "GatewayRoute", "front", "first", strings.Replace(first, services["green"], services["blue"], 1)))
			m.reaches(t, steady, "blue")
			m.settle(m.put("Update", "GatewayRoute", "front", "first", first))
			m.reaches(t, steady, "green")
			m.delete("GatewayRoute", `{"virtualGatewayName": "front", "gatewayRouteName": "first"}`)
			m.reaches(t, steady, "blue")
		})
	})
	t.Run("GR-014 EMS-052 gateway routes that keep the host change", func(t *testing.T) {
		m.during(t, steady, "gateway route that keeps the host gets another target", 100, func() {
			for _, keep := range []bool{true, true, true, false} {
				for _, name := range []string{"green", "blue"} {
					rewrite := ""
					if keep {
						rewrite = `{"hostname": {"defaultTargetHostname": "DISABLED"}}`
					}
					m.settle(m.put("Update", "GatewayRoute", "front", "root", toService(services[name], `{"prefix": "/"}`, rewrite)))
					m.reaches(t, steady, name)
				}
			}
		})
	})
	t.Run("VG-004 EMS-052 a service behind it changes", func(t *testing.T) {
		m.during(t, steady, "service behind a gateway gets another provider, and weights", 100, func() {
			m.settle(m.put("Update", "Route", "to-blue", "r", weighted(noRetry, "green", 1, "blue", 1)))
			m.reaches(t, steady, "blue", "green")
			m.settle(m.update("VirtualService", services["blue"], `{"provider": {"virtualRouter": {"virtualRouterName": "to-green"}}}`))
			m.reaches(t, steady, "green")
		})
	})
	t.Run("VG-003 EMS-052 a listener comes beside another", func(t *testing.T) {
		m.during(t, steady, "listener of a gateway added beside another, and removed", 100, func() {
			// As App Mesh demands of gateways with several listeners.
			m.settle(m.put("Update", "GatewayRoute", "front", "root", toService(services["blue"], `{"prefix": "/", "port": 8088}`, "")))
			m.settle(m.update("VirtualGateway", "front", strings.Replace(only, "[", `[{"portMapping": {"port": 8089, "protocol": "http"}}, `, 1)))
			m.until("statistics have the new names", func(context.Context) bool {
				return m.stat(front, "http.ingress.http.8088.downstream_rq_2xx") > 0
			})
			m.settle(m.update("VirtualGateway", "front", only))
			m.answers(t, steady, 100)
		})
	})
	steady.Stop()
	lossless(t, "all of these changes", steady.Count(time.Time{}, time.Time{}))
	m.unrepeated(t, front)
}
