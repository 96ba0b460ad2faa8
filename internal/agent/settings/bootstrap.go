package settings

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// BootstrapSettings are the variables that only shape Envoy's bootstrap.
type BootstrapSettings struct {
	InitialFetchTimeout   int    // seconds; 0 waits for ever
	AdminAccessLog        string // file
	AdminIPv6             bool
	OutlierLog            string        // file
	MaxRequestsPerIOCycle int           // 0 leaves it to Envoy
	StatsFlushInterval    time.Duration // 0 leaves it to Envoy
	SDSSocket             string
	MetricExtension       bool
	StatsTags             bool
	Statsd                *Statsd
	Tracing               Tracing

	// Files of the user that are merged into the bootstrap; "" for none.
	TracingFile, StatsFile, SinksFile, ResourcesFile string
}

// Statsd is where DogStatsD listens: a socket, or UDP.
type Statsd struct {
	Address string
	Port    int
	Socket  string
}

// Tracing is at most one of its members (AGENT-017).
type Tracing struct {
	XRay    *XRay
	Datadog *Datadog
	Jaeger  *Jaeger
}

// XRay is the AWS X-Ray tracer's settings.
type XRay struct {
	Segment  string // "" for <mesh>/<resource>
	Daemon   string // [host:]port of AWS_XRAY_DAEMON_ADDRESS, or the address 127.0.0.1
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

func (v *variables) bootstrap() BootstrapSettings {
	b := BootstrapSettings{
		InitialFetchTimeout:   v.hardInt("ENVOY_INITIAL_FETCH_TIMEOUT", 0, 0, math.MaxInt32),
		AdminAccessLog:        v.text("ENVOY_ADMIN_ACCESS_LOG_FILE", "/tmp/envoy_admin_access.log"),
		AdminIPv6:             v.hardBool("ENVOY_ADMIN_ACCESS_ENABLE_IPV6"),
		OutlierLog:            v.text("ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH", "/dev/stdout"),
		MaxRequestsPerIOCycle: v.hardInt("MAX_REQUESTS_PER_IO_CYCLE", 0, 0, math.MaxInt32),
		SDSSocket:             v.text("APPMESH_SDS_SOCKET_PATH", ""),
		MetricExtension:       v.text("APPMESH_METRIC_EXTENSION_VERSION", "") == "1",
		StatsTags:             v.hardBool("ENABLE_ENVOY_STATS_TAGS"),
		TracingFile:           v.text("ENVOY_TRACING_CFG_FILE", ""),
		StatsFile:             v.text("ENVOY_STATS_CONFIG_FILE", ""),
		SinksFile:             v.text("ENVOY_STATS_SINKS_CFG_FILE", ""),
		ResourcesFile:         v.text("ENVOY_RESOURCES_CONFIG_FILE", ""),
	}
	if s := v.text("ENVOY_STATS_FLUSH_INTERVAL", ""); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < time.Millisecond {
			v.fail("ENVOY_STATS_FLUSH_INTERVAL", "%q is no duration of at least 1ms, such as 5s", s)
		}
		b.StatsFlushInterval = d
	}
	if v.hardBool("ENABLE_ENVOY_DOG_STATSD") && b.SinksFile == "" {
		b.Statsd = &Statsd{v.text("STATSD_ADDRESS", "127.0.0.1"), v.hardPort("STATSD_PORT", 8125), v.text("STATSD_SOCKET_PATH", "")}
	}
	if b.TracingFile == "" {
		b.Tracing = v.tracing()
	}
	return b
}

func (v *variables) tracing() Tracing {
	var t Tracing
	on := 0
	if v.hardBool("ENABLE_ENVOY_XRAY_TRACING") {
		on++
		t.XRay = &XRay{
			Segment: v.text("XRAY_SEGMENT_NAME", ""), Daemon: v.text("AWS_XRAY_DAEMON_ADDRESS", "127.0.0.1"), Port: v.hardPort("XRAY_DAEMON_PORT", 2000),
			Rate: DefaultSamplingRate, Manifest: v.text("XRAY_SAMPLING_RULE_MANIFEST", ""),
		}
		if s := v.text("XRAY_SAMPLING_RATE", ""); s != "" {
			rate, err := strconv.ParseFloat(s, 64)
			if err != nil || !(rate >= 0 && rate <= 1) {
				v.fail("XRAY_SAMPLING_RATE", "%q is not a number from 0 to 1", s)
			}
			t.XRay.Rate = math.Round(rate*100) / 100
		}
	}
	if v.hardBool("ENABLE_ENVOY_DATADOG_TRACING") {
		on++
		t.Datadog = &Datadog{v.text("DATADOG_TRACER_ADDRESS", "127.0.0.1"), v.hardPort("DATADOG_TRACER_PORT", 8126), v.text("DD_SERVICE", "")}
	}
	if v.hardBool("ENABLE_ENVOY_JAEGER_TRACING") {
		on++
		t.Jaeger = &Jaeger{v.text("JAEGER_TRACER_ADDRESS", "127.0.0.1"), v.hardPort("JAEGER_TRACER_PORT", 9411), strings.Contains(strings.ToLower(v.text("JAEGER_TRACER_VERSION", "")), "json")}
	}
	if on > 1 {
		v.fail("ENABLE_ENVOY_XRAY_TRACING", "only one of ENABLE_ENVOY_XRAY_TRACING, ENABLE_ENVOY_DATADOG_TRACING and ENABLE_ENVOY_JAEGER_TRACING may be on")
	}
	return t
}
