//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

const (
	// lookEvery is how often a starting Envoy is asked whether it is live.
	lookEvery = 2 * time.Millisecond
	// mostStart is how long a start may take before it counts as none.
	mostStart = patience
)

// measureColdStart starts, by turns, an agent whose Envoy gets its configuration from an evermeshd, over TLS and signed
// and with the last good configuration on disk, and an Envoy alone which has the same in a file: the bootstrap is the
// agent's own, with the resources in it that the other one is sent. A start ends when Envoy says that it is live.
func measureColdStart(ctx context.Context, r *rig) ([]figure, error) {
	ports, err := r.ports(4)
	if err != nil {
		return nil, err
	}
	c, err := r.Control(ctx, stage.ControlOptions{Name: r.name("evermeshd"), Ports: ports[:3], Args: []string{"--api-rate", "0", "--log-level", "warn"}})
	if c != nil && c.Process != nil {
		r.running = append(r.running, c.Process)
	}
	if err != nil {
		return nil, err
	}
	if err := makeLarge(ctx, c, r.scale.backends); err != nil {
		return nil, err
	}
	state, err := r.stateDir()
	if err != nil {
		return nil, err
	}
	s, err := r.Sidecar(ctx, r.Home(), stage.SidecarOptions{
		Resource: "mesh/" + meshName + "/virtualNode/caller", Alone: true, XDS: []*stage.Control{c}, AdminPort: ports[3],
		Env: []string{"EVERMESH_STATE_DIR=" + state},
	})
	if s != nil && s.Process != nil {
		r.running = append(r.running, s.Process)
	}
	if err != nil {
		return nil, err
	}
	file, clusters, err := static(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := endAtOnce(ctx, s.Process); err != nil {
		return nil, err
	}
	bare := ground.Command{
		Name: "bare", Path: r.Programs.Envoy, UID: r.Owner().UID,
		Args: []string{"-c", file, "-l", "warning", "--concurrency", "1", "--disable-hot-restart", "--skip-deprecated-logs"},
	}
	starts := [2]func() (*ground.Process, error){
		func() (*ground.Process, error) { err := s.Start(); return s.Process, err },
		func() (*ground.Process, error) { return r.Home().Start(bare) },
	}
	var took [2][]float64
	for pair := range r.scale.starts + 1 {
		for turn := range starts {
			which := (pair + turn) % 2
			one, err := r.timeStart(ctx, starts[which], ports[3])
			if err != nil {
				return nil, err
			}
			if pair > 0 { // the first one only fills the machine's caches
				took[which] = append(took[which], one.Seconds()*1000)
			}
		}
	}
	ours, floor := median(took[0]), median(took[1])
	low, high := interval(took[0])
	lowest, highest := interval(took[1])
	return []figure{figure{
		name: "start of an agent until its Envoy is live", ours: ms(duration(ours)), floor: ms(duration(floor)), factor: fmt.Sprintf("%.2f×", ours/floor),
		note: fmt.Sprintf("medians of %d starts by turns; %.0f to %.0f ms and %.0f to %.0f ms with 95 %% confidence, the shortest %.0f and %.0f ms. The floor is the same Envoy with the same configuration in a file: %d backends, %d clusters.", r.scale.starts, low, high, lowest, highest, slices.Min(took[0]), slices.Min(took[1]), r.scale.backends, clusters),
	}.must("≤ 1.2×", ours <= 1.2*floor)}, nil
}

// stateDir makes a directory for a last good configuration.
func (r *rig) stateDir() (string, error) {
	dir := filepath.Join(r.Dir(), "run", r.name("state"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	if err := os.Chown(dir, int(r.Owner().UID), int(r.Owner().UID)); err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	return dir, nil
}

// timeStart is how long a start takes until Envoy is live. What was started is ended again.
func (r *rig) timeStart(ctx context.Context, start func() (*ground.Process, error), port int) (time.Duration, error) {
	began := time.Now()
	p, err := start()
	if err != nil {
		return 0, err
	}
	r.running = append(r.running, p)
	if err := awaitLive(ctx, p, port); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return took, endAtOnce(ctx, p)
}

// awaitLive asks Envoy's administration interface again and again until it says that it is live.
func awaitLive(ctx context.Context, p *ground.Process, port int) error {
	ctx, cancel := context.WithTimeout(ctx, mostStart)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	live := func() bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/ready", port), nil)
		if err != nil {
			return false
		}
		resp, err := client.Do(req)
		if err != nil {
			return false // it does not listen yet
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return err == nil && strings.TrimSpace(string(text)) == "LIVE"
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !live() {
		select {
		case <-tick.C:
		case <-p.Done():
			return fmt.Errorf("wait until Envoy is live: it ended: %w: %s", p.Err(), stage.Tail(p.Log()))
		case <-ctx.Done():
			return fmt.Errorf("wait until Envoy is live: %w: %s", ctx.Err(), stage.Tail(p.Log()))
		}
	}
	return nil
}

// endAtOnce ends an agent without a drain, which the second signal cuts short, or an Envoy.
func endAtOnce(ctx context.Context, p *ground.Process) error {
	ctx, cancel := context.WithTimeout(ctx, mostStart)
	defer cancel()
	if err := p.Signal(os.Interrupt); err != nil { // one that is not merged with what Stop sends
		return err
	}
	return p.Stop(ctx)
}

// static writes what the agent's Envoy has as a configuration that is complete in itself: the bootstrap of the agent with
// the resources that came from evermeshd in it. It returns the file, and how many clusters are in it.
func static(ctx context.Context, s *stage.Sidecar) (file string, clusters int, err error) {
	text, err := s.Admin(ctx, "/config_dump")
	if err != nil {
		return "", 0, err
	}
	var dump struct {
		Configs []struct {
			DynamicActiveClusters []struct{ Cluster object } `json:"dynamic_active_clusters"`
			DynamicListeners      []struct {
				ActiveState struct{ Listener object } `json:"active_state"`
			} `json:"dynamic_listeners"`
			DynamicRouteConfigs []struct {
				RouteConfig object `json:"route_config"`
			} `json:"dynamic_route_configs"`
		}
	}
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		return "", 0, fmt.Errorf("read Envoy's configuration: %w", err)
	}
	var all, listeners []any
	tables := map[any]object{}
	for _, part := range dump.Configs {
		for _, one := range part.DynamicActiveClusters {
			delete(one.Cluster, "@type")
			all = append(all, one.Cluster)
		}
		for _, one := range part.DynamicListeners {
			delete(one.ActiveState.Listener, "@type")
			listeners = append(listeners, one.ActiveState.Listener)
		}
		for _, one := range part.DynamicRouteConfigs {
			delete(one.RouteConfig, "@type")
			tables[one.RouteConfig["name"]] = one.RouteConfig
		}
	}
	if len(all) == 0 || len(listeners) == 0 || len(tables) == 0 {
		return "", 0, fmt.Errorf("the agent's Envoy has %d clusters, %d listeners and %d route configurations", len(all), len(listeners), len(tables))
	}
	for _, l := range listeners {
		inline(l, tables)
	}
	found, err := filepath.Glob(filepath.Join(s.Dir, "evermesh-agent-*", "envoy-config.yaml"))
	if err != nil || len(found) != 1 {
		return "", 0, fmt.Errorf("find the agent's bootstrap: %q, %w", found, err)
	}
	written, err := os.ReadFile(found[0])
	if err != nil {
		return "", 0, err
	}
	var bootstrap object
	if err := yaml.Unmarshal(written, &bootstrap); err != nil {
		return "", 0, fmt.Errorf("read the agent's bootstrap: %w", err)
	}
	delete(bootstrap, "dynamicResources")
	bootstrap["staticResources"] = object{"clusters": all, "listeners": listeners}
	out, err := json.Marshal(bootstrap)
	if err != nil {
		return "", 0, fmt.Errorf("write a bootstrap: %w", err)
	}
	file = filepath.Join(s.Dir, "static.json")
	return file, len(all), os.WriteFile(file, out, 0o644)
}

// inline puts route configurations where a part of a listener names them.
func inline(part any, tables map[any]object) {
	switch part := part.(type) {
	case []any:
		for _, one := range part {
			inline(one, tables)
		}
	case object:
		if rds, ok := part["rds"].(object); ok {
			delete(part, "rds")
			part["route_config"] = tables[rds["route_config_name"]]
		}
		for _, one := range part {
			inline(one, tables)
		}
	}
}
