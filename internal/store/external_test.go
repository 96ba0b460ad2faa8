package store_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// An outage is told within a bounded time, and over when it is over: watches go
// on where they were, with nothing left out.
func TestAnExternalEtcdThatIsAwayForAWhile(t *testing.T) {
	t.Parallel()
	e := newExternal(t, nil)
	const timeout = 5 * time.Second // as ever: a busy machine is not an outage
	s := storetest.Open(t, store.Options{Endpoints: []string{e.endpoint}, Prefix: "/a/b/", Timeout: timeout})
	ctx := context.Background()
	key := nodeKey("m", "n")
	put(t, s, resource(t, key, 1))
	write(t, s, true, store.Op{Key: "ledger/x", Value: []byte("1")})
	w := watch(t, s)
	w.next(t)
	if err := raise(s, key); err != nil {
		t.Fatal(err)
	}
	if got := brief(w.next(t)); got != " +n2" {
		t.Fatalf("batch is %q", got)
	}
	e.stop()
	unavailable(t, timeout, map[string]func() error{
		"update": func() error { return raise(s, key) },
		"get":    func() error { _, err := s.Get(ctx, key); return err },
		"list":   func() error { _, _, err := s.List(ctx, api.KindVirtualNode, key, "", 1); return err },
		"token":  func() error { _, err := s.Token(ctx, "x"); return err },
		"head":   func() error { _, err := s.Head(ctx); return err },
		"write":  func() error { return s.Write(ctx, true, []store.Op{{Key: "ledger/x", Value: []byte("2")}}) },
		"read":   func() error { _, err := s.Read(ctx, "ledger/"); return err },
		"ready":  func() error { return s.Ready(ctx) },
	})
	e.start()
	testenv.Eventually(t, "the store is ready after the outage", func() bool { return s.Ready(ctx) == nil })
	version := get(t, s, key).Version
	for i := range 3 {
		if err := raise(s, key); err != nil {
			t.Fatal(err)
		}
		if got, want := brief(w.next(t)), fmt.Sprintf(" +n%d", version+int64(i)+1); got != want {
			t.Errorf("after the outage comes %q, want %q", got, want)
		}
	}
}

// unavailable does all of that at once: each is refused, in a bounded time.
func unavailable(t *testing.T, timeout time.Duration, all map[string]func() error) {
	t.Helper()
	var asked sync.WaitGroup
	for name, do := range all {
		asked.Go(func() {
			start := time.Now()
			if err := do(); !isAPI(err, api.CodeServiceUnavailable) {
				t.Errorf("%s gets %v, want %s", name, err, api.CodeServiceUnavailable)
			}
			if took := time.Since(start); took > timeout+testenv.Patience {
				t.Errorf("%s took %v", name, took)
			}
		})
	}
	asked.Wait()
}

// A member that lost its leader says so instead of serving the past, and its
// watches go on when there is a leader again.
func TestAnExternalEtcdWithoutALeader(t *testing.T) {
	t.Parallel()
	members := newCluster(t, 3)
	const timeout = 5 * time.Second
	s := storetest.Open(t, store.Options{Endpoints: []string{members[0].endpoint}, Timeout: timeout})
	ctx := context.Background()
	key := nodeKey("m", "n")
	put(t, s, resource(t, key, 1))
	w := watch(t, s)
	w.next(t)
	members[1].stop()
	members[2].stop()
	unavailable(t, timeout, map[string]func() error{
		"update": func() error { return raise(s, key) },
		"get":    func() error { _, err := s.Get(ctx, key); return err },
		"ready":  func() error { return s.Ready(ctx) },
	})
	members[1].start()
	// Two members that have just met may vote again.
	testenv.Eventually(t, "an update with a leader", func() bool { return raise(s, key) == nil })
	var version int64 // updates without an answer may have happened
	testenv.Eventually(t, "a read with a leader", func() bool {
		r, err := s.Get(ctx, key)
		if err == nil {
			version = r.Version
		}
		return err == nil
	})
	for want := fmt.Sprintf(" +n%d", version); ; {
		if got := brief(w.next(t)); got == want {
			return
		}
	}
}

func TestAnExternalEtcdThatIsNotThere(t *testing.T) {
	t.Parallel()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close() // it accepts and never answers
	start := time.Now()
	_, err = store.Open(context.Background(), store.Options{Endpoints: []string{"http://" + port.Addr().String()}, Timeout: 300 * time.Millisecond})
	if !isAPI(err, api.CodeServiceUnavailable) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > testenv.Patience {
		t.Errorf("it took %v", took)
	}
}

// A full etcd refuses writes, with a reason, and goes on reading.
func TestAnExternalEtcdThatIsFull(t *testing.T) {
	t.Parallel()
	e := newExternal(t, func(c *embed.Config) { c.QuotaBackendBytes = 1 << 20 })
	s := storetest.Open(t, store.Options{Endpoints: []string{e.endpoint}})
	ctx := context.Background()
	key := nodeKey("m", "n")
	put(t, s, resource(t, key, 1))
	var err error
	// etcd compares with its quota what it has committed, every 100 ms.
	for end := time.Now().Add(patience); err == nil && time.Now().Before(end); {
		err = s.Write(ctx, false, []store.Op{{Key: "endpoints/x", Value: make([]byte, 100<<10)}})
	}
	if !isAPI(err, api.CodeServiceUnavailable) {
		t.Errorf("row gets %v", err)
	}
	if err := raise(s, key); !isAPI(err, api.CodeServiceUnavailable) {
		t.Errorf("update gets %v", err)
	}
	if got := get(t, s, key); got == nil {
		t.Error("nothing can be read")
	}
	if err := s.Ready(ctx); err == nil {
		t.Error("it is ready")
	}
}

// What is too large for an external etcd's own limit is the caller's to change.
func TestAnExternalEtcdsLargestRequest(t *testing.T) {
	t.Parallel()
	e := newExternal(t, nil)
	s := storetest.Open(t, store.Options{Endpoints: []string{e.endpoint}})
	_, err := s.Update(context.Background(), scopes("m"), func(tx *store.Tx) error {
		big := resource(t, nodeKey("m", "n"), 1)
		big.Document = append(append([]byte(`{"x":"`), bytes.Repeat([]byte("x"), 3<<20)...), `"}`...)
		tx.Put(big)
		return nil
	})
	if !isAPI(err, api.CodeBadRequest) {
		t.Errorf("got %v", err)
	}
}

func TestAnExternalEtcdWithClientCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pair(t, dir)
	file := func(name string) string { return filepath.Join(dir, name) }
	e := newExternal(t, func(c *embed.Config) {
		c.ListenClientUrls[0].Scheme = "https"
		c.AdvertiseClientUrls = c.ListenClientUrls
		c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = file("cert.pem"), file("key.pem")
		c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = file("cert.pem"), true
	})
	s := storetest.Open(t, store.Options{Endpoints: []string{e.endpoint}, CACert: file("cert.pem"), Cert: file("cert.pem"), Key: file("key.pem")})
	put(t, s, resource(t, nodeKey("m", "n"), 1))
	for name, o := range map[string]store.Options{
		"without a certificate": {CACert: file("cert.pem")},
		"without the CA":        {Cert: file("cert.pem"), Key: file("key.pem")},
	} {
		o.Endpoints, o.Timeout = []string{e.endpoint}, 300*time.Millisecond
		if s, err := store.Open(context.Background(), o); err == nil {
			s.Close()
			t.Errorf("%s it opens", name)
		}
	}
	if _, err := store.Open(context.Background(), store.Options{Endpoints: []string{e.endpoint}, CACert: file("absent")}); err == nil {
		t.Error("with a CA file that is absent it opens")
	}
}
