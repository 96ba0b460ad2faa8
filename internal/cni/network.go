package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/internal/intercept"
)

// Network is the configuration on stdin. Numbers are strings, and lists are lists of strings, as in App Mesh's plugin.
type Network struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Type       string `json:"type"` // aws-appmesh; whoever calls has found the program by it

	IgnoredUID         string   `json:"ignoredUID"` // one of the two is required
	IgnoredGID         string   `json:"ignoredGID"`
	ProxyIngressPort   string   `json:"proxyIngressPort"` // with appPorts, or neither
	ProxyEgressPort    string   `json:"proxyEgressPort"`  // required
	AppPorts           []string `json:"appPorts"`         // [""] is none
	EgressIgnoredPorts []string `json:"egressIgnoredPorts"`
	EgressIgnoredIPs   []string `json:"egressIgnoredIPs"` // addresses and CIDR blocks of both families
	EnableIPv6         bool     `json:"enableIPv6"`

	PrevResult json.RawMessage `json:"prevResult"` // what the plugin before this one in the chain printed

	Backend string `json:"backend"` // as of `evermesh-agent intercept`; "" is auto
	LogFile string `json:"logFile"` // "" is /log/aws-appmesh.log where there is that directory, else stderr
}

// maxOwnerID is the largest user or group id that the guide allows (ICPT-023).
const maxOwnerID = 1<<31 - 1

// config is what the network asks of interception. The error names the field and what it takes.
func (n Network) config() (intercept.Config, error) {
	cfg := intercept.Config{Enabled: true, IPv6: n.EnableIPv6}
	for _, o := range []struct {
		field, value string
		kind         intercept.OwnerKind
	}{{"ignoredUID", n.IgnoredUID, intercept.OwnerUID}, {"ignoredGID", n.IgnoredGID, intercept.OwnerGID}} {
		if o.value == "" {
			continue
		}
		id, err := strconv.ParseUint(o.value, 10, 32)
		if err != nil || id > maxOwnerID {
			return cfg, fmt.Errorf("%s %q: want a number from 0 to %d", o.field, o.value, maxOwnerID)
		}
		cfg.Ignored = append(cfg.Ignored, intercept.Owner{Kind: o.kind, ID: uint32(id)})
	}
	if len(cfg.Ignored) == 0 {
		return cfg, fmt.Errorf("ignoredUID or ignoredGID is required")
	}
	if (n.ProxyIngressPort == "") != (len(n.AppPorts) == 0) {
		return cfg, fmt.Errorf("proxyIngressPort and appPorts are required together")
	}
	if n.ProxyEgressPort == "" {
		return cfg, fmt.Errorf("proxyEgressPort is required")
	}
	var err error
	if cfg.EgressPort, err = port("proxyEgressPort", n.ProxyEgressPort); err != nil {
		return cfg, err
	}
	if n.ProxyIngressPort != "" {
		if cfg.IngressPort, err = port("proxyIngressPort", n.ProxyIngressPort); err != nil {
			return cfg, err
		}
	}
	if cfg.AppPorts, err = ports("appPorts", n.AppPorts); err != nil {
		return cfg, err
	}
	ignored, err := ports("egressIgnoredPorts", n.EgressIgnoredPorts)
	if err != nil {
		return cfg, err
	}
	cfg.IgnoredPorts = intercept.WithSSH(ignored)
	cfg.IgnoredIPs, err = prefixes("egressIgnoredIPs", n.EgressIgnoredIPs)
	return cfg, err
}

func port(field, value string) (uint16, error) {
	p, err := strconv.ParseUint(strings.TrimSpace(value), 10, 16)
	if err != nil || p == 0 {
		return 0, fmt.Errorf("%s %q: want a port from 1 to 65535", field, value)
	}
	return uint16(p), nil
}

// ports reads a list in which one empty string stands for none, which is how ECS writes a list that nobody gave.
func ports(field string, values []string) ([]intercept.PortRange, error) {
	if len(values) == 1 && values[0] == "" {
		return nil, nil
	}
	var out []intercept.PortRange
	for _, value := range values {
		p, err := port(field, value)
		if err != nil {
			return nil, err
		}
		out = append(out, intercept.PortRange{First: p, Last: p})
	}
	return out, nil
}

func prefixes(field string, values []string) ([]netip.Prefix, error) {
	if len(values) == 1 && values[0] == "" {
		return nil, nil
	}
	var out []netip.Prefix
	for _, value := range values {
		value = strings.TrimSpace(value)
		prefix, err := netip.ParsePrefix(value)
		if addr, addrErr := netip.ParseAddr(value); addrErr == nil && addr.Zone() == "" {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s %q: want an address or a CIDR block", field, value)
		}
		out = append(out, prefix.Masked())
	}
	return out, nil
}
