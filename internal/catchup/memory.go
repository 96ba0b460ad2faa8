// Package catchup has a replica hear of what others have written before it refuses
// somebody by what it remembers.
//
// Who may do what is answered from memory, which a watch of the store keeps: a key, a
// policy or a share that another replica has just written may not be there yet. Who is
// allowed does not come here. For who is refused, Memory reads once how far the store is
// (heads, no records), waits until the memories concerned have been told as much, and says
// whether to decide again. A store that does not answer in time, or does not tell, leaves
// the refusal as it is.
//
// Start with Memory.Decide, in which callers have what may be a refusal.
// Reads (reads.go) makes few reads of many.
package catchup

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// apart is how far apart reads of the store are: whoever is refused, and however many
// are, costs it at most 200 small reads a second.
const apart = 5 * time.Millisecond

// Config is what New needs; all of it but Patience is required.
type Config struct {
	// Heads are the newest revisions at which something changed below the tails, read
	// linearizably; store.Store.Heads is one.
	Heads     func(ctx context.Context, tails ...string) ([]int64, error)
	Followers []Follower
	// Patience is how long somebody waits who is refused, at most; 0 is a second.
	Patience time.Duration
	Now      func() time.Time
}

// Follower is a memory that a watch of the store keeps.
type Follower struct {
	// Tail is where its records are in the store: account/.
	Tail string
	// Codes are those of the refusals that rest on it.
	Codes []string
	// Revision is up to which it was told. It never falls, and answers at once.
	Revision func() int64
	// Reach returns when it was told up to a revision, or when ctx has ended: whether it
	// was.
	Reach func(ctx context.Context, revision int64) bool
}

// Memory is what a replica refuses by. Nil is one that never has to catch up.
type Memory struct {
	Config
	followers []*follower
	reads     *Reads[[]int64]
	unread    pause // the store did not answer
}

type follower struct {
	Follower
	late pause // it did not get there in time
}

// mark is how far a memory was.
type mark int64

// New makes a Memory; Run has to run.
func New(c Config) *Memory {
	m := &Memory{Config: c}
	if m.Patience == 0 {
		m.Patience = time.Second
	}
	var tails []string
	for _, f := range c.Followers {
		m.followers, tails = append(m.followers, &follower{Follower: f}), append(tails, f.Tail)
	}
	m.reads = NewReads(func(ctx context.Context) ([]int64, error) {
		ctx, cancel := context.WithTimeout(ctx, m.Patience)
		defer cancel()
		return m.Heads(ctx, tails...)
	}, apart)
	return m
}

// Run reads the store for those who are refused, until ctx ends, and returns its error.
func (m *Memory) Run(ctx context.Context) error { return m.reads.Run(ctx) }

// Decide decides, and once more, from the start, when that ended in a refusal by what this
// replica had not heard yet. Its error is the last one; decide returns none or why not.
func (m *Memory) Decide(ctx context.Context, decide func() error) error {
	at := m.at()
	err := decide()
	if m.again(ctx, at, err) {
		err = decide()
	}
	return err
}

// at is how far the memory is now.
func (m *Memory) at() mark {
	if m == nil {
		return 0
	}
	var sum int64 // it grows with each of them
	for _, f := range m.followers {
		sum += f.Revision()
	}
	return mark(sum)
}

// again says whether to decide anew what ended with err: it is a refusal that rests on
// memory, and that is newer now than it was at the mark. It waits until the memory is as
// new as the store was when it was called, for as long as its patience lasts.
func (m *Memory) again(ctx context.Context, at mark, err error) bool {
	if m == nil || err == nil {
		return false
	}
	refusal, ok := errors.AsType[*api.Error](err)
	if !ok || !slices.ContainsFunc(m.followers, func(f *follower) bool { return f.concerns(refusal) }) {
		return false
	}
	m.catchUp(ctx, refusal)
	return m.at() != at
}

func (f *follower) concerns(refusal *api.Error) bool { return slices.Contains(f.Codes, refusal.Code) }

// catchUp waits until the followers that a refusal rests on are as far as the store is.
func (m *Memory) catchUp(ctx context.Context, refusal *api.Error) {
	if m.unread.lasts(m.Now()) {
		return
	}
	waiting, cancel := context.WithTimeout(ctx, m.Patience)
	defer cancel()
	heads, err := m.reads.Read(waiting)
	if err != nil {
		if ctx.Err() == nil {
			m.unread.begin(m.Now().Add(m.Patience))
		}
		return
	}
	for i, f := range m.followers {
		if !f.concerns(refusal) || f.Revision() >= heads[i] || f.late.lasts(m.Now()) {
			continue
		}
		if !f.Reach(waiting, heads[i]) && ctx.Err() == nil {
			f.late.begin(m.Now().Add(m.Patience))
		}
	}
}

// pause is how long nobody waits for what somebody has waited for in vain: as long as
// that was. The zero value is over.
type pause struct{ end atomic.Int64 }

func (p *pause) begin(end time.Time)      { p.end.Store(end.UnixNano()) }
func (p *pause) lasts(now time.Time) bool { return now.UnixNano() < p.end.Load() }
