package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/agent"
	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/loopback"
)

const hostsHelp = `evermesh-agent hosts [NAME...] prints, for /etc/hosts, where virtual services are called in a workload without
interception (EVERMESH_INTERCEPTION=none).

The address of a service follows from its name alone, so with names nothing is asked: the lines can be written before
anything runs. Without names the running Envoy is asked, at ENVOY_ADMIN_ACCESS_PORT, at the socket of
ENVOY_ADMIN_MODE=uds or where a file such as ENVOY_RESOURCES_CONFIG_FILE has admin, which backends it has.

  evermesh-agent hosts colors.shop.local db.shop.local >> /etc/hosts

Exit codes: 0 done, 1 Envoy does not answer, 2 wrong use, or a name that is no host name.
`

// hosting is `evermesh-agent hosts`.
func hosting(ctx context.Context, args []string, std streams) error {
	flags := flag.NewFlagSet("hosts", flag.ContinueOnError)
	if err := parse("hosts", flags, args); err != nil {
		return err
	}
	names := flags.Args()
	if len(names) == 0 {
		var err error
		if names, err = servicesOf(ctx, envoyadmin.New(agent.AdminForClient(os.Getenv, os.Getuid()))); err != nil {
			return err
		}
	}
	text, err := hostsLines(names)
	if err != nil {
		return usage("hosts", err)
	}
	return say(std.out, text)
}

// hostsLines are lines for /etc/hosts, sorted by name; what is no host name is refused.
func hostsLines(names []string) (string, error) {
	var text strings.Builder
	names = slices.Clone(names)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if _, err := netip.ParseAddr(name); err == nil || name == "" || strings.ContainsFunc(name, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
		}) {
			return "", fmt.Errorf("%q is no host name, and cannot resolve", name)
		}
		fmt.Fprintf(&text, "%s\t%s\n", loopback.Address(name), name)
	}
	return text.String(), nil
}

// servicesOf are the names that Envoy's outbound listeners are for, those that can be host names.
func servicesOf(ctx context.Context, envoy *envoyadmin.Client) ([]string, error) {
	text, err := envoy.OK(ctx, http.MethodGet, "/config_dump?resource=dynamic_listeners", envoyadmin.Wait)
	if err != nil {
		return nil, err
	}
	var dump struct {
		Configs []struct {
			Active struct {
				Listener struct {
					Metadata struct {
						Filter struct {
							Evermesh struct{ Services []string } `json:"evermesh"`
						} `json:"filter_metadata"`
					}
				}
			} `json:"active_state"`
		}
	}
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		return nil, fmt.Errorf("read envoy's listeners: %w", err)
	}
	var names []string
	for _, c := range dump.Configs {
		for _, name := range c.Active.Listener.Metadata.Filter.Evermesh.Services {
			if _, err := hostsLines([]string{name}); err == nil {
				names = append(names, name)
			}
		}
	}
	return names, nil
}
