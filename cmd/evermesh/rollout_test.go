package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

var (
	waiting = told{Rollout: &api.Rollout{State: api.RolloutStateWaiting, ProxiesAffected: 1, ReplicasTotal: 1}}
	done    = told{Rollout: &api.Rollout{State: api.RolloutStateDone, ProxiesAffected: 1, ProxiesAccepted: 1, ReplicasTotal: 1, ReplicasApplied: 1}}
)

const shop = "arn:aws:appmesh:us-east-1:" + account + ":mesh/shop"

func planeWithShop(t *testing.T) *plane {
	t.Helper()
	p := newPlane(t, t.TempDir())
	if err := p.client(t).Call(t.Context(), "CreateMesh", api.CreateMeshInput{MeshName: "shop"}, nil); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWatchRollout(t *testing.T) {
	t.Parallel()
	t.Run("goes on when a stream ends before the rollout does", func(t *testing.T) {
		t.Parallel()
		p := planeWithShop(t)
		p.ledger.tell(waiting, false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		shown := 0
		last, err := watchRollout(ctx, p.client(t), shop, func(api.Rollout) {
			if shown++; shown == 1 {
				p.ledger.tell(told{}, false) // ends the stream: the ledger cannot be read
				p.ledger.tell(done, true)
			}
		})
		if err != nil || last == nil || last.State != api.RolloutStateDone {
			t.Errorf("got %+v, %v, want it done", last, err)
		}
	})
	t.Run("notices at once what its own replica notices", func(t *testing.T) {
		t.Parallel()
		p := planeWithShop(t)
		p.ledger.tell(waiting, false)
		began := time.Now()
		last, err := watchRollout(t.Context(), p.client(t), shop, func(api.Rollout) { p.ledger.tell(done, false) })
		if err != nil || last == nil || last.State != api.RolloutStateDone {
			t.Errorf("got %+v, %v, want it done", last, err)
		}
		p.ledger.mu.Lock()
		defer p.ledger.mu.Unlock()
		// One look before the change and one after it, unless the machine was
		// so slow that a second went by.
		if p.ledger.asked != 2 && time.Since(began) < askEvery {
			t.Errorf("the ledger was asked %d times, want 2", p.ledger.asked)
		}
	})
	t.Run("outlives its server until the time is over, and tells what it saw last", func(t *testing.T) {
		t.Parallel()
		p := planeWithShop(t)
		p.ledger.tell(waiting, false)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var over *time.Timer // counts from when it has seen something, which may take its time
		last, err := watchRollout(ctx, p.client(t), shop, func(api.Rollout) {
			if over == nil {
				over = time.AfterFunc(3*askEvery/2, cancel)
			}
			go p.CloseClientConnections()
		})
		if !errors.Is(err, context.Canceled) || last == nil || last.State != api.RolloutStateWaiting {
			t.Errorf("got %+v, %v, want what was waited for, and the end", last, err)
		}
	})
	t.Run("does not wait for a resource that does not exist", func(t *testing.T) {
		t.Parallel()
		p := planeWithShop(t)
		var refusal *api.Error
		if last, err := watchRollout(t.Context(), p.client(t), shop+"s", nil); last != nil || !errors.As(err, &refusal) || refusal.Code != api.CodeNotFound {
			t.Errorf("got %+v, %v, want %s", last, err, api.CodeNotFound)
		}
	})
	t.Run("does not wait for a server that was never there", func(t *testing.T) {
		t.Parallel()
		p := planeWithShop(t)
		p.Close()
		if last, err := watchRollout(t.Context(), p.client(t), shop, nil); last != nil || err == nil {
			t.Errorf("got %+v, %v, want an error", last, err)
		}
	})
}
