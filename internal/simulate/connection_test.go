package simulate_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/simulate"
	"github.com/evermesh/evermesh/internal/testenv"
)

// The proxies whose filter chains are looked at.
const (
	dropAll  = "EMS-033_MESH-002_drop_all virtualNode/front"
	allowAll = "MESH-003_MESH-004_allow_all_with_backends virtualNode/front"
	tcpOnes  = "EMS-035_RT-043_tcp virtualNode/front"
	twoPorts = "EMS-035_two_ports virtualNode/front"
	https    = "EMS-065_port_443 virtualNode/front"
	several  = "EMS-023_EMS-029_VN-006_several_listeners virtualNode/front"
	bare     = "EMS-021_VN-003_no_listeners virtualNode/batch"
)

// TestConnections is about what is chosen before any request is read: by port,
// address, server name and TLS. The real Envoy's counters of connections tell
// which cluster it chose.
func TestConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t, dropAll, allowAll, tcpOnes, twoPorts, https, several, bare)
	to := func(port uint16) simulate.Request {
		// Nobody listens there: what is passed on is refused at once.
		return simulate.Request{Protocol: simulate.TCP, Destination: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), port)}
	}
	hello := func(port uint16, name string) simulate.Request {
		req := to(port)
		req.TLS, req.ServerName = true, name
		return req
	}
	for _, test := range []struct {
		name, of string
		request  simulate.Request
		want     string // clusters with a share
	}{
		{"EMS-035 RT-043 of a tcp port's routes the first one", tcpOnes, to(5432), "db-a_tcp_5432+db-b_tcp_5432"},
		{"EMS-035 a tcp service on another port", twoPorts, to(5433), "other_tcp_5432"},
		{"EMS-035 RT-008 a tcp service of weights 0", twoPorts, to(5434), "closed"},
		{"MESH-002 a port of no backend under DROP_ALL", dropAll, to(9081), "closed"},
		{"MESH-002 443 under DROP_ALL, another name", dropAll, hello(443, "example.com"), "closed"},
		{"EMS-025 443 under DROP_ALL, a name of AWS", dropAll, hello(443, "sqs.eu-west-1.AMAZONAWS.com"), "amazonaws"},
		{"EMS-025 443, no name in front of that of AWS", dropAll, hello(443, "amazonaws.com"), "closed"},
		{"the listener's own port", allowAll, to(15001), "closed"},
		{"MESH-003 another port under ALLOW_ALL", allowAll, to(7777), "mesh-allow-all"},
		{"MESH-003 TLS on another port under ALLOW_ALL", allowAll, hello(7777, "sqs.eu-west-1.amazonaws.com"), "mesh-allow-all"},
		{"MESH-003 443 under ALLOW_ALL, another name", allowAll, hello(443, "example.com"), "mesh-allow-all"},
		{"MESH-003 443 under ALLOW_ALL, no name", allowAll, hello(443, ""), "mesh-allow-all"},
		{"EMS-025 443 under ALLOW_ALL, a name of AWS", allowAll, hello(443, "sqs.eu-west-1.amazonaws.com"), "amazonaws"},
		{"EMS-065 a service on 443", https, hello(443, "secure.local"), "secure_tcp_443"},
		{"EMS-065 a service on 443 without TLS", https, to(443), "secure_tcp_443"},
		{"EMS-065 beside a service on 443, a name of AWS", https, hello(443, "sqs.eu-west-1.amazonaws.com"), "amazonaws"},
		{"TLS to a port of HTTP", dropAll, hello(9080, "colorapp.local"), "closed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := r.proxies[test.of]
			o, err := p.Send(test.request)
			if err != nil {
				t.Fatal(err)
			}
			if got := brief(o); got != test.want {
				t.Errorf("simulated %q, want %q\n%s", got, test.want, o)
			}
			if got := r.chosen(t, p, "lds_egress_0.0.0.0_15001", test.request); !strings.Contains("+"+test.want+"+", "+"+got+"+") {
				t.Errorf("the real Envoy chose %q, want %q\n%s", got, test.want, o)
			}
		})
	}
	t.Run("EMS-023 VN-006 inbound, each listener's port", func(t *testing.T) {
		p := r.proxies[several]
		for port, want := range map[uint16]string{8080: "front_http_8080 any/", 8081: "front_grpc_8081 any/", 8083: "front_http2_8083 any/", 8084: "closed"} {
			req := simulate.Request{Direction: simulate.Inbound, Destination: toPort(port), Authority: "any"}
			o, err := p.Send(req)
			if err != nil {
				t.Fatal(err)
			}
			if got := brief(o); got != want {
				t.Errorf("port %d: simulated %q, want %q\n%s", port, got, want, o)
			}
			if d := disagreement(o, r.send(t, p, req)); d != "" {
				t.Errorf("port %d: the real Envoy did otherwise: %s", port, d)
			}
		}
	})
	t.Run("EMS-021 a node without listeners takes nothing", func(t *testing.T) {
		o, err := r.proxies[bare].Send(simulate.Request{Direction: simulate.Inbound, Destination: toPort(8080), Authority: "any"})
		if err != nil || brief(o) != "closed" || len(o.Hops) != 0 {
			t.Errorf("got %v, %v", o, err)
		}
	})
}

var connections = regexp.MustCompile(`(?m)^cluster\.(\d+)\.cds_(?:egress|ingress)_colors_(\S+)\.upstream_cx_total: (\d+)$`)

// chosen opens the connection, says a word, and returns the cluster that has one
// connection more then, or closed.
func (r *rig) chosen(t *testing.T, p *proxy, listener string, req simulate.Request) string {
	t.Helper()
	count := func() map[string]int {
		out := map[string]int{}
		for _, m := range connections.FindAllStringSubmatch(r.AdminPage(t, "/stats?filter=upstream_cx_total"), -1) {
			if m[1] == strconv.Itoa(p.index) {
				out[m[2]], _ = strconv.Atoi(m[3])
			}
		}
		return out
	}
	before := count()
	conn := r.Connect(t, envoytest.BatchListener(p.index, listener), req.Destination)
	defer conn.Close()
	said := make(chan error, 1)
	go func() { said <- say(conn, req) }()
	chosen := ""
	testenv.Eventually(t, "a choice", func() bool {
		for name, n := range count() {
			if n > before[name] {
				chosen = name
				return true
			}
		}
		select {
		case err := <-said:
			said <- err
			// Envoy counts before it closes; whoever was chosen shows at the next look.
			if chosen == "ended" {
				chosen = "closed"
				return true
			}
			chosen = "ended"
		default:
		}
		return false
	})
	_ = conn.Close()
	if err := <-said; errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nothing happened to the connection: %v", err)
	}
	return chosen
}

// say begins TLS, or writes bytes that are no HTTP, and waits for the end.
func say(conn net.Conn, req simulate.Request) error {
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if req.TLS {
		return tls.Client(conn, &tls.Config{ServerName: req.ServerName, InsecureSkipVerify: true}).Handshake()
	}
	if _, err := io.WriteString(conn, "\x00hello\n"); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	_, err := io.Copy(io.Discard, conn)
	return err
}
