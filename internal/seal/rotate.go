package seal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
)

// The master key changes in three steps, each of which may be repeated: the file
// of every replica gets a second line; all that is stored is sealed anew with
// the key of the last line; the first line goes. A record says which key seals,
// so that nobody seals with the old one once the second step has begun.

func sealingTail() string { return Scope().Tail("masterKey") }

func sealingType() store.Type {
	return store.Type{Name: "sealing", Schema: 1, Members: []string{"masterKey", "since"}}
}

type sealingBody struct {
	MasterKey string    `json:"masterKey"` // its id
	Since     time.Time `json:"since"`
}

// sealing finds the id of the key that seals; empty when the keys were never
// changed.
func sealing(r *store.Record) (string, error) {
	if r == nil {
		return "", nil
	}
	var body sealingBody
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return "", fmt.Errorf("read which master key seals: %w", err)
	}
	return body.MasterKey, nil
}

// RotateOptions say how a master key is changed.
type RotateOptions struct {
	// Alone says that no replica runs.
	Alone bool
	// Wait bounds the time in which replicas have to take the new key; 0 is a
	// minute.
	Wait time.Duration
	// End ends all sessions: the keys of texts before are of no more use.
	End bool
	// Say is told of each step.
	Say func(text string)
}

// Rotate changes the master key: it adds a new one to the file if that holds one
// key, waits until every replica accepts it, seals everything in the places with it,
// replaces the key of texts, and takes the old one out of the file. Replicas go on meanwhile. What was
// interrupted is gone on with by another call. It returns how many secrets it
// sealed.
func (b *Box) Rotate(ctx context.Context, places []Place, o RotateOptions) (int, error) {
	if o.Wait == 0 {
		o.Wait = time.Minute
	}
	m := b.master.Load()
	if len(m.keys) == 1 {
		line, err := newMasterLine()
		if err != nil {
			return 0, err
		}
		if m, err = b.rewriteMaster(strings.TrimRight(m.text, "\n") + "\n" + line); err != nil {
			return 0, fmt.Errorf("add a key to --master-key-file %s: %w; add a line to it yourself, on all replicas, and run this again", m.file, err)
		}
		o.Say("added a key to " + m.file)
	}
	to := m.keys[len(m.keys)-1]
	if !o.Alone {
		if err := b.everywhere(ctx, to.id, o); err != nil {
			return 0, err
		}
	}
	if err := b.sealWith(ctx, to.id); err != nil {
		return 0, fmt.Errorf("rotate master key: %w", err)
	}
	total := 0
	for again := true; again; {
		again = false
		for _, p := range append([]Place{textPlace()}, places...) {
			n, err := b.reseal(ctx, p, to)
			total += n
			if err != nil {
				return total, fmt.Errorf("rotate master key: %w", err)
			}
			again = again || n > 0
		}
	}
	if err := b.renewText(ctx, o.End); err != nil {
		return total, fmt.Errorf("rotate master key: %w", err)
	}
	var text strings.Builder
	for line := range strings.Lines(m.text) {
		if t := strings.TrimSpace(line); t == "" || strings.HasPrefix(t, "#") || t == to.line {
			text.WriteString(line)
		}
	}
	if _, err := b.rewriteMaster(text.String()); err != nil {
		o.Say(fmt.Sprintf("the old key is of no more use, but could not be taken out of %s (%v): remove its line", m.file, err))
	}
	return total, nil
}

// rewriteMaster replaces the text of the master key file.
func (b *Box) rewriteMaster(text string) (*master, error) {
	old := b.master.Load()
	m, err := parseMaster(old.file, text)
	if err != nil {
		return old, err
	}
	if err := WriteFile(old.file, []byte(text)); err != nil {
		return old, errors.New(reason(err))
	}
	b.master.Store(m)
	return m, nil
}

func (b *Box) sealWith(ctx context.Context, id string) error {
	_, err := b.config.Store.Update(ctx, []store.Scope{Scope()}, func(tx *store.Tx) error {
		if now, err := sealing(tx.Record(sealingTail())); err != nil || now == id {
			return err
		}
		tx.PutRecord(sealingType(), sealingTail(), sealingBody{MasterKey: id, Since: b.config.Now().UTC().Round(0)})
		return nil
	})
	return err
}

// replicasTail is where the ledger has a row of each replica that runs. One that
// runs and has not said which keys it accepts may lack the new one as well.
// silentAfter is when a row is of a replica that has ended: its other rows have
// gone with its lease then.
const (
	replicasTail = "ledger/replicas/"
	silentAfter  = 30 * time.Second
)

// lacking names the replicas that do not accept a master key.
func (b *Box) lacking(ctx context.Context, id string) ([]string, error) {
	rows, err := b.config.Store.Read(ctx, presenceTail)
	if err != nil {
		return nil, err
	}
	running, err := b.config.Store.Read(ctx, replicasTail)
	if err != nil {
		return nil, err
	}
	var without []string
	for key, value := range rows {
		var p presence
		if err := json.Unmarshal(value, &p); err != nil || !slices.Contains(p.MasterKeys, id) {
			without = append(without, strings.TrimPrefix(key, presenceTail))
		}
	}
	for key, value := range running {
		var r api.Replica
		if err := json.Unmarshal(value, &r); err != nil {
			return nil, fmt.Errorf("read %s: %w", key, err)
		}
		if _, said := rows[presenceTail+r.ID]; !said && b.config.Now().Sub(r.SeenAt.Time) < silentAfter {
			without = append(without, r.ID+" (which has not said what keys it accepts)")
		}
	}
	slices.Sort(without)
	return without, nil
}

// everywhere waits until all replicas accept a master key.
func (b *Box) everywhere(ctx context.Context, id string, o RotateOptions) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(o.Wait)
	defer limit.Stop()
	said := false
	for {
		without, err := b.lacking(ctx, id)
		if err != nil {
			return fmt.Errorf("rotate master key: %w", err)
		}
		if len(without) == 0 {
			return nil
		}
		if !said {
			o.Say("waiting for " + strings.Join(without, ", ") + " to take the new key")
			said = true
		}
		select {
		case <-tick.C:
		case <-limit.C:
			return fmt.Errorf("rotate master key: %s: the new key is not in the master key file there: copy %s to it and run this again; nothing is sealed with the new key yet", strings.Join(without, ", "), b.config.MasterKeyFile)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
