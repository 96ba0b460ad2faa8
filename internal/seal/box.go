package seal

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evermesh/evermesh/internal/store"
)

// Config is what Open needs.
type Config struct {
	Store *store.Store
	// MasterKeyFile holds the key that seals secrets; see --master-key-file.
	MasterKeyFile string
	// CreateMasterKey lets Open make that file while nothing is sealed yet: for
	// an embedded store, whose only replica this is.
	CreateMasterKey bool
	// Sealed says that something in the store is sealed already, so that a file
	// that is absent must be brought back.
	Sealed bool
	// Replica names the one that runs the Box among others; empty for a command.
	Replica string
	Log     *slog.Logger
	Now     func() time.Time
	// Changed is told when the master key file was read again; it may be nil.
	Changed func()
}

// Box seals and opens secrets. It is safe for concurrent use.
type Box struct {
	config Config
	master atomic.Pointer[master]
	text   atomic.Pointer[textKeys]
}

// Open reads the master key file. One that is absent or malformed is a
// *MasterKeyError.
func Open(c Config) (*Box, error) {
	m, err := loadMaster(c.MasterKeyFile, c.CreateMasterKey, c.Sealed)
	if err != nil {
		return nil, err
	}
	b := &Box{config: c}
	b.master.Store(m)
	return b, nil
}

// Scope is where it is kept which key seals: a transaction that seals has it.
func Scope() store.Scope { return store.AccountScope("sealing") } // ids of accounts are numbers

// Seal seals a secret in a transaction that has Scope, besides those that it
// writes. owner is what the secret belongs to, such as its record's key: Open needs
// the same one.
func (b *Box) Seal(tx *store.Tx, owner string, secret []byte) (Sealed, error) {
	m := b.master.Load()
	id, err := sealing(tx.Record(sealingTail()))
	if err != nil {
		return Sealed{}, err
	}
	key := m.keys[0]
	if id != "" {
		if key, err = m.with(id); err != nil {
			return Sealed{}, err
		}
	}
	return key.seal(owner, secret)
}

// Open is the inverse of Seal. A secret that another master key sealed is a
// *MasterKeyError.
func (b *Box) Open(owner string, s Sealed) ([]byte, error) { return b.master.Load().open(owner, s) }

// Run takes changes of the master key file and of the key of texts, and says which keys
// are accepted here, until ctx ends.
func (b *Box) Run(ctx context.Context) {
	var following sync.WaitGroup
	defer following.Wait()
	changed := make(chan struct{}, 1)
	following.Go(func() {
		_ = b.config.Store.WatchRecords(ctx, textKeyTail(), func(store.RecordBatch) error {
			select {
			case changed <- struct{}{}:
			default:
			}
			return nil
		})
	})
	tick := time.NewTicker(masterEvery)
	defer tick.Stop()
	tried, announced, said := b.master.Load().text, false, false
	due, failed := b.text.Load() == nil, false // the key of texts is to be read; it could not be
	for {
		if !announced {
			err := b.announce(ctx)
			if announced = err == nil; !announced && !said && ctx.Err() == nil {
				b.config.Log.Warn("others do not learn yet which master keys are accepted here", "err", err)
			}
			said = !announced
		}
		select {
		case <-changed:
			due = true
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if b.reread(&tried) {
			announced, due = false, true
		}
		if due { // what was read goes on; until the new one is there it is asked for again
			err := b.LoadText(ctx)
			if due = err != nil; due && !failed && ctx.Err() == nil {
				b.config.Log.Error("key of sessions cannot be read, and is tried again", "err", err)
			}
			failed = due
		}
	}
}

// reread takes the master key file when its text is another than what was tried.
func (b *Box) reread(tried *string) (taken bool) {
	text, err := os.ReadFile(b.config.MasterKeyFile)
	if err != nil || string(text) == *tried {
		return false // what was read goes on
	}
	*tried = string(text)
	m, err := parseMaster(b.config.MasterKeyFile, *tried)
	if err != nil {
		b.config.Log.Error("master key file is not taken, the keys before go on", "err", err)
		return false
	}
	b.master.Store(m)
	b.config.Log.Info("master key file was read again", "keys", len(m.keys))
	if b.config.Changed != nil {
		b.config.Changed()
	}
	return true
}

// masterEvery is how often the master key file is read again.
const masterEvery = time.Second

// presenceTail is where each replica that runs says which master keys it
// accepts; the rows go with their replica.
const presenceTail = "keys/"

type presence struct {
	MasterKeys []string `json:"masterKeys"` // ids
}

func (b *Box) announce(ctx context.Context) error {
	if b.config.Replica == "" {
		return nil
	}
	value, err := json.Marshal(presence{MasterKeys: b.master.Load().ids()})
	if err != nil {
		return fmt.Errorf("encode master keys: %w", err)
	}
	return b.config.Store.Write(ctx, true, []store.Op{{Key: presenceTail + b.config.Replica, Value: value}})
}
