//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// partVariable makes this program one of the floors.
const partVariable = "EVERMESH_BENCH_PART"

// rig runs the processes of a measurement.
type rig struct {
	*stage.Stage
	scale    scale
	progress io.Writer
	began    time.Time
	wanted   *regexp.Regexp // rows of the table
	profiles string         // folder for profiles, or ""
	swarm    string         // the load generator's program
	number   int            // of started processes, for their names
	running  []*ground.Process
	reserved []func() // lets the ports of what runs go
}

// patience bounds what a program is waited for, on a machine that may be busy.
const patience = time.Minute

func newRig(ctx context.Context, g *ground.Ground, s scale, progress io.Writer) (*rig, error) {
	programs, err := stage.Find()
	if err != nil {
		return nil, err
	}
	st, err := stage.New(g, programs)
	if err != nil {
		return nil, err
	}
	r := &rig{Stage: st, scale: s, progress: progress, began: time.Now(), wanted: regexp.MustCompile(""), swarm: filepath.Join(g.Dir(), "bin", "swarm")}
	return r, r.build(ctx, r.swarm, "./test/swarm")
}

// build builds a program of the module.
func (r *rig) build(ctx context.Context, out, what string, args ...string) error {
	root, err := stage.Root()
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", append(append([]string{"build", "-o", out}, args...), what)...)
	build.Dir = root
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", what, err, said)
	}
	return nil
}

// wants says whether the run was asked for the row.
func (r *rig) wants(row string) bool { return r.wanted.MatchString(row) }

func (r *rig) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.progress, "%6.1f s  %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...)) // progress only
}

// stopAll kills what a measurement started.
func (r *rig) stopAll() error {
	var errs []error
	for _, p := range r.running {
		errs = append(errs, p.Kill())
	}
	r.running = nil
	for _, release := range r.reserved {
		release()
	}
	r.reserved = nil
	return errors.Join(errs...)
}

func (r *rig) name(what string) string {
	r.number++
	return fmt.Sprintf("%s-%d", what, r.number)
}

// control starts an evermeshd with a fresh store, without a limit of requests.
func (r *rig) control(ctx context.Context, args ...string) (*stage.Control, error) {
	ports, err := r.ports(3)
	if err != nil {
		return nil, err
	}
	c, err := r.Control(ctx, stage.ControlOptions{
		Name: r.name("evermeshd"), Ports: ports, Loopback: true, Args: append([]string{"--api-rate", "0", "--log-level", "warn"}, args...),
	})
	if c != nil && c.Process != nil {
		r.running = append(r.running, c.Process)
	}
	return c, err
}

// part starts this program as a floor.
func (r *rig) part(what string, config any) (*ground.Process, error) {
	text, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", what, err)
	}
	p, err := r.Home().Start(ground.Command{
		Name: r.name(what), Path: "/proc/self/exe", Args: []string{string(text)}, Env: []string{partVariable + "=" + what},
	})
	if err == nil {
		r.running = append(r.running, p)
	}
	return p, err
}

// swarmOf is a running load generator.
type swarmOf struct {
	*ground.Process
	url string
}

// swarmUp starts n proxies at once, from the first number on, against a management server, and returns without
// waiting for their configuration.
func (r *rig) swarmUp(ctx context.Context, addr string, first, n int) (*swarmOf, error) {
	ports, err := r.ports(1)
	if err != nil {
		return nil, err
	}
	control := fmt.Sprintf("127.0.0.1:%d", ports[0])
	p, err := r.Home().Start(ground.Command{
		Name: r.name("swarm"), Path: r.swarm,
		Args: []string{
			"-addr", addr, "-control", control, "-mode", "delta", "-n", strconv.Itoa(n), "-first", strconv.Itoa(first),
			"-node-id", "mesh/" + meshName + "/virtualNode/" + nodePrefix + "%d", "-duration", "1h", "-keep", "0",
		},
	})
	if err != nil {
		return nil, err
	}
	r.running = append(r.running, p)
	s := &swarmOf{Process: p, url: "http://" + control}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = stage.Until(ctx, "the load generator listens", func(ctx context.Context) bool {
		return s.call(ctx, http.MethodGet, "/stats", nil, nil) == nil
	})
	return s, err
}

func (s *swarmOf) call(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return call(ctx, method, s.url+path, body, out)
}

// call is one HTTP request whose answer is JSON, or nothing.
func call(ctx context.Context, method, url string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %.200s", method, url, resp.Status, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(text, out)
}

// fetch reads what is under a URL.
func fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// milliseconds is a distribution as the load generator reports it.
type milliseconds struct {
	P50 float64 `json:"p50"`
	Max float64 `json:"max"`
}

// complete waits until all proxies have their configuration and says when the last one had, from the start of the
// load generator's connections.
func (s *swarmOf) complete(ctx context.Context, n int) (last time.Duration, err error) {
	var out struct {
		Complete int            `json:"complete"`
		First    *milliseconds  `json:"first_full_config_ms"`
		Errors   map[string]int `json:"stream_errors"`
	}
	if err := s.call(ctx, http.MethodGet, "/complete?timeout_ms=120000", nil, &out); err != nil {
		return 0, err
	}
	if out.Complete < n || out.First == nil {
		return 0, fmt.Errorf("%d of %d proxies have their configuration; stream errors: %v", out.Complete, n, out.Errors)
	}
	return duration(out.First.Max), nil
}

func duration(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// expectation arms the load generator: n proxies must receive a resource of the type whose bytes match the pattern.
func (s *swarmOf) expect(ctx context.Context, n int, of, pattern string) (id int, err error) {
	in := map[string]any{"pattern": pattern, "raw": true, "count": n, "types": []string{of}, "async": true}
	var out struct{ ID int }
	err = s.call(ctx, http.MethodPost, "/expect", in, &out)
	return out.ID, err
}

// reached is what came of an expectation.
type reached struct {
	Seen     int                                            `json:"seen"`
	Complete bool                                           `json:"complete"`
	Latency  *milliseconds                                  `json:"latency_ms"`
	ByType   map[string]struct{ Messages, Resources int64 } `json:"by_type"`
	Touched  int                                            `json:"streams_touched"`
}

// wait returns when the expectation is met; latencies count from since.
func (s *swarmOf) wait(ctx context.Context, id int, since time.Time) (reached, error) {
	q := url.Values{"id": {strconv.Itoa(id)}, "since": {strconv.FormatInt(since.UnixNano(), 10)}, "timeout_ms": {"30000"}}
	var out reached
	if err := s.call(ctx, http.MethodGet, "/wait?"+q.Encode(), nil, &out); err != nil {
		return out, err
	}
	if !out.Complete || out.Latency == nil {
		return out, fmt.Errorf("only %d proxies received the change", out.Seen)
	}
	return out, nil
}

// processor is the processor time that a process has used, in user and in kernel: what getrusage would tell the
// process itself, to the nanosecond.
func processor(pid int) (time.Duration, error) {
	const process = 2 // the kernel's CPUCLOCK_SCHED of a whole process, see clock_getcpuclockid(3)
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|process), &t); err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// resident is a line of /proc/PID/status, such as VmRSS or RssAnon, in bytes.
func resident(pid int, line string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("look at process: %w", err)
	}
	for l := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(l, line+":"); ok {
			n, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return n * 1024, err
		}
	}
	return 0, fmt.Errorf("look at process %d: no %s", pid, line)
}

// ports finds n ports that are this run's until what runs ends.
func (r *rig) ports(n int) ([]int, error) {
	ports, release, err := testenv.ReservePorts(n)
	if err != nil {
		return nil, err
	}
	r.reserved = append(r.reserved, release)
	return ports, nil
}
