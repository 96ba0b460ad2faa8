package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

var leakFor = flag.Duration("for", 0, "how long TestNothingLeaks goes on; 0: a few rounds")

// held is what a control plane holds when nobody is connected to it any more.
type held struct {
	goroutines, descriptors, heap, anonymous float64
	writes                                   float64 // that it has made so far
}

// holds measures after a collection; a heap that is not collected says nothing.
func (p *plane) holds(t *testing.T) held {
	t.Helper()
	if status, _ := p.get(t, "/debug/pprof/heap?gc=1"); status != http.StatusOK {
		t.Fatalf("no heap profile: %d", status)
	}
	families := p.scrape(t)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	// What is mapped from the store's file is not held, the kernel takes it back.
	m := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no RssAnon in %s", status)
	}
	anonymous, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return held{
		goroutines: value(families, "go_goroutines"), descriptors: value(families, "process_open_fds"),
		heap: value(families, "go_memstats_heap_alloc_bytes"), anonymous: anonymous * 1024,
		writes: value(families, "evermesh_store_txn_seconds"),
	}
}

// median of a part of the rounds.
func median(rounds []held, of func(held) float64) float64 {
	var all []float64
	for _, h := range rounds {
		all = append(all, of(h))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// Proxies in both dialects, some of which refuse, and callers of the API, some
// of which break off, come and go, round after round: goroutines, descriptors
// and memory are after many rounds what they were after few.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir(), "--auth", "off", "--api-rate", "0")
	ctx := t.Context()
	facts, err := client.ReadFacts(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := client.Load(ctx, p.dir)
	if err != nil {
		t.Fatal(err)
	}
	caller, err := client.New(loaded) // keeps its connections
	if err != nil {
		t.Fatal(err)
	}
	if err := caller.Call(ctx, "CreateMesh", api.CreateMeshInput{MeshName: "shop"}, nil); err != nil {
		t.Fatal(err)
	}
	const nodes, proxies, callers = 10, 40, 20
	spec := func(port int) map[string]any {
		return map[string]any{
			"listeners":        []any{map[string]any{"portMapping": map[string]any{"port": port, "protocol": "http"}}},
			"serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": "a.local"}},
			"backends":         []any{map[string]any{"virtualService": map[string]any{"virtualServiceName": "s"}}},
		}
	}
	for i := range nodes {
		if err := caller.Call(ctx, "CreateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": fmt.Sprint("n", i), "spec": spec(8080)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := caller.Call(ctx, "CreateVirtualService", map[string]any{"meshName": "shop", "virtualServiceName": "s", "spec": map[string]any{"provider": map[string]any{"virtualNode": map[string]any{"virtualNodeName": "n0"}}}}, nil); err != nil {
		t.Fatal(err)
	}
	round := func(t *testing.T, n int) {
		conn := adstest.Dial(t, strings.TrimPrefix(facts.XDSEndpoint, "http://"))
		for i := range proxies {
			instance := fmt.Sprint(n, "-", i)
			if i%8 == 0 {
				instance = fmt.Sprint(i) // what a proxy refused is remembered until it comes back
			}
			x := adstest.Connect(t, conn, adstest.Options{Node: fmt.Sprint("mesh/shop/virtualNode/n", i%nodes), Delta: i%2 == 0, Instance: instance})
			if i%8 == 0 {
				x.SetRefuse(func(r adstest.Response) string { return "no" })
			}
		}
		address := strings.TrimPrefix(facts.APIEndpoint, "http://")
		for i := range callers {
			if err := caller.Call(ctx, "UpdateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": fmt.Sprint("n", i%nodes), "clientToken": fmt.Sprint(n, "-", i), "spec": spec(8000 + n%100)}, nil); err != nil {
				t.Fatal(err)
			}
			_ = caller.Call(ctx, "DescribeMesh", map[string]any{"meshName": fmt.Sprint("none-", n, "-", i)}, nil)
			for _, text := range []string{"", "GET /", "PUT /v20190125/meshes HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\n{", "GET /evermesh/v1/rollout?watch=true&resourceArn=arn:aws:appmesh:us-east-1:000000000000:mesh/shop HTTP/1.1\r\nHost: h\r\n\r\n"} {
				c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(c, bytes.NewReader([]byte(text))); err != nil {
					t.Fatal(err)
				}
				c.Close()
			}
		}
		eventually(t, "all proxies are there", func() bool { return value(p.scrape(t), "evermesh_proxies") == proxies })
	}
	var rounds []held
	for begin := time.Now(); len(rounds) < 12 || time.Since(begin) < *leakFor; {
		n := len(rounds)
		if !t.Run(fmt.Sprint("round ", n), func(t *testing.T) { round(t, n) }) {
			return
		}
		eventually(t, "all have left", func() bool { return value(p.scrape(t), "evermesh_xds_streams") == 0 })
		http.DefaultClient.CloseIdleConnections()
		h := p.holds(t)
		if n > 0 {
			// What ends with its connection ends soon, not at once.
			last := ""
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(last)
				}
			})
			eventually(t, "goroutines and descriptors are what they were", func() bool {
				h = p.holds(t)
				if h.goroutines > rounds[0].goroutines+20 || h.descriptors > rounds[0].descriptors+20 {
					_, dump := p.get(t, "/debug/pprof/goroutine?debug=1")
					last = fmt.Sprintf("%+v, first %+v\n%s", h, rounds[0], dump[:min(len(dump), 6000)])
				}
				return h.goroutines <= rounds[0].goroutines+20 && h.descriptors <= rounds[0].descriptors+20
			})
		}
		rounds = append(rounds, h)
	}
	quarter := len(rounds) / 4
	early, late := rounds[quarter:2*quarter], rounds[len(rounds)-quarter:]
	made := late[0].writes - early[0].writes
	for what, of := range map[string]func(held) float64{
		"heap":             func(h held) float64 { return h.heap },
		"anonymous memory": func(h held) float64 { return h.anonymous },
	} {
		was, is := median(early, of), median(late, of)
		t.Logf("%s: %.1f MiB early, %.1f MiB late, after %.0f writes in %d rounds", what, was/(1<<20), is/(1<<20), made, len(rounds))
		// etcd keeps its newest entries, some ten thousand, and remembers every
		// revision until it is compacted, once in an hour.
		limit := was*1.15 + 8<<20 + min(made*4096, 48<<20)
		if is <= limit {
			continue
		}
		// What a round took at its height is given back to the system little by little,
		// on a busy machine late: it is measured until it is not held any more.
		eventually(t, fmt.Sprintf("%s does not grow: it was %.0f, limit %.0f, last %.0f", what, is, limit, of(rounds[len(rounds)-1])), func() bool {
			is = of(p.holds(t))
			return is <= limit
		})
	}
	t.Logf("goroutines %.0f, then %.0f; descriptors %.0f, then %.0f", rounds[0].goroutines, late[0].goroutines, rounds[0].descriptors, late[0].descriptors)
}
