package quota

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/store"
)

// Config is what Open needs; all of it but Base and Bound is required.
type Config struct {
	Store *store.Store
	Realm api.Realm
	// Base are the quotas of accounts of which nothing else is said; the zero value
	// is no limits.
	Base mesh.Quotas
	// Bound is how many times AWS's number an account may raise a quota by itself.
	Bound int
	Log   *slog.Logger
	Now   func() time.Time
	NewID func() string
}

// Limits answers, from memory, what the quotas of accounts are. What any replica
// writes is known as soon as the store's watch tells, within a second, and at once
// where something would be refused (see Refresh). It is a mesh.Limits.
type Limits struct {
	Config

	mu       sync.RWMutex
	accounts map[string]known
}

// known is what is known of an account: each value with the revision that wrote it.
type known struct {
	account
	revisions map[string]int64
	applied
}

// Open reads the quotas of all accounts.
func Open(ctx context.Context, c Config) (*Limits, error) {
	records, revision, err := c.Store.Records(ctx, tail)
	if err != nil {
		return nil, fmt.Errorf("open quotas: %w", err)
	}
	l := &Limits{Config: c, accounts: map[string]known{}}
	l.take(store.RecordBatch{Revision: revision, Reset: true, Records: records})
	return l, nil
}

// Run follows the store until ctx ends, and returns its error.
func (l *Limits) Run(ctx context.Context) error {
	return l.Store.WatchRecords(ctx, tail, func(b store.RecordBatch) error {
		l.take(b)
		return nil
	})
}

// For satisfies mesh.Limits.
func (l *Limits) For(account string, set api.QuotaSet) mesh.Quotas {
	l.mu.RLock()
	k, ok := l.accounts[account]
	l.mu.RUnlock()
	if !ok {
		return l.Base.For(account, set)
	}
	return k.of(set)
}

// Refresh reads what an account's quotas are now: whoever would be refused is refused by
// what any replica has written.
func (l *Limits) Refresh(ctx context.Context, account string) error {
	records, _, err := l.Store.Records(ctx, scope(account).String()+"/")
	if err != nil {
		return err
	}
	l.take(store.RecordBatch{Records: records})
	return nil
}

// take learns values. A value's record is never deleted, so that of two that are told
// the one that was written later counts, however they come here.
func (l *Limits) take(b store.RecordBatch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.Reset {
		l.accounts = map[string]known{}
	}
	for _, r := range b.Records {
		id, code, ok := parseValueTail(r.Key)
		if !ok || r.Type != valueType.Name {
			continue
		}
		var v value
		if err := json.Unmarshal(r.Body, &v); err != nil {
			l.Log.Error("quota cannot be read and does not count", "key", r.Key, "err", err)
			continue
		}
		k, ok := l.accounts[id]
		if !ok {
			k = known{account: account{map[string]value{}}, revisions: map[string]int64{}}
		}
		if r.Revision < k.revisions[code] {
			continue
		}
		k.values[code], k.revisions[code] = v, r.Revision
		k.applied = k.apply(l.Base)
		l.accounts[id] = k
	}
}
