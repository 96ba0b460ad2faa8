package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
)

const (
	// leastHeadroom is what a small heap may grow by before it is collected. At
	// the runtime's own rate a control plane of a few megabytes that is asked to
	// write all the time spends a quarter of its processor on collections.
	leastHeadroom = 64 << 20
	// headroomPercent is what a large heap may grow by. Most of it is what
	// proxies are to have, which lives long; the runtime's 100 would keep as much
	// memory again for each of them.
	headroomPercent = 40
	// mostPercent bounds the rate before there is anything to go by.
	mostPercent = 1000
)

// tuneHeap keeps the collector's rate at what fits the heap, until ctx ends. An
// operator who sets GOGC has the last word.
func tuneHeap(ctx context.Context) error {
	if os.Getenv("GOGC") != "" {
		return nil
	}
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	samples := []runtimemetrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	set, collected := 100, make(chan struct{}, 1)
	for {
		runtimemetrics.Read(samples)
		var base uint64
		for _, s := range samples {
			base += s.Value.Uint64()
		}
		// Setting it stops the world for a moment, so not for a trifle.
		if want := collectorPercent(base); want > set+set/8 || want < set-set/8 {
			set = want
			debug.SetGCPercent(want)
		}
		// What nobody holds tells when a collection is over. A heap that grows
		// fast would be far beyond its mark before a clock had come round.
		runtime.AddCleanup(&struct{ _ [16]byte }{}, func(collected chan<- struct{}) {
			select {
			case collected <- struct{}{}:
			default:
			}
		}, (chan<- struct{})(collected))
		select {
		case <-collected:
		case <-ctx.Done():
			return nil
		}
	}
}

// collectorPercent is the rate (GOGC) for what a collection has to keep: live
// bytes, stacks and globals, which is what the runtime's rate is a share of.
func collectorPercent(base uint64) int {
	if base*mostPercent <= 100*leastHeadroom {
		return mostPercent
	}
	return max(headroomPercent, int(100*leastHeadroom/base))
}
