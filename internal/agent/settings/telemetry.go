package settings

import (
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Statsd is where a server of StatsD, or of Datadog's form of it, listens: a socket, or UDP.
type Statsd struct {
	Dog     bool   // Datadog's form, with tags
	Address string // an IP address
	Port    int
	Socket  string
}

// Tracing is at most one of its members (AGENT-017).
type Tracing struct {
	XRay          *XRay
	Datadog       *Datadog
	Jaeger        *Jaeger
	OpenTelemetry *OpenTelemetry
}

// XRay is the AWS X-Ray tracer's settings.
type XRay struct {
	Segment  string // "" for <mesh>/<resource>
	Daemon   string // an IP address
	Port     int
	Rate     float64 // share of sampled requests, 0 to 1
	Manifest string  // file with sampling rules
}

// Datadog is the Datadog tracer's settings.
type Datadog struct {
	Address string
	Port    int
	Service string // "" for envoy-<mesh>/<resource>
}

// Jaeger is the Jaeger collector, in Zipkin's format.
type Jaeger struct {
	Address string
	Port    int
	JSON    bool
}

// DefaultSamplingRate is what X-Ray samples without a rule.
const DefaultSamplingRate = 0.05

// metrics are the sinks of Envoy's statistics that the variables ask for, none when a file of the user has them.
func (v *variables) metrics(b *BootstrapSettings) {
	dog, plain := v.hardBool("ENABLE_ENVOY_DOG_STATSD"), v.hardBool("ENABLE_ENVOY_STATSD")
	if dog && plain {
		v.fail("ENABLE_ENVOY_STATSD", "and ENABLE_ENVOY_DOG_STATSD would send to the same place: set one of them")
	}
	if (dog || plain) && b.SinksFile == "" {
		b.Statsd = &Statsd{Dog: dog, Socket: v.hardSocket("STATSD_SOCKET_PATH")}
		if b.Statsd.Socket == "" {
			b.Statsd.Address, b.Statsd.Port = v.hardIP("STATSD_ADDRESS", "127.0.0.1"), v.hardPort("STATSD_PORT", 8125)
		}
	}
	if v.hardBool("ENABLE_ENVOY_OTEL_METRICS") && b.SinksFile == "" {
		b.Metrics = v.openTelemetry(metricsSignal)
	}
}

func (v *variables) tracing() Tracing {
	var t Tracing
	var on []string
	enabled := func(name string) bool {
		if !v.hardBool(name) {
			return false
		}
		on = append(on, name)
		return true
	}
	if enabled("ENABLE_ENVOY_XRAY_TRACING") {
		t.XRay = v.xray()
	}
	if enabled("ENABLE_ENVOY_DATADOG_TRACING") {
		t.Datadog = &Datadog{v.text("DATADOG_TRACER_ADDRESS", "127.0.0.1"), v.hardPort("DATADOG_TRACER_PORT", 8126), v.text("DD_SERVICE", "")}
	}
	if enabled("ENABLE_ENVOY_JAEGER_TRACING") {
		t.Jaeger = &Jaeger{v.text("JAEGER_TRACER_ADDRESS", "127.0.0.1"), v.hardPort("JAEGER_TRACER_PORT", 9411), strings.Contains(strings.ToLower(v.text("JAEGER_TRACER_VERSION", "")), "json")}
	}
	if enabled("ENABLE_ENVOY_OTEL_TRACING") {
		t.OpenTelemetry = v.openTelemetry(tracesSignal)
		t.OpenTelemetry.Ratio = v.sampler()
	}
	if len(on) > 1 {
		v.fail(on[0], "only one tracer may be on, and these are: %s", strings.Join(on, ", "))
	}
	return t
}

func (v *variables) xray() *XRay {
	x := &XRay{Segment: v.text("XRAY_SEGMENT_NAME", ""), Rate: DefaultSamplingRate, Manifest: v.text("XRAY_SAMPLING_RULE_MANIFEST", "")}
	x.Daemon, x.Port = "127.0.0.1", v.hardPort("XRAY_DAEMON_PORT", 2000)
	if s := v.text("AWS_XRAY_DAEMON_ADDRESS", ""); s != "" {
		host := s
		if h, p, err := net.SplitHostPort(s); err == nil {
			n, err := strconv.ParseUint(p, 10, 16)
			if err != nil || n == 0 {
				v.fail("AWS_XRAY_DAEMON_ADDRESS", "%q has no port from 1 to 65535", s)
			}
			host, x.Port = h, int(n)
		}
		if a, err := netip.ParseAddr(host); err != nil || !zoneExists(a.Zone()) {
			v.fail("AWS_XRAY_DAEMON_ADDRESS", "%q must be an IP address, with a port or without, such as 127.0.0.1:2000: Envoy's tracer looks up no names", s)
		}
		x.Daemon = host
	}
	if s := v.text("XRAY_SAMPLING_RATE", ""); s != "" {
		x.Rate = math.Round(v.hardShare("XRAY_SAMPLING_RATE", s)*100) / 100
	}
	return x
}

func (v *variables) hardShare(name, s string) float64 {
	share, err := strconv.ParseFloat(s, 64)
	if err != nil || !(share >= 0 && share <= 1) {
		v.fail(name, "%q is not a number from 0 to 1", s)
	}
	return share
}

// hardIP is an address that Envoy takes as it is: where it sends datagrams it looks up no names.
func (v *variables) hardIP(name, fallback string) string {
	s := v.text(name, fallback)
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		v.fail(name, "%q must be an IP address: Envoy looks up no names for it", s)
	case !zoneExists(a.Zone()):
		v.fail(name, "%q has a zone, and there is no interface of that name here", s)
	}
	return s
}

// zoneExists says whether Envoy takes the zone of an address: the name of an interface that is there, or any number.
func zoneExists(zone string) bool {
	if _, err := strconv.ParseUint(zone, 10, 32); zone == "" || err == nil {
		return true
	}
	_, err := net.InterfaceByName(zone)
	return err == nil
}

// hardSocket is the path of a socket that Envoy connects to.
func (v *variables) hardSocket(name string) string {
	s := v.text(name, "")
	v.socketPath(name, s)
	return s
}

// socketPath refuses what is longer than the path of a socket may be.
func (v *variables) socketPath(name, path string) {
	if len(path) > MaxSocketPath {
		v.fail(name, "the path is longer than %d bytes", MaxSocketPath)
	}
}
