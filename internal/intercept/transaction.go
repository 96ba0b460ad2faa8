package intercept

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// unit is what one call of a tool changes, all of it or nothing: both families of nft, one family of iptables.
type unit interface {
	// name is for people: "nft", "iptables", "ip6tables-legacy".
	name() string
	// look reads what is there. It changes nothing, not even which modules the kernel has where that can be helped.
	look(ctx context.Context) (holding, error)
	// put replaces what is there with the rules of cfg; without one it removes them.
	put(ctx context.Context, cfg *Config, now holding) error
	// restore makes what is ours as it was in before.
	restore(ctx context.Context, before, now holding) error
	// canonical is what is ours in one spelling, to be compared with what a configuration asks for.
	canonical(h holding) []string
}

// holding is what one unit holds of ours.
type holding struct {
	saved   string   // what the tool printed
	own     []string // our chains, their rules and the jumps to them, as the tool prints them; empty: nothing
	foreign []string // rules of others that lead to our chains or lie in them
}

// ForeignError says that others have put rules into the chains or the table that bear our names. Nothing was changed:
// removing them would break what made them, and leaving them would make interception do what nobody asked for.
type ForeignError struct {
	Tool  string   // "nft", "iptables", "ip6tables", …
	Rules []string // as the tool prints them
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s has a rule in our chains that is not ours: %q: nothing was changed; remove it first", e.Tool, e.Rules[0])
}

// step is what a transaction does to one unit: installs cfg, or removes what is there if cfg is nil.
type step struct {
	unit unit
	cfg  *Config
	// optional marks a unit that cannot have left anything if it cannot even list: a tool without its kernel's part.
	optional bool
}

// undoWait bounds putting back what was there, which goes on when the caller's context has ended.
const undoWait = 20 * time.Second

// transact does all steps or none: it looks at every unit first, and where a step fails, what earlier steps changed is
// put back. It returns the units in which it found rules of ours, by name. One transaction runs in a network namespace at a time.
func transact(ctx context.Context, steps []step) (found []string, err error) {
	unlock, err := lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var able []step
	var before []holding
	for _, s := range steps {
		h, err := s.unit.look(ctx)
		switch {
		case err != nil && s.optional && ctx.Err() == nil:
			continue
		case err != nil:
			return nil, err
		case len(h.foreign) > 0:
			return nil, &ForeignError{s.unit.name(), h.foreign}
		case len(h.own) > 0:
			found = append(found, s.unit.name())
		}
		able, before = append(able, s), append(before, h)
	}
	for i, s := range able {
		if s.cfg == nil && len(before[i].own) == 0 {
			continue
		}
		if err := s.unit.put(ctx, s.cfg, before[i]); err != nil {
			return found, errors.Join(err, undo(ctx, able[:i+1], before))
		}
	}
	return found, nil
}

// undo puts back what the steps changed, the last one first. The failed step is among them: a tool that was killed may
// have finished its work.
func undo(ctx context.Context, steps []step, before []holding) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
	defer cancel()
	var errs []error
	for i, s := range slices.Backward(steps) {
		u := s.unit
		now, err := u.look(ctx)
		if err == nil && !slices.Equal(now.own, before[i].own) {
			err = u.restore(ctx, before[i], now)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("put back what %s had: %w", u.name(), err))
		}
	}
	return errors.Join(errs...)
}

const (
	// lockTick is how often a taken lock is tried again.
	lockTick = 20 * time.Millisecond
	// lockWait is for how long. A run takes a second or two, and several may come before this one; but everybody in the
	// namespace may take the lock, and keep it.
	lockWait = 30 * time.Second
)

// lock keeps transactions of one network namespace apart: what one reads must be what it changes. The kernel's file of
// the namespace is what is locked, so nothing is left behind by whoever is killed.
func lock(ctx context.Context) (unlock func(), err error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	unlock = func() { _ = unix.Close(fd) }
	tick := time.NewTicker(lockTick)
	defer tick.Stop()
	late := time.NewTimer(lockWait)
	defer late.Stop()
	for {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			unlock()
			return nil, fmt.Errorf("lock the network namespace: %w", err)
		}
		select {
		case <-ctx.Done():
			unlock()
			return nil, fmt.Errorf("wait for another run in this network namespace: %w", ctx.Err())
		case <-late.C:
			unlock()
			return nil, fmt.Errorf("wait for another run in this network namespace: others have had its lock for %s; "+
				"lslocks and fuser -v /proc/self/ns/net tell who: end one that hangs, and run this again", lockWait)
		case <-tick.C:
		}
	}
}
