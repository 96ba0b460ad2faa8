package publish_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// A mesh that gives identities has its nodes change in turns, as if each of them had
// been changed.
func TestIdentitiesComeAndGoInTurns(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, delta bool) {
		s := storetest.New(t)
		write(t, s, lone("8080")...)
		k := newKept(t, s, "a", time.Now)
		front, v1 := k.named(t, "front", "f", delta), k.named(t, "v1", "v", delta)
		ready(t, front)
		ready(t, v1)
		for _, step := range []struct {
			identity             api.Identity
			last, before, client string
		}{
			{api.IdentityStrict, "8080 tls", "8080", "8080 tls"},
			{api.IdentityPermissive, "8080 raw_buffer, 8080 tls", "8080 tls", "8080 tls"},
			{api.IdentityStrict, "8080 tls", "8080 tls", "8080 tls"},
			{api.IdentityOff, "8080 raw_buffer", "8080 tls", "8080"},
		} {
			late := shut(t, v1, adstest.LDS)
			set(t, s, api.MeshSettings{Identity: step.identity})
			for began := time.Now(); time.Since(began) < 600*time.Millisecond; <-time.After(20 * time.Millisecond) {
				if got := toward(t, front); got != step.before {
					t.Fatalf("%s: before the target has accepted anything its client uses %q, want %q", step.identity, got, step.before)
				}
			}
			lateToo := shut(t, front, adstest.CDS)
			late.let()
			if step.before != step.client {
				v1.Wait(t, "both", func() bool { return inbound(t, v1) == "8080 raw_buffer, 8080 tls" })
			}
			lateToo.let()
			front.Wait(t, step.client, func() bool { return toward(t, front) == step.client })
			v1.Wait(t, step.last, func() bool { return inbound(t, v1) == step.last })
			settled(t, s)
		}
	})
}

// A replica that starts while identities come knows that they do: the node itself has
// not changed since.
func TestAReplicaStartsWhileIdentitiesCome(t *testing.T) {
	t.Parallel()
	stores := storetest.Replicas(t, 2)
	write(t, stores[0], lone("8080")...)
	a := newKept(t, stores[0], "a", time.Now)
	front, v1 := a.named(t, "front", "f", true), a.named(t, "v1", "v", true)
	ready(t, front)
	ready(t, v1)
	target := shut(t, v1, adstest.LDS)
	set(t, stores[0], api.MeshSettings{Identity: api.IdentityStrict})
	testenv.Eventually(t, "the turn is written down", func() bool {
		rows, err := stores[0].Read(t.Context(), "ledger/turns/")
		return err == nil && slices.ContainsFunc(slices.Collect(maps.Keys(rows)), func(key string) bool { return strings.HasSuffix(key, "v1") })
	})
	b := newKept(t, stores[1], "b", time.Now)
	second := b.named(t, "front", "g", false)
	ready(t, second)
	if got := toward(t, second); got != "8080" {
		t.Errorf("a client of the new replica uses %q, which the target has not accepted", got)
	}
	newcomer := b.named(t, "v1", "w", false)
	newcomer.Wait(t, "both", func() bool { return inbound(t, newcomer) == "8080 raw_buffer, 8080 tls" })
	target.let()
	second.Wait(t, "TLS", func() bool { return toward(t, second) == "8080 tls" })
	newcomer.Wait(t, "TLS alone", func() bool { return inbound(t, newcomer) == "8080 tls" })
	settled(t, stores[1])
}
