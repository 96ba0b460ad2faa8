package ads

import (
	"runtime"
	"sync"
)

// queue is the proxies that have something to look at beside their requests: a
// new goal, mostly. A few goroutines work it off, which exist only while there
// is something in it. They never wait for a proxy: one that is slow goes on in a
// goroutine of its own.
type queue struct {
	mu      sync.Mutex
	empty   sync.Cond // of running
	waiting []*proxy
	workers int
	running int // workers, and goroutines of slow proxies
}

func (q *queue) init() { q.empty.L = &q.mu }

// add is called for a proxy that is stale; one in the queue already stays where
// it is.
func (q *queue) add(p *proxy) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.queued {
		return
	}
	p.queued = true
	q.waiting = append(q.waiting, p)
	if q.workers < runtime.GOMAXPROCS(0) {
		q.workers++
		q.running++
		go q.work()
	}
}

func (q *queue) work() {
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.waiting = nil
			q.workers--
			q.done()
			q.mu.Unlock()
			return
		}
		p := q.waiting[0]
		q.waiting[0], q.waiting = nil, q.waiting[1:]
		p.queued = false
		q.mu.Unlock()
		p.follow(false)
	}
}

// apart goes on with a slow proxy.
func (q *queue) apart(p *proxy) { q.run(func() { p.follow(true) }) }

// run runs f in a goroutine that wait waits for.
func (q *queue) run(f func()) {
	q.mu.Lock()
	q.running++
	q.mu.Unlock()
	go func() {
		f()
		q.mu.Lock()
		q.done()
		q.mu.Unlock()
	}()
}

// done counts a goroutine out; mu is held.
func (q *queue) done() {
	if q.running--; q.running == 0 {
		q.empty.Broadcast()
	}
}

// wait returns when nothing of the queue runs.
func (q *queue) wait() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.running > 0 {
		q.empty.Wait()
	}
}
