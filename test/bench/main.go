//go:build linux

// Command bench measures Evermesh and prints a table: how fast a change reaches the proxies that need it, how fast the
// API is, what memory a proxy costs, and what Envoys cost that run what Evermesh makes. Each figure stands beside its
// floor, measured in the same run: the same work without a mesh. The floor of the management service sends resources of
// the same count and size, encoded beforehand, to each stream its own; the floor of the API verifies the same signature,
// does the same transaction in etcd and has an event as large on its disk, and nothing else; that of Envoys is a configuration written by hand.
//
// The parts are real: an evermeshd as it is shipped, etcd on disk, gRPC on loopback, and the load generator of
// test/swarm, which behaves like Envoys and runs in a process of its own, as does each floor. A change is timed from
// before its request is sent until the last proxy has received it; processor time is the server's, less what it uses
// when idle; memory is resident memory ten seconds after the last push. Nothing is collected or tuned for the
// measurement.
//
// main.go says what is measured; rig.go runs the processes; mesh.go makes the meshes; changes.go, start.go,
// endpoints.go, calls.go, wide.go and agent.go measure, as do relay.go, coldstart.go and metadata.go, which are about the agent; floor.go, floorapi.go and floorevents.go are the floors, cache.go is a
// comparison. translate.go measures in this program what a node's configuration takes to make, authorize.go what policies take to
// ask; traffic.go sends
// requests through real Envoys (envoys.go, way.go, load.go) and envoymemory.go weighs them, with testdata's
// configurations beside the generated ones. figure.go prints.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// scale is how large everything is.
type scale struct {
	nodes, few, many int // virtual nodes, each with one proxy: of the main mesh, and of the two that are compared
	backends         int // of each node
	changes          int // in a row
	streams          int // of the widest change
	calls            time.Duration
	settle           time.Duration // before memory is read
	agent            int           // bytes of configuration of the measured agent
	agentWait        time.Duration
	rows, inRow      int // of translations: of each row the mean, of the rows the median
	pairs, conns     int // of requests through sidecars
	pairTime         time.Duration
	services         int // that the weighed Envoys call
	weighings        int
	accounts         int // with ten policies each, of authorisation
	starts           int // pairs of starts of an Envoy
	turns            int // of asking for an answer, directly and through a relay
	searches         int // pairs of starts of an agent that finds no metadata service
}

func full() scale {
	return scale{
		nodes: 1000, few: 100, many: 3000, backends: 20, changes: 200, streams: 10_000,
		calls: 2 * time.Second, settle: 10 * time.Second, agent: 1 << 20, agentWait: 30 * time.Second,
		rows: 31, inRow: 100, pairs: 21, conns: 16, pairTime: 5 * time.Second,
		services: 50, weighings: 3, accounts: 1000, starts: 21, turns: 1000, searches: 3,
	}
}

// quick is a scale at which everything runs within seconds and no figure means anything.
func quick() scale {
	return scale{
		nodes: 40, few: 25, many: 60, backends: 3, changes: 3, streams: 80,
		calls: 50 * time.Millisecond, settle: 100 * time.Millisecond, agent: 20_000, agentWait: 100 * time.Millisecond,
		rows: 3, inRow: 2, pairs: 1, conns: 2, pairTime: 100 * time.Millisecond,
		services: 3, weighings: 1, accounts: 5, starts: 1, turns: 10, searches: 1,
	}
}

// affected is how many proxies the narrow change concerns, at any scale.
const affected = 20

// measurement is a part of the run, which gives one or more rows of the table; -only names them.
type measurement struct {
	rows []string
	run  func(ctx context.Context, r *rig) ([]figure, error)
}

// The rows, as -only and the files of profiles name them.
const (
	rowNarrow    = "narrow"
	rowWide      = "wide"
	rowStart     = "start" // with memory
	rowApart     = "apart"
	rowSize      = "size"
	rowEndpoints = "endpoints"
	rowCalls32   = "calls-32"
	rowCalls1    = "calls-1"
	rowCallsMesh = "calls-one-mesh"
	rowDescribe  = "describe"
	rowAudit32   = "audit-32"
	rowAudit1    = "audit-1"
	rowStreams   = "streams"
	rowAgent     = "agent"
	rowRelay     = "relay"
	rowColdStart = "cold-start"
	rowMetadata  = "metadata"
	rowTranslate = "translate"
	rowAuthorize = "authorize"
	rowTraffic   = "traffic"
	rowEnvoy     = "envoy-memory"
)

func measurements() []measurement {
	return []measurement{
		{[]string{rowNarrow, rowWide, rowStart}, measureMesh},
		{[]string{rowApart}, measureApart},
		{[]string{rowSize}, measureSize},
		{[]string{rowEndpoints}, measureEndpoints},
		{[]string{rowCalls32, rowCalls1, rowCallsMesh, rowDescribe, rowAudit32, rowAudit1}, measureCalls},
		{[]string{rowStreams}, measureStreams},
		{[]string{rowAgent}, measureAgent},
		{[]string{rowRelay}, measureRelay},
		{[]string{rowColdStart}, measureColdStart},
		{[]string{rowMetadata}, measureMetadata},
		{[]string{rowTranslate}, measureTranslation},
		{[]string{rowAuthorize}, measureAuthorization},
		{[]string{rowTraffic}, measureTraffic},
		{[]string{rowEnvoy}, measureEnvoyMemory},
	}
}

func rows() (out []string) {
	for _, m := range measurements() {
		out = append(out, m.rows...)
	}
	return out
}

func main() {
	stage.Play()
	if part := os.Getenv(partVariable); part != "" {
		os.Exit(play(part))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// In namespaces of its own nothing of the machine is in the way, and everything ends with this program. Where
	// that is not to be had, the machine itself does.
	exit, inside, err := ground.Enter(ctx)
	switch {
	case inside:
		exit = run(ctx, os.Args[1:], ground.New, os.Stdout, os.Stderr)
	case err != nil:
		exit = run(ctx, os.Args[1:], ground.Bare, os.Stdout, os.Stderr)
	}
	os.Exit(exit)
}

// play is this program as a floor, or an end of the traffic; it returns the exit code.
func play(part string) int {
	err := fmt.Errorf("no such part: %s", part)
	if len(os.Args) == 2 {
		switch part {
		case "floor":
			err = playFloor(os.Args[1])
		case "cache":
			err = playCache(os.Args[1])
		case "floorapi":
			err = playFloorAPI(os.Args[1])
		case "load":
			if err = playLoad(os.Args[1]); err == nil {
				return 0
			}
		case "server":
			err = playServer(os.Args[1])
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// run returns the exit code: 0 when every figure was measured or says why not.
func run(ctx context.Context, args []string, lay func() (*ground.Ground, error), stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	s := full()
	small := flags.Bool("quick", false, "run everything at a tiny scale, to see that it works")
	only := flags.String("only", ".*", "measure only the rows that match this regular `expression`: "+strings.Join(rows(), ", "))
	profiles := flags.String("cpuprofile", "", "keep a processor profile of the server for each row of changes and of calls, in this `folder`, as ROW.WHO.pprof: it costs a little of the figures")
	keep := flags.Bool("keep", false, "keep the logs of all programs, and say where")
	flags.IntVar(&s.changes, "changes", s.changes, "changes in a row")
	flags.IntVar(&s.pairs, "pairs", s.pairs, "pairs of measurements of requests through sidecars")
	flags.IntVar(&s.starts, "starts", s.starts, "pairs of starts of an agent and of a bare Envoy")
	flags.IntVar(&s.streams, "streams", s.streams, "streams of the widest change")
	flags.IntVar(&s.agent, "agent-bytes", s.agent, "bytes of configuration of the measured agent, about")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *small {
		s = quick()
	}
	wanted, err := regexp.Compile("^(?:" + *only + ")$")
	if err != nil || !slices.ContainsFunc(rows(), wanted.MatchString) {
		fmt.Fprintf(stderr, "bench: -only %s: want some of %s\n", *only, strings.Join(rows(), ", "))
		return 2
	}
	if *profiles != "" {
		if *profiles, err = filepath.Abs(*profiles); err == nil {
			err = os.MkdirAll(*profiles, 0o700)
		}
		if err != nil {
			fmt.Fprintf(stderr, "bench: -cpuprofile: %v\n", err)
			return 2
		}
	}
	figures, err := measureAll(ctx, options{s, wanted, *profiles, *keep}, lay, stderr)
	if printErr := printTable(stdout, figures); printErr != nil {
		err = errors.Join(err, printErr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}

// options are what a run was asked for.
type options struct {
	scale    scale
	wanted   *regexp.Regexp // rows
	profiles string         // folder; "" is none
	keep     bool           // the logs
}

// measureAll runs the measurements one after the other, each with programs of its own.
func measureAll(ctx context.Context, o options, lay func() (*ground.Ground, error), progress io.Writer) (figures []figure, err error) {
	g, err := lay()
	if err != nil {
		return nil, err
	}
	g.Keep = o.keep
	defer func() { err = errors.Join(err, g.Close()) }()
	r, err := newRig(ctx, g, o.scale, progress)
	if err != nil {
		return nil, err
	}
	r.wanted, r.profiles = o.wanted, o.profiles
	if o.keep {
		defer r.say("the logs are in %s/log", g.Dir())
	}
	for _, m := range measurements() {
		if !slices.ContainsFunc(m.rows, r.wants) {
			continue
		}
		name := strings.Join(slices.DeleteFunc(slices.Clone(m.rows), func(row string) bool { return !r.wants(row) }), ", ")
		r.say("measuring: %s", name)
		more, err := m.run(ctx, r)
		figures = append(figures, more...)
		if err := errors.Join(err, r.stopAll()); err != nil {
			return figures, fmt.Errorf("measure %s: %w", name, err)
		}
	}
	return figures, nil
}
