//go:build linux

package faults

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

const prefix = "/evermesh/v1/"

// readHistory opens the etcd that an evermeshd left and reads all that was ever written, revision by revision. Each that
// changes a resource has, at the same revision: its mesh's lock, the head, and the token of its caller with the
// answer that says so. Every token of acked is there, once.
func readHistory(t *testing.T, dir string, acked map[string]bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	peer := url.URL{Scheme: "unix", Host: filepath.Join(t.TempDir(), "p")}
	c := embed.NewConfig()
	c.Name, c.Dir, c.LogLevel = "evermesh", filepath.Join(dir, "etcd"), "panic"
	c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peer}, []url.URL{{Scheme: "unix", Path: peer.Host}}
	c.InitialCluster = c.Name + "=" + c.AdvertisePeerUrls[0].String()
	c.MaxRequestBytes = 8 << 20
	e, err := embed.StartEtcd(c)
	must(t, err)
	defer e.Close()
	select {
	case <-e.Server.ReadyNotify():
	case <-ctx.Done():
		t.Fatal("the etcd that evermeshd left does not start")
	}
	db := v3client.New(e.Server)
	defer func() { _ = db.Close() }() // it only ends what is in this process
	readRevisions(ctx, t, db, acked)
}

// readRevisions is readHistory for an etcd that runs.
func readRevisions(ctx context.Context, t *testing.T, db *clientv3.Client, acked map[string]bool) {
	t.Helper()
	head, err := db.Get(ctx, prefix+"head")
	must(t, err)
	if len(head.Kvs) == 0 {
		t.Fatal("there is no head: nothing was written")
	}
	last := head.Kvs[0].ModRevision
	seen := map[string]int{}
	writes := 0
	for resp := range db.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(1)) {
		must(t, resp.Err())
		for events := resp.Events; len(events) > 0; {
			n := 1
			for n < len(events) && events[n].Kv.ModRevision == events[0].Kv.ModRevision {
				n++
			}
			if checkRevision(t, events[:n], seen) {
				writes++
			}
			events = events[n:]
		}
		if n := len(resp.Events); n > 0 && resp.Events[n-1].Kv.ModRevision >= last {
			break
		}
	}
	must(t, ctx.Err())
	for name := range acked {
		sum := sha256.Sum256([]byte(account + "\n" + name))
		if n := seen[hex.EncodeToString(sum[:])]; n != 1 {
			t.Errorf("the acknowledged write with client token %s was written %d times", name, n)
		}
	}
	t.Logf("%d revisions are whole writes of resources, %d with a client token", writes, len(seen))
	if writes < len(acked) {
		t.Errorf("etcd knows %d writes, %d were acknowledged", writes, len(acked))
	}
}

// checkRevision checks what one revision wrote; true if it changed a resource.
func checkRevision(t *testing.T, events []*clientv3.Event, seen map[string]int) bool {
	t.Helper()
	by := map[string][]*clientv3.Event{}
	for _, e := range events {
		first, _, _ := strings.Cut(strings.TrimPrefix(string(e.Kv.Key), prefix), "/")
		by[first] = append(by[first], e)
	}
	for _, e := range by["token"] {
		seen[strings.TrimPrefix(string(e.Kv.Key), prefix+"token/")]++
	}
	if len(by["mesh"]) == 0 {
		// Records around the mesh come with their event, under their lock. Events go by
		// themselves, many at once, when they are on a replica's disk.
		recorded := len(by["account"])+len(by["service"]) > 0 && len(by["lock"]) > 0 && len(by["outbox"]) == 1
		moved := !slices.ContainsFunc(by["outbox"], func(e *clientv3.Event) bool { return e.Type != clientv3.EventTypeDelete })
		if len(by["token"])+len(by["head"]) > 0 || !recorded && !moved {
			t.Errorf("revision %d has parts of a write, but no resource: %s", events[0].Kv.ModRevision, keysOf(events))
		}
		return false
	}
	resource := by["mesh"][0]
	parts := strings.Split(strings.TrimPrefix(string(resource.Kv.Key), prefix), "/")
	scope := strings.Join(parts[:3], "/")
	isMesh := parts[3] == "mesh"
	removed := resource.Type == clientv3.EventTypeDelete
	whole := len(by["mesh"]) == 1 && len(by["lock"]) == 1 && len(by["head"]) == 1 && len(by["outbox"]) <= 1 &&
		string(by["lock"][0].Kv.Key) == prefix+"lock/"+scope && by["head"][0].Type == clientv3.EventTypePut &&
		(by["lock"][0].Type == clientv3.EventTypeDelete) == (removed && isMesh)
	// The API has no client token for deletes.
	if whole = whole && (len(by["token"]) == 1) == !removed; whole && !removed {
		var stored struct {
			Body struct {
				UID     string
				Version int64
			}
		}
		var token struct {
			Result struct {
				Metadata struct {
					UID     string
					Version int64
				}
			}
		}
		must(t, json.Unmarshal(resource.Kv.Value, &stored))
		must(t, json.Unmarshal(by["token"][0].Kv.Value, &token))
		if got := token.Result.Metadata; got.UID != stored.Body.UID || got.Version != stored.Body.Version {
			t.Errorf("revision %d: the resource is %+v, its token answers %+v", resource.Kv.ModRevision, stored.Body, got)
		}
	}
	if !whole {
		t.Errorf("half a write at revision %d: %s", resource.Kv.ModRevision, keysOf(events))
	}
	return true
}

func keysOf(events []*clientv3.Event) string {
	var out []string
	for _, e := range events {
		out = append(out, e.Type.String()+" "+strings.TrimPrefix(string(e.Kv.Key), prefix))
	}
	return strings.Join(out, ", ")
}
