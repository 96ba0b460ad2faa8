//go:build linux

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// nobody is an address of the ground that no host has.
var nobody = netip.MustParseAddr("10.77.255.254")

// want is one request of a routing case and where it must go: an application's name, or a status without one.
type want struct {
	request
	to string // "blue", or "404"
}

func get(path, to string, header ...string) want { return do("GET", path, to, header...) }

func do(method, path, to string, header ...string) want {
	w := want{request: request{Method: method, URL: path, Header: map[string]string{}}, to: to}
	for i := 0; i < len(header); i += 2 {
		w.Header[header[i]] = header[i+1]
	}
	return w
}

// to is a route's spec: a match and one target.
func to(target, match string) string {
	return fmt.Sprintf(`{"httpRoute": {"match": %s, "action": {"weightedTargets": [{"virtualNode": %q, "weight": 1}]}}}`, match, target)
}

func prioritised(priority int, spec string) string {
	return fmt.Sprintf(`{"priority": %d, %s`, priority, spec[1:])
}

// when is to for a route that is to be tried before those without priority.
func when(target, match string) string { return prioritised(10, to(target, match)) }

// TestMatches makes a virtual service for each case, all of them backends of one client, and sends requests from
// behind the client's Envoy.
func TestMatches(t *testing.T) {
	t.Parallel()
	rest := to("green", `{"prefix": "/"}`)
	cases := map[string]struct {
		routes map[string]string
		wants  []want
	}{
		"RT-015 RT-044 a prefix is a plain string prefix": {
			routes: map[string]string{"metrics": to("blue", `{"prefix": "/metrics"}`), "rest": rest},
			wants: []want{
				get("/metrics", "blue"), get("/metrics/a", "blue"), get("/metricsX", "blue"), get("/", "green"),
				get("/metric", "green"), get("/a/metrics", "green"),
			},
		},
		"RT-018 an exact path matches whole": {
			routes: map[string]string{"exact": to("blue", `{"path": {"exact": "/exact"}}`), "rest": rest},
			wants:  []want{get("/exact", "blue"), get("/exact?q=1", "blue"), get("/exact/", "green"), get("/exact/a", "green"), get("/exactly", "green")},
		},
		"RT-017 paths are normalised before they are matched": {
			routes: map[string]string{"exact": to("blue", `{"path": {"exact": "/a/b"}}`), "rest": rest},
			wants:  []want{get("//a/./b", "blue"), get("/a//b", "blue"), get("/a/c/../b", "blue"), get("/a/b/c", "green")},
		},
		"RT-006 without priorities the longest prefix goes first": {
			routes: map[string]string{"a": to("green", `{"prefix": "/"}`), "b": to("red", `{"prefix": "/x"}`), "c": to("blue", `{"prefix": "/x/y"}`)},
			wants:  []want{get("/", "green"), get("/x", "red"), get("/x/z", "red"), get("/x/y", "blue"), get("/x/yz", "blue")},
		},
		"RT-005 the lowest priority goes first": {
			routes: map[string]string{
				"a": prioritised(1000, to("green", `{"prefix": "/x/y"}`)), "b": prioritised(0, to("blue", `{"prefix": "/x"}`)),
				"c": prioritised(10, to("red", `{"prefix": "/"}`)),
			},
			wants: []want{get("/x/y", "blue"), get("/x", "blue"), get("/", "red")},
		},
		"RT-006 routes without priority come after those with one": {
			routes: map[string]string{"a": to("green", `{"prefix": "/x"}`), "b": prioritised(1000, to("blue", `{"prefix": "/"}`))},
			wants:  []want{get("/x", "blue"), get("/", "blue")},
		},
		"RT-013 a method": {
			routes: map[string]string{"post": when("blue", `{"prefix": "/", "method": "POST"}`), "rest": rest},
			wants:  []want{do("POST", "/", "blue"), do("GET", "/", "green"), do("PUT", "/", "green")},
		},
		"RT-022 a header's exact value": {
			routes: map[string]string{"h": when("blue", `{"prefix": "/", "headers": [{"name": "X-Tier", "match": {"exact": "gold"}}]}`), "rest": rest},
			wants:  []want{get("/", "blue", "x-tier", "gold"), get("/", "green", "x-tier", "golden"), get("/", "green")},
		},
		"RT-022 a header's prefix and suffix": {
			routes: map[string]string{
				"p": when("blue", `{"prefix": "/", "headers": [{"name": "X-Tier", "match": {"prefix": "go"}}]}`),
				"s": when("red", `{"prefix": "/", "headers": [{"name": "X-Kind", "match": {"suffix": "ld"}}]}`), "rest": rest,
			},
			wants: []want{get("/", "blue", "X-Tier", "gold"), get("/", "red", "X-Kind", "gold"), get("/", "green", "X-Tier", "ergo"), get("/", "green", "X-Kind", "ldx")},
		},
		"RT-022 a header by regular expression": {
			routes: map[string]string{"h": when("blue", `{"prefix": "/", "headers": [{"name": "X-Tier", "match": {"regex": "g[aeiou]ld"}}]}`), "rest": rest},
			wants:  []want{get("/", "blue", "X-Tier", "gold"), get("/", "green", "X-Tier", "golden"), get("/", "green", "X-Tier", "grld")},
		},
		"RT-022 a header in a range": {
			routes: map[string]string{"h": when("blue", `{"prefix": "/", "headers": [{"name": "X-Size", "match": {"range": {"start": 10, "end": 20}}}]}`), "rest": rest},
			wants:  []want{get("/", "blue", "X-Size", "10"), get("/", "blue", "X-Size", "19"), get("/", "green", "X-Size", "20"), get("/", "green", "X-Size", "9")},
		},
		"RT-022 a header that is there": {
			routes: map[string]string{"h": when("blue", `{"prefix": "/", "headers": [{"name": "X-Tier"}]}`), "rest": rest},
			wants:  []want{get("/", "blue", "X-Tier", "any"), get("/", "green")},
		},
		"RT-022 a header that is not there": {
			routes: map[string]string{"h": when("blue", `{"prefix": "/", "headers": [{"name": "X-Tier", "invert": true}]}`), "rest": rest},
			wants:  []want{get("/", "green", "X-Tier", "any"), get("/", "blue")},
		},
		"RT-023 RT-024 an inverted prefix wants the header": {
			routes: map[string]string{"h": when("blue", `{"prefix": "/", "headers": [{"name": "clientRequestId", "invert": true, "match": {"prefix": "123"}}]}`), "rest": rest},
			wants:  []want{get("/", "blue", "clientRequestId", "456"), get("/", "green", "clientRequestId", "1234"), get("/", "green")},
		},
		"RT-022 all headers must match": {
			routes: map[string]string{"h": when("blue", `{"prefix": "/", "headers": [{"name": "X-A", "match": {"exact": "1"}}, {"name": "X-B", "match": {"exact": "2"}}]}`), "rest": rest},
			wants:  []want{get("/", "blue", "X-A", "1", "X-B", "2"), get("/", "green", "X-A", "1"), get("/", "green", "X-B", "2")},
		},
		"RT-019 a regular expression matches the whole path": {
			routes: map[string]string{"regex": to("blue", `{"path": {"regex": "/v[0-9]+/items"}}`), "rest": rest},
			wants:  []want{get("/v1/items", "blue"), get("/v22/items?a=b", "blue"), get("/v1/items/2", "green"), get("/a/v1/items", "green")},
		},
		"RT-013 query parameters": {
			routes: map[string]string{
				"value": when("blue", `{"prefix": "/", "queryParameters": [{"name": "a", "match": {"exact": "1"}}]}`),
				"there": when("red", `{"prefix": "/", "queryParameters": [{"name": "b"}]}`), "rest": rest,
			},
			wants: []want{get("/?a=1", "blue"), get("/?c=3&a=1", "blue"), get("/?b=x", "red"), get("/?a=2", "green"), get("/", "green")},
		},
		"VR-010 a router without routes answers 404": {
			wants: []want{get("/", "404")},
		},
		"EMS-034 a request that no route matches gets 404": {
			routes: map[string]string{"a": to("blue", `{"prefix": "/a"}`)},
			wants:  []want{get("/a", "blue"), get("/b", "404")},
		},
		"RT-008 a single weight of 1 takes all": {
			routes: map[string]string{"rest": rest},
			wants:  []want{get("/", "green"), get("/", "green"), get("/", "green")},
		},
	}

	m := newMesh(t, "matches", "DROP_ALL")
	for _, name := range []string{"blue", "green", "red"} {
		m.app(name)
	}
	services, number := map[string]string{}, 0
	var backends []string
	for name, c := range cases {
		number++
		services[name] = m.service(fmt.Sprintf("case%d", number), appPort, c.routes)
		backends = append(backends, services[name])
	}
	m.create("VirtualNode", "client", callerSpec(backends...))
	client := m.host("client")
	m.sidecar(client, stage.SidecarOptions{Resource: "client"})

	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			for _, w := range c.wants {
				path := w.URL
				w.URL = fmt.Sprintf("http://%s:%d%s", services[name], appPort, path)
				a := ask(t, client, w.request)
				got := a.App
				if got == "" {
					got = fmt.Sprint(a.Status)
				}
				if got != w.to {
					t.Errorf("%s %s %v went to %s, want %s", w.Method, path, w.Header, got, w.to)
				}
			}
		})
	}

	t.Run("RT-016 a route rewrites neither host nor path", func(t *testing.T) {
		service := services["RT-015 RT-044 a prefix is a plain string prefix"]
		a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/metrics/a?b=c", service, appPort)})
		if host := fmt.Sprintf("%s:%d", service, appPort); a.Seen.Path != "/metrics/a?b=c" || a.Seen.Host != host {
			t.Errorf("the application saw %s %s, want %s /metrics/a?b=c", a.Seen.Host, a.Seen.Path, host)
		}
	})
	service := services["RT-008 a single weight of 1 takes all"]
	t.Run("EMS-032 the name decides and not the address", func(t *testing.T) {
		for _, addr := range []string{"192.0.2.7", "198.51.100.9", nobody.String()} {
			a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", addr, appPort), Host: service})
			if a.App != "green" {
				t.Errorf("by way of %s: %d %s", addr, a.Status, a.Body)
			}
		}
	})
	t.Run("VR-004 VN-007 a connection upgrades to WebSocket", func(t *testing.T) {
		webSocket(t, client, fmt.Sprintf("%s:%d", service, appPort), "green")
	})
	t.Run("VS-015 names are compared without case", func(t *testing.T) {
		a := ask(t, client, request{URL: fmt.Sprintf("http://%s:%d/", nobody, appPort), Host: "CASE" + service[len("case"):]})
		if a.App != "green" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
}

// webSocket asks for an upgrade, and then sends bytes that the application sends back.
func webSocket(t *testing.T, from *ground.Host, addr, app string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET /chat HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", addr); err != nil {
		t.Fatal(err)
	}
	read := bufio.NewReader(conn)
	resp, err := http.ReadResponse(read, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("X-App") != app {
		t.Fatalf("%s from %q, want 101 from %s", resp.Status, resp.Header.Get("X-App"), app)
	}
	for _, text := range []string{"ping", "pong"} {
		back := make([]byte, len(text))
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(read, back); err != nil || string(back) != text {
			t.Fatalf("sent %q, got %q back, %v", text, back, err)
		}
	}
}
