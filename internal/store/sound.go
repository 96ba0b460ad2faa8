package store

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
)

// soundUpTo is the size in bytes up to which a database is read before it is
// used. Larger ones would hold a start up for seconds.
const soundUpTo = 1 << 30

// sound refuses data of an embedded etcd that is not whole, in words. Without
// its log etcd would wait for a leader that cannot come, and on a damaged page
// its database ends the process with a stack trace.
func sound(dir string) error {
	db := filepath.Join(dir, "member", "snap", "db")
	info, err := os.Stat(db)
	if err != nil || info.Size() == 0 {
		return nil // a new one, or etcd makes the database anew from its log
	}
	logs, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	if err == nil && len(logs) == 0 {
		return fmt.Errorf("etcd's log is missing from %s: put a copy of the whole directory back, or restore a backup into an empty one", filepath.Join(dir, "member", "wal"))
	}
	if err == nil && info.Size() <= soundUpTo {
		err = readThrough(db)
	}
	return err
}

// readThrough visits every page of a database that is in use.
func readThrough(file string) (err error) {
	// The database panics at what cannot be, and a wrong offset leads out of the
	// file, which is a fault of memory.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = damaged(file, r)
		}
	}()
	db, err := bolt.Open(file, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return damaged(file, err)
	}
	defer func() { _ = db.Close() }() // nothing was written
	if err := db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	}); err != nil {
		return damaged(file, err)
	}
	return nil
}

func damaged(file string, why any) error {
	return fmt.Errorf("etcd's database %s is damaged (%v): restore a backup into an empty data directory", file, why)
}
