package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/ledger"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

const account, other = "111122223333", "444455556666"

var realm = api.Realm{Partition: "aws", Region: "us-east-1"}

// start is when the tests happen.
var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func node(name string) mesh.Client {
	return mesh.Client{Key: api.Key{Owner: account, Mesh: "m", Kind: api.KindVirtualNode, Name: name}}
}

// world is what one replica has: its proxies by client, and what its store does.
type world struct {
	*ledger.Writer
	rows map[mesh.Client]*api.LedgerRow
	now  time.Time
	// refuse, if set, says which transactions fail.
	refuse func(ops []store.Op) error
	// unreachable says that nothing can be read.
	unreachable bool
	// reading, if set, is told of each read before it.
	reading func(prefix string)
	*store.Store
}

// newWorld is a replica of that name, whose store takes what an etcd with its
// own settings takes.
func newWorld(s *store.Store, id string) *world {
	w := &world{rows: map[mesh.Client]*api.LedgerRow{}, now: start, Store: s}
	w.Writer = (&ledger.Writer{
		Store: w, Replica: api.Replica{ID: id, Version: "test"}, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now },
		Row: func(c mesh.Client) (api.LedgerRow, bool) {
			if row := w.rows[c]; row != nil {
				return *row, true
			}
			return api.LedgerRow{}, false
		},
	}).Init()
	return w
}

// Write is the store's, with the limits of etcd.
func (w *world) Write(ctx context.Context, lease bool, ops []store.Op) error {
	size := 0
	for _, op := range ops {
		size += len(op.Key) + len(op.Value)
	}
	if len(ops) > 128 || size > 3<<19 {
		return fmt.Errorf("etcdserver: request is too large: %d rows of %d bytes", len(ops), size)
	}
	if w.refuse != nil {
		if err := w.refuse(ops); err != nil {
			return err
		}
	}
	return w.Store.Write(ctx, lease, ops)
}

// Read is the store's, while it is within reach.
func (w *world) Read(ctx context.Context, prefix string) (map[string][]byte, error) {
	if w.unreachable {
		return nil, errBroken
	}
	if w.reading != nil {
		w.reading(prefix)
	}
	return w.Store.Read(ctx, prefix)
}

// connect makes these the proxies of the client.
func (w *world) connect(c mesh.Client, proxies ...api.Proxy) {
	w.rows[c] = &api.LedgerRow{Client: c.Key.String(), Replica: w.Replica.ID, Members: proxies}
	if len(proxies) == 0 {
		delete(w.rows, c)
	}
	w.Dirty(c)
}

// proxy is a proxy that is at its goal, as large as they are.
func (w *world) proxy(c mesh.Client, instance string) api.Proxy {
	peer, version, hash := "10.100.100.100:50000", "1.40.0", strings.Repeat("0", 32)
	p := api.Proxy{
		ConnectedAt: api.Timestamp{Time: w.now}, Dialect: api.DialectDelta, EnvoyVersion: &version, Instance: instance, Peer: &peer,
		Replica: w.Replica.ID, ResourceARN: realm.ARN(c.Key, c.Key.Owner), State: api.ProxyStateCurrent,
	}
	for _, t := range []api.DiscoveryType{api.DiscoveryTypeCluster, api.DiscoveryTypeEndpoint, api.DiscoveryTypeListener, api.DiscoveryTypeRoute} {
		p.Types = append(p.Types, api.TypeStatus{Type: t, Wanted: &hash, Accepted: &hash, AcceptedAt: &api.Timestamp{Time: w.now}})
	}
	return p
}

func (w *world) flush(t *testing.T) {
	t.Helper()
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// reader is a reader of a replica whose clock shows now. Every client reads
// every key.
func reader(s *store.Store, now time.Time) *ledger.Reader {
	flushed := make(chan struct{})
	return &ledger.Reader{
		Store: s, Realm: realm, Now: func() time.Time { return now }, Flushed: func() <-chan struct{} { return flushed },
		Affected: func(_ context.Context, _ int64, _ api.Key, clients []mesh.Client) (map[mesh.Client]bool, error) {
			out := map[mesh.Client]bool{}
			for _, c := range clients {
				out[c] = true
			}
			return out, nil
		},
	}
}

// proxies are the instances and replicas of the account's proxies.
func proxies(t *testing.T, r *ledger.Reader, account string) []string {
	t.Helper()
	all, _, err := r.Proxies(t.Context(), account)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, p := range all {
		out = append(out, p.Instance+" on "+p.Replica)
	}
	return out
}

var theRoute = api.Key{Owner: account, Mesh: "m", Kind: api.KindRoute, Parent: "r", Name: "all"}

// resource writes a resource and returns its revision.
func resource(t *testing.T, s *store.Store, key api.Key, document string) int64 {
	t.Helper()
	revision, err := s.Update(t.Context(), []store.Scope{store.MeshScope(key.Owner, key.Mesh)}, func(tx *store.Tx) error {
		spec, err := api.DecodeSpec(key.Kind, []byte(document))
		if err != nil {
			return err
		}
		tx.Put(&api.Resource{Key: key, UID: "u", Version: 1, Created: start, Updated: start, Owner: key.Owner, Document: json.RawMessage(document), Spec: spec})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// rollout is how far the route is: its state and how many proxies accepted it,
// of how many.
func rollout(t *testing.T, r *ledger.Reader) (string, api.Rollout) {
	t.Helper()
	got, err := r.Rollout(t.Context(), theRoute)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %d/%d", got.State, got.ProxiesAccepted, got.ProxiesAffected), got
}

var errBroken = errors.New("broken")
