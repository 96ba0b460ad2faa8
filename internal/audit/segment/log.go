// Package segment keeps entries in append-only files, for a time and up to a
// size. An entry that Append has taken is on the disk: many of them share one
// fsync, and what a crash tears is cut off at the next start.
//
// Start with Log.Append (log.go), which hands over to the one goroutine that
// writes. queue.go is what waits for it, line.go is an entry on the disk, file.go a segment with its index by
// time, scan.go the search from the newest back, tail.go the way of who delivers
// entries elsewhere, retain.go what goes when.
package segment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// segmentBytes and segmentAge are when the next segment is begun: what is
	// removed, is removed by segments.
	segmentBytes = 16 << 20
	segmentAge   = 24 * time.Hour
	// reserveBytes is how far ahead a segment is filled with zeros: to write over
	// what is there takes a disk half as long as to write behind the end.
	reserveBytes = 1 << 20
	// zeroBytes is how many zeros are written at once.
	zeroBytes = 64 << 10
)

// Config is what Open needs.
type Config struct {
	Dir string // made if need be
	// MaxBytes bounds all segments together, MaxAge how old an entry becomes.
	MaxBytes int64
	MaxAge   time.Duration
	Log      *slog.Logger
	Now      func() time.Time
}

// Stats are counts since Open, and sizes as they are.
type Stats struct {
	Entries, Groups, Failures int64 // appended; fsyncs; groups that could not be written
	RemovedBytes, Surplus     int64 // by retention; of them those that were too much, and not too old
	Bytes                     int64
	Segments                  int
	Oldest                    time.Time // entry that is kept; zero for none
}

// Log is the entries of one directory, which it has to itself. Its methods may be
// called from any goroutine.
type Log struct {
	config  Config
	held    *os.File // the lock on the directory
	queue   queue
	stop    chan struct{}
	closing sync.Once
	running sync.WaitGroup

	entries, groups, failures, removed, surplus atomic.Int64

	fault atomic.Pointer[error] // why the last group was not written; nil when it was

	mu      sync.RWMutex
	files   []*file       // the last one takes what comes
	changed chan struct{} // closed after the next group
	cut     Position      // the end of the segment that was removed last

	// Owned by the goroutine that writes.
	out      *os.File
	reserved int64     // up to where out is filled with zeros
	zeros    []byte    // to fill it with
	began    time.Time // of the last segment
}

// ErrClosed is Append's error after Close.
var ErrClosed = errors.New("log is closed")

// Open reads what is in the directory, cuts off what was torn, and takes entries
// until Close.
//
// A directory that another process has is an *InUse.
func Open(c Config) (*Log, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	held, err := lock(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l := &Log{
		config: c, held: held, queue: newQueue(), stop: make(chan struct{}), changed: make(chan struct{}), zeros: make([]byte, zeroBytes),
	}
	if err := l.load(); err != nil {
		return nil, fmt.Errorf("open log: %w", errors.Join(err, held.Close()))
	}
	l.retain()
	l.running.Go(l.work)
	return l, nil
}

// load reads what is there.
func (l *Log) load() error {
	c := l.config
	all, err := numbers(c.Dir)
	if err != nil {
		return err
	}
	for i, n := range all {
		f, damaged, err := openFile(c.Dir, n, i == len(all)-1)
		if err != nil {
			return err
		}
		if damaged > 0 {
			c.Log.Warn("log had bytes that are no entries", "file", f.name(c.Dir), "bytes", damaged)
		}
		l.files = append(l.files, f)
		if i < len(all)-1 {
			if err := f.writeIndex(c.Dir); err != nil {
				return err
			}
		}
	}
	return l.resume()
}

// Close takes no more entries, writes those that wait, and returns when that is
// done.
func (l *Log) Close() {
	l.closing.Do(func() { close(l.stop) })
	l.running.Wait()
}

// Append keeps the entries, together or not at all, and returns when they are on
// the disk. With an error they may be there or not. When very many wait it waits
// too, for ctx.
func (l *Log) Append(ctx context.Context, entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	g, err := l.queue.join(ctx, entries)
	if err != nil {
		return err
	}
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return fmt.Errorf("append to log: %w", ctx.Err())
	}
}

// Changed is closed after the next group of entries; it is nil, and never closed,
// after Close.
func (l *Log) Changed() <-chan struct{} {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.changed
}

// Stats tells what there is.
func (l *Log) Stats() Stats {
	s := Stats{Entries: l.entries.Load(), Groups: l.groups.Load(), Failures: l.failures.Load(), RemovedBytes: l.removed.Load(), Surplus: l.surplus.Load()}
	l.mu.RLock()
	defer l.mu.RUnlock()
	s.Segments = len(l.files)
	for _, f := range l.files {
		s.Bytes += f.size
		if at := f.min(); at > 0 && (s.Oldest.IsZero() || time.UnixMicro(at).Before(s.Oldest)) {
			s.Oldest = time.UnixMicro(at)
		}
	}
	return s
}

// Fault is why the entries that came last could not be written, nil when they were: it is
// known anew with the next ones.
func (l *Log) Fault() error {
	if err := l.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// work writes until Close, and then what waits.
func (l *Log) work() {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.queue.wake:
			began := time.Now()
			l.queue.gather(runtime.Gosched, func() bool { return time.Since(began) >= gatherMost })
			l.keep(l.queue.take())
		case <-tick.C:
			l.retain()
		case <-l.stop:
			l.keep(l.queue.close())
			l.end()
			return
		}
	}
}

// end closes the file, and tells readers that nothing comes any more.
func (l *Log) end() {
	if l.out != nil {
		l.shut(l.last())
	}
	_ = l.held.Close()
	l.mu.Lock()
	close(l.changed)
	l.changed = nil // nothing comes any more
	l.mu.Unlock()
}

// keep writes a group, which may be empty, with one fsync.
func (l *Log) keep(g *group) {
	if len(g.lines) == 0 {
		return
	}
	if err := l.write(g.text); err != nil {
		l.failures.Add(1)
		l.fault.Store(&err)
		l.config.Log.Error("log was not written", "err", err)
		g.err = fmt.Errorf("append to log: %w", err)
	} else {
		l.fault.Store(nil)
		l.note(g.lines)
	}
	close(g.done)
	l.queue.recycle(g)
}

// note makes what was written known to readers.
func (l *Log) note(lines []line) {
	l.groups.Add(1)
	l.entries.Add(int64(len(lines)))
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.files[len(l.files)-1]
	for _, w := range lines {
		f.add(w.at, w.size)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}
