package settings

import (
	"strconv"
	"strings"
)

// defaultRelaySocket is where App Mesh's agent listened in relay mode.
const defaultRelaySocket = "/tmp/relay_xds.sock"

// relayMode reads APPNET_ENABLE_RELAY_MODE_FOR_XDS: an agent that relays and signs the streams of Envoys that others run,
// and runs none. Those are agents whose APPMESH_XDS_ENDPOINT is unix://, as of ECS Service Connect. App Mesh's agent ran an
// Envoy for it; this one has its relay, whose buffers and idle streams need no bounds to be set.
func (s *Settings) relayMode(v *variables) {
	s.RelayOnly = v.softBool("APPNET_ENABLE_RELAY_MODE_FOR_XDS", false)
	if !s.RelayOnly {
		return
	}
	for _, name := range []string{"RELAY_STREAM_IDLE_TIMEOUT", "RELAY_BUFFER_LIMIT_BYTES", "TLS_CURVE"} {
		if v.has(name) {
			v.warn("%s is set and has no effect: the relay is no Envoy, and negotiates its curve", name)
		}
	}
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
