//go:build linux

package fields

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The probes that look longer, or at more than one request.

// crowd sees what n requests at once are answered, the first a moment before the
// others: "1 × 200, 1 × 503". They have to wait at the application.
func (a ask) crowd(n int) probe {
	return func(t *testing.T, p *play) string { return counted(a.together(t, p, n)) }
}

// peak sees how many of n requests at once reach the application of the node at
// once: "1 at once".
func (a ask) peak(n int, node string) probe {
	return func(t *testing.T, p *play) string {
		p.apps[node].forget()
		a.together(t, p, n)
		return fmt.Sprint(p.apps[node].most(), " at once")
	}
}

func (a ask) together(t *testing.T, p *play, n int) []string {
	t.Helper()
	codes := make([]string, n)
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() { codes[i] = a.do(t, p).code })
		if i == 0 { // what waits for a connection counts as much as what waits for its turn
			until(t, "the first request", func() bool {
				for _, a := range p.apps {
					if a.answering() > 0 {
						return true
					}
				}
				return false
			})
		}
	}
	running.Wait()
	return codes
}

// crowd sees what becomes of n connections at once.
func (l line) crowd(n int) probe {
	return func(t *testing.T, p *play) string {
		var words []string
		for range n {
			conn, greeting := l.open(t, p)
			if conn != nil {
				defer conn.Close()
			}
			words = append(words, greeting)
		}
		return counted(words)
	}
}

func counted(words []string) string {
	slices.Sort(words)
	var out []string
	for _, w := range slices.Compact(slices.Clone(words)) {
		n := 0
		for _, x := range words {
			if x == w {
				n++
			}
		}
		out = append(out, fmt.Sprintf("%d × %s", n, w))
	}
	return strings.Join(out, ", ")
}

// until polls, more rarely than what is near at hand needs.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(2 * patience); !ok(); <-tick.C {
		if time.Now().After(late) {
			t.Fatalf("not within %v: %s", 2*patience, what)
		}
	}
}

// logged sees the lines that the request leaves in a file of the access logs of a
// node's or gateway's Envoy: "one.log: GET". A gateway writes one at each of its two
// hops.
func (a ask) logged(name string, lines int) probe {
	return func(t *testing.T, p *play) string {
		// The hops of a gateway keep their connection, and what it was accepted with.
		until(t, "what was before the change has no connections", func() bool {
			page := p.admin(t, name, "/stats?filter=^listener_manager.total_(filter_chains|listeners)_draining$")
			return page == "listener_manager.total_filter_chains_draining: 0\nlistener_manager.total_listeners_draining: 0\n"
		})
		before := p.logs(t, name)
		a.do(t, p)
		var out string
		until(t, "lines in a log", func() bool {
			for file, text := range p.logs(t, name) {
				if text, ok := strings.CutPrefix(text, before[file]); ok && strings.Count(text, "\n") == lines {
					out = file + ": " + strings.ReplaceAll(strings.TrimSpace(text), "\n", ", ")
					return true
				}
			}
			return false
		})
		return out
	}
}

// logs are the access logs of a node's or gateway's Envoy, by file.
func (p *play) logs(t *testing.T, name string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir(name), "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = string(text)
	}
	return out
}

// checkOf sees the health check that arrives at a node's application:
// "HTTP/1.1 /ping at 8080".
func checkOf(node string) probe {
	return func(t *testing.T, p *play) string {
		until(t, "a health check", func() bool { return len(p.apps[node].checked()) > 0 })
		return p.apps[node].checked()[0]
	}
}

// checksWithin sees whether the application is checked again within d.
func checksWithin(node string, d time.Duration) probe {
	return func(t *testing.T, p *play) string {
		end := time.Now().Add(d)
		until(t, "a second check, or the end", func() bool { return len(p.apps[node].checked()) > 1 || time.Now().After(end) })
		if len(p.apps[node].checked()) > 1 {
			return "checked again within " + d.String()
		}
		return "checked once in " + d.String()
	}
}

// verdictOn sees what the client thinks of the node's host after its first
// check.
func verdictOn(node string) probe {
	return func(t *testing.T, p *play) string {
		var flags string
		until(t, "a verdict", func() bool {
			flags = p.flags(t, node)
			return flags == "healthy" || strings.Contains(flags, "timeout")
		})
		if flags == "healthy" {
			return flags
		}
		return "timed out"
	}
}

// changeOfMind sees after how many checks, the first apart, the node's host is
// healthy, or unhealthy.
func changeOfMind(node string, healthy bool) probe {
	return func(t *testing.T, p *play) string {
		checks := 0
		until(t, "a change of mind", func() bool {
			flags := p.flags(t, node) // first: what it thinks, it thinks of no later check
			checks = len(p.apps[node].checked()) - 1
			return checks > 0 && flags != "" && (flags == "healthy") == healthy
		})
		if healthy {
			return fmt.Sprintf("healthy after %d good checks", checks)
		}
		return fmt.Sprintf("unhealthy after %d bad checks", checks)
	}
}

// flags are what the client's Envoy thinks of the node's only host; nothing while
// it still uses what was before the change.
func (p *play) flags(t *testing.T, node string) string {
	t.Helper()
	if strings.TrimSpace(p.admin(t, "client", "/stats?filter=^cluster_manager.warming_clusters$")) != "cluster_manager.warming_clusters: 0" {
		return ""
	}
	for line := range strings.Lines(p.admin(t, "client", "/clusters")) {
		name, rest, _ := strings.Cut(line, "::")
		if _, flags, ok := strings.Cut(rest, "::health_flags::"); ok && strings.HasPrefix(name, "cds_egress_"+p.mesh()+"_"+node+"_") {
			return strings.TrimSpace(flags)
		}
	}
	return ""
}

// afterErrors sees who answers after blue has answered n requests of 2n with
// errors, and, when again is not 0, whether blue comes back within that time. Envoy
// takes a moment to eject, so the errors go on for a second, and ten times.
func (a ask) afterErrors(n int, again time.Duration) probe {
	return func(t *testing.T, p *play) string {
		broken := a
		broken.header = append(slices.Clone(a.header), "x-break: blue")
		who := ""
		end := time.Now().Add(time.Second)
		for n := 0; who != "green" && (n < 10 || time.Now().Before(end)); n++ {
			for range 2 * n {
				broken.do(t, p)
			}
			who = mixed(6, a.app)(t, p)
		}
		if again == 0 || who != "green" {
			return who
		}
		back := false
		end = time.Now().Add(again)
		until(t, "blue, or the end", func() bool { back = a.app(t, p) == "blue"; return back || time.Now().After(end) })
		if back {
			return "blue is back within " + again.String()
		}
		return "blue is away for " + again.String()
	}
}
