//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/testenv"
)

// fill takes space until only left bytes are free.
func fill(t *testing.T, disk string, left int64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(disk, "fill"), os.O_CREATE|os.O_WRONLY, 0o600)
	must(t, err)
	defer f.Close()
	block := make([]byte, 64<<10)
	for free(t, disk) > left {
		_, err := f.Write(block)
		if errors.Is(err, syscall.ENOSPC) {
			return
		}
		must(t, err)
	}
}

func free(t *testing.T, disk string) int64 {
	t.Helper()
	var fs unix.Statfs_t
	must(t, unix.Statfs(disk, &fs))
	return int64(fs.Bavail) * fs.Bsize
}

// TestFullDisk fills the disk of an evermeshd with embedded etcd: first so far that it must not write any more, then
// wholly and at once.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := testenv.SmallDisk(t, "512M")
	r := newReplica(t, "evermeshd")
	r.dir = filepath.Join(disk, "data")
	r.start()
	c, key := r.user(), r.key()
	must(t, makeShop(t.Context(), c, "full", 90, 10))
	p := connect(t, key, "full", "old", true, r.xds)
	p.has(t, 90, 10)

	must(t, shift(t.Context(), c, "full", 80, 20)) // the last one may be refused already
	fill(t, disk, 200<<20)
	until(t, "writes are refused on a disk that is almost full", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		return shift(ctx, c, "full", 80, 20) != nil
	})
	wantUnavailable(t, "a write on a disk that is almost full", shifted(c, "full", 70, 30))
	must(t, described(c, "full")(t.Context()))
	if code, reason := r.reason(); code != http.StatusOK || !strings.Contains(reason, "disk") {
		t.Errorf("/readyz answers %d %q, want 200, as reads go on, and a reason that names the disk", code, reason)
	}
	p.has(t, 80, 20)
	connect(t, key, "full", "new", true, r.xds).has(t, 80, 20)
	if n := len(p.Ends()); n > 0 {
		t.Errorf("the open stream ended: %v", p.Ends())
	}
	sent := len(p.Responses())
	// Who starts on such a disk serves what is there.
	r.kill()
	r.start()
	must(t, described(c, "full")(t.Context()))
	wantUnavailable(t, "a write after a start on a disk that is almost full", shifted(c, "full", 70, 30))
	connect(t, key, "full", "newer", true, r.xds).has(t, 80, 20)
	if more := p.Responses()[sent:]; len(more) > 0 {
		t.Errorf("the restart sent the proxy %s, though nothing had changed", more)
	}
	must(t, os.Remove(filepath.Join(disk, "fill")))
	eventually(t, "a write when there is space again", shifted(c, "full", 60, 40))

	// Now before evermeshd has looked.
	fill(t, disk, 0)
	written := map[string]state{}
	for n := 0; ; n++ {
		name := fmt.Sprintf("n%d", n)
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		s, err := onNode(ctx, c, create, "full", name, name, "token-"+name)
		hung := ctx.Err() != nil
		cancel()
		o, status, code := outcomeOf(err)
		if o == done {
			written[name] = s
			continue
		}
		t.Logf("%d writes on a full disk, then %s: %d %s", len(written), o, status, code)
		if hung {
			t.Errorf("a write on a full disk was not answered within %v", soon)
		}
		break
	}
	if within(5*time.Second, r.isGone) {
		wantNoSpace(t, r)
		r.launch() // the disk is still full
		if within(5*time.Second, r.isGone) {
			wantNoSpace(t, r)
		}
	}
	r.kill()
	must(t, os.Remove(filepath.Join(disk, "fill")))
	r.start()
	for name, want := range written {
		got, err := onNode(t.Context(), c, describe, "full", name, "", "")
		must(t, err)
		if got != want {
			t.Errorf("lost on a full disk: %s is %+v, acknowledged was %+v", name, got, want)
		}
	}
	eventually(t, "a write when there is space again", shifted(c, "full", 50, 50))
	p.has(t, 50, 50)
}

// wantNoSpace wants the process to end with 1 and its last line to say why.
func wantNoSpace(t *testing.T, r *replica) {
	t.Helper()
	if code := r.exit(); code != 1 {
		t.Errorf("evermeshd ended with %d on a full disk, want 1", code)
	}
	lines := strings.Split(strings.TrimSpace(r.said()), "\n")
	last := lines[len(lines)-1]
	t.Logf("it ended: %s", last)
	if !strings.HasPrefix(last, "evermeshd: ") || !strings.Contains(last, "no space left on device") {
		t.Errorf("the last line does not say that the disk is full:\n%s", r.tail())
	}
}
