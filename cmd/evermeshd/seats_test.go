package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// A quota of connected Envoys over two replicas: it refuses who is new, and nobody who
// was there; and it warns before.
func TestConnectedEnvoysHaveAQuota(t *testing.T) {
	t.Parallel()
	e := newEtcd(t).start(t)
	key := masterKey(t)
	replica := func() (*plane, *grpc.ClientConn) {
		dir := t.TempDir()
		p := start(t, dir, "--drain-seconds", "0", "--auth", "off", "--quotas", "aws", "--etcd-endpoints", e.endpoint, "--master-key-file", key)
		facts, err := client.ReadFacts(dir)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient(strings.TrimPrefix(facts.XDSEndpoint, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return p, conn
	}
	a, toA := replica()
	b, toB := replica()
	must := func(operation string, in any) {
		t.Helper()
		if err := a.call(t.Context(), operation, in, nil); err != nil {
			t.Fatal(err)
		}
	}
	must("CreateMesh", api.CreateMeshInput{MeshName: "apps"})
	must("CreateVirtualNode", api.CreateVirtualNodeInput{MeshName: "apps", VirtualNodeName: "n", Spec: api.VirtualNodeSpec{}})
	must("CreateVirtualNode", api.CreateVirtualNodeInput{MeshName: "apps", VirtualNodeName: "other", Spec: api.VirtualNodeSpec{}})
	limit := func(code, value string) {
		t.Helper()
		if got := run(t.Context(), []string{"quota", "set", "--etcd-endpoints", e.endpoint, "000000000000", code, value}); got != 0 {
			t.Fatalf("quota set: exit code %d", got)
		}
	}
	limit("L-606A910B", "3")

	// come opens a stream and tells how it went: it is open when there is something to
	// get.
	come := func(conn *grpc.ClientConn, node, instance string) (leave context.CancelFunc, code codes.Code, text string) {
		t.Helper()
		s := adstest.Open(t, conn, adstest.Options{Node: "mesh/apps/virtualNode/" + node, Instance: instance, Delta: true})
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.CDS}))
		if _, err := s.Recv(); err != nil {
			code, text = adstest.Status(err)
			return s.Close, code, text
		}
		return s.Close, codes.OK, ""
	}
	in := func(conn *grpc.ClientConn, node, instance string) context.CancelFunc {
		t.Helper()
		leave, code, text := come(conn, node, instance)
		if code != codes.OK {
			t.Fatalf("%s is refused: %v %s", instance, code, text)
		}
		return leave
	}
	refused := func(conn *grpc.ClientConn, instance, want string) {
		t.Helper()
		try := 0
		eventually(t, instance+" is refused", func() bool { // when the ledger has the others, and the replica the quota
			try++ // one that came in too early may come back
			leave, code, text := come(conn, "n", fmt.Sprint(instance, " ", try))
			leave()
			if code == codes.OK {
				t.Logf("%s came in", instance)
			}
			return code == codes.ResourceExhausted && text == want
		})
	}
	const arn = "arn:aws:appmesh:us-east-1:000000000000:mesh/apps/virtualNode/n"
	full := func(n, most int) string {
		return fmt.Sprintf("%s has %d connected Envoys, and its quota is %d (L-606A910B): stop some, or have the quota raised.", arn, n, most)
	}
	known := func(p *plane, n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("the ledger has %d proxies", n), func() bool {
			var out api.ListProxiesOutput
			return p.call(t.Context(), "ListProxies", api.ListProxiesInput{}, &out) == nil && len(out.Proxies) == n
		})
	}

	one, _ := in(toA, "n", "one"), in(toA, "n", "two")
	known(b, 2)
	three := in(toB, "n", "three")
	known(a, 3)
	t.Run("QUOTA-002 EMS-011 EMS-014 a fourth is refused with code 8, at either replica", func(t *testing.T) {
		refused(toA, "four", full(3, 3))
		refused(toB, "four", full(3, 3))
		in(toB, "other", "four")()
	})
	t.Run("EMS-014 who was there comes back, to the other replica too", func(t *testing.T) {
		one()
		three()
		known(a, 1)
		// Somebody else takes a seat; the quota is then less than those who were there.
		in(toA, "n", "five")
		known(b, 2)
		limit("L-606A910B", "1")
		refused(toB, "six", full(2, 1))
		in(toB, "n", "one")
		in(toA, "n", "three")
		known(a, 4)
	})
	t.Run("QUOTA-002 it warns before, once, in the log, in a metric and by an event", func(t *testing.T) {
		limit("L-606A910B", "5") // 4 of 5
		eventually(t, "the share is published", func() bool {
			_, body := a.get(t, "/metrics")
			return strings.Contains(body, `evermesh_quota_usage_ratio{quota="L-606A910B"} 0.8`)
		})
		if n := strings.Count(a.said(t), `msg="quota of connected proxies is almost used up" mesh=apps`); n != 1 {
			t.Errorf("it warned %d times:\n%s", n, a.said(t))
		}
		of := map[string]int{}
		eventually(t, "the event is there", func() bool {
			clear(of)
			for _, e := range b.events(t) {
				if d, ok := e["serviceEventDetails"].(map[string]any); ok && e["eventName"] == "QuotaUsage" {
					of[fmt.Sprint(d["quotaCode"], " ", d["resourceArn"])]++
				}
			}
			return len(of) > 0
		})
		if n := of["L-606A910B arn:aws:appmesh:us-east-1:000000000000:mesh/apps/virtualNode/n"]; n != 1 || len(of) != 1 {
			t.Errorf("events are %v", of)
		}
	})
	t.Run("EMS-014 proxies of a replica that was killed come in at the other", func(t *testing.T) {
		limit("L-606A910B", "1")
		if err := a.cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		a.exit(t)
		in(toB, "n", "two")
		in(toB, "n", "five")
		refused(toB, "seven", full(4, 1))
	})
	t.Run("QUOTA-003 a gateway has its own quota", func(t *testing.T) {
		must := func(operation string, in any) {
			t.Helper()
			if err := b.call(t.Context(), operation, in, nil); err != nil {
				t.Fatal(err)
			}
		}
		must("CreateVirtualGateway", api.CreateVirtualGatewayInput{MeshName: "apps", VirtualGatewayName: "g", Spec: api.VirtualGatewaySpec{Listeners: []api.VirtualGatewayListener{{PortMapping: api.VirtualGatewayPortMapping{Port: 8080, Protocol: "http"}}}}})
		limit("L-33E8F9C9", "1")
		open := func(instance string) (codes.Code, string) {
			s := adstest.Open(t, toB, adstest.Options{Node: "mesh/apps/virtualGateway/g", Instance: instance, Delta: true})
			adstest.Must(t, s.Send(adstest.Request{Type: adstest.CDS}))
			if _, err := s.Recv(); err != nil {
				return adstest.Status(err)
			}
			return codes.OK, ""
		}
		if code, text := open("first"); code != codes.OK {
			t.Fatalf("%v %s", code, text)
		}
		try := 0
		eventually(t, "a second is refused", func() bool { // when the replica has the quota
			try++
			code, text := open(fmt.Sprint("second ", try))
			return code == codes.ResourceExhausted && strings.Contains(text, "L-33E8F9C9")
		})
	})
}
