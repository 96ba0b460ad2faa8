//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/evermesh/evermesh/test/stage"
)

// proxiesPerSwarm is how many proxies one load generator plays in the widest change.
const proxiesPerSwarm = 1000

// measureStreams makes one change that very many proxies need, on an external etcd whose transactions are counted.
func measureStreams(ctx context.Context, r *rig) (figures []figure, err error) {
	name := fmt.Sprintf("%d streams, weight change that all need", r.scale.streams)
	etcd, endpoint, err := r.etcd(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		// Whoever is connected would hold etcd up.
		err = errors.Join(err, r.stopAll())
		etcd.Close()
	}()
	key := filepath.Join(r.Dir(), r.name("master-key"))
	if err := os.WriteFile(key, []byte(masterKey), 0o600); err != nil {
		return nil, err
	}
	c, err := r.control(ctx, "--auth", "off", "--etcd-endpoints", endpoint, "--master-key-file", key)
	if err != nil {
		return nil, err
	}
	nodes := min(r.scale.nodes, r.scale.streams/2)
	if err := makeMesh(ctx, c.Evermesh, shape{nodes: nodes, backends: r.scale.backends}); err != nil {
		return nil, err
	}
	var swarms []*swarmOf
	for left := r.scale.streams; left > 0; left -= proxiesPerSwarm {
		n := min(left, proxiesPerSwarm, nodes) // several proxies share a node
		sw, err := r.swarmUp(ctx, c.XDSAddr, 0, n)
		if err != nil {
			return nil, err
		}
		swarms = append(swarms, sw)
		if _, err := sw.complete(ctx, n); err != nil {
			return nil, err
		}
		left += proxiesPerSwarm - n
	}
	r.say("%d proxies have their configuration", r.scale.streams)
	if err := pause(ctx, r.scale.settle); err != nil {
		return nil, err
	}
	db, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }() // it was only read

	window := max(r.scale.settle/2, 200*time.Millisecond)
	idle, err := describe(ctx, c, window)
	if err != nil {
		return nil, err
	}
	before, err := revision(ctx, db)
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, sw := range swarms {
		n := min(proxiesPerSwarm, nodes)
		id, err := sw.expect(ctx, n, "rds", regexp.QuoteMeta(cluster(node(1, nodes)))+`\x12\x02\x08\x21`)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	during := make(chan result, 1)
	go func() {
		p99, err := describe(ctx, c, window)
		during <- result{p99, err}
	}()
	since := time.Now()
	if err := c.Evermesh.Call(ctx, "UpdateRoute", route(meshName, wide, node(1, nodes), node(2, nodes), 33), nil); err != nil {
		return nil, err
	}
	last := 0.0
	for i, sw := range swarms {
		got, err := sw.wait(ctx, ids[i], since)
		if err != nil {
			return nil, err
		}
		last = max(last, got.Latency.Max)
	}
	busy := <-during
	if busy.err != nil {
		return nil, busy.err
	}
	if err := pause(ctx, max(time.Second, r.scale.settle/5)); err != nil { // the ledger writes behind
		return nil, err
	}
	after, err := revision(ctx, db)
	if err != nil {
		return nil, err
	}
	return []figure{
		{name: name + ": last proxy", ours: ms(duration(last)), note: fmt.Sprintf("one change, %d load generators", len(swarms))},
		figure{
			name: name + ": etcd transactions of the replica", ours: fmt.Sprint(after - before), note: "revisions of etcd, until a while after the last proxy",
		}.must("≤ 100", after-before <= 100),
		figure{
			name: name + ": p99 of DescribeRoute", ours: ms(busy.p99), floor: ms(idle),
			factor: fmt.Sprintf("%.1f×", times(busy.p99, idle)), note: fmt.Sprintf("one caller, over %v; the floor is its p99 when nothing happens", window),
		}.atMost(2, busy.p99, idle, 0),
	}, nil
}

type result struct {
	p99 time.Duration
	err error
}

// masterKey is a key of 32 bytes in base64, as evermeshd reads it.
const masterKey = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n"

func revision(ctx context.Context, db *clientv3.Client) (int64, error) {
	got, err := db.Get(ctx, "nothing")
	if err != nil {
		return 0, fmt.Errorf("ask etcd's revision: %w", err)
	}
	return got.Header.Revision, nil
}

// describe calls DescribeRoute again and again and returns the 99th percentile of its times.
func describe(ctx context.Context, c *stage.Control, window time.Duration) (time.Duration, error) {
	var took []time.Duration
	in := map[string]any{"meshName": meshName, "virtualRouterName": wide, "routeName": "main"}
	for end := time.Now().Add(window); time.Now().Before(end); {
		began := time.Now()
		if err := c.Evermesh.Call(ctx, "DescribeRoute", in, nil); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)*99/100], nil
}

// etcd runs an etcd server in this program.
func (r *rig) etcd(ctx context.Context) (*embed.Etcd, string, error) {
	ports, err := r.ports(2)
	if err != nil {
		return nil, "", err
	}
	local := func(n int) []url.URL {
		return []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", ports[n])}}
	}
	c := embed.NewConfig()
	c.Dir, c.LogLevel = filepath.Join(r.Dir(), r.name("etcd")), "panic"
	c.ListenClientUrls, c.AdvertiseClientUrls, c.ListenPeerUrls, c.AdvertisePeerUrls = local(0), local(0), local(1), local(1)
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	server, err := embed.StartEtcd(c)
	if err != nil {
		return nil, "", fmt.Errorf("start etcd: %w", err)
	}
	select {
	case <-server.Server.ReadyNotify():
		return server, c.ListenClientUrls[0].String(), nil
	case <-ctx.Done():
		server.Close()
		return nil, "", ctx.Err()
	}
}
