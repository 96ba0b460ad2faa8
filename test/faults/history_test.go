//go:build linux

package faults

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/aws/aws-sdk-go-v2/service/appmesh"
)

// history is what callers saw: every call with its begin, its end and its answer.
type history struct {
	t      testing.TB
	began  time.Time
	meshes []string
	names  []string // of the virtual nodes in each mesh

	mu       sync.Mutex
	ops      []porcupine.Operation
	attempts map[string]int // by client token
	acked    map[string]bool
	codes    map[string]int // of calls whose outcome is not known
	slowest  time.Duration
	next     int
}

func newHistory(t testing.TB, meshes, names []string) *history {
	return &history{
		t: t, began: time.Now(), meshes: meshes, names: names,
		attempts: map[string]int{}, acked: map[string]bool{}, codes: map[string]int{},
	}
}

func (h *history) number() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	return h.next
}

// call makes one call and writes down what came of it.
func (h *history) call(id int, c *appmesh.Client, in input) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	mesh, name := split(in.Key)
	from := time.Since(h.began)
	got, err := onNode(ctx, c, in.Verb, mesh, name, in.Text, in.Token)
	to := time.Since(h.began)
	o, status, code := outcomeOf(err)
	if ctx.Err() != nil {
		h.t.Errorf("%s %s was not answered within %v", in.Verb, in.Key, callLimit)
	}
	if o == unknown && status != 0 && status != 503 {
		h.t.Errorf("%s %s: %d %s", in.Verb, in.Key, status, err)
	}
	h.add(id, in, output{Outcome: o, State: got, Code: code}, from, to)
	return o
}

func (h *history) add(id int, in input, out output, from, to time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slowest = max(h.slowest, to-from)
	end := int64(to)
	switch {
	case out.Outcome == done && in.Token != "":
		h.acked[in.Token] = true
	case out.Outcome == unsent:
		h.codes[out.Code]++
		return
	case out.Outcome == unknown:
		h.codes[out.Code]++
		if in.Verb == describe {
			return // it tells nothing
		}
		end = math.MaxInt64
	}
	h.attempts[in.Token]++
	h.ops = append(h.ops, porcupine.Operation{ClientId: id, Input: in, Output: out, Call: int64(from), Return: end})
}

// list lists a mesh and writes down what it says of each resource.
func (h *history) list(id int, c *appmesh.Client, mesh string) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	from := time.Since(h.began)
	listed, err := listNodes(ctx, c, mesh)
	to := time.Since(h.began)
	if err != nil {
		return
	}
	for _, name := range h.names {
		version, ok := listed[name]
		h.add(id, input{Verb: describe, Key: mesh + "/" + name}, output{Outcome: done, Listed: true, State: state{Exists: ok, Version: version}}, from, to)
	}
}

// caller calls random replicas until the time comes, one call after another. A write whose outcome is not known is
// repeated with its client token, on whichever replica, until it is known.
func (h *history) caller(id int, replicas []*appmesh.Client, r *rand.Rand, until <-chan struct{}) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		pause.Reset(time.Duration(r.IntN(20)) * time.Millisecond)
		select {
		case <-until:
			return
		case <-pause.C:
		}
		c := replicas[r.IntN(len(replicas))]
		in := input{Key: h.meshes[r.IntN(len(h.meshes))] + "/" + h.names[r.IntN(len(h.names))]}
		switch n := r.IntN(20); {
		case n == 0:
			h.list(id, c, h.meshes[r.IntN(len(h.meshes))])
			continue
		case n < 7:
			in.Verb = describe
		case n < 12:
			in.Verb = create
		case n < 17:
			in.Verb = update
		default:
			in.Verb = remove
		}
		if in.Verb == create || in.Verb == update {
			in.Text = fmt.Sprintf("w%d", h.number())
			in.Token = "token-" + h.meshes[0] + "-" + in.Text // other histories have others
		}
		for {
			if o := h.call(id, c, in); in.Token == "" || o == done || o == refused {
				break
			}
			c = replicas[r.IntN(len(replicas))]
			pause.Reset(100 * time.Millisecond)
			select {
			case <-until:
				return
			case <-pause.C:
			}
		}
	}
}

// judge asks whether there is an order of all calls, each within its time, in which every answer is right. If there is
// none, the history and a drawing of it are kept in dir.
func (h *history) judge(t *testing.T, dir string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	// A token that was sent once says nothing more than the write that it came with.
	repeated := 0
	open := 0
	for i, op := range h.ops {
		in := op.Input.(input)
		if h.attempts[in.Token] < 2 {
			in.Token = ""
		} else if in.Token != "" {
			repeated++
		}
		if op.Return == math.MaxInt64 {
			open++
		}
		h.ops[i].Input = in
	}
	result, info := porcupine.CheckOperationsVerbose(model(), h.ops, 4*patience)
	t.Logf("%d calls, %d of them without a known outcome, %d with a token that was sent again; the slowest took %v; not answered well: %v",
		len(h.ops), open, repeated, h.slowest.Round(time.Millisecond), h.codes)
	if result == porcupine.Ok {
		return
	}
	t.Errorf("the history of %d calls is not linearizable: %s", len(h.ops), result)
	h.blame(t)
	drawing := filepath.Join(dir, "history.html")
	if err := porcupine.VisualizePath(model(), info, drawing); err != nil {
		t.Error(err)
	}
	text, err := json.MarshalIndent(h.ops, "", " ")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "history.json"), text, 0o600))
	t.Logf("see %s and history.json beside it", drawing)
}

// blame logs, for each resource whose history has no order, the calls up to the first that fits no more.
func (h *history) blame(t *testing.T) {
	t.Helper()
	for _, part := range model().Partition(h.ops) {
		slices.SortFunc(part, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
		n := sort.Search(len(part)+1, func(n int) bool {
			// What has not returned by then may have happened all the same.
			known := slices.Clone(part[:n])
			for _, op := range part[n:] {
				if n > 0 && op.Call <= part[n-1].Return {
					known = append(known, porcupine.Operation{Input: op.Input, Output: output{Outcome: unknown}, Call: op.Call, Return: math.MaxInt64})
				}
			}
			return porcupine.CheckOperationsTimeout(model(), known, 5*time.Second) == porcupine.Illegal
		})
		if n > len(part) {
			continue
		}
		t.Logf("%s: the last of these %d calls fits no more", part[0].Input.(input).Key, n)
		for _, op := range part[max(0, n-12):n] {
			t.Logf("  %.3f to %.3f s: %s", float64(op.Call)/1e9, float64(op.Return)/1e9, model().DescribeOperation(op.Input, op.Output))
		}
	}
}
