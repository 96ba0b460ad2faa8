//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/discovery/cloudmap/cloudmaptest"
	"github.com/evermesh/evermesh/test/stage"
)

const (
	namespace = "bench"
	instances = 20 // of the service, beside the one that is added
	// pollEvery is how often evermeshd looks at Cloud Map here. It is not a part of the figure, and at the usual 5 s
	// many changes in a row would take a quarter of an hour.
	pollEvery = 50 * time.Millisecond
)

// added is the address of the instance that the n-th change adds, in place of the one before. All are equally long.
func added(n int) string { return fmt.Sprintf("10.9.%d.%d", 100+n/100%100, 100+n%100) }

// registrar is a Cloud Map that tells when it told.
type registrar struct {
	*cloudmaptest.Registry
	url string

	mu   sync.Mutex
	told map[int64]time.Time // by revision: when the first byte of the first answer with it was written
	news chan struct{}       // closed at the next one
}

// cloudMap serves a Cloud Map until ctx ends, in which the service has its instances.
func cloudMap(ctx context.Context, service string) (*registrar, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &registrar{Registry: cloudmaptest.New(), url: "http://" + l.Addr().String(), told: map[int64]time.Time{}, news: make(chan struct{})}
	r.Told = func(_, _ string, revision int64) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if _, earlier := r.told[revision]; !earlier {
			r.told[revision] = time.Now()
			close(r.news)
			r.news = make(chan struct{})
		}
	}
	r.register(service, "10.8.0.1")
	server := &http.Server{Handler: r.Registry}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // nothing is lost
	go func() { _ = server.Serve(l) }()                   // ends with server
	return r, nil
}

// register gives the service an instance at the address beside the usual ones.
func (r *registrar) register(service, address string) (revision int64) {
	all := []cloudmaptest.Instance{cloudmaptest.At(address, strconv.Itoa(port))}
	for i := range instances {
		all = append(all, cloudmaptest.At(fmt.Sprintf("10.7.0.%d", i+1), strconv.Itoa(port)))
	}
	return r.Set(namespace, service, all...)
}

// await waits until the revision was told and says when.
func (r *registrar) await(ctx context.Context, revision int64) (time.Time, error) {
	for {
		r.mu.Lock()
		at, told := r.told[revision]
		news := r.news
		r.mu.Unlock()
		if told {
			return at, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return at, ctx.Err()
		case <-time.After(patience):
			return at, fmt.Errorf("evermeshd has not asked Cloud Map for %v", patience)
		}
	}
}

// measureEndpoints adds an instance to a service that all nodes call, again and again.
func measureEndpoints(ctx context.Context, r *rig) ([]figure, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	nodes, target := r.scale.nodes, found
	registry, err := cloudMap(ctx, node(target, nodes))
	if err != nil {
		return nil, err
	}
	c, sw, _, err := r.meshUp(ctx, shape{nodes: nodes, backends: r.scale.backends, cloudMap: true}, "--cloudmap-endpoint", registry.url, "--cloudmap-poll", pollEvery.String())
	if err != nil {
		return nil, err
	}
	r.say("adding an instance that %d proxies need, %d times", nodes, r.scale.changes)
	views, err := published(ctx, c)
	if err != nil {
		return nil, err
	}
	ours, err := r.inARow(ctx, sw, changing{
		row: rowEndpoints, who: "evermeshd", pid: c.Process.Pid(), debug: c.Admin, proxies: nodes, types: "eds",
		pattern: func(n int) string { return regexp.QuoteMeta(added(n)) },
		make: func(ctx context.Context, n int) (time.Time, time.Duration, error) {
			since, err := registry.await(ctx, registry.register(node(target, nodes), added(n)))
			return since, 0, err
		},
	})
	if err != nil {
		return nil, err
	}
	after, err := published(ctx, c)
	if err != nil {
		return nil, err
	}
	frames, err := captureEndpoints(ctx, c, node(0, nodes), cluster(node(target, nodes)), func() {
		registry.register(node(target, nodes), "10.9.0.1")
	})
	if err != nil {
		return nil, fmt.Errorf("capture an endpoint set: %w", err)
	}
	if err := r.stopAll(); err != nil {
		return nil, err
	}
	r.say("and the same with: floor")
	sender, err := r.floorUp(ctx, "floor", frames, nodes)
	if err != nil {
		return nil, err
	}
	if sw, _, err = r.connect(ctx, sender.Pid(), sender.addr, nodes); err != nil {
		return nil, err
	}
	floor, err := r.pushes(ctx, sender, sw, rowEndpoints, "eds", nodes)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("endpoint added to a service that all %d use", nodes)
	return []figure{
		figure{
			name: name + ": last proxy", ours: ms(ours.last), floor: ms(floor.last), factor: fmt.Sprintf("%.1f×", times(ours.last, floor.last)),
			note: fmt.Sprintf("median of %d changes, each from the first byte of Cloud Map's answer that has it; the worst took %s (floor %s). A set of %d instances, %s.",
				r.scale.changes, ms(ours.worst), ms(floor.worst), instances+1, frames),
		}.atMost(2.5, ours.last, floor.last, 0),
		figure{name: "  processor time", ours: ms(ours.cpu), floor: ms(floor.cpu), factor: factor(ours.cpu, floor.cpu)}.atMost(3, ours.cpu, floor.cpu, 0),
		figure{
			name: "  streams, messages and resources of a change", ours: fmt.Sprintf("%d, %d, %d", ours.touched, ours.messages, ours.resources),
		}.must("one EDS resource each", ours.touched == nodes && ours.messages == int64(nodes) && ours.resources == int64(nodes)),
		figure{name: "  publications that looked at views", ours: fmt.Sprint(after - views)}.must("none", after == views),
	}, nil
}

// published counts the publications of a server for which views were resolved.
func published(ctx context.Context, c *stage.Control) (int64, error) {
	text, err := fetch(ctx, c.Admin+"/metrics")
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`(?m)^evermesh_publish_seconds_count\{phase="build"\} (\d+)$`).FindSubmatch(text)
	if found == nil {
		return 0, errors.New("the server does not count its publications")
	}
	return strconv.ParseInt(string(found[1]), 10, 64)
}

// awsKey leaves a key for Cloud Map where every AWS tool looks for one.
func awsKey(c *stage.Control) error {
	dir := filepath.Join(filepath.Dir(c.DataDir), ".aws") // of its HOME
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	text := strings.Join([]string{"[default]", "aws_access_key_id = key", "aws_secret_access_key = secret", ""}, "\n")
	return os.WriteFile(filepath.Join(dir, "credentials"), []byte(text), 0o600)
}

// captureEndpoints connects as a proxy of the node and keeps what it is sent, and the endpoint set of the cluster that
// a change sends it.
func captureEndpoints(ctx context.Context, c *stage.Control, node, cluster string, change func()) (*frames, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	names := proxyNames()
	names[typeEndpoints] = []string{cluster}
	out, stream, err := connectAs(ctx, c, node, names)
	if err != nil {
		return nil, err
	}
	change()
	got, err := next(stream, typeEndpoints)
	if err != nil {
		return nil, err
	}
	if len(got.Resources) != 1 || !slices.Equal([]string{got.Resources[0].Name}, []string{cluster}) {
		return nil, fmt.Errorf("a change sent %d endpoint sets", len(got.Resources))
	}
	out.Push, err = encoded(got)
	return out, err
}
