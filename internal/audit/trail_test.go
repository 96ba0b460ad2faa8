package audit_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestReadsMayBeLeftOut(t *testing.T) {
	l := opened(t, t.TempDir())
	k := trail(l)
	k.WritesOnly = true
	read := call(0, "DescribeMesh")
	read.ReadOnly = true
	refused := call(1, "CreateMesh")
	refused.Code = "ConflictException"
	for _, r := range []struct{ Read bool }{{true}, {false}} {
		record := refused
		if r.Read {
			record = read
		}
		if err := k.Append(context.Background(), record); err != nil {
			t.Fatal(err)
		}
	}
	if got := all(t, l, account); len(got) != 1 || got[0]["eventName"] != "CreateMesh" {
		t.Errorf("kept are %v", got)
	}
}

// Ten thousand proxies that come at once wait for nothing, and each is kept.
func TestTenThousandProxiesComeAtOnce(t *testing.T) {
	l := opened(t, t.TempDir())
	k := trail(l)
	const n = 10_000
	var wg sync.WaitGroup
	for w := range 100 {
		wg.Go(func() {
			for i := range n / 100 {
				c := connection()
				c.ID = fmt.Sprintf("%d-%d", w, i)
				k.Connection(c)
			}
		})
	}
	wg.Wait()
	running(t, k.Run)() // late, so that they wait together on any machine
	s := l.Stats()
	t.Logf("%d events with %d fsyncs", s.Entries, s.Groups)
	if got := len(all(t, l, "123456789012")); got != n || k.Lost() != 0 || s.Groups > n/20 {
		t.Errorf("%d events are kept with %d fsyncs, %d are lost", got, s.Groups, k.Lost())
	}
}

func TestStrangersDoNotFillTheDisk(t *testing.T) {
	l := opened(t, t.TempDir())
	k := trail(l)
	for i := range 1000 {
		k.Connection(audit.Connection{ID: fmt.Sprint(i), Status: audit.Terminated, Reason: "Unauthenticated: no", At: start.Add(time.Duration(i/500) * time.Second)})
	}
	running(t, k.Run)()
	if got := len(all(t, l, account)); got != 20 || k.Lost() != 980 {
		t.Errorf("%d of strangers are kept in two seconds, %d not", got, k.Lost())
	}
}

// writeUntilKilled appends without end, and says of each event when it lasts.
func writeUntilKilled(dir string) {
	l, err := segment.Open(segment.Config{Dir: dir, MaxBytes: audit.DefaultBytes, MaxAge: 1e5 * time.Hour, Log: quiet(), Now: time.Now})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	k := trail(l)
	k.NewID = uuid.NewString
	for w := range 16 {
		go func() {
			for i := 0; ; i++ {
				r := call(time.Duration(i), "DescribeMesh")
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				r.ID = id + "-" + strings.Repeat("x", i%3000)
				if err := k.Append(context.Background(), r); err != nil {
					fmt.Println("failed:", err)
					return
				}
				fmt.Println("kept", id)
			}
		}()
	}
	select {}
}

// A killed replica loses no event that it said it keeps, and has no half one.
func TestNoEventIsLostByAKill(t *testing.T) {
	dir := t.TempDir()
	kept := map[string]bool{}
	for range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "AUDIT_TEST_WRITER="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			id, ok := strings.CutPrefix(lines.Text(), "kept ")
			if !ok && n < 400 {
				t.Error(lines.Text())
			}
			if ok {
				kept[id] = true
			}
			if n == 400 {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait() // killed
	}
	l := opened(t, dir)
	found := map[string]int{}
	for _, e := range all(t, l, account) { // each can be decoded
		id, _, _ := strings.Cut(e["requestID"].(string), "-x")
		found[strings.TrimSuffix(id, "-")]++
	}
	for id := range kept {
		if found[id] != 1 {
			t.Errorf("%s is there %d times", id, found[id])
		}
	}
	t.Logf("%d events were said to be kept", len(kept))
	if len(kept) < 1600 {
		t.Errorf("only %d events were kept before the kills", len(kept))
	}
}

// On a full disk calls fail, and when there is room again they do not.
func TestAFullDisk(t *testing.T) {
	dir := testenv.SmallDisk(t, "1M")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 500<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := segment.Open(segment.Config{Dir: filepath.Join(dir, "audit"), MaxBytes: audit.DefaultBytes, MaxAge: 1e5 * time.Hour, Log: quiet(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	k := trail(l)
	var failed error
	n := 0
	for ; failed == nil; n++ {
		r := call(time.Duration(n)*time.Second, "DescribeMesh")
		r.ID = strconv.Itoa(n) + strings.Repeat("x", 10_000)
		failed = k.Append(context.Background(), r)
	}
	if err := l.Fault(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the log says that it fails with %v", err)
	}
	stop := running(t, k.Run)
	k.Connection(connection()) // waits
	for range 20 {
		if err := k.Append(context.Background(), call(0, "ListMeshes")); err == nil {
			break // a small one had room
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := k.Append(context.Background(), call(0, "CreateMesh")); err != nil {
		t.Errorf("with room again: %v", err)
	}
	testenv.Eventually(t, "the connection is kept", func() bool { return len(all(t, l, "123456789012")) == 1 })
	stop()
	if err := l.Fault(); err != nil {
		t.Errorf("with room again the log says that it fails with %v", err)
	}
	whole := 0
	for _, e := range all(t, l, account) {
		if e["eventName"] == "DescribeMesh" {
			whole++
		}
	}
	if whole != n-1 || l.Stats().Failures == 0 {
		t.Errorf("%d events are kept of %d that were said to be; %d failures", whole, n-1, l.Stats().Failures)
	}
}
