package main

import (
	"context"
	"os"
	"runtime/debug"
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
		{"a fresh control plane", 8 << 20, 400},
		{"as large as the headroom", 32 << 20, 100},
		{"a thousand proxies", 100 << 20, headroomPercent},
		{"very large", 1 << 40, headroomPercent},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := collectorPercent(c.base); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestAnOperatorsGOGCIsKept(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	ended, end := context.WithCancel(t.Context())
	end()
	debug.SetGCPercent(77)
	t.Setenv("GOGC", "77")
	if err := tuneHeap(ended); err != nil {
		t.Fatal(err)
	}
	if got := debug.SetGCPercent(77); got != 77 {
		t.Errorf("the rate became %d", got)
	}
	if err := os.Unsetenv("GOGC"); err != nil {
		t.Fatal(err)
	}
	if err := tuneHeap(ended); err != nil {
		t.Fatal(err)
	}
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("the rate is left at %d", got)
	}
}
