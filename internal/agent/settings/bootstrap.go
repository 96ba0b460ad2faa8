package settings

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
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
	Metrics               *OpenTelemetry // collector that statistics are sent to; nil for none
	Tracing               Tracing

	// Files of the user that are merged into the bootstrap; "" for none.
	TracingFile, StatsFile, SinksFile, ResourcesFile string
}

func (v *variables) bootstrap() BootstrapSettings {
	b := BootstrapSettings{
		InitialFetchTimeout:   v.hardInt("ENVOY_INITIAL_FETCH_TIMEOUT", 0, 0, math.MaxInt32),
		AdminAccessLog:        v.text("ENVOY_ADMIN_ACCESS_LOG_FILE", "/tmp/envoy_admin_access.log"),
		AdminIPv6:             v.hardBool("ENVOY_ADMIN_ACCESS_ENABLE_IPV6"),
		OutlierLog:            v.text("ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH", "/dev/stdout"),
		MaxRequestsPerIOCycle: v.hardInt("MAX_REQUESTS_PER_IO_CYCLE", 0, 0, math.MaxInt32),
		SDSSocket:             v.hardSocket("APPMESH_SDS_SOCKET_PATH"),
		MetricExtension:       v.text("APPMESH_METRIC_EXTENSION_VERSION", "") == "1",
		StatsTags:             v.hardBool("ENABLE_ENVOY_STATS_TAGS"),
		TracingFile:           v.text("ENVOY_TRACING_CFG_FILE", ""),
		StatsFile:             v.text("ENVOY_STATS_CONFIG_FILE", ""),
		SinksFile:             v.text("ENVOY_STATS_SINKS_CFG_FILE", ""),
		ResourcesFile:         v.text("ENVOY_RESOURCES_CONFIG_FILE", ""),
	}
	if s := v.text("ENVOY_STATS_FLUSH_INTERVAL", ""); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d < time.Millisecond || d >= flushLimit {
			v.fail("ENVOY_STATS_FLUSH_INTERVAL", "%q is no duration from 1ms to less than 5m, such as 5s", s)
		}
		b.StatsFlushInterval = d
	}
	v.metrics(&b)
	if b.TracingFile == "" {
		b.Tracing = v.tracing()
	}
	return b
}

// flushLimit is what Envoy takes no more as an interval between two flushes of statistics.
const flushLimit = 5 * time.Minute

// Envoy's ports for redirected traffic, of a virtual node.
const (
	ingressPort = 15000
	egressPort  = 15001
)

// adminPort refuses a port of Envoy's administration interface that is taken by what is known now (AGENT-008); the node's
// own listeners are not.
func (s *Settings) adminPort(v *variables) {
	const name = "ENVOY_ADMIN_ACCESS_PORT"
	port := s.Admin.Port
	switch {
	case s.Admin.Socket != "" || s.OwnBootstrap():
	case s.Server.Network == "tcp" && strings.HasSuffix(s.Server.Address, ":"+strconv.Itoa(port)):
		v.fail(name, "%d is the port of the agent's own interface too: set another one, or APPNET_AGENT_HTTP_PORT", port)
	case s.Resource.Kind == api.KindVirtualNode && !s.Interception.None && (port == ingressPort || port == egressPort):
		v.fail(name, "%d is where Envoy takes redirected traffic: set another one", port)
	}
}
