package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/internal/store"
)

// scheduled makes backups by itself, one every so often of all replicas together
// (SEC-012). Whose turn it is stands in the store: a replica that finds one due
// claims it in a transaction, writes the file, and says when it was done.
type scheduled struct {
	store   *store.Store
	dir     string // empty: none are made here
	every   time.Duration
	keep    int // files that stay
	replica string
	log     *slog.Logger
	now     func() time.Time

	last   prometheus.Gauge // Unix time of the last one, whichever replica made it
	failed prometheus.Counter
}

const (
	// firstBackup is how long a store that was never backed up waits at most: a
	// store that is being filled is not worth much yet.
	firstBackup = 5 * time.Minute
	// claimedFor is how long a replica may take for one before another may try.
	claimedFor = 15 * time.Minute
	// mostBetweenLooks bounds how late a backup can be.
	mostBetweenLooks = time.Minute
	// spareBytes stay free beside a backup: well above what the store needs to
	// take writes (D3).
	spareBytes = 512 << 20
)

// turn is the record of who made the last backup, or makes one. Times are Unix
// milliseconds, 0 for never.
type turn struct {
	Replica  string `json:"replica"`
	Claimed  int64  `json:"claimed"`
	Finished int64  `json:"finished"`
}

func backupScope() store.Scope { return store.ServiceScope("backup") }

func backupTail() string { return backupScope().Tail("turn") }

func turnType() store.Type {
	return store.Type{Name: "backupTurn", Schema: 1, Members: []string{"replica", "claimed", "finished"}}
}

func (d *daemon) scheduledBackups(replica string) *scheduled {
	s := &scheduled{
		store: d.store, dir: d.config.BackupDir, every: d.config.BackupEvery, keep: d.config.BackupKeep,
		replica: replica, log: d.log, now: time.Now,
		last:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "evermesh_backup_last_seconds", Help: "Unix time of the last backup that was made by itself, by whichever replica; 0 without any."}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{Name: "evermesh_backup_failures_total", Help: "Backups by itself that this replica could not make."}),
	}
	d.metrics.registry.MustRegister(s.last, s.failed)
	return s
}

// run makes backups until ctx ends. A failure is told and tried again later; it
// ends nothing.
func (s *scheduled) run(ctx context.Context) error {
	if s.every == 0 || s.dir == "" {
		s.log.Info("no backups are made by themselves", "see", "--backup-dir, --backup-every")
	}
	started := s.now()
	look := min(max(s.every/4, 100*time.Millisecond), mostBetweenLooks)
	if s.every == 0 {
		look = mostBetweenLooks // of what others make
	}
	wait := time.NewTimer(look)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		again := look
		if err := s.step(ctx, started); err != nil && ctx.Err() == nil {
			s.failed.Inc()
			s.log.Error("backup was not made", "err", err)
			again = max(look, min(s.every, firstBackup))
		}
		wait.Reset(again)
	}
}

// step makes a backup if one is due and no other replica makes it.
func (s *scheduled) step(ctx context.Context, started time.Time) error {
	records, _, err := s.store.Records(ctx, backupTail())
	if err != nil {
		return err
	}
	var at turn
	for _, r := range records {
		if at, err = readTurn(&r); err != nil {
			return err
		}
	}
	s.last.Set(float64(at.Finished) / 1000)
	if s.dir == "" || !s.due(at, started) {
		return nil
	}
	mine, err := s.claim(ctx, started)
	if err != nil || !mine {
		return err
	}
	info, file, err := s.make(ctx)
	done := int64(0)
	if err == nil {
		done = s.now().UnixMilli()
	}
	// Also when ctx has ended meanwhile: another replica need not wait for nothing.
	over, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookWait)
	defer cancel()
	if err = errors.Join(err, s.release(over, done)); err != nil {
		return err
	}
	s.last.Set(float64(done) / 1000)
	s.log.Info("backup was made", "file", file, "records", info.Records, "bytes", info.Bytes, "revision", info.Revision)
	return s.prune()
}

// due says whether a backup is to be made now.
func (s *scheduled) due(at turn, started time.Time) bool {
	now := s.now()
	if at.Finished == 0 && now.Before(started.Add(min(s.every, firstBackup))) {
		return false
	}
	if now.Before(time.UnixMilli(at.Finished).Add(s.every)) {
		return false
	}
	return at.Claimed == 0 || at.Replica == s.replica || !now.Before(time.UnixMilli(at.Claimed).Add(claimedFor))
}

// claim takes the turn, unless another replica was first.
func (s *scheduled) claim(ctx context.Context, started time.Time) (mine bool, err error) {
	_, err = s.store.Update(ctx, []store.Scope{backupScope()}, func(tx *store.Tx) error {
		at, err := readTurn(tx.Record(backupTail()))
		if mine = err == nil && s.due(at, started); mine {
			tx.PutRecord(turnType(), backupTail(), turn{s.replica, s.now().UnixMilli(), at.Finished})
		}
		return err
	})
	return mine && err == nil, err
}

// release gives the turn back; finished is 0 when nothing came of it.
func (s *scheduled) release(ctx context.Context, finished int64) error {
	_, err := s.store.Update(ctx, []store.Scope{backupScope()}, func(tx *store.Tx) error {
		at, err := readTurn(tx.Record(backupTail()))
		if err == nil {
			tx.PutRecord(turnType(), backupTail(), turn{s.replica, 0, max(at.Finished, finished)})
		}
		return err
	})
	return err
}

func readTurn(r *store.Record) (at turn, err error) {
	if r == nil {
		return turn{}, nil
	}
	if err = json.Unmarshal(r.Body, &at); err != nil {
		return turn{}, fmt.Errorf("read whose turn a backup is: %w", err)
	}
	return at, nil
}

const (
	backupPrefix = "evermesh-"
	backupSuffix = ".backup"
	backupStamp  = "20060102T150405Z"
)

// make writes one file; only its owner may read it.
func (s *scheduled) make(ctx context.Context) (info store.BackupInfo, file string, err error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return info, "", fmt.Errorf("--backup-dir: %w", err)
	}
	if err := s.room(); err != nil {
		return info, "", err
	}
	file = filepath.Join(s.dir, backupPrefix+s.now().UTC().Format(backupStamp)+backupSuffix)
	err = writeWhole(file, func(w io.Writer) error {
		info, err = s.store.Backup(ctx, w, nil)
		return err
	})
	return info, file, err
}

// room says whether there is place for one more: a backup is not to take from
// the store what it needs to take writes.
func (s *scheduled) room() error {
	files, err := s.files()
	if err != nil {
		return err
	}
	need := uint64(spareBytes)
	if len(files) > 0 {
		if last, err := os.Stat(files[len(files)-1]); err == nil {
			need += 2 * uint64(last.Size())
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err != nil {
		return fmt.Errorf("--backup-dir: %w", err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < need {
		return fmt.Errorf("--backup-dir %s: %d MiB are free, want %d: make room, or keep fewer with --backup-keep", s.dir, free>>20, need>>20)
	}
	return nil
}

// files are the backups in the directory, the oldest first.
func (s *scheduled) files() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("--backup-dir: %w", err)
	}
	var out []string
	for _, e := range entries {
		stamp, ok := strings.CutPrefix(e.Name(), backupPrefix)
		stamp, whole := strings.CutSuffix(stamp, backupSuffix)
		if _, err := time.Parse(backupStamp, stamp); ok && whole && err == nil {
			out = append(out, filepath.Join(s.dir, e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}

// prune removes all but the newest files, and what a killed replica left half
// written. Other files in the directory are left alone.
func (s *scheduled) prune() error {
	files, err := s.files()
	if err != nil {
		return err
	}
	var failed error
	for _, f := range files[:max(0, len(files)-s.keep)] {
		failed = errors.Join(failed, os.Remove(f))
	}
	half, err := filepath.Glob(filepath.Join(s.dir, "."+backupPrefix+"*"+backupSuffix+"-*"))
	for _, f := range half {
		if at, err := os.Stat(f); err == nil && s.now().Sub(at.ModTime()) > claimedFor {
			failed = errors.Join(failed, os.Remove(f))
		}
	}
	if failed = errors.Join(failed, err); failed != nil {
		return fmt.Errorf("old backups stay: %w", failed)
	}
	return nil
}
