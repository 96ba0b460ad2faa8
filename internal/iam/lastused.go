package iam

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/store"
)

// usedEvery is how closely it is known when a key was used: a key that is always in
// use costs a replica one write in that time.
const usedEvery = 15 * time.Minute

const usedTail = "used/"

func usedRow(account, key string) string { return usedTail + url.PathEscape(account) + "/" + key }

// usage is when, where and for what an access key was used.
type usage struct {
	At      time.Time `json:"at"`
	Region  string    `json:"region"`
	Service string    `json:"service"`
}

// lastUsed remembers the use of users' keys until it is written.
type lastUsed struct {
	mu    sync.Mutex
	known map[string]usage // by row
	due   map[string]usage
}

func newLastUsed() *lastUsed { return &lastUsed{known: map[string]usage{}, due: map[string]usage{}} }

// note takes the use of a key that lasts; a root's is not kept.
func (l *lastUsed) note(q auth.Question, now time.Time) {
	p := &q.Principal
	if p.Type != auth.User || p.Session != nil || p.AccessKeyID == "" {
		return
	}
	row := usedRow(p.Account, p.AccessKeyID)
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.known[row].At) < usedEvery {
		return
	}
	u := usage{At: now.UTC().Truncate(time.Second), Region: "us-east-1"}
	u.Service, _, _ = strings.Cut(q.Action, ":")
	if region := q.Keys["aws:requestedregion"]; len(region) == 1 {
		u.Region = region[0]
	}
	l.known[row], l.due[row] = u, u
}

// write writes what is due.
func (l *lastUsed) write(ctx context.Context, s *store.Store) error {
	l.mu.Lock()
	due := l.due
	l.due = map[string]usage{}
	l.mu.Unlock()
	ops := make([]store.Op, 0, len(due))
	for row, u := range due {
		value, err := json.Marshal(u)
		if err != nil {
			return fmt.Errorf("encode use of a key: %w", err)
		}
		ops = append(ops, store.Op{Key: row, Value: value, Lasting: true})
	}
	for batch := range store.Batches(ops) {
		if err := s.Write(ctx, false, batch); err != nil {
			return fmt.Errorf("write use of keys: %w", err)
		}
	}
	return nil
}

// read finds the last use of a key, here or on another replica.
func (l *lastUsed) read(ctx context.Context, s *store.Store, account, key string) (usage, error) {
	row := usedRow(account, key)
	rows, err := s.Read(ctx, row)
	if err != nil {
		return usage{}, err
	}
	var u usage
	if value := rows[row]; value != nil {
		if err := json.Unmarshal(value, &u); err != nil {
			return usage{}, fmt.Errorf("read %s: %w", row, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if here := l.known[row]; here.At.After(u.At) {
		u = here
	}
	return u, nil
}

// usedWritten is how often what is due is written.
const usedWritten = 10 * time.Second

// run writes what is due, until ctx ends.
func (k *Keys) writeUsed(ctx context.Context) {
	tick := time.NewTicker(usedWritten)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := k.used.write(ctx, k.config.Store); err != nil && ctx.Err() == nil {
				k.config.Log.Warn("use of access keys was not written", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}
