package main

import (
	"context"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"testing"
)

func TestCollectorPercent(t *testing.T) {
	for _, c := range []struct {
		name string
		base uint64
		want int
	}{
		{"nothing yet", 0, mostPercent},
		{"a few kilobytes", 100 << 10, mostPercent},
		{"a fresh control plane", 8 << 20, 800},
		{"as large as the headroom", 64 << 20, 100},
		{"a thousand proxies", 80 << 20, 80},
		{"very large", 1 << 40, headroomPercent},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := collectorPercent(c.base); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestTheHeapIsTunedUntilItEnds(t *testing.T) {
	before := debug.SetGCPercent(77)
	defer debug.SetGCPercent(before)
	rate := func() int { return int(sampleOf(t, "/gc/gogc:percent")) }
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- tuneHeap(ctx) }()
	held := make([]byte, 200<<20) // of which every page counts, touched or not
	eventually(t, "a large heap has a low rate", func() bool {
		runtime.GC()
		return rate() == headroomPercent
	})
	runtime.KeepAlive(held)
	eventually(t, "a small one has a high rate", func() bool {
		runtime.GC()
		return rate() > headroomPercent
	})
	end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := rate(); got != 77 {
		t.Errorf("it left the rate at %d, not as it was", got)
	}
}

func TestAnOperatorsGOGCIsKept(t *testing.T) {
	before := debug.SetGCPercent(77)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "77")
	if err := tuneHeap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := debug.SetGCPercent(77); got != 77 {
		t.Errorf("the rate became %d", got)
	}
}

func sampleOf(t *testing.T, name string) uint64 {
	t.Helper()
	s := []runtimemetrics.Sample{{Name: name}}
	runtimemetrics.Read(s)
	return s[0].Value.Uint64()
}
