package compat

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
)

// Two thousand connections that say nothing, and hundreds that send a header or
// a body bit by bit or do not read their answers, stop nobody else, cost bounded
// memory, and are cut off when their time is over. It runs alone: it measures.
func TestTwoThousandIdleAndSlowClients(t *testing.T) {
	admin := testenv.FreeAddress(t)
	e := another(t, "--admin-listen", admin)
	g := newGoClient(t, e)
	must(t, g, "CreateMesh", map[string]any{"meshName": "apps"})
	times := func() []time.Duration {
		t.Helper()
		var out []time.Duration
		for i := range 100 {
			start := time.Now()
			name := map[string]any{"meshName": "apps", "virtualNodeName": fmt.Sprint("n", i)}
			must(t, g, "CreateVirtualNode", map[string]any{"meshName": "apps", "virtualNodeName": name["virtualNodeName"], "spec": map[string]any{}})
			must(t, g, "DescribeVirtualNode", name)
			must(t, g, "DeleteVirtualNode", name)
			out = append(out, time.Since(start))
		}
		slices.Sort(out)
		return out
	}
	alone, memory := times(), resident(t, admin)

	open := func(text string) net.Conn {
		t.Helper()
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(e.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for range 2000 {
		open("")
	}
	var headers []net.Conn
	for range 200 {
		headers = append(headers, open("GET /v20190125/meshes HTTP/1.1\r\nHost: h\r\nX-Slow: "))
	}
	for i := range 200 { // half of them with more than may be held at once
		open("PUT /v20190125/meshes HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat(" ", i%2*80_000+1))
	}
	var deaf sync.WaitGroup
	for range 50 {
		// More answers than the buffers between hold: the server waits for a reader.
		c := open("")
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
		deaf.Go(func() {
			many := strings.Repeat("GET /v20190125/meshes HTTP/1.1\r\nHost: h\r\n\r\n", 1000)
			for err := error(nil); err == nil; {
				_, err = io.WriteString(c, many)
			}
		})
	}
	deaf.Wait()

	crowded := times()
	for _, c := range headers {
		_, _ = io.WriteString(c, "x") // still at it
	}
	grown := resident(t, admin) - memory
	t.Logf("three calls, median and slowest: alone %v %v, crowded %v %v; memory grew by %.0f MiB", alone[50], alone[99], crowded[50], crowded[99], grown/(1<<20))
	// Slots that the crowd held would stop most calls until a time-out; a machine
	// that is busy with something else slows a few of a hundred.
	if crowded[94] > 5*time.Second || crowded[50] > 20*alone[50]+100*time.Millisecond {
		t.Error("the crowd stops others")
	}
	if grown > 150<<20 {
		t.Error("the crowd costs too much memory")
	}
	for _, c := range headers[:20] {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a header that never ends is waited for without end")
		}
	}
	ready, err := http.Get("http://" + admin + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	ready.Body.Close()
	if ready.StatusCode != http.StatusOK {
		t.Errorf("/readyz: %s", ready.Status)
	}
}

// resident is the memory of an evermeshd in bytes, as it says itself.
func resident(t testing.TB, admin string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^process_resident_memory_bytes (\S+)$`).FindSubmatch(text)
	if m == nil {
		t.Fatal("no process_resident_memory_bytes")
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
