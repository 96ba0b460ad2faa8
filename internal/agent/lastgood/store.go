// Package lastgood keeps the configuration that Envoy has acknowledged, so that an Envoy that starts while no control
// plane answers is given it (D10, and the decision record on the last good configuration).
//
// It knows nothing of servers: it is shown the messages of Envoy's streams, and it gives messages. Read it in this
// order: stream.go follows a stream, and says what its Envoy has; store.go (here) keeps that, and has it written once
// it is whole; file.go is the file, and seal.go the part of it that only the same identity can read; answer.go talks to
// an Envoy in place of the control plane; message.go reads and writes the messages of both dialects,
// and traits.go what of a node its configuration depends on.
package lastgood

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"
)

const (
	// saveEvery is how often the file is written at most.
	saveEvery = time.Second
	// confirmEvery is how often the file is marked as still right, and looked at whether the identity is another.
	confirmEvery = time.Minute
	// certain is how long nobody must have answered an Envoy for what is not served to it to be worth a word.
	certain = 3 * time.Second
	// keysWait bounds the wait for what proves who the agent is, when the file is read.
	keysWait = 5 * time.Second
)

// Options are what a Store is made of.
type Options struct {
	Off bool   // follow nothing: the relay of other agents' Envoys
	Dir string // of the file; "" keeps the configuration in memory alone, for Envoys started by this agent
	// Keys are what proves who the agent is, now: the file is sealed with them, and one that is not sealed is not read. The
	// first is the best.
	Keys func(context.Context) [][]byte
	// Strict says that one of Keys stays what it is: a file that none of them opens is not used at all. Else it may be of the
	// identity before, and is used but for its secrets.
	Strict bool
	Log    *slog.Logger
	Now    func() time.Time
}

// Store is the last good configuration of one node. Run writes it.
type Store struct {
	Options
	stir chan struct{} // something was said

	reading   sync.Mutex // of the file; before mu
	mu        sync.Mutex
	node      string         // the id of the first stream's node: streams of another are not followed
	kept      *configuration // nil while nothing is
	looked    bool           // at the file
	confirmed time.Time      // when the control plane last stood by what is kept
	unsaved   bool
	before    map[string]*kind // of streams before the newest, what is acknowledged and in nothing kept
	newest    *Stream
	serving   bool      // an Envoy runs on what is kept, and the control plane has not answered since, nor served in silence
	unfit     time.Time // since when what is kept is not for the Envoy that lacks one, while nobody answers; zero else

	told map[string]bool // what was said of the file, by subject
	keys string          // the fingerprint of those that the file was sealed with
	had  [][]byte        // the keys found last: while their source is silent they go on
}

// configuration is what one Envoy had at one moment. It does not change.
type configuration struct {
	node, traits string
	kinds        map[string]keptKind
	sealed       []byte            // secrets of a file that were not opened yet
	before       [sha256.Size]byte // of what the seal is bound to
	unproven     bool              // of a file that might be anybody's: looked at again when it is served
}

// keptKind is what it had of one type.
type keptKind struct {
	version   string // state of the world
	resources map[string]resource
}

// New returns a store that has looked at no file yet.
func New(o Options) *Store {
	return &Store{Options: o, stir: make(chan struct{}, 1), told: map[string]bool{}, before: map[string]*kind{}}
}

// Begin follows a new stream of Envoy. It is the one that counts from now on.
func (s *Store) Begin(delta bool) *Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Off {
		return &Stream{store: s, lost: true}
	}
	now := s.Now()
	t := &Stream{store: s, delta: delta, types: map[string]*kind{}, settled: now, last: now}
	if old := s.newest; old != nil {
		s.snapshot(old, now)
		t.follows, t.changed = old.left(), old.changed
		if old.spoke && !old.lost {
			maps.Copy(s.before, old.types)
		}
	}
	s.newest = t
	return t
}

// knownTypes are those of which something was acknowledged before the newest stream, or is kept.
func (s *Store) knownTypes() (out []string) {
	for typ, k := range s.before {
		if len(k.held) > 0 {
			out = append(out, typ)
		}
	}
	if s.kept != nil {
		for typ, k := range s.kept.kinds {
			if len(k.resources) > 0 {
				out = append(out, typ)
			}
		}
	}
	return out
}

// Request shows the stream a message of Envoy's.
func (t *Stream) Request(message []byte) {
	s := t.store
	defer s.stirred()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.last = s.Now()
	if t.lost {
		return
	}
	r, err := readRequest(message, t.delta)
	if err != nil {
		t.lose(err.Error())
		return
	}
	if !t.begun {
		t.begun = true
		if s.node == "" {
			s.node = r.node
		}
		if r.node != s.node {
			t.lose("the stream is not of " + s.node)
			return
		}
		t.traits = r.traits
	}
	if (len(r.versions) > 0 || r.version != "") && !s.looked {
		s.mu.Unlock()
		s.look()
		s.mu.Lock()
		if t.lost {
			return
		}
	}
	t.request(r)
}

// Response shows the stream a message of the control plane's.
func (t *Stream) Response(message Reader) {
	t.say(func() (response, error) {
		r, err := walkResponse(func(visit visitor) error { return pour(message, visit) }, t.delta)
		r.fresh = true
		return r, err
	})
}

// Served says that the control plane serves the stream. It may say no more: then its Envoy has what it is to have.
func (t *Stream) Served() {
	s := t.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered()
	t.granted = true
}

// Stood says that the stream has lasted for so long that the control plane serves it, though it has not said so. Its Envoy
// came with what it had and goes on with that, which is the control plane's; nothing is confirmed by it.
func (t *Stream) Stood() {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	t.store.serving = false
}

// answered notes that the control plane has said something. mu is held.
func (s *Store) answered() { s.serving, s.unfit = false, time.Time{} }

func (t *Stream) say(read func() (response, error)) {
	s := t.store
	defer s.stirred()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered()
	t.last = s.Now()
	if t.lost {
		return
	}
	r, err := read()
	if err != nil {
		t.lose(err.Error())
		return
	}
	t.response(r)
}

// End says that the stream has ended.
func (t *Stream) End() {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	now := t.store.Now()
	t.store.confirm(now)
	t.end = now
}

// Needy says whether its Envoy may lack a configuration, as far as it is known by now: it came with nothing, or what it
// came with was never whole.
func (t *Stream) Needy() bool {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	return !t.versions || !t.follows
}

// Kept says whether there is something to give to the stream's Envoy. It reads the file if nobody did.
func (t *Stream) Kept() bool {
	t.store.look()
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	return t.store.fits(t, false)
}

// fits is Kept with mu held, when the file was looked at. That what is kept is for another Envoy is told when it would have
// been served by now, which late says for sure: before, the control plane may answer yet.
func (s *Store) fits(t *Stream, late bool) bool {
	if s.kept == nil || !t.begun || (t.lost && t.served == nil) {
		return false
	}
	if s.kept.traits == t.traits {
		return true
	}
	now := s.Now()
	if s.unfit.IsZero() {
		s.unfit = now
	}
	if late || now.Sub(s.unfit) >= certain {
		s.tell("traits", "what is kept was made for an Envoy that was asked for otherwise: it is not used", nil)
	}
	return false
}

// LastGood says whether an Envoy runs on what is kept because the control plane has not answered since, and how long ago
// the control plane stood by it.
func (s *Store) LastGood() (serving bool, age time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.serving {
		return false, 0
	}
	return true, s.age()
}

// age is how long ago the control plane stood by what is kept; a clock that was set back makes it 0.
func (s *Store) age() time.Duration { return max(0, s.Now().Sub(s.confirmed)) }

// known is a resource in the form that was acknowledged or kept last.
func (s *Store) known(typ, name string) (resource, bool) {
	if k := s.before[typ]; k != nil {
		if r, ok := k.held[name]; ok {
			return r, true
		}
	}
	if s.kept == nil {
		return resource{}, false
	}
	r, ok := s.kept.kinds[typ].resources[name]
	return r, ok
}

// knownKind is what was acknowledged or kept of a type under that version of the state of the world; nil without.
func (s *Store) knownKind(typ, version string) map[string]resource {
	if k := s.before[typ]; k != nil && k.version == version {
		return k.held
	}
	if s.kept == nil || s.kept.kinds[typ].version != version {
		return nil
	}
	return s.kept.kinds[typ].resources
}

// snapshot keeps what the stream's Envoy has, if that is whole.
func (s *Store) snapshot(t *Stream, now time.Time) {
	if t.lost || t.changed.IsZero() || !t.ripe(now) {
		return
	}
	t.changed = time.Time{}
	next := &configuration{node: s.node, traits: t.traits, kinds: map[string]keptKind{}}
	for typ, k := range t.types {
		one := keptKind{version: k.version, resources: maps.Clone(k.held)}
		for name := range k.owed { // it never came: what was there before is better than nothing
			if old, ok := s.known(typ, name); ok {
				one.resources[name] = old
			}
		}
		next.kinds[typ] = one
	}
	s.confirmed = now
	if s.kept != nil && s.kept.equal(next) {
		return
	}
	s.kept, s.looked, s.unsaved = next, true, true
	clear(s.before)
}

// confirm notes that the control plane stands by what is kept now.
func (s *Store) confirm(now time.Time) bool {
	t := s.newest
	if t == nil || !t.end.IsZero() || t.lost || !t.changed.IsZero() {
		return false
	}
	if !t.spoke && (!t.granted || !t.ripe(now)) { // its silence says so when Envoy has told all that it has
		return false
	}
	s.confirmed = now
	return true
}

func (c *configuration) equal(o *configuration) bool {
	return c.node == o.node && c.traits == o.traits && !c.unproven && maps.EqualFunc(c.kinds, o.kinds, func(a, b keptKind) bool {
		return a.version == b.version && maps.EqualFunc(a.resources, b.resources, func(a, b resource) bool {
			return a.version == b.version && bytes.Equal(a.any, b.any)
		})
	})
}

// count is how many resources it has.
func (c *configuration) count() (n int) {
	for _, k := range c.kinds {
		n += len(k.resources)
	}
	return n
}

func (s *Store) stirred() {
	select {
	case s.stir <- struct{}{}:
	default:
	}
}

// look reads the file, once, and has it proven.
func (s *Store) look() {
	s.reading.Lock() // whoever comes meanwhile waits for what is in it
	defer s.reading.Unlock()
	s.mu.Lock()
	node, looked := s.node, s.looked
	s.mu.Unlock()
	if looked || s.Dir == "" || node == "" {
		return
	}
	c, at, err := s.load(node)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looked { // what Envoy has acknowledged meanwhile is newer
		return
	}
	s.looked = true
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		s.tell("read", unusedWords, err)
		return
	case len(c.sealed) > 0:
		s.tell("open", sealedWords, errSealed)
	}
	s.kept, s.confirmed = c, at
}

const (
	// unusedWords say that there is a file, and nothing of it is served.
	unusedWords = "the last good configuration cannot be used"
	// sealedWords say what it means that nothing opens the file.
	sealedWords = "certificates of the last good configuration cannot be read: what needs them fails"
)

// load reads the node's file, and proves it as far as that can be done now.
func (s *Store) load(node string) (*configuration, time.Time, error) {
	dir, err := place(s.Dir)
	if err != nil {
		return nil, time.Time{}, err
	}
	c, at, err := read(path(dir, node), node)
	if err != nil {
		return nil, time.Time{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), keysWait)
	defer cancel()
	whole, err := c.prove(s.now(ctx), s.Strict)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("prove %s: %w", path(dir, node), err)
	}
	whole.unproven = whole == c
	return whole, at, nil
}

// now are the keys. Those that were there once are used while none are: a file without a seal would be refused when they
// are back, and one that somebody else wrote would be taken meanwhile.
func (s *Store) now(ctx context.Context) [][]byte {
	if s.Keys == nil {
		return nil
	}
	keys := s.Keys(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(keys) > 0 {
		s.had = keys
	}
	return s.had
}

// Run writes the file until ctx ends, at most every second, and once more then.
func (s *Store) Run(ctx context.Context) {
	if s.Dir != "" {
		if dir, err := place(s.Dir); err == nil {
			sweep(dir)
		}
	}
	confirm := time.NewTicker(confirmEvery)
	defer confirm.Stop()
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			s.save(context.WithoutCancel(ctx), false)
			return
		case <-confirm.C:
			s.reconfirm(ctx)
		case <-s.stir:
			if again == nil {
				again = time.After(saveEvery)
			}
		case <-again:
			again = nil
			if s.save(ctx, false) {
				again = time.After(saveEvery)
			}
		}
	}
}

// save writes what is new, or in any case; it returns true when something is new and not to be written yet.
func (s *Store) save(ctx context.Context, anyway bool) (again bool) {
	s.mu.Lock()
	if t := s.newest; t != nil {
		s.snapshot(t, s.Now())
		again = !t.changed.IsZero() && !t.lost && t.end.IsZero()
	}
	c, fresh := s.kept, s.unsaved || anyway
	s.unsaved = false
	s.mu.Unlock()
	if !fresh || c == nil || s.Dir == "" || c.node == "" {
		return again
	}
	keys := s.identity(ctx, c)
	dir, err := place(s.Dir)
	if err == nil {
		err = write(dir, c, keys)
	}
	if err != nil {
		s.tellLocked("write", "the last good configuration cannot be kept on disk", err)
		s.mu.Lock()
		s.unsaved = true // tried again with the next change, or in a minute
		s.mu.Unlock()
		return again
	}
	s.mu.Lock()
	delete(s.told, "write")
	s.keys = fingerprint(keys)
	s.mu.Unlock()
	return again
}

// reconfirm marks the file as right, and writes it anew when the identity is another, or the last time failed.
func (s *Store) reconfirm(ctx context.Context) {
	s.mu.Lock()
	confirmed := s.confirm(s.Now())
	c, failed, keys := s.kept, s.unsaved, s.keys
	s.mu.Unlock()
	switch {
	case c == nil || s.Dir == "" || c.node == "" || len(c.sealed) > 0:
	case failed, !c.unproven && fingerprint(s.identity(ctx, c)) != keys:
		s.save(ctx, true)
	case confirmed:
		now := s.Now()
		dir, err := place(s.Dir)
		if err == nil {
			err = os.Chtimes(path(dir, c.node), now, now)
		}
		if err != nil {
			s.tellLocked("mark", "the last good configuration cannot be marked as right", err)
		}
	}
}

// identity is what the file is sealed with.
func (s *Store) identity(ctx context.Context, c *configuration) [][]byte {
	keys := s.now(ctx)
	if len(keys) == 0 && c.secret() {
		s.tellLocked("keys", "certificates that the control plane issued are not kept on disk: nothing proves who the agent is, and there is no EVERMESH_STATE_KEY_FILE", nil)
	}
	return keys
}

// tell logs what is wrong with a subject, once until it was right again. mu is held.
func (s *Store) tell(subject, text string, err error) {
	if s.told[subject] {
		return
	}
	s.told[subject] = true
	if err != nil {
		s.Log.Warn("last good configuration", "trouble", text, "err", err)
		return
	}
	s.Log.Warn("last good configuration", "trouble", text)
}

func (s *Store) tellLocked(subject, text string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(subject, text, err)
}
