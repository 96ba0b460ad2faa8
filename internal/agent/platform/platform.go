// Package platform finds out where the proxy runs, for what the bootstrap says about it: [Ask] looks at the machine
// (machine.go) and asks the services of the platform that the settings allow, ECS's task metadata (task.go) and EC2's
// instance metadata (instance.go), all at once and within one limit. Nothing of it is needed to start: what is not to
// be had is left out, and said in one error. fetch.go is the client that both share.
package platform

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/agent/bootstrap"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// limit bounds the whole of Ask. A single try has tryFor, and what got no answer is tried once more: a container
// that is one hop too far from its instance gets a connection and never an answer, and waits that long in vain.
const (
	limit  = 1500 * time.Millisecond
	tryFor = 600 * time.Millisecond
	tries  = 2
)

// Machine is how the machine is looked at.
type Machine struct {
	Dialer *net.Dialer // with the mark that interception leaves alone
	Envoy  string      // path of the binary
	// Firmware is the directory in which Linux shows the firmware's names; "" for the real one.
	Firmware string
	// Slow is how many times as long as elsewhere everything may take; 0 is once.
	Slow int

	dial func(ctx context.Context, network, address string) (net.Conn, error) // nil is the Dialer's; tests have another
}

func (m Machine) times(d time.Duration) time.Duration { return d * time.Duration(max(m.Slow, 1)) }

// Found is what Ask found out.
type Found struct {
	// Facts have what is known; Instance and SocketPath are not its business.
	Facts bootstrap.Facts
	FIPS  bool // Envoy is a FIPS build; only asked when App Mesh's own endpoint is to be named
}

// Ask finds out within 1.5 s, unless the machine is slow. An error names everything that was asked for and not to be had; Found is good without
// it.
func Ask(ctx context.Context, s settings.Settings, m Machine) (Found, error) {
	ctx, cancel := context.WithTimeout(ctx, m.times(limit))
	defer cancel()
	client := newClient(m)
	defer client.close()
	var (
		wg     sync.WaitGroup
		found  Found
		here   place
		task   *bootstrap.Task
		failed [3]error
	)
	if s.Platform.TaskMetadata != "" {
		wg.Go(func() { task, failed[0] = client.task(ctx, s.Platform) })
	}
	if asksInstance(s.Platform, m.Firmware) {
		wg.Go(func() { here, failed[1] = client.instance(ctx, s.Platform) })
	}
	if s.OwnService() {
		wg.Go(func() { found.FIPS, failed[2] = fips(ctx, m.Envoy) })
	}
	facts := machine()
	wg.Wait()
	facts.Region, facts.Zone, facts.ZoneID, facts.Task = here.region, here.zone, here.zoneID, task
	if facts.Region == "" && task != nil {
		facts.Region = regionOf(task.ARN)
	}
	found.Facts = facts
	return found, errors.Join(failed[:]...)
}

// asksInstance says whether there is an instance metadata service to ask. Fargate has none, and a machine whose firmware
// says that it is not Amazon's has none either: there the address leads nowhere, and each start would wait for it. A
// service that the user named is asked.
func asksInstance(p settings.PlatformSettings, firmware string) bool {
	switch {
	case p.InstanceMetadata == "":
		return false
	case p.InstanceNamed:
		return true
	}
	return !strings.Contains(p.ExecutionEnv, "FARGATE") && mayBeEC2(firmware)
}

// regionOf is the region in an ARN, "" for what is none.
func regionOf(arn string) string {
	if parts := strings.SplitN(arn, ":", 6); len(parts) == 6 && parts[0] == "arn" {
		return parts[3]
	}
	return ""
}
