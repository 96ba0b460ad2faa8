package platform

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"github.com/evermesh/evermesh/internal/agent/bootstrap"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// container is what the task metadata endpoint tells about one, in versions 3 and 4.
type container struct {
	Type   string // CNI_PAUSE for the one that holds the network
	Limits struct {
		CPU, Memory json.Number
	}
	Networks []struct {
		NetworkMode                  string
		IPv4Addresses, IPv6Addresses []string
	}
}

// description is what it tells about the task. Version 3 has no zone.
type description struct {
	Cluster, TaskARN, AvailabilityZone string
	Containers                         []container
}

// task asks the task metadata endpoint about the task, and about this container for its limits.
func (c client) task(ctx context.Context, p settings.PlatformSettings) (*bootstrap.Task, error) {
	var (
		wg     sync.WaitGroup
		whole  description
		own    container
		failed [2]error
	)
	wg.Go(func() { failed[0] = c.decode(ctx, p.TaskMetadata+"/task", &whole) })
	wg.Go(func() { failed[1] = c.decode(ctx, p.TaskMetadata, &own) })
	wg.Wait()
	if failed[0] != nil && failed[1] != nil {
		return nil, fmt.Errorf("ask the task metadata endpoint: %w", failed[0])
	}
	t := &bootstrap.Task{
		Cluster: whole.Cluster, ARN: whole.TaskARN, Zone: whole.AvailabilityZone,
		CPU: own.Limits.CPU.String(), Memory: own.Limits.Memory.String(), Families: families(whole.Containers, p.ContainerAddresses),
	}
	if err := errors.Join(failed[:]...); err != nil {
		return t, fmt.Errorf("ask the task metadata endpoint: %w", err)
	}
	return t, nil
}

func (c client) decode(ctx context.Context, url string, into any) error {
	text, err := c.fetch(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return errors.New("answered what is no description of a task or container")
	}
	return nil
}

// families are the address families of the task's network: in a network of its own (awsvpc) those of any container,
// behind a bridge those of the container that holds the network. A bridge gives addresses of both families even where the
// containers are reached by IPv6 alone, which the mapping of Service Connect tells. "" is not known.
func families(containers []container, mapping map[string]any) string {
	for _, c := range containers {
		for _, n := range c.Networks {
			switch n.NetworkMode {
			case "awsvpc":
				return familiesOf(containers[0])
			case "bridge":
				i := slices.IndexFunc(containers, func(c container) bool { return c.Type == "CNI_PAUSE" })
				if i < 0 {
					return ""
				}
				if of := familiesOf(containers[i]); of != "ALL" || !onlyIPv6(mapping) {
					return of
				}
				return "IPv6_ONLY"
			}
		}
	}
	return ""
}

func familiesOf(c container) string {
	var four, six bool
	some := func(addresses []string) bool {
		return slices.ContainsFunc(addresses, func(a string) bool { return a != "" })
	}
	for _, n := range c.Networks {
		four, six = four || some(n.IPv4Addresses), six || some(n.IPv6Addresses)
	}
	switch {
	case four && six:
		return "ALL"
	case four:
		return "IPv4_ONLY"
	case six:
		return "IPv6_ONLY"
	}
	return ""
}

func onlyIPv6(mapping map[string]any) bool {
	for _, value := range mapping {
		text, _ := value.(string)
		if a, err := netip.ParseAddr(text); err != nil || !a.Is6() || a.Is4In6() {
			return false
		}
	}
	return len(mapping) > 0
}
