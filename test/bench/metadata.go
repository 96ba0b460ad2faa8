//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// metadataAddress is that of EC2's instance metadata service, which leads nowhere here.
const metadataAddress = "169.254.169.254"

// measureMetadata starts agents where what is sent to the metadata service is lost, and nothing else names a region or
// credentials: until the bootstrap is there, and until Envoy is live, which is when the search for credentials has ended
// as well. The floor is told not to ask.
func measureMetadata(ctx context.Context, r *rig) ([]figure, error) {
	title := "start without a metadata service, bootstrap written"
	hosts, instead := r.hosts(title, "nowhere")
	if instead != nil {
		return instead, nil
	}
	if err := hosts[0].Do(swallow); err != nil {
		return nil, fmt.Errorf("lose what is sent to %s: %w", metadataAddress, err)
	}
	c, err := r.Control(ctx, stage.ControlOptions{Name: r.name("evermeshd"), Args: []string{"--auth", "off", "--insecure-plaintext", "--api-rate", "0", "--log-level", "warn"}})
	if c != nil && c.Process != nil {
		r.running = append(r.running, c.Process)
	}
	if err != nil {
		return nil, err
	}
	if err := makeLarge(ctx, c, max(2, r.scale.backends)); err != nil {
		return nil, err
	}
	var written, live [2][]float64
	for range r.scale.searches {
		// The address is named, so that it is asked whatever the machine's firmware says.
		for i, asks := range []string{"AWS_EC2_METADATA_DISABLED=false", "AWS_EC2_METADATA_DISABLED=true"} {
			w, l, err := r.timeSearch(ctx, hosts[0], c, asks)
			if err != nil {
				return nil, err
			}
			written[i], live[i] = append(written[i], w.Seconds()*1000), append(live[i], l.Seconds()*1000)
		}
	}
	w, l := [2]time.Duration{duration(median(written[0])), duration(median(written[1]))}, [2]time.Duration{duration(median(live[0])), duration(median(live[1]))}
	return []figure{
		figure{
			name: title, ours: ms(w[0]), floor: ms(w[1]),
			note: fmt.Sprintf("medians of %d. What is sent to %s is lost; the floor is told not to ask.", r.scale.searches, metadataAddress),
		}.must("≤ 2000 ms", w[0] <= 2*time.Second),
		figure{name: "  Envoy live, after a search for credentials", ours: ms(l[0]), floor: ms(l[1])}.must("≤ floor + 2000 ms", l[0] <= l[1]+2*time.Second),
	}, nil
}

// swallow has the calling thread's network namespace lose what is sent to the metadata service: it goes to a link's
// address that nobody has.
func swallow() error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	to := net.ParseIP(metadataAddress)
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: eth0.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: to, Mask: net.CIDRMask(32, 32)}}); err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{
		LinkIndex: eth0.Attrs().Index, IP: to, State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9},
	})
}

// timeSearch is how long an agent takes from its start until it has written the bootstrap, and until its Envoy is live.
func (r *rig) timeSearch(ctx context.Context, h *ground.Host, c *stage.Control, asks string) (written, live time.Duration, err error) {
	began := time.Now()
	s, err := r.Sidecar(ctx, h, stage.SidecarOptions{
		Resource: "mesh/" + meshName + "/virtualNode/caller", Alone: true, XDS: []*stage.Control{c}, Early: true,
		Env: []string{asks, "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://" + metadataAddress, "AWS_REGION=", "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="},
	})
	if err != nil {
		return 0, 0, err
	}
	r.running = append(r.running, s.Process)
	within, cancel := context.WithTimeout(ctx, mostStart)
	defer cancel()
	if err := stage.Until(within, "the bootstrap is written", func(context.Context) bool {
		found, err := filepath.Glob(filepath.Join(s.Dir, "evermesh-agent-*", "envoy-config.yaml"))
		return err == nil && len(found) == 1
	}); err != nil {
		return 0, 0, fmt.Errorf("%w: %s", err, stage.Tail(s.Process.Log()))
	}
	written = time.Since(began)
	if err := s.WaitLive(within); err != nil {
		return 0, 0, err
	}
	return written, time.Since(began), endAtOnce(ctx, s.Process)
}
