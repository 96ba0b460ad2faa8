package intercept_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/intercept"
	"github.com/evermesh/evermesh/test/ground"
)

// asks is the variable that makes this test program ask a name server, "udp 10.0.0.2:53 20001", from that port, and print
// its answer.
const asks = "INTERCEPT_TEST_ASK"

// ask is one query; its answer is the text record of whoever answers. It is from a port that no other one was from: where
// UDP goes, the kernel decides for the first packet between two ports, and remembers that when the rules are others.
func ask(network, server string, mark uint32, port int) (string, error) {
	var from net.Addr = &net.UDPAddr{Port: port}
	if network == "tcp" {
		from = &net.TCPAddr{Port: port}
	}
	client := &dns.Client{Net: network, Timeout: wait, Dialer: &net.Dialer{LocalAddr: from, Timeout: wait, Control: func(_, _ string, c syscall.RawConn) error {
		if mark == 0 {
			return nil
		}
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
		return errors.Join(err, failed)
	}}}
	m := new(dns.Msg)
	m.SetQuestion("orders.apps.local.", dns.TypeTXT)
	answer, _, err := client.Exchange(m, server)
	if err != nil {
		return "", err
	}
	for _, rr := range answer.Answer {
		if txt, ok := rr.(*dns.TXT); ok {
			return strings.Join(txt.Txt, ""), nil
		}
	}
	return dns.RcodeToString[answer.Rcode], nil
}

// answers serves on the host, over UDP and TCP, and tells its name.
func answers(t *testing.T, h *ground.Host, addr, name string) {
	t.Helper()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{name}}}
		_ = w.WriteMsg(m)
	})
	var udp net.PacketConn
	if err := h.Do(func() (err error) {
		udp, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", addr)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	tcp, err := h.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: handler}, {Listener: tcp, Handler: handler}} {
		started, ended := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(ended)
			_ = s.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() { _ = s.Shutdown(); <-ended })
	}
}

// Queries go to the mesh's name server by either protocol and in either family, but Envoy's, and only while the rules are there.
func TestKernelDNS(t *testing.T) {
	for _, b := range variants(t) {
		t.Run(b.Name(), func(t *testing.T) { captured(t, newScene(t), b) })
	}
}

func captured(t *testing.T, s *scene, b intercept.Backend) {
	mesh, other := s.ground.Home(), s.other
	answers(t, mesh, netip.AddrPortFrom(mesh.Addr(), 5353).String(), "mesh")
	answers(t, other, ":53", "other")
	answers(t, s.workload, "127.0.0.53:53", "loopback")
	answers(t, s.workload, ":5300", "local")
	port := 20000 // below what the kernel gives out
	heard := func(t *testing.T, server, want string) {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			var got string
			port++
			if err := s.workload.Do(func() (err error) { got, err = ask(network, server, 0, port); return err }); err != nil || got != want {
				t.Errorf("%s to %s: got %q, %v; want %q", network, server, got, err, want)
			}
		}
	}
	envoyHeard := func(t *testing.T, server, want string) {
		t.Helper()
		self, err := s.ground.Tool("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		owner := s.ground.Owner()
		for _, network := range []string{"udp", "tcp"} {
			port++
			got, err := s.workload.Run(t.Context(), ground.Command{
				Name: "envoy", Path: self, UID: owner.UID,
				Env: []string{fmt.Sprintf("%s=%s %s %d", asks, network, server, port), fmt.Sprintf("%s=%d", markVariable, owner.Mark)},
			})
			if err != nil || got != want {
				t.Errorf("Envoy, %s to %s: got %q, %v; want %q", network, server, got, err, want)
			}
		}
	}
	at, elsewhere := net.JoinHostPort(other.Addr().String(), "53"), "192.0.2.53:53"
	heard(t, at, "other")
	s.apply(t, b, "APPMESH_START_ENABLED=1", "EVERMESH_DNS_CAPTURE="+netip.AddrPortFrom(mesh.Addr(), 5353).String())
	t.Run("queries to any name server elsewhere", func(t *testing.T) {
		heard(t, at, "mesh")
		heard(t, elsewhere, "mesh") // where nobody is
	})
	t.Run("but Envoy's", func(t *testing.T) { envoyHeard(t, at, "other") })
	t.Run("nor those to loopback addresses, which cannot leave", func(t *testing.T) { heard(t, "127.0.0.53:53", "loopback") })
	t.Run("nor those of IPv6, for which there is no name server", func(t *testing.T) {
		if six := other.Addr6(); six.IsValid() {
			heard(t, net.JoinHostPort(six.String(), "53"), "other")
		}
	})
	t.Run("not enabled, all are left alone", func(t *testing.T) {
		s.apply(t, b, "EVERMESH_DNS_CAPTURE="+netip.AddrPortFrom(mesh.Addr(), 5353).String())
		heard(t, at, "other")
	})
	if six := mesh.Addr6(); six.IsValid() {
		t.Run("queries of both families", func(t *testing.T) {
			answers(t, mesh, netip.AddrPortFrom(six, 5353).String(), "mesh6")
			s.apply(t, b, "APPMESH_START_ENABLED=1", "APPMESH_ENABLE_IPV6=1", fmt.Sprintf("EVERMESH_DNS_CAPTURE=%s,%s", netip.AddrPortFrom(mesh.Addr(), 5353), netip.AddrPortFrom(six, 5353)))
			to := net.JoinHostPort(other.Addr6().String(), "53")
			heard(t, to, "mesh6")
			envoyHeard(t, to, "other")
			heard(t, at, "mesh")
		})
	}
	t.Run("a name server at a loopback address gets all", func(t *testing.T) {
		s.apply(t, b, "APPMESH_START_ENABLED=1", "EVERMESH_DNS_CAPTURE=127.0.0.1:5300")
		heard(t, "127.0.0.53:53", "local")
		heard(t, at, "local")
		envoyHeard(t, "127.0.0.53:53", "loopback")
	})
	t.Run("removed", func(t *testing.T) {
		if err := s.workload.Do(func() error { return b.Remove(t.Context()) }); err != nil {
			t.Fatal(err)
		}
		heard(t, at, "other")
		heard(t, "127.0.0.53:53", "loopback")
	})
}

// asked is the program that asks as Envoy.
func asked(what string) error {
	var (
		network, server string
		port            int
		mark            uint32
	)
	if _, err := fmt.Sscan(what, &network, &server, &port); err != nil {
		return err
	}
	if _, err := fmt.Sscan(os.Getenv(markVariable), &mark); err != nil {
		return err
	}
	text, err := ask(network, server, mark, port)
	fmt.Print(text)
	return err
}
