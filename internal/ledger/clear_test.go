package ledger_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/ledger"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// TestClearRemovesWhatAKilledReplicaLeft has one replica that writes and then is gone without a word, and the next on
// the same store.
func TestClearRemovesWhatAKilledReplicaLeft(t *testing.T) {
	s := storetest.New(t)
	client := mesh.Client{Key: api.Key{Owner: "000000000000", Mesh: "m", Kind: api.KindVirtualNode, Name: "n"}}
	replica := func(id string) *ledger.Writer {
		return (&ledger.Writer{
			Store: s, Replica: api.Replica{ID: id}, Log: slog.New(slog.DiscardHandler), Now: time.Now,
			Row: func(c mesh.Client) (api.LedgerRow, bool) {
				return api.LedgerRow{Client: c.Key.String(), Replica: id, Members: []api.Proxy{{Instance: "p", Replica: id}}}, true
			},
		}).Init()
	}
	first := replica("first")
	ctx, kill := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	flushed := first.Changed()
	first.Dirty(client)
	go func() { ended <- first.Run(ctx) }()
	<-flushed
	kill()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}

	reader := &ledger.Reader{Store: s, Now: time.Now, Flushed: func() <-chan struct{} { return make(chan struct{}) }}
	if proxies, replicas, err := reader.Proxies(t.Context(), "000000000000"); err != nil || len(proxies) != 1 || len(replicas) != 1 {
		t.Fatalf("before: %v, %v, %v; want the first replica's", proxies, replicas, err)
	}
	if err := s.Write(t.Context(), true, []store.Op{{Key: "endpoints/other", Value: []byte("{}")}}); err != nil {
		t.Fatal(err)
	}
	if err := replica("second").Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	if proxies, replicas, err := reader.Proxies(t.Context(), "000000000000"); err != nil || len(proxies)+len(replicas) != 0 {
		t.Errorf("after: %v, %v, %v; want none", proxies, replicas, err)
	}
	if rows, err := s.Read(t.Context(), "endpoints/"); err != nil || len(rows) != 1 {
		t.Errorf("other rows: %v, %v; want them left alone", rows, err)
	}
}
