//go:build linux

package faults

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/appmesh"
)

// site is three replicas on an etcd of three members, with a link that can be cut between each two.
type site struct {
	etcd     *cluster
	replicas []*replica
	links    [][]*link // by replica
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{etcd: newCluster(t, 3)}
	for i := range 3 {
		var links []*link
		var endpoints []string
		for _, m := range s.etcd.members {
			l := newLink(t, m.client)
			links = append(links, l)
			endpoints = append(endpoints, "http://"+l.address)
		}
		s.links = append(s.links, links)
		r := newReplica(t, fmt.Sprintf("evermeshd%d", i), on(t, endpoints...)...)
		r.launch()
		s.replicas = append(s.replicas, r)
	}
	for _, r := range s.replicas {
		r.awaitReady()
	}
	return s
}

// fault is something that goes wrong for a while.
type fault struct {
	name  string
	begin func(s *site, i int)
	end   func(s *site, i int)
}

// faults are what the histories go through. i says which replica.
var faults = []fault{
	{"a replica is killed", func(s *site, i int) { s.replicas[i].kill() }, func(s *site, i int) { s.replicas[i].start() }},
	{"a replica stops for a while", func(s *site, i int) { s.replicas[i].signal(syscall.SIGSTOP) }, func(s *site, i int) { s.replicas[i].signal(syscall.SIGCONT) }},
	{"two replicas are killed", func(s *site, i int) {
		s.replicas[i].kill()
		s.replicas[(i+1)%3].kill()
	}, func(s *site, i int) {
		s.replicas[i].launch()
		s.replicas[(i+1)%3].start()
		s.replicas[i].awaitReady()
	}},
	{"a replica is cut off from etcd, and nobody tells", func(s *site, i int) {
		for _, l := range s.links[i] {
			l.sever()
		}
	}, func(s *site, i int) {
		for _, l := range s.links[i] {
			l.mend()
		}
	}},
	{"a replica is cut off from etcd, and its connections end", func(s *site, i int) {
		for _, l := range s.links[i] {
			l.sever()
			l.drop()
		}
	}, func(s *site, i int) {
		for _, l := range s.links[i] {
			l.mend()
		}
	}},
	{"etcd's leader is killed", func(s *site, _ int) {
		if m := s.etcd.leader(); m != nil {
			m.kill()
		}
	}, func(s *site, _ int) {
		for _, m := range s.etcd.members {
			if !m.running {
				m.start()
			}
		}
		s.etcd.awaitReady()
	}},
	{"etcd's leader is cut off from the other members", func(s *site, _ int) {
		if m := s.etcd.leader(); m != nil {
			s.etcd.isolate(m)
		}
	}, func(s *site, _ int) { s.etcd.join() }},
	{"a member of etcd is cut off from the others", func(s *site, i int) { s.etcd.isolate(s.etcd.members[i]) }, func(s *site, _ int) { s.etcd.join() }},
	{"etcd's leader stops for a while", func(s *site, _ int) {
		if m := s.etcd.leader(); m != nil {
			m.signal(syscall.SIGSTOP)
		}
	}, func(s *site, _ int) {
		for _, m := range s.etcd.members {
			if m.stopped {
				m.signal(syscall.SIGCONT)
			}
		}
	}},
}

// TestHistoriesWithFaults has callers call three replicas on one etcd while one thing after another goes wrong. There
// must be one order of all their calls in which every answer is right, and a write that is repeated with its client
// token must have happened once.
func TestHistoriesWithFaults(t *testing.T) {
	t.Parallel()
	random := chance(t)
	dir := keep(t)
	limit := 28 * time.Second
	if *soak > 0 {
		limit = *soak
	}
	s := newSite(t)
	acked := map[string]bool{}
	for n, began := 0, time.Now(); (n == 0 || time.Since(began) < limit) && !t.Failed(); n++ {
		// Judging takes more time than the calls do if a history is long: many shorter ones find more.
		maps.Copy(acked, s.history(t, random, dir, n, min(limit, 30*time.Second)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	readRevisions(ctx, t, s.etcd.members[0].dial(), acked)
}

// history is one of them; it returns the client tokens of what was acknowledged.
func (s *site) history(t *testing.T, random *rand.Rand, dir string, n int, limit time.Duration) map[string]bool {
	t.Helper()
	var users []*appmesh.Client
	key := s.replicas[0].key()
	for _, r := range s.replicas {
		users = append(users, userOf("http://"+r.api, key))
	}
	var meshes []string
	for i := range 3 {
		meshes = append(meshes, fmt.Sprintf("h%d-m%d", n, i))
		must(t, makeMesh(t.Context(), s.replicas[0].patient(), meshes[i]))
	}
	h := newHistory(t, meshes, []string{"a", "b", "c", "d"})
	over := make(chan struct{})
	var calling sync.WaitGroup
	for id := range 9 {
		r := rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))
		calling.Go(func() { h.caller(id, users, r, over) })
	}
	happened := 0
	pause := func(least, most int) {
		<-time.After(time.Duration(least+random.IntN(most-least)) * time.Millisecond) // how long a fault lasts is what is random
	}
	for began := time.Now(); time.Since(began) < limit && !t.Failed(); {
		for _, f := range random.Perm(len(faults)) {
			if time.Since(began) > limit {
				break
			}
			pause(100, 600)
			i := random.IntN(3)
			faults[f].begin(s, i)
			if random.IntN(6) > 0 {
				pause(300, 2500)
			} else {
				pause(5500, 6500) // longer than evermeshd waits for etcd
			}
			faults[f].end(s, i)
			happened++
		}
	}
	pause(300, 600)
	close(over)
	calling.Wait()
	for id, c := range users {
		for _, m := range meshes {
			h.list(id, c, m)
			for _, name := range h.names {
				until(t, fmt.Sprintf("replica %d answers, as everything is well again", id), func() bool {
					return h.call(id, c, input{Verb: describe, Key: m + "/" + name}) == done
				})
			}
		}
	}
	t.Logf("history %d: %d faults", n, happened)
	t.Run("API-023 API-031 one order explains every answer", func(t *testing.T) { h.judge(t, dir) })
	return h.acked
}
