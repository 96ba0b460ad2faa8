package mesh_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// listening makes a node with listeners as text: port, protocol, TLS mode and where
// the certificate is from, such as "8080 http STRICT acm".
func listening(name string, listeners ...string) *api.Resource {
	spec := &api.VirtualNodeSpec{}
	for _, text := range listeners {
		var l api.Listener
		words := strings.Fields(text)
		_, _ = fmt.Sscan(words[0], &l.PortMapping.Port)
		l.PortMapping.Protocol = api.PortProtocol(words[1])
		if len(words) > 2 {
			l.TLS = &api.ListenerTLS{Mode: api.ListenerTLSMode(words[2])}
			if l.TLS.Certificate.File = &(api.ListenerTLSFileCertificate{}); len(words) > 3 && words[3] == "acm" {
				l.TLS.Certificate = api.ListenerTLSCertificate{ACM: &api.ListenerTLSACMCertificate{CertificateARN: "arn"}}
			}
		}
		spec.Listeners = append(spec.Listeners, l)
	}
	return &api.Resource{Key: worldKey(api.KindVirtualNode, "", name), Spec: spec}
}

// heard is the inverse of listening; "-" stands for what is stored.
func heard(r *api.Resource) string {
	if r == nil {
		return "-"
	}
	var out []string
	for _, l := range r.VirtualNodeSpec().Listeners {
		text := fmt.Sprint(l.PortMapping.Port, " ", l.PortMapping.Protocol)
		if l.TLS != nil {
			text += " " + string(l.TLS.Mode)
			if l.TLS.Certificate.ACM != nil {
				text += " acm"
			}
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func TestTurns(t *testing.T) {
	for _, test := range []struct {
		name      string
		from, to  string
		seen, own string
	}{
		{"nothing", "8080 http", "8080 http", "-", "-"},
		{"TLS is off in another way", "8080 http", "8080 http DISABLED", "-", "-"},
		{"TLS off to PERMISSIVE", "8080 http", "8080 http PERMISSIVE", "8080 http", "-"},
		{"TLS off to STRICT", "8080 http", "8080 http STRICT", "8080 http", "8080 http PERMISSIVE"},
		{"PERMISSIVE to STRICT", "8080 http PERMISSIVE", "8080 http STRICT", "-", "8080 http PERMISSIVE"},
		{"STRICT to PERMISSIVE", "8080 http STRICT", "8080 http PERMISSIVE", "8080 http STRICT", "-"},
		{"STRICT to off", "8080 http STRICT", "8080 http", "8080 http STRICT", "8080 http PERMISSIVE"},
		{"PERMISSIVE to off", "8080 http PERMISSIVE", "8080 http DISABLED", "-", "8080 http PERMISSIVE"},
		{"a certificate that clients check", "8080 http STRICT", "8080 http STRICT acm", "8080 http STRICT", "-"},
		{"one that they check no longer", "8080 http STRICT acm", "8080 http STRICT", "-", "8080 http STRICT acm"},
		{"another of the same kind", "8080 http STRICT acm", "8080 http STRICT acm", "-", "-"},
		{"a listener more", "8080 http", "8080 http, 9090 grpc", "8080 http", "-"},
		{"a listener more before it", "8080 http", "9090 grpc, 8080 http", "8080 http", "-"},
		{"another order", "8080 http, 9090 grpc", "9090 grpc, 8080 http", "-", "-"},
		{"a listener less", "8080 http, 9090 grpc", "9090 grpc", "-", "9090 grpc, 8080 http"},
		{"another port", "8080 http", "9090 http", "8080 http", "9090 http, 8080 http"},
		{"another port and TLS", "8080 http", "9090 http STRICT", "8080 http", "9090 http STRICT, 8080 http"},
		{"another protocol", "8080 tcp", "8080 http", "8080 tcp", "-"},
		{"another protocol and TLS", "8080 tcp", "8080 http STRICT", "8080 tcp", "8080 http PERMISSIVE"},
		{"the first listener", "", "8080 http", "", "-"},
		{"the last listener", "8080 http", "", "-", "8080 http"},
	} {
		t.Run(test.name, func(t *testing.T) {
			split := func(s string) []string {
				return slices.DeleteFunc(strings.Split(s, ", "), func(s string) bool { return s == "" })
			}
			from, to := listening("n", split(test.from)...), listening("n", split(test.to)...)
			turn := mesh.Turn{Goal: from}.To(to)
			if got := heard(turn.Seen); got != test.seen {
				t.Errorf("clients see %q, want %q", got, test.seen)
			}
			if got := heard(turn.Own); got != test.own {
				t.Errorf("its proxies get %q, want %q", got, test.own)
			}
			steps := 0
			for ; !turn.Resting(); turn = turn.Next() {
				steps++
			}
			want := 0
			for _, s := range []string{test.seen, test.own} {
				if s != "-" {
					want++
				}
			}
			if steps != want || turn.Goal != to {
				t.Errorf("it came to %v in %d steps, want the goal in %d", heard(turn.Goal), steps, want)
			}
		})
	}
}

// What is no matter of listeners holds at once, also while others wait.
func TestATurnHoldsBackListenersOnly(t *testing.T) {
	from, to := listening("n", "8080 http"), listening("n", "8080 http STRICT", "9090 http")
	name, limit := "moved.local", &api.ListenerTimeout{}
	to.VirtualNodeSpec().ServiceDiscovery = &api.ServiceDiscovery{DNS: &api.DNSServiceDiscovery{Hostname: name}}
	to.VirtualNodeSpec().Listeners[0].Timeout = limit
	turn := mesh.Turn{Goal: from}.To(to)
	for who, r := range map[string]*api.Resource{"clients": turn.Seen, "its proxies": turn.Own} {
		spec := r.VirtualNodeSpec()
		if spec.ServiceDiscovery.DNS.Hostname != name || spec.Listeners[0].Timeout != limit {
			t.Errorf("%s get %+v", who, spec)
		}
	}
	if from.VirtualNodeSpec().Listeners[0].TLS != nil || to.VirtualNodeSpec().Listeners[0].TLS.Mode != api.ListenerTLSModeStrict || len(to.VirtualNodeSpec().Listeners) != 2 {
		t.Error("what is stored was changed")
	}
	if turn := (mesh.Turn{}).To(to); !turn.Resting() {
		t.Error("a node that is new waits for somebody")
	}
	if turn := turn.To(nil); !turn.Resting() {
		t.Error("a node that is gone waits for somebody")
	}
}

// drawListeners draws up to three listeners; a port has always the same protocol.
func drawListeners(t *rapid.T) *api.Resource {
	var out []string
	for _, port := range rapid.SliceOfNDistinct(rapid.IntRange(0, 2), 0, 3, rapid.ID).Draw(t, "ports") {
		tls := rapid.SampledFrom([]string{"", " DISABLED", " PERMISSIVE", " STRICT", " STRICT acm", " PERMISSIVE acm"}).Draw(t, "tls")
		out = append(out, fmt.Sprint(8080+port, " http", tls))
	}
	return listening("n", out...)
}

// takes says whether a proxy with these listeners takes all that a client may do
// who sees the others, and what it does not.
func takes(proxy, client *api.Resource) (string, bool) {
	for _, c := range client.VirtualNodeSpec().Listeners {
		i := slices.IndexFunc(proxy.VirtualNodeSpec().Listeners, func(l api.Listener) bool { return l.PortMapping == c.PortMapping })
		if i < 0 {
			return fmt.Sprint("port ", c.PortMapping.Port), false
		}
		p := proxy.VirtualNodeSpec().Listeners[i]
		mode := func(l api.Listener) string {
			if l.TLS == nil || l.TLS.Mode == api.ListenerTLSModeDisabled {
				return "plain"
			}
			return map[api.ListenerTLSMode]string{api.ListenerTLSModePermissive: "plain tls", api.ListenerTLSModeStrict: "tls"}[l.TLS.Mode]
		}
		for way := range strings.FieldsSeq(mode(c)) {
			if !slices.Contains(strings.Fields(mode(p)), way) {
				return fmt.Sprint(way, " on port ", c.PortMapping.Port), false
			}
			if way == "tls" && c.TLS.Certificate.ACM != nil && p.TLS.Certificate.ACM == nil {
				return fmt.Sprint("the certificate of port ", c.PortMapping.Port), false
			}
		}
	}
	return "", true
}

// The invariant of D6.3: whoever is late, and however often the node is changed
// meanwhile, each of its proxies takes what any client may send.
func TestEveryProxyTakesWhatAnyClientMaySend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		turn := mesh.Turn{Goal: drawListeners(t)}
		stored := func(r *api.Resource) *api.Resource {
			if r == nil {
				return turn.Goal
			}
			return r
		}
		const n = 3
		var proxies, clients [n]*api.Resource // what each has accepted
		for i := range n {
			proxies[i], clients[i] = turn.Goal, turn.Goal
		}
		all := func(who [n]*api.Resource, has *api.Resource) bool {
			return !slices.ContainsFunc(who[:], func(r *api.Resource) bool { return r != has })
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				turn = turn.To(drawListeners(t))
			case 5: // as if it were read by a replica that starts
				before := turn
				turn = reread(t, turn.Form()).Of(turn.Goal, true)
				proxies, clients = moved(proxies, before.Own, turn.Own), moved(clients, before.Seen, turn.Seen)
			case 1, 2:
				proxies[rapid.IntRange(0, n-1).Draw(t, "proxy")] = stored(turn.Own)
			default:
				clients[rapid.IntRange(0, n-1).Draw(t, "client")] = stored(turn.Seen)
			}
			switch {
			case turn.Entering() && all(proxies, stored(turn.Own)), !turn.Entering() && turn.Leaving() && all(clients, turn.Goal):
				turn = turn.Next()
			}
			for _, p := range proxies {
				for _, c := range clients {
					if what, ok := takes(p, c); !ok {
						t.Fatalf("a client sees %q, a proxy has %q and does not take %s", heard(c), heard(p), what)
					}
				}
			}
		}
	})
}

// reread is the form after it was written and read.
func reread(t *rapid.T, f mesh.Form) (out mesh.Form) {
	text, err := json.Marshal(f)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// moved is who, with a node's new pointer for the old one of the same content.
func moved(who [3]*api.Resource, old, now *api.Resource) [3]*api.Resource {
	for i := range who {
		if old != nil && who[i] == old {
			who[i] = now
		}
	}
	return who
}

// A form that was written for an older version of the node begins from there.
func TestATurnGoesOnFromItsForm(t *testing.T) {
	first, second := listening("n", "8080 http STRICT"), listening("n", "9090 http")
	form := mesh.Turn{Goal: listening("n", "8080 http")}.To(first).Form()
	turn := form.Of(second, false)
	if seen, own := heard(turn.Seen), heard(turn.Own); turn.Goal != second || seen != "8080 http" || own != "9090 http, 8080 http" {
		t.Errorf("clients see %q, its proxies get %q", seen, own)
	}
	if turn := form.Of(nil, false); !turn.Resting() {
		t.Error("a node that is gone waits for somebody")
	}
}
