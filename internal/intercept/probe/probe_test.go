package probe_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"github.com/evermesh/evermesh/internal/intercept"
	"github.com/evermesh/evermesh/internal/intercept/probe"
	"github.com/evermesh/evermesh/test/ground"
)

// part is the variable that makes this test program a check, by a user with NET_ADMIN alone.
const part = "PROBE_TEST_ENDPOINT"

func TestMain(m *testing.M) {
	if endpoint := os.Getenv(part); endpoint != "" {
		found, _ := intercept.Find("nft")
		for _, p := range probe.Prove(context.Background(), config("APPMESH_APP_PORTS=8080"), probe.Options{Backends: found, ControlPlane: []string{endpoint}}) {
			fmt.Println(p)
		}
		os.Exit(0)
	}
	exit, inside, err := ground.Enter(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(m.Run())
	}
	if !inside {
		os.Exit(exit)
	}
	os.Exit(m.Run())
}

// scene is a workload and a control plane on another host, which says hello.
type scene struct {
	ground              *ground.Ground
	workload, control   *ground.Host
	endpoint, endpoint6 string
	tool                intercept.Backend
}

func newScene(t *testing.T) *scene {
	t.Helper()
	if !ground.Inside() {
		_, _, err := ground.Enter(t.Context())
		t.Skipf("this machine allows no network namespaces with redirection: %v", err)
	}
	g, err := ground.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &scene{ground: g}
	for name, host := range map[string]**ground.Host{"workload": &s.workload, "control": &s.control} {
		if *host, err = g.Host(name); err != nil {
			t.Fatal(err)
		}
	}
	tell(t, s.control, ":7071", "control")
	s.endpoint = net.JoinHostPort(s.control.Addr().String(), "7071")
	s.endpoint6 = net.JoinHostPort(s.control.Addr6().String(), "7071")
	found, err := intercept.Find("auto")
	if err != nil {
		t.Fatal(err)
	}
	s.tool = found[0]
	return s
}

func tell(t *testing.T, h *ground.Host, addr, text string) (stop func()) {
	t.Helper()
	stop, err := h.Greet(addr, text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return stop
}

// config is what the variables say, with those of every case.
func config(lines ...string) intercept.Config {
	m := map[string]string{
		"APPMESH_START_ENABLED": "1", "APPMESH_IGNORE_UID": "1337", "APPMESH_ENVOY_EGRESS_PORT": "15001", "APPMESH_ENVOY_INGRESS_PORT": "15000",
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		m[name] = value
	}
	cfg, err := intercept.Parse(func(name string) string { return m[name] })
	if err != nil {
		panic(err) // wrong variables are a mistake of this file
	}
	return cfg
}

func (s *scene) config(lines ...string) intercept.Config {
	if s.ground.Owner().Mark != 0 {
		lines = append(append([]string{"APPMESH_IGNORE_UID="}, s.ground.Owner().Env()...), lines...)
	}
	return config(lines...)
}

func (s *scene) apply(t *testing.T, cfg *intercept.Config) {
	t.Helper()
	if err := s.workload.Do(func() error {
		if cfg == nil {
			return s.tool.Remove(t.Context())
		}
		return s.tool.Apply(t.Context(), *cfg)
	}); err != nil {
		t.Fatal(err)
	}
}

// prove returns the proofs by what they are about.
func (s *scene) prove(t *testing.T, cfg intercept.Config, endpoints ...string) map[string]probe.Proof {
	t.Helper()
	out := map[string]probe.Proof{}
	if err := s.workload.Do(func() error {
		for _, p := range probe.Prove(t.Context(), cfg, probe.Options{Backends: []intercept.Backend{s.tool}, ControlPlane: endpoints}) {
			t.Log(p)
			if p.Outcome == probe.Note { // no proof
				continue
			}
			what := p.What
			if strings.HasPrefix(what, "Envoy's own") {
				what = "own " + what[strings.LastIndex(what, " ")+1:]
			}
			out[what] = p
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// want checks outcomes, and for those that are not OK a part of what they say.
func want(t *testing.T, proofs map[string]probe.Proof, outcomes map[string]probe.Outcome, says map[string]string) {
	t.Helper()
	for what, p := range proofs {
		if w, ok := outcomes[what]; !ok || w != p.Outcome {
			t.Errorf("%s, want %s", p, w)
		}
		if !strings.Contains(p.How, says[what]) {
			t.Errorf("%s: no %q", p, says[what])
		}
	}
	if len(proofs) != len(outcomes) {
		t.Errorf("%d proofs, want %d", len(proofs), len(outcomes))
	}
}

type outcomes = map[string]probe.Outcome

func TestProbe(t *testing.T) {
	s := newScene(t)
	cfg := s.config("APPMESH_APP_PORTS=8080,9000:9010", "APPMESH_EGRESS_IGNORED_PORTS=80", "APPMESH_EGRESS_IGNORED_IP=192.0.2.0/30")
	good := outcomes{"rules": probe.OK, "egress IPv4": probe.OK, "ingress IPv4": probe.OK, "own IPv4": probe.OK, "control plane": probe.OK}
	arrived := map[string]string{
		"egress IPv4":  "192.0.2.4:81, where nobody is, arrived at port 15001", // neither the port nor the address that are left alone
		"ingress IPv4": "from another network namespace to 8080, 9000 arrived at port 15000", "own IPv4": "left alone", "control plane": "reached " + s.endpoint,
	}
	t.Run("all is well, before Envoy runs", func(t *testing.T) {
		s.apply(t, &cfg)
		want(t, s.prove(t, cfg, s.endpoint), good, arrived)
	})
	t.Run("and while it does", func(t *testing.T) {
		stops := []func(){tell(t, s.workload, ":15001", "egress"), tell(t, s.workload, "0.0.0.0:15000", "ingress")}
		want(t, s.prove(t, cfg, s.endpoint), good, arrived)
		for _, stop := range stops {
			stop()
		}
	})
	t.Run("nothing is left of it", func(t *testing.T) {
		if err := s.workload.Do(func() error {
			links, err := net.Interfaces()
			if err != nil || len(links) != 2 {
				t.Errorf("%v, %v", links, err)
			}
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":15001")
			if err == nil {
				err = l.Close()
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
	if s.workload.Addr6().IsValid() {
		t.Run("IPv6", func(t *testing.T) {
			six := s.config("APPMESH_APP_PORTS=8080", "APPMESH_ENABLE_IPV6=1")
			four := s.config("APPMESH_APP_PORTS=8080")
			s.apply(t, &four)
			missing := outcomes{
				"rules": probe.Failed, "egress IPv4": probe.OK, "ingress IPv4": probe.OK, "own IPv4": probe.OK, "control plane": probe.OK,
				"egress IPv6": probe.Failed, "ingress IPv6": probe.Failed, "own IPv6": probe.OK,
			}
			want(t, s.prove(t, six, s.endpoint6), missing, map[string]string{"egress IPv6": "did not arrive at port 15001", "ingress IPv6": "port 8080 did not arrive at port 15000"})
			s.apply(t, &six)
			for what := range missing {
				missing[what] = probe.OK
			}
			want(t, s.prove(t, six, s.endpoint6), missing, map[string]string{"control plane": s.endpoint6, "egress IPv6": "2001:db8::1"})
		})
	}
	t.Run("an owner that the rules do not know", func(t *testing.T) {
		other := s.config("APPMESH_APP_PORTS=8080", "EVERMESH_IGNORE_MARK=0x77", "APPMESH_IGNORE_UID=")
		s.apply(t, &other)
		cfg := s.config("APPMESH_APP_PORTS=8080")
		want(t, s.prove(t, cfg, s.endpoint), outcomes{
			"rules": probe.Failed, "egress IPv4": probe.OK, "ingress IPv4": probe.OK, "own IPv4": probe.Failed, "control plane": probe.Failed,
		}, map[string]string{"own IPv4": "came back to port 15001", "control plane": "came back to port 15001"})
	})
	t.Run("a port that is not captured", func(t *testing.T) {
		few := s.config("APPMESH_APP_PORTS=8080")
		s.apply(t, &few)
		p := s.prove(t, s.config("APPMESH_APP_PORTS=8080,8081"), s.endpoint)["ingress IPv4"]
		if p.Outcome != probe.Failed || !strings.Contains(p.How, "to port 8081 did not arrive at port 15000") {
			t.Errorf("%s", p)
		}
	})
	t.Run("a control plane that does not answer, and one of two", func(t *testing.T) {
		down := net.JoinHostPort(s.control.Addr().String(), "7072")
		if p := s.prove(t, s.config("APPMESH_APP_PORTS=8080"), down)["control plane"]; p.Outcome != probe.Failed || !strings.Contains(p.How, "refused") {
			t.Errorf("%s", p)
		}
		s.ground.DNS().Set("control.internal", s.control.Addr())
		if p := s.prove(t, s.config("APPMESH_APP_PORTS=8080"), "control.internal:7071", down)["control plane"]; p.Outcome != probe.Unknown {
			t.Errorf("%s", p)
		}
	})
	t.Run("no rules", func(t *testing.T) {
		s.apply(t, nil)
		want(t, s.prove(t, cfg), outcomes{
			"rules": probe.Failed, "egress IPv4": probe.Failed, "ingress IPv4": probe.Failed, "own IPv4": probe.OK, "control plane": probe.Unknown,
		}, map[string]string{"rules": "there are no rules of ours"})
	})
}

// Queries are captured if somebody answers where nobody is.
func TestProbeDNS(t *testing.T) {
	s := newScene(t)
	at := netip.AddrPortFrom(s.control.Addr(), 5353)
	cfg := s.config("EVERMESH_DNS_CAPTURE=" + at.String())
	s.apply(t, &cfg)
	if p := s.prove(t, cfg)["DNS IPv4"]; p.Outcome != probe.Failed {
		t.Errorf("nobody answers: %s", p)
	}
	var udp net.PacketConn
	if err := s.control.Do(func() (err error) {
		udp, err = (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", at.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan struct{}), make(chan struct{})
	server := &dns.Server{PacketConn: udp, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		_ = w.WriteMsg(m.SetRcode(q, dns.RcodeRefused)) // as evermeshd does for names that are not its own
	})}
	go func() {
		defer close(ended)
		_ = server.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() { _ = server.Shutdown(); <-ended })
	if p := s.prove(t, cfg)["DNS IPv4"]; p.Outcome != probe.OK || !strings.Contains(p.How, at.String()) {
		t.Errorf("%s", p)
	}
}

// Without SYS_ADMIN, and without being root, what traffic cannot show is read, and said to be.
func TestProbeWithNetAdminAlone(t *testing.T) {
	s := newScene(t)
	if s.tool.Name() != "nft" || s.ground.Owner().UID == 0 {
		t.Skip("this machine allows no network namespaces with redirection by user, or has no nft")
	}
	cfg := s.config("APPMESH_APP_PORTS=8080")
	s.apply(t, &cfg)
	self, err := s.ground.Tool("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	run := func() (text string) {
		if err := s.workload.Do(func() error {
			cmd := exec.CommandContext(t.Context(), self)
			cmd.Env = append(os.Environ(), part+"="+s.endpoint, "EVERMESH_GROUND=")
			const netAdmin = 12
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}, AmbientCaps: []uintptr{netAdmin}}
			out, err := cmd.CombinedOutput()
			text = string(out)
			return err
		}); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return text
	}
	text := run()
	for _, line := range []string{
		"ok       rules: those of nft", "ok       egress IPv4: a connection of uid 1000 to 192.0.2.1:80, where nobody is, arrived",
		"ok       ingress IPv4: not proven by traffic (make a network namespace: operation not permitted); read from the rules",
		"ok       Envoy's own (uid 1337) IPv4: not proven by traffic (cannot become uid 1337: it is 1000 still); read from the rules",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
	s.apply(t, nil)
	if text := run(); !strings.Contains(text, "FAILED   ingress IPv4: not proven by traffic") {
		t.Errorf("without rules:\n%s", text)
	}
}
