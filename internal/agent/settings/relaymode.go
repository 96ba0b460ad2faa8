package settings

import (
	"crypto/tls"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// defaultRelaySocket is where App Mesh's agent listened in relay mode.
const defaultRelaySocket = "/tmp/relay_xds.sock"

// relayMode reads APPNET_ENABLE_RELAY_MODE_FOR_XDS: an agent that relays and signs the streams of Envoys that others run,
// and runs none. Those are agents whose APPMESH_XDS_ENDPOINT is unix://, as of ECS Service Connect. App Mesh's agent ran an
// Envoy for it; this one has its relay, which keeps the bounds that were that Envoy's.
func (s *Settings) relayMode(v *variables) {
	s.RelayOnly = v.softBool("APPNET_ENABLE_RELAY_MODE_FOR_XDS", false)
	if !s.RelayOnly {
		return
	}
	s.RelayBounds = RelayBounds{
		Idle:   v.softIdle("RELAY_STREAM_IDLE_TIMEOUT", 2400*time.Second),
		Buffer: int(min(v.softInt64("RELAY_BUFFER_LIMIT_BYTES", 10<<20, 1, math.MaxUint32), math.MaxInt32)),
		Curves: v.softCurves("TLS_CURVE"),
	}
}

// RelayBounds are what App Mesh's agent bounded its relay mode by; the zero value is none, for the relay of the agent's own
// Envoy.
type RelayBounds struct {
	// Idle is how long nothing may be said on a stream, by neither side, before it ends (RELAY_STREAM_IDLE_TIMEOUT); 0 for
	// ever.
	Idle time.Duration
	// Buffer is how many bytes are held of each connection's, in either direction, before the sender has to wait
	// (RELAY_BUFFER_LIMIT_BYTES): a window of HTTP/2, so that 2 GiB are taken for more, and the relay takes
	// 64 KiB for less.
	Buffer int
	// Curves are what keys to the control plane are agreed on by (TLS_CURVE); none leaves that to the region.
	Curves []tls.CurveID
}

// curves are those of TLS by the names that they have in Envoy's configuration.
func curves() map[string]tls.CurveID {
	return map[string]tls.CurveID{
		"P-256": tls.CurveP256, "P-384": tls.CurveP384, "P-521": tls.CurveP521, "X25519": tls.X25519, "X25519MLKEM768": tls.X25519MLKEM768,
	}
}

// CurvesOf are those that App Mesh's agent allowed in a region.
func CurvesOf(region string) []tls.CurveID {
	if strings.HasPrefix(region, "us-isof-") || strings.HasPrefix(region, "eu-isoe-") {
		return []tls.CurveID{tls.CurveP384}
	}
	return []tls.CurveID{tls.CurveP256}
}

// softCurves takes the name of a curve, or several with colons between them, as Envoy joins them.
func (v *variables) softCurves(name string) (out []tls.CurveID) {
	s := v.text(name, "")
	if s == "" {
		return nil
	}
	for word := range strings.SplitSeq(s, ":") {
		curve, ok := curves()[word]
		if !ok {
			v.warn("%s=%q is none of %s: that of the region is used", name, s, strings.Join(slices.Sorted(maps.Keys(curves())), ", "))
			return nil
		}
		out = append(out, curve)
	}
	return out
}

// softIdle takes a duration with its unit, such as 2400s; 0s is for ever, as in Envoy.
func (v *variables) softIdle(name string, fallback time.Duration) time.Duration {
	s := v.text(name, "")
	if s == "" {
		return fallback
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		v.warn("%s=%q is no duration of 0s or more, such as 2400s: %s is used", name, s, fallback)
		return fallback
	}
	return d
}

// management is the list of control planes in relay mode: those of APPMESH_XDS_ENDPOINT, where a name without a port has
// that of APPNET_MANAGEMENT_PORT, else APPNET_MANAGEMENT_DOMAIN_NAME, else Service Connect's own; "" where that has no region.
func (s *Settings) management(v *variables) string {
	port := ":" + strconv.Itoa(v.hardPort("APPNET_MANAGEMENT_PORT", 443))
	list := v.text("APPMESH_XDS_ENDPOINT", v.text("APPNET_MANAGEMENT_DOMAIN_NAME", ""))
	if list == "" && s.Region != "" {
		domain := "api.aws"
		if strings.HasPrefix(s.Region, "cn-") {
			domain = "api.amazonwebservices.com.cn"
		}
		list = "ecs-sc." + s.Region + "." + domain
	}
	var out []string
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" && !strings.Contains(item, ":") {
			item += port
		}
		out = append(out, item)
	}
	return strings.Join(out, ",")
}
