package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/apply"
	"github.com/evermesh/evermesh/internal/client"
)

// shopItems are a mesh with more nodes than a page of a list has room for.
func shopItems(t *testing.T, weight int) []apply.Item {
	t.Helper()
	docs := []map[string]any{{"meshName": "shop"}}
	for i := range 110 {
		name := fmt.Sprint("n", i)
		docs = append(docs, map[string]any{"meshName": "shop", "virtualNodeName": name, "spec": map[string]any{}})
		if i >= 10 {
			continue
		}
		docs = append(docs,
			map[string]any{"meshName": "shop", "virtualRouterName": name, "spec": map[string]any{}},
			map[string]any{"meshName": "shop", "virtualRouterName": name, "routeName": "all", "spec": map[string]any{"httpRoute": map[string]any{
				"match": map[string]any{"prefix": "/"}, "action": map[string]any{"weightedTargets": []any{map[string]any{"virtualNode": name, "weight": weight}}},
			}}})
	}
	return itemsFrom(t, docs)
}

// Several who apply the same files at once all succeed, and the mesh is as the
// files say; so are two who prune the same.
func TestAppliesAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlane(t, t.TempDir())
	items := shopItems(t, 1)
	together := func(items []apply.Item) map[apply.Action]int {
		var mu sync.Mutex
		did := map[apply.Action]int{}
		var all sync.WaitGroup
		for range 4 {
			a := &apply.Applier{Client: p.client(t)}
			all.Go(func() {
				results, err := a.Run(t.Context(), items)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, r := range results {
					if did[r.Action]++; r.Err != nil {
						t.Errorf("%s: %v", r.Path(), r.Err)
					}
				}
			})
		}
		all.Wait()
		return did
	}
	if did := together(items); did[apply.Create] < len(items) {
		t.Errorf("%d resources were made by %v", len(items), did)
	}
	a := &apply.Applier{Client: p.client(t)}
	for _, i := range items {
		if s, err := a.Look(t.Context(), i); err != nil || s.Action != apply.Unchanged {
			t.Errorf("%s: %s, %v", i.Path(), s.Action, err)
		}
	}
	others, _, err := a.Others(t.Context(), items[:1])
	if err != nil || len(others) != len(items)-1 {
		t.Fatalf("%d others, want %d; %v", len(others), len(items)-1, err)
	}
	together(others)
	if left, _, err := a.Others(t.Context(), items[:1]); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// faulty is a network that answers some requests itself.
type faulty struct {
	client.Doer
	answer func(n int64, r *http.Request) (status int, code string, err error)
	n      atomic.Int64
}

func (f *faulty) Do(r *http.Request) (*http.Response, error) {
	status, code, err := f.answer(f.n.Add(1), r)
	if err != nil || status == 0 {
		if err == nil {
			return f.Doer.Do(r)
		}
		return nil, err
	}
	return &http.Response{
		StatusCode: status, Header: http.Header{"X-Amzn-Errortype": {code}}, Body: io.NopCloser(bytes.NewBufferString(`{"message":"not now"}`)),
	}, nil
}

func through(t *testing.T, p *plane, answer func(n int64, r *http.Request) (int, string, error)) *apply.Applier {
	t.Helper()
	cfg, err := client.Load(t.Context(), p.dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg.HTTP = &faulty{Doer: cfg.HTTP, answer: answer}
	cfg.Sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &apply.Applier{Client: c}
}

// Answers that ask to come again are tried again: one in three is one.
func TestApplyTriesAgain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		code   string
		writes bool // only writes are answered so
	}{{429, api.CodeTooManyRequests, false}, {503, api.CodeServiceUnavailable, false}, {409, api.CodeConflict, true}} {
		t.Run(fmt.Sprintf("API-033 %d %s", c.status, c.code), func(t *testing.T) {
			t.Parallel()
			p := newPlane(t, t.TempDir())
			a := through(t, p, func(n int64, r *http.Request) (int, string, error) {
				if n%3 != 0 || (c.writes && r.Method == http.MethodGet) {
					return 0, "", nil
				}
				return c.status, c.code, nil
			})
			for _, weight := range []int{1, 2} {
				items := shopItems(t, weight)
				results, err := a.Run(t.Context(), items)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range results {
					if r.Err != nil {
						t.Errorf("%s: %v", r.Path(), r.Err)
					}
				}
			}
		})
	}
}

// A control plane that goes away half way ends the run; what was done is told,
// and the next run does the rest.
func TestApplyThatIsCutOff(t *testing.T) {
	t.Parallel()
	p := newPlane(t, t.TempDir())
	items := shopItems(t, 1)
	cut := through(t, p, func(n int64, _ *http.Request) (int, string, error) {
		if n > 40 {
			return 0, "", errors.New("no route to host")
		}
		return 0, "", nil
	})
	results, err := cut.Run(t.Context(), items)
	if err == nil || !strings.Contains(err.Error(), "no route to host") {
		t.Fatalf("the run ended with %v", err)
	}
	done, failed, untried := 0, 0, 0
	for _, r := range results {
		switch {
		case r.Err == nil:
			done++
		case errors.Is(r.Err, apply.ErrNotTried):
			untried++
		default:
			failed++
		}
	}
	if done != 20 || failed != 1 || untried != len(items)-21 {
		t.Errorf("%d done, %d failed, %d not tried", done, failed, untried)
	}
	results, err = (&apply.Applier{Client: p.client(t)}).Run(t.Context(), items)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		want := apply.Create
		if i < done {
			want = apply.Unchanged
		}
		if r.Err != nil || r.Action != want {
			t.Errorf("%s: %s, %v", r.Path(), r.Action, r.Err)
		}
	}
}

// What does not fit into one plan is refused with what to do.
func TestPlanThatIsTooLarge(t *testing.T) {
	t.Parallel()
	p := newPlane(t, t.TempDir())
	backend := fmt.Sprintf(`{"virtualService":{"virtualServiceName":%q}}`, strings.Repeat("x", 250))
	file := `{"meshName":"shop","virtualNodeName":"web","spec":{"backends":[` + strings.TrimSuffix(strings.Repeat(backend+",", 4000), ",") + `]}}`
	var out, problems bytes.Buffer
	code := run(t.Context(), []string{"plan", "--data-dir", p.dir, "-"}, strings.NewReader(file), &out, &problems)
	const want = "evermesh: Plan: RequestEntityTooLargeException: The request's body is larger than 1048576 bytes. (give fewer files at once)\n"
	if code != 1 || problems.String() != want {
		t.Errorf("exit code %d, %s", code, problems.String())
	}
}

// An answer may be lost after its work was done: wherever that happens, the next
// run ends with the mesh as the files say.
func TestApplyWhoseAnswersAreLost(t *testing.T) {
	t.Parallel()
	p := newPlane(t, t.TempDir())
	whole := &apply.Applier{Client: p.client(t)}
	for i, lost := range []int64{1, 2, 3, 4, 7, 12, 25, 31, 50} {
		docs := []map[string]any{
			{"meshName": fmt.Sprint("m", i), "tags": []any{map[string]any{"key": "a", "value": "b"}}},
			{"meshName": fmt.Sprint("m", i), "virtualNodeName": "n", "spec": map[string]any{}, "tags": []any{}},
			{"meshName": fmt.Sprint("m", i), "virtualNodeName": "o", "spec": map[string]any{}},
			{"meshName": fmt.Sprint("m", i), "virtualServiceName": "s", "spec": map[string]any{"provider": map[string]any{"virtualNode": map[string]any{"virtualNodeName": "n"}}}},
		}
		items := itemsFrom(t, docs)
		others := []apply.Item{{Key: items[2].Key}} // o goes again
		items = append(slices.Delete(slices.Clone(items), 2, 3), others...)
		runAll(t.Context(), t, whole, itemsFrom(t, docs[:3]))
		cfg, err := client.Load(t.Context(), p.dir)
		if err != nil {
			t.Fatal(err)
		}
		cfg.HTTP = &lossy{Doer: cfg.HTTP, lost: lost}
		c, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&apply.Applier{Client: c}).Run(t.Context(), items); err == nil && lost < 8 {
			t.Errorf("answer %d: the loss was not noticed", lost)
		}
		for _, r := range runAll(t.Context(), t, whole, items) {
			if r.Err != nil {
				t.Errorf("answer %d: %s: %v", lost, r.Path(), r.Err)
			}
		}
		for _, x := range items {
			want := apply.Unchanged
			if x.Doc == nil {
				want = apply.Gone
			}
			if s, err := whole.Look(t.Context(), x); err != nil || s.Action != want {
				t.Errorf("answer %d: %s: %s, want %s; %v", lost, x.Path(), s.Action, want, err)
			}
		}
	}
}

// lossy is a network that loses one answer.
type lossy struct {
	client.Doer
	lost, n int64
}

func (l *lossy) Do(r *http.Request) (*http.Response, error) {
	resp, err := l.Doer.Do(r)
	if l.n++; err == nil && l.n == l.lost {
		_ = resp.Body.Close()
		return nil, errors.New("connection reset by peer")
	}
	return resp, err
}
