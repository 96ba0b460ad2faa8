package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever changes policies all the time has streams authorised again once a second, and
// those of each account that changed; the first change acts at once.
func TestRevocationsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation()
		type pass struct {
			at       time.Duration
			accounts []string
		}
		var passes []pass
		began := time.Now()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- f.follow(ctx, func(changed map[string]bool) {
				passes = append(passes, pass{time.Since(began), slices.Sorted(maps.Keys(changed))})
			})
		}()
		for n := range 250 { // a change each 10 ms, of one of three accounts
			f.note([]string{fmt.Sprint(n % 3)})
			synctest.Wait()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		all := []string{"0", "1", "2"}
		want := []pass{{0, all[:1]}, {time.Second, all}, {2 * time.Second, all}, {3 * time.Second, all}}
		if !slices.EqualFunc(passes, want, func(a, b pass) bool { return a.at == b.at && slices.Equal(a.accounts, b.accounts) }) {
			t.Errorf("passes are %v, want %v", passes, want)
		}
	})
}
