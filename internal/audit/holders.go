package audit

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/store"
)

const (
	// holdersTail is where it is said who has events. The rows outlive replicas: one
	// whose disk is elsewhere, or lost, is missing in what others find.
	holdersTail = "holders/"
	// holdEvery is up to when a replica says beforehand that it has events; it says so
	// again in half of that.
	holdEvery = time.Hour
	// nameFile has a replica's name, beside its events.
	nameFile = "replica"
)

// holder is the row of a replica that has events.
type holder struct {
	URL string `json:"url"`
	// Until is a time after that of its newest event.
	Until time.Time `json:"until"`
}

// ReplicaName is the name of the replica that has its events in the directory: the
// same after each start. It is made of the host's at the first.
func ReplicaName(dir, host string) (string, error) {
	file := filepath.Join(dir, nameFile)
	text, err := os.ReadFile(file)
	switch name := strings.TrimSpace(string(text)); {
	case err == nil && name != "" && !strings.ContainsAny(name, "/, \n"):
		return name, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("read name of replica: %w", err)
	}
	host = strings.Map(func(r rune) rune {
		if r == '/' || r == ',' || r <= ' ' || r > '~' {
			return '-'
		}
		return r
	}, host)
	name := host + "-" + strings.ToLower(rand.Text()[:8])
	if err := replace(file, []byte(name+"\n")); err != nil {
		return "", fmt.Errorf("write name of replica: %w", err)
	}
	return name, nil
}

// holds is what says that this replica has events.
func (p *Peers) holds(until time.Time) store.Op {
	return store.Op{Key: holdersTail + p.Replica, Value: marshal(holder{p.URL, until.UTC()}), Lasting: true}
}

// gone are the replicas that are not among those that answer, and have events that a
// query may mean.
func (p *Peers) gone(ctx context.Context, there map[string][]byte, q query) ([]string, error) {
	rows, err := p.Store.Read(ctx, holdersTail)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		name := strings.TrimPrefix(key, holdersTail)
		if _, here := there[peersTail+name]; here || name == p.Replica {
			continue
		}
		var h holder
		if json.Unmarshal(rows[key], &h) == nil && (h.over(p.Now()) || h.Until.UnixMicro() < q.From) {
			continue
		}
		p.Logger.Warn("replica with events is gone: start it again, or have it forgotten (evermeshd audit forget)", "replica", name, "url", h.URL)
		out = append(out, name)
	}
	return out, nil
}

// over says that what it has is too old to be kept.
func (h holder) over(now time.Time) bool { return now.Sub(h.Until) > Retention }

// expire removes what is said of replicas whose events are all too old.
func (p *Peers) expire(ctx context.Context) error {
	rows, err := p.Store.Read(ctx, holdersTail)
	if err != nil {
		return err
	}
	var ops []store.Op
	for key, text := range rows {
		var h holder
		if json.Unmarshal(text, &h) == nil && h.over(p.Now()) {
			ops = append(ops, store.Op{Key: key})
		}
	}
	return p.Store.Write(ctx, false, ops)
}

// Holder is a replica that has events.
type Holder struct {
	Name, URL string
	// Answers says that it runs, Until that it has none newer.
	Answers bool
	Until   time.Time
}

// Holders are the replicas that have events, by name.
func Holders(ctx context.Context, rows Rows) ([]Holder, error) {
	there, err := rows.Read(ctx, peersTail)
	if err != nil {
		return nil, fmt.Errorf("read replicas: %w", err)
	}
	held, err := rows.Read(ctx, holdersTail)
	if err != nil {
		return nil, fmt.Errorf("read replicas: %w", err)
	}
	var out []Holder
	for _, key := range slices.Sorted(maps.Keys(held)) {
		var h holder
		if err := json.Unmarshal(held[key], &h); err != nil {
			return nil, fmt.Errorf("read replica %s: %w", key, err)
		}
		name := strings.TrimPrefix(key, holdersTail)
		_, answers := there[peersTail+name]
		out = append(out, Holder{name, h.URL, answers, h.Until})
	}
	return out, nil
}

// Forget has lookups miss a replica no more, whose events are lost for good. known is
// false for one that nobody has heard of, or was forgotten. One that runs says anew
// that it is there.
func Forget(ctx context.Context, rows Rows, name string) (known bool, err error) {
	held, err := rows.Read(ctx, holdersTail+name)
	if err != nil {
		return false, fmt.Errorf("forget replica %s: %w", name, err)
	}
	if _, known := held[holdersTail+name]; !known {
		return false, nil
	}
	if err := rows.Write(ctx, false, []store.Op{{Key: holdersTail + name}}); err != nil {
		return false, fmt.Errorf("forget replica %s: %w", name, err)
	}
	return true, nil
}
