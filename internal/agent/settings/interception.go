package settings

import (
	"net/netip"
	"strconv"
	"strings"
)

// Interception says how the workload's connections come to Envoy. The zero value is redirection by the kernel, which
// `evermesh-agent intercept` installs.
type Interception struct {
	// None: nothing redirects, as the platform forbids it. Envoy then listens where connections go by themselves.
	None bool
	// Ingress is the address at which Envoy takes what comes in: an IP address, IngressAuto, or "" for all addresses.
	Ingress string
	// AppPorts are pairs LISTENER:APPLICATION of ports, separated by commas, for an application that listens on other
	// ports than its virtual node; "" for none.
	AppPorts string
}

// IngressAuto stands for the workload's own address, whatever it is.
const IngressAuto = "auto"

// maxAppPorts is how many pairs the control plane takes.
const maxAppPorts = 64

// interception reads the variables of the mode without redirection. They go into Envoy's node: what is wrong is refused.
func (v *variables) interception() Interception {
	i := Interception{None: v.noInterception()}
	if i.Ingress = v.text("EVERMESH_INGRESS_ADDRESS", ""); i.Ingress != "" && i.Ingress != IngressAuto {
		at, err := netip.ParseAddr(i.Ingress)
		if err != nil || at.IsUnspecified() || at.IsLoopback() || at.IsMulticast() || at.Zone() != "" {
			v.fail("EVERMESH_INGRESS_ADDRESS", "%q is neither %s nor an IP address of the workload that is not loopback, such as 10.0.0.7", i.Ingress, IngressAuto)
		}
	}
	i.AppPorts = v.text("EVERMESH_APP_PORTS", "")
	v.appPorts(i)
	for _, name := range []string{"EVERMESH_INGRESS_ADDRESS", "EVERMESH_APP_PORTS"} {
		if v.has(name) && !i.None {
			v.warn("%s has no effect without EVERMESH_INTERCEPTION=none", name)
		}
	}
	return i
}

// NoInterception says whether EVERMESH_INTERCEPTION asks for none, for who would install it. The error is a
// [*ConfigError].
func NoInterception(getenv func(string) string) (bool, error) {
	v := variables{getenv: getenv}
	none := v.noInterception()
	return none, v.err
}

func (v *variables) noInterception() bool {
	word := strings.ToLower(v.text("EVERMESH_INTERCEPTION", "redirect"))
	if word != "redirect" && word != "none" {
		v.fail("EVERMESH_INTERCEPTION", "%q is neither redirect nor none", word)
	}
	return word == "none"
}

// appPorts refuses pairs that the control plane would refuse, or of which it could make nothing: Envoy would get no
// configuration, or the port would be left out of it, and only the control plane's log would tell.
func (v *variables) appPorts(i Interception) {
	if i.AppPorts == "" {
		return
	}
	pairs := strings.Split(i.AppPorts, ",")
	application := map[uint64]uint64{} // by listener's port
	for _, pair := range pairs {
		pair = strings.TrimSpace(pair)
		left, right, _ := strings.Cut(pair, ":")
		from, to := port(left), port(right)
		old, twice := application[from]
		switch {
		case from == 0 || to == 0 || len(pairs) > maxAppPorts:
			v.fail("EVERMESH_APP_PORTS", "%q is no list of at most %d pairs of ports, such as 8080:18080", i.AppPorts, maxAppPorts)
			return
		case twice && old != to:
			v.fail("EVERMESH_APP_PORTS", "%s and %d:%d are two ports of the application for one", pair, from, old)
		case from == to && i.Ingress == "":
			v.fail("EVERMESH_APP_PORTS", "%s: Envoy takes that port on all addresses, so the application must listen on another one; or set EVERMESH_INGRESS_ADDRESS", pair)
		}
		application[from] = to
	}
}

// port is a port's number, or 0.
func port(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return n
}
