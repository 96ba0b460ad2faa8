//go:build linux

package faults

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/appmesh"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// admission is how long a stream must have been open, when the ledger was written last, for its proxy to be known to other
// replicas: 15 s; and a little more.
const admission = 16 * time.Second

// writtenSince waits until the replicas of the etcd have written the ledger twice from now on: of the first time they know.
func writtenSince(t *testing.T, m *member) {
	t.Helper()
	db := m.dial()
	written := func() (revision int64) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		rows, err := db.Get(ctx, prefix+"ledger/replicas/", clientv3.WithPrefix())
		must(t, err)
		for _, row := range rows.Kvs {
			revision = max(revision, row.ModRevision)
		}
		return revision
	}
	for range 2 {
		before := written()
		until(t, "the ledger is written", func() bool { return written() > before })
	}
}

// soon is how long an evermeshd may take to answer while its etcd does not: it waits 5 s for it.
const soon = 12 * time.Second

// wantUnavailable makes a call that cannot succeed and must be refused as it should, soon.
func wantUnavailable(t *testing.T, what string, call func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	err := call(ctx)
	_, status, code := outcomeOf(err)
	if status != http.StatusServiceUnavailable || code != "ServiceUnavailableException" {
		t.Errorf("%s: got %v, want 503 ServiceUnavailableException within %v", what, err, soon)
		return
	}
	t.Logf("%s: %v", what, err)
}

func described(c *appmesh.Client, mesh string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := c.DescribeMesh(ctx, &appmesh.DescribeMeshInput{MeshName: &mesh})
		return err
	}
}

func shifted(c *appmesh.Client, mesh string, blue, green int64) func(context.Context) error {
	return func(ctx context.Context) error { return shift(ctx, c, mesh, blue, green) }
}

// eventually repeats a call until it succeeds.
func eventually(t *testing.T, what string, call func(context.Context) error) {
	t.Helper()
	var last error
	ok := within(patience, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		defer cancel()
		last = call(ctx)
		return last == nil
	})
	if !ok {
		t.Fatalf("%s: %v", what, last)
	}
}

// TestEtcdGoneAndBack takes the only etcd away from a replica with a connected proxy, and gives it back.
func TestEtcdGoneAndBack(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	r := newReplica(t, "evermeshd", on(t, etcd.endpoints()...)...).start()
	c, key := r.user(), r.key()
	must(t, makeShop(t.Context(), c, "gone", 90, 10))
	p := connect(t, key, "gone", "old", true, r.xds)
	p.has(t, 90, 10)
	sent := len(p.Responses())
	// A replica that loses its store ends the streams of those whom other replicas cannot know of yet; this one is to be
	// no such proxy.
	<-time.After(admission)
	writtenSince(t, etcd.members[0])

	etcd.members[0].kill()
	wantUnavailable(t, "a write without etcd", shifted(c, "gone", 50, 50))
	wantUnavailable(t, "a read without etcd", described(c, "gone"))
	until(t, "/readyz says that the store does not answer", func() bool {
		code, reason := r.reason()
		return code == http.StatusServiceUnavailable && strings.Contains(reason, "store")
	})
	if n := len(p.Ends()); n > 0 {
		t.Errorf("the open stream ended: %v", p.Ends())
	}
	late := connect(t, key, "gone", "new", true, r.xds)
	late.Wait(t, "the refusal of a new stream", func() bool { return len(late.Ends()) > 0 })
	if code, text := adstest.Status(late.Ends()[0]); code != codes.Unavailable {
		t.Errorf("a new stream without etcd ended with %v %q, want UNAVAILABLE: what it would get may be old", code, text)
	}
	if r.isGone() {
		t.Fatalf("evermeshd ended:\n%s", r.tail())
	}

	etcd.members[0].start()
	etcd.awaitReady()
	back := time.Now()
	eventually(t, "a write when etcd is back", shifted(c, "gone", 40, 60))
	if took := time.Since(back); took > soon {
		t.Errorf("it took %v until a write went through, after etcd was back", took)
	} else {
		t.Logf("a write went through %v after etcd was back", took.Round(time.Millisecond))
	}
	r.awaitReady()
	p.has(t, 40, 60)
	late.has(t, 40, 60)
	if n := len(p.Ends()); n > 0 {
		t.Errorf("the open stream ended: %v", p.Ends())
	}
	for _, response := range p.Responses()[sent:] {
		if !strings.HasPrefix(response, adstest.RDS) {
			t.Errorf("the proxy was sent %s, though only weights changed", response)
		}
	}
}

// TestEtcdLosesItsLeader kills the leader of three members, and then a second one, so that nobody leads.
func TestEtcdLosesItsLeader(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	r := newReplica(t, "evermeshd", on(t, etcd.endpoints()...)...).start()
	c := r.user()
	must(t, makeShop(t.Context(), r.patient(), "leader", 90, 10))
	p := connect(t, r.key(), "leader", "one", true, r.xds)
	p.has(t, 90, 10)
	sent := len(p.Responses())

	var first *member
	until(t, "a member leads", func() bool { first = etcd.leader(); return first != nil })
	first.kill()
	// Every call is answered: well, or as one that the store cannot serve now.
	began := time.Now()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		err := shift(ctx, c, "leader", 70, 30)
		cancel()
		_, status, code := outcomeOf(err)
		if status == http.StatusOK {
			break
		}
		if status != http.StatusServiceUnavailable || time.Since(began) > patience {
			t.Fatalf("a write %v after the leader was lost: %d %s: %v", time.Since(began), status, code, err)
		}
	}
	t.Logf("writes went on %v after the leader was lost", time.Since(began).Round(time.Millisecond))
	p.has(t, 70, 30)

	var second *member
	until(t, "another member leads", func() bool { second = etcd.leader(); return second != nil })
	second.kill()
	wantUnavailable(t, "a write without a quorum", shifted(c, "leader", 60, 40))
	wantUnavailable(t, "a read without a quorum", described(c, "leader"))
	first.start()
	eventually(t, "a write with a quorum again", shifted(c, "leader", 20, 80))
	p.has(t, 20, 80)
	for _, response := range p.Responses()[sent:] {
		if !strings.HasPrefix(response, adstest.RDS) {
			t.Errorf("the proxy was sent %s, though only weights changed", response)
		}
	}
}

// TestStartsThatCannotSucceed starts evermeshds that can do nothing but say why, in a line, and end.
func TestStartsThatCannotSucceed(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	r := newReplica(t, "first", on(t, etcd.endpoints()...)...).start()
	other := filepath.Join(t.TempDir(), "other-key")
	must(t, os.WriteFile(other, []byte(strings.Replace(masterKey, "MDEy", "MDEz", 1)), 0o600))
	nobody := "http://" + testenv.FreeAddress(t)
	embedded := newReplica(t, "embedded").start()

	ends := func(name string, r *replica, code int, words ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			r.t = t
			r.launch()
			if got := r.exit(); got != code {
				t.Errorf("exit code %d, want %d", got, code)
			}
			lines := strings.Split(strings.TrimSpace(r.said()), "\n")
			last := lines[len(lines)-1]
			t.Logf("after %v: %s", time.Since(began).Round(100*time.Millisecond), last)
			for _, w := range words {
				if !strings.Contains(last, w) {
					t.Errorf("its last line does not say %q", w)
				}
			}
		})
	}
	t.Run("something else listens at the endpoint", func(t *testing.T) {
		t.Parallel()
		waiting := newReplica(t, "api", on(t, "http://"+r.api)...)
		waiting.warns("http://"+r.api, "nothing there answers as etcd does")
		waiting.stop() // told to, it waits no longer
	})
	t.Run("etcd starts after evermeshd", func(t *testing.T) {
		t.Parallel()
		late := prepareCluster(t, 1)
		waiting := newReplica(t, "early", on(t, late.endpoints()...)...)
		waiting.warns(late.endpoints()[0], "connection refused")
		late.members[0].start()
		waiting.awaitReady()
	})
	ends("the endpoint is no URL", newReplica(t, "no-url", on(t, "ftp://etcd.test:2379")...), 2, "--etcd-endpoints", "ftp://etcd.test:2379")
	ends("the master key is another", newReplica(t, "key", "--etcd-endpoints", etcd.endpoints()[0], "--master-key-file", other), 2, "master key", other)
	locked := newReplica(t, "locked")
	locked.dir = embedded.dir
	ends("the data directory is locked", locked, 1, embedded.dir, "in use")
	t.Run("one wrong endpoint of two does no harm", func(t *testing.T) {
		t.Parallel()
		r := newReplica(t, "half", on(t, nobody, etcd.endpoints()[0])...).start()
		must(t, makeMesh(t.Context(), r.user(), "half"))
	})
}

// TestCompactedWhileAway stops a replica and cuts it off, changes what its proxies need, and compacts etcd's history past
// what the replica has seen. It has to read everything again, and its proxies get what is true.
func TestCompactedWhileAway(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 1)
	way := newLink(t, etcd.members[0].client)
	here := newReplica(t, "here", on(t, etcd.endpoints()...)...).start()
	away := newReplica(t, "away", on(t, "http://"+way.address)...).start()
	c := here.user()
	for _, m := range []string{"kept", "gone"} {
		must(t, makeShop(t.Context(), c, m, 90, 10))
	}
	kept := connect(t, here.key(), "kept", "one", true, away.xds)
	gone := connect(t, here.key(), "gone", "one", true, away.xds)
	kept.has(t, 90, 10)
	gone.has(t, 90, 10)

	away.signal(syscall.SIGSTOP)
	way.sever()
	way.drop()
	must(t, shift(t.Context(), c, "kept", 30, 70))
	// What is removed leaves no trace once it is compacted away.
	service, mesh := "shop.test", "gone"
	client := specOf("client") // without backends
	name := "client"
	_, err := c.UpdateVirtualNode(t.Context(), &appmesh.UpdateVirtualNodeInput{MeshName: &mesh, VirtualNodeName: &name, Spec: client})
	must(t, err)
	_, err = c.DeleteVirtualService(t.Context(), &appmesh.DeleteVirtualServiceInput{MeshName: &mesh, VirtualServiceName: &service})
	must(t, err)
	db := etcd.members[0].dial()
	head, err := db.Get(t.Context(), prefix+"head")
	must(t, err)
	_, err = db.Compact(t.Context(), head.Header.Revision, clientv3.WithCompactPhysical())
	must(t, err)

	way.mend()
	away.signal(syscall.SIGCONT)
	kept.has(t, 30, 70)
	until(t, "the removed service has left the proxy", func() bool { return gone.weights(t) == "" })
	if !strings.Contains(away.said(), "history was compacted, everything is read again") {
		t.Errorf("the replica did not miss what was compacted: nothing is shown\n%s", away.tail())
	}
	late := connect(t, here.key(), "kept", "two", true, away.xds)
	late.has(t, 30, 70)
	must(t, shift(t.Context(), away.user(), "kept", 55, 45))
	kept.has(t, 55, 45)
	is, err := onNode(t.Context(), away.user(), describe, "gone", "client", "", "")
	must(t, err)
	if is.Version != 2 {
		t.Errorf("the replica that was away describes %+v, want version 2", is)
	}
}
