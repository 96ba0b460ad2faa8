//go:build linux

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clusters "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routes "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// lay lays the ground of these tests: namespaces of their own where the machine allows it.
var lay = ground.Bare

func TestMain(m *testing.M) {
	stage.Play()
	if part := os.Getenv(partVariable); part != "" {
		os.Exit(play(part))
	}
	exit, inside, err := ground.Enter(context.Background())
	switch {
	case inside:
		lay = ground.New
		exit = m.Run()
	case err != nil:
		exit = m.Run()
	}
	os.Exit(exit)
}

// wait is how long a run may take on a machine that is busy.
const wait = 10 * time.Minute

// TestQuickRun measures everything at a tiny scale. Its figures mean nothing; that they are there does.
func TestQuickRun(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	var table, progress bytes.Buffer
	if code := run(ctx, []string{"-quick"}, lay, &table, &progress); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, table.String(), progress.String())
	}
	t.Log("\n" + table.String())
	for _, figure := range []string{
		"weight change that 20 of 40", "in a mesh of 60 nodes, against 25", "weight change that all 40", "endpoint added to a service that all 40 use", "one EDS resource each", "cold start", "memory of evermeshd", "certificates of different names",
		"32 callers on 32 meshes", "one caller", "32 callers on one mesh", "DescribeRoute, 32 callers", "against --audit off, 32 callers", "against --audit off, one caller", "80 streams", "etcd transactions", "p99 of DescribeRoute", "evermesh-agent",
		"added by the relay", "of a large node", "start of an agent until its Envoy is live", "start without a metadata service", "after a search for credentials",
		"translation of a node with 3 backends, from nothing", "after a change of one of its routes",
		"50 policies in 5 accounts",
		"requests per second through two sidecars", "growth of Envoy's memory with 3 backends",
	} {
		if !strings.Contains(table.String(), figure) {
			t.Errorf("the table lacks %q", figure)
		}
	}
}

// TestRunOfSomeRows measures one row, and keeps the profiles of who was measured.
func TestRunOfSomeRows(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	var table, progress bytes.Buffer
	dir := t.TempDir()
	if code := run(ctx, []string{"-quick", "-only", "calls-1|describe", "-cpuprofile", dir}, lay, &table, &progress); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, table.String(), progress.String())
	}
	if text := table.String(); strings.Contains(text, "32 meshes") || !strings.Contains(text, "one caller") || !strings.Contains(text, "DescribeRoute") {
		t.Errorf("the table has other rows:\n%s", text)
	}
	for _, name := range []string{"calls-1.evermeshd", "calls-1.floor", "describe.evermeshd", "describe.floor"} {
		text, err := os.ReadFile(filepath.Join(dir, name+".pprof"))
		if err != nil || !bytes.HasPrefix(text, []byte{0x1f, 0x8b}) { // profiles are compressed
			t.Errorf("%s is no profile: %d bytes, %v", name, len(text), err)
		}
	}
	var said bytes.Buffer
	if code := run(ctx, []string{"-only", "nothing"}, lay, &table, &said); code != 2 || !strings.Contains(said.String(), rowNarrow) {
		t.Errorf("rows that do not exist give %d: %s", code, said.String())
	}
}

func pack(t *testing.T, url, name string, m proto.Message) []byte {
	t.Helper()
	resource, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	text, err := proto.Marshal(&discovery.DeltaDiscoveryResponse{
		TypeUrl: url, Nonce: "1", Resources: []*discovery.Resource{{Name: name, Version: "1", Resource: resource}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestFloorServesTheLoadGenerator shows that the floor of the management service is one: proxies are complete with
// what it sends, and receive what it pushes.
func TestFloorServesTheLoadGenerator(t *testing.T) {
	ads := &core.ConfigSource{ConfigSourceSpecifier: &core.ConfigSource_Ads{}}
	chain, err := anypb.New(&hcm.HttpConnectionManager{RouteSpecifier: &hcm.HttpConnectionManager_Rds{Rds: &hcm.Rds{RouteConfigName: "r", ConfigSource: ads}}})
	if err != nil {
		t.Fatal(err)
	}
	f := &frames{Answers: map[string][]byte{
		typeCluster: pack(t, typeCluster, "c", &clusters.Cluster{Name: "c"}),
		typeListener: pack(t, typeListener, "l", &listener.Listener{Name: "l", FilterChains: []*listener.FilterChain{{
			Filters: []*listener.Filter{{ConfigType: &listener.Filter_TypedConfig{TypedConfig: chain}}},
		}}}),
		typeRoute: pack(t, typeRoute, "r", &routes.RouteConfiguration{Name: "r"}),
	}}
	f.Push = f.Answers[typeRoute]

	g, err := lay()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	r, err := newRig(ctx, g, quick(), testWriter{t})
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"floor", "cache"} {
		t.Run(what, func(t *testing.T) { serves(ctx, t, r, what, f) })
	}
}

func serves(ctx context.Context, t *testing.T, r *rig, what string, f *frames) {
	floor, err := r.floorUp(ctx, what, f, 30)
	if err != nil {
		t.Fatal(err)
	}
	sw, up, err := r.connect(ctx, floor.Pid(), floor.addr, 30)
	if err != nil {
		t.Fatal(err)
	}
	if up.last <= 0 {
		t.Errorf("the last proxy was complete after %v", up.last)
	}
	for _, n := range []int{20, 30} {
		got, err := r.pushes(ctx, floor, sw, "", "rds", n)
		if err != nil {
			t.Fatal(err)
		}
		if got.touched != n || got.messages != int64(n) || got.last <= 0 || got.last > got.worst {
			t.Errorf("a push to %d streams: %+v", n, got)
		}
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
