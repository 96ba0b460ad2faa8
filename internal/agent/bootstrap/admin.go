package bootstrap

import (
	"errors"
	"net/netip"
	"strconv"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// AdminOf is where the administration interface of a bootstrap is, be it generated, merged with files of the user or one of
// these alone: Envoy goes by it, whatever the environment says. false means that the text says nothing of it that could
// be read.
func AdminOf(text []byte) (settings.Admin, bool) {
	doc, err := readYAML(text)
	if err != nil {
		return settings.Admin{}, false
	}
	admin, err := adminOf(doc["admin"])
	return admin, err == nil
}

var errNoAdmin = errors.New("has no address with a port, nor the path of a pipe, at which the agent could ask Envoy how it is and have it drain")

// adminOf reads Envoy's Admin message.
func adminOf(value any) (settings.Admin, error) {
	address := spelt(spelt(value)["address"])
	if path, _ := spelt(address["pipe"])["path"].(string); path != "" {
		return settings.Admin{Socket: path, Given: true}, nil
	}
	at := spelt(address["socketAddress"])
	host, _ := at["address"].(string)
	port := 0
	switch n := at["portValue"].(type) {
	case int:
		port = n
	case string: // protobuf's JSON form takes numbers as texts, too
		port, _ = strconv.Atoi(n)
	}
	if host == "" || port < 1 || port > 65535 {
		return settings.Admin{}, errNoAdmin
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
		both, _ := at["ipv4Compat"].(bool)
		if host = ""; a.Is6() && !both {
			host = netip.IPv6Loopback().String()
		}
	}
	return settings.Admin{Address: host, Port: port, Given: true}, nil
}

// spelt is an object with its own keys spelt as the generated ones are; empty for everything else.
func spelt(of any) object {
	in, _ := of.(object)
	out, err := camel(in)
	if err != nil {
		return nil
	}
	return out
}
