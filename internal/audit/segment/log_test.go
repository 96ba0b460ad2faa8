package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(m) }

const account = "111122223333"

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// micros is a time some microseconds after start.
func micros(at int64) int64 { return start.UnixMicro() + at }

func entry(at int64, id string) Entry {
	return Entry{At: micros(at), Account: account, ID: id, Body: []byte(`{"id":"` + id + `"}`)}
}

// opened is a log on a directory; it is closed with the test.
func opened(t testing.TB, dir string, change func(*Config)) *Log {
	t.Helper()
	c := Config{Dir: dir, MaxBytes: 1 << 30, MaxAge: 90 * 24 * time.Hour, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return start }}
	if change != nil {
		change(&c)
	}
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func add(t testing.TB, l *Log, entries ...Entry) {
	t.Helper()
	if err := l.Append(context.Background(), entries...); err != nil {
		t.Fatal(err)
	}
}

func ids(entries []Entry) (out []string) {
	for _, e := range entries {
		out = append(out, e.ID)
	}
	return out
}

func all(t testing.TB, l *Log) []string {
	t.Helper()
	found, err := l.Scan(context.Background(), Query{Account: account, Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return ids(found.Entries)
}

func TestScanIsNewestFirstWhateverWasWrittenFirst(t *testing.T) {
	l := opened(t, t.TempDir(), nil)
	add(t, l, entry(5, "e"), entry(2, "b"))
	add(t, l, entry(4, "d"), entry(4, "d2"), Entry{At: micros(6), Account: "444455556666", ID: "foreign", Body: []byte("{}")})
	add(t, l, entry(1, "a"), entry(3, "c"), entry(4, "d")) // d was written twice
	for name, c := range map[string]struct {
		q    Query
		want []string
	}{
		"all":           {Query{}, []string{"e", "d2", "d", "c", "b", "a"}},
		"of an account": {Query{Account: "444455556666"}, []string{"foreign"}},
		"a page":        {Query{Limit: 2}, []string{"e", "d2"}},
		"the next page": {Query{Limit: 2, Before: entry(4, "d2")}, []string{"d", "c"}},
		"between times": {Query{From: micros(2), To: micros(4)}, []string{"d2", "d", "c", "b"}},
		"that match":    {Query{Match: func(e Entry) bool { return bytes.Contains(e.Body, []byte(`"a"`)) }}, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.q.Account == "" {
				c.q.Account = account
			}
			if c.q.Limit == 0 {
				c.q.Limit = 100
			}
			found, err := l.Scan(context.Background(), c.q)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, ids(found.Entries)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Pages over many blocks and segments, in whichever order times were written, are
// what one sorting of all gives.
func TestPagesAreWhatSortingGives(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			r.Fatal(err)
		}
		l, err := Open(Config{Dir: dir, MaxBytes: 8 << 20, MaxAge: 1e6 * time.Hour, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return start }})
		if err != nil {
			r.Fatal(err)
		}
		defer l.Close()
		var want []Entry
		for i, at := range rapid.SliceOfN(rapid.Int64Range(1, 50), 1, 40).Draw(r, "times") {
			e := entry(at, fmt.Sprint("id-", i))
			e.Body = fmt.Appendf(nil, `"%s"`, strings.Repeat("x", rapid.SampledFrom([]int{1, 1000, 100_000}).Draw(r, "size")))
			want = append(want, e)
			if err := l.Append(context.Background(), e); err != nil {
				r.Fatal(err)
			}
		}
		slices.SortFunc(want, func(a, b Entry) int {
			if a.Newer(b) {
				return -1
			}
			return 1
		})
		q := Query{Account: account, Limit: rapid.IntRange(1, 7).Draw(r, "limit"), Budget: rapid.SampledFrom([]int64{0, 1, 300_000}).Draw(r, "budget")}
		var got []string
		for {
			found, err := l.Scan(context.Background(), q)
			if err != nil {
				r.Fatal(err)
			}
			page := found.Entries
			for found.Until > 0 && len(page) > 0 && page[len(page)-1].At <= found.Until {
				page = page[:len(page)-1]
			}
			got = append(got, ids(page)...)
			before := q.Before
			switch {
			case found.Until > 0:
				q.Before = Entry{At: found.Until + 1}
			case len(page) > 0:
				q.Before = Entry{At: page[len(page)-1].At, ID: page[len(page)-1].ID}
			default:
				if diff := cmp.Diff(ids(want), got); diff != "" {
					r.Fatal(diff)
				}
				return
			}
			if before.At != 0 && !before.Newer(q.Before) {
				r.Fatalf("from %v the search goes on at %v", before, q.Before)
			}
		}
	})
}

func TestATornTailIsCutAndNothingBeforeIt(t *testing.T) {
	for name, c := range map[string]struct {
		tail string
		want []string
	}{
		"nothing is torn":         {"", []string{"b", "a"}},
		"half a line":             {string(entry(9, "torn").Line()[:20]), []string{"b", "a"}},
		"a line without its end":  {strings.TrimSuffix(string(entry(9, "torn").Line()), "\n"), []string{"b", "a"}},
		"bytes that are none":     {"\x00\x00\x00\n\x00", []string{"b", "a"}},
		"damage before a line":    {"damage\n" + string(entry(9, "whole").Line()) + "12345", []string{"whole", "b", "a"}},
		"a line with another sum": {strings.Replace(string(entry(9, "torn").Line()), `"torn"`, `"worn"`, 1), []string{"b", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := opened(t, dir, nil)
			add(t, l, entry(1, "a"), entry(2, "b"))
			l.Close()
			name := filepath.Join(dir, "000000000001.log")
			out, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := out.WriteString(c.tail); err != nil {
				t.Fatal(err)
			}
			if err := out.Close(); err != nil {
				t.Fatal(err)
			}
			l = opened(t, dir, nil)
			if diff := cmp.Diff(c.want, all(t, l)); diff != "" {
				t.Error(diff)
			}
			add(t, l, entry(10, "new"))
			l.Close()
			l = opened(t, dir, nil)
			if diff := cmp.Diff(append([]string{"new"}, c.want...), all(t, l)); diff != "" {
				t.Errorf("after another start: %s", diff)
			}
		})
	}
}

func TestManyAppendsShareAnFsync(t *testing.T) {
	l := opened(t, t.TempDir(), nil)
	const writers, rounds = 64, 20
	for i := range rounds {
		var wg sync.WaitGroup
		write := func(w int) {
			wg.Go(func() {
				if err := l.Append(context.Background(), entry(int64(i+1), fmt.Sprintf("%d-%d", w, i))); err != nil {
					t.Error(err)
				}
			})
		}
		// A reader holds up the first, which is on the disk; the others come meanwhile.
		l.mu.RLock()
		before := l.groups.Load()
		write(0)
		testenv.Eventually(t, "one is written", func() bool { return l.groups.Load() > before })
		for w := range writers - 1 {
			write(w + 1)
		}
		testenv.Eventually(t, "the others wait", func() bool { return l.queue.waiting() == writers-1 })
		l.mu.RUnlock()
		wg.Wait()
	}
	s := l.Stats()
	if s.Entries != writers*rounds || s.Groups != 2*rounds {
		t.Errorf("%d entries took %d fsyncs, want %d", s.Entries, s.Groups, 2*rounds)
	}
	if got := len(all(t, l)); got != writers*rounds {
		t.Errorf("%d entries are found, want %d", got, writers*rounds)
	}
}

// The one who writes lets those append who are ready to, until nobody has come twice; not
// for ever, while some always come.
func TestAGroupIsGatheredWhileSomeCome(t *testing.T) {
	for name, c := range map[string]struct {
		come         []int // in each yield
		late         int   // after so many yields; 0 is never
		yields, want int
	}{
		"nobody comes":              {nil, 0, 2, 1},
		"one comes":                 {[]int{1}, 0, 3, 2},
		"some come in each":         {[]int{3, 1, 2, 1}, 0, 6, 8},
		"one comes after a pause":   {[]int{0, 1, 0, 1}, 0, 6, 3},
		"who comes too late is not": {[]int{1, 0, 0, 1}, 0, 3, 2},
		"some always come":          {[]int{1, 1, 1, 1, 1, 1, 1}, 4, 4, 5},
	} {
		t.Run(name, func(t *testing.T) {
			q, yields := newQueue(), 0
			join := func() {
				if _, err := q.join(t.Context(), []Entry{entry(1, "a")}); err != nil {
					t.Fatal(err)
				}
			}
			join()
			q.gather(func() {
				if yields < len(c.come) {
					for range c.come[yields] {
						join()
					}
				}
				yields++
			}, func() bool { return c.late > 0 && yields >= c.late })
			if got := q.take().appends; got != c.want || yields != c.yields {
				t.Errorf("%d appends after %d yields, want %d after %d", got, yields, c.want, c.yields)
			}
		})
	}
}

// A group that is full takes no more: who comes then waits for the next one, or for its
// context, and is told of a log that was closed meanwhile.
func TestAFullGroupHasWaitersAndNoMore(t *testing.T) {
	q := newQueue()
	full, err := q.join(t.Context(), []Entry{{Body: make([]byte, groupBytes)}})
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.join(gone, []Entry{entry(1, "gone")}); !errors.Is(err, context.Canceled) {
		t.Errorf("who has gone is told %v", err)
	}
	joined := make(chan *group)
	go func() {
		defer close(joined)
		g, err := q.join(t.Context(), []Entry{entry(2, "b")})
		if err != nil {
			t.Error(err)
		}
		joined <- g
	}()
	if taken := q.take(); taken != full || len(taken.lines) != 1 {
		t.Errorf("a group of %d entries was taken", len(taken.lines))
	}
	next := <-joined
	<-joined
	if taken := q.close(); taken != next || string(taken.text) != string(entry(2, "b").Line()) {
		t.Errorf("the next group has %q", taken.text)
	}
	if _, err := q.join(t.Context(), []Entry{entry(3, "c")}); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed one says %v", err)
	}
}

func TestRetention(t *testing.T) {
	now := start
	at := func(days int) int64 { return start.AddDate(0, 0, days).UnixMicro() }
	big := func(day int, id string) Entry {
		e := entry(0, id)
		e.At = at(day)
		e.Body = bytes.Repeat([]byte("x"), 20_000)
		return e
	}
	t.Run("by size, the oldest first", func(t *testing.T) {
		l := opened(t, t.TempDir(), func(c *Config) { c.MaxBytes = 100_000 })
		for i := range 20 {
			add(t, l, big(0, fmt.Sprintf("%02d", i)))
		}
		got, s := all(t, l), l.Stats()
		if s.Bytes > 130_000 || s.RemovedBytes == 0 || len(got) < 4 || got[0] != "19" {
			t.Errorf("%d bytes are kept, %d removed: %q", s.Bytes, s.RemovedBytes, got)
		}
	})
	t.Run("by age", func(t *testing.T) {
		dir := t.TempDir()
		l := opened(t, dir, func(c *Config) { c.Now = func() time.Time { return now } })
		for day := range 3 {
			now = start.AddDate(0, 0, day*2)
			add(t, l, big(day*2, fmt.Sprint("day-", day*2)))
		}
		l.Close()
		now = start.AddDate(0, 0, 91)
		l = opened(t, dir, func(c *Config) { c.Now = func() time.Time { return now } })
		if diff := cmp.Diff([]string{"day-4", "day-2"}, all(t, l)); diff != "" {
			t.Error(diff)
		}
		if oldest := l.Stats().Oldest; !oldest.Equal(start.AddDate(0, 0, 2)) {
			t.Errorf("the oldest entry is of %v", oldest)
		}
		if left, err := filepath.Glob(filepath.Join(dir, "0*")); err != nil || len(left) != 3 {
			t.Errorf("left are %q, error %v", left, err)
		}
	})
}

func TestADeliveryReadsEachEntryOnce(t *testing.T) {
	dir := t.TempDir()
	small := func(c *Config) { c.MaxBytes = 1 << 20 }
	l := opened(t, dir, small)
	var p Position
	read := func() (got []string, missed bool) {
		t.Helper()
		for {
			entries, next, gone, err := l.Next(p)
			if err != nil {
				t.Fatal(err)
			}
			missed = missed || gone
			if len(entries) == 0 {
				return got, missed
			}
			got, p = append(got, ids(entries)...), next
		}
	}
	write := func(from, to int) (want []string) {
		for i := from; i < to; i++ {
			e := entry(int64(i+1), fmt.Sprintf("%03d", i))
			e.Body = bytes.Repeat([]byte("x"), 30_000)
			add(t, l, e)
			want = append(want, e.ID)
		}
		return want
	}
	for i, step := range [][2]int{{0, 3}, {3, 9}, {9, 30}} {
		want := write(step[0], step[1])
		if got, missed := read(); missed || !slices.Equal(got, want) {
			t.Fatalf("read %q, missed %v, want %q", got, missed, want)
		}
		if l.Behind(p) != 0 {
			t.Errorf("%d bytes are behind the last entry", l.Behind(p))
		}
		if i == 1 {
			l.Close()
			l = opened(t, dir, small)
		}
	}
	write(30, 130) // more than is kept
	if l.Behind(p) == 0 {
		t.Error("nothing is behind")
	}
	if got, missed := read(); !missed || got[len(got)-1] != "129" {
		t.Errorf("missed %v, read %d entries, the last %q", missed, len(got), got[len(got)-1])
	}
}

func TestAppendAfterClose(t *testing.T) {
	l := opened(t, t.TempDir(), nil)
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			if err := l.Append(context.Background(), entry(1, fmt.Sprint(i))); err != nil && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
	}
	l.Close()
	wg.Wait()
	if err := l.Append(context.Background(), entry(1, "late")); !errors.Is(err, ErrClosed) {
		t.Errorf("error is %v", err)
	}
}

func TestADirectoryIsOfOneLog(t *testing.T) {
	dir := t.TempDir()
	l := opened(t, dir, nil)
	var taken *InUse
	if other, err := Open(Config{Dir: dir, MaxBytes: 1 << 20, MaxAge: time.Hour, Log: slog.New(slog.DiscardHandler), Now: time.Now}); !errors.As(err, &taken) {
		t.Errorf("a second log: %v, error %v", other, err)
	}
	l.Close()
	opened(t, dir, nil)
}

func FuzzLines(f *testing.F) {
	f.Add(entry(1, "a").Line())
	f.Add([]byte("00000000 1 2 3 4\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, _ := Lines(text)
		var again []byte
		for _, e := range entries {
			again = append(again, e.Line()...)
		}
		if back, err := Lines(again); err != nil || len(back) != len(entries) {
			t.Errorf("%d of %d entries come back, error %v", len(back), len(entries), err)
		}
	})
}
