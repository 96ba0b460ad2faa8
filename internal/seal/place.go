package seal

import (
	"context"
	"fmt"

	"github.com/evermesh/evermesh/internal/store"
)

// Place is where records with sealed secrets are, so that they are sealed anew when
// the master key changes.
type Place struct {
	// Tail is what the keys of its records begin with, such as account/.
	Tail string
	// Read finds the secrets of a record; nil when it is none that has any.
	Read func(r store.Record) (*Content, error)
}

// Content is a record with secrets in it.
type Content struct {
	Scope store.Scope // of the record
	Type  store.Type
	// Body points to the record's body; the Sealed of Secrets point into it.
	Body    any
	Secrets []Slot
}

// Slot is one secret of a record.
type Slot struct {
	Owner  string // as given to Seal
	Sealed *Sealed
}

// reseal seals with a key what is sealed with another in a place, and returns how
// many secrets that were. Each record is a transaction of its own.
func (b *Box) reseal(ctx context.Context, p Place, to masterKey) (n int, err error) {
	records, _, err := b.config.Store.Records(ctx, p.Tail)
	if err != nil {
		return 0, err
	}
	for _, r := range records {
		c, err := p.Read(r)
		if err != nil {
			return n, fmt.Errorf("read %s: %w", r.Key, err)
		}
		if c == nil || c.with(to.id) {
			continue
		}
		done := 0
		_, err = b.config.Store.Update(ctx, []store.Scope{c.Scope}, func(tx *store.Tx) error {
			done = 0
			now := tx.Record(r.Key)
			if now == nil {
				return nil // it went meanwhile
			}
			c, err := p.Read(*now)
			if err != nil || c == nil || c.with(to.id) {
				return err
			}
			for _, s := range c.Secrets {
				if s.Sealed.MasterKey == to.id {
					continue
				}
				secret, err := b.Open(s.Owner, *s.Sealed)
				if err != nil {
					return err
				}
				if *s.Sealed, err = to.seal(s.Owner, secret); err != nil {
					return err
				}
				done++
			}
			tx.PutRecord(c.Type, r.Key, c.Body)
			return nil
		})
		if err != nil {
			return n, fmt.Errorf("seal %s anew: %w", r.Key, err)
		}
		n += done
	}
	return n, nil
}

// with says whether all of it is sealed with a key.
func (c *Content) with(id string) bool {
	for _, s := range c.Secrets {
		if s.Sealed.MasterKey != id {
			return false
		}
	}
	return true
}
