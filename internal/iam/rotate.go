package iam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
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

// sealingScope is the scope of that record. It is no account: ids of accounts
// are numbers.
func sealingScope() store.Scope { return store.AccountScope("sealing") }

func sealingTail() string { return sealingScope().Tail("masterKey") }

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
	var b sealingBody
	if err := json.Unmarshal(r.Body, &b); err != nil {
		return "", fmt.Errorf("read which master key seals: %w", err)
	}
	return b.MasterKey, nil
}

// seal seals a secret in a transaction that has sealingScope.
func (k *Keys) seal(tx *store.Tx, owner, secret string) (sealed, error) {
	m := k.master.Load()
	id, err := sealing(tx.Record(sealingTail()))
	if err != nil {
		return sealed{}, err
	}
	key := m.keys[0]
	if id != "" {
		if key, err = m.with(id); err != nil {
			return sealed{}, err
		}
	}
	return key.seal(owner, secret)
}

// RotateOptions say how a master key is changed.
type RotateOptions struct {
	// Alone says that no replica runs.
	Alone bool
	// Wait bounds the time in which replicas have to take the new key; 0 is a
	// minute.
	Wait time.Duration
	// Say is told of each step.
	Say func(text string)
}

// Rotate changes the master key: it adds a new one to the file if that holds one
// key, waits until every replica accepts it, seals everything with it, and takes
// the old one out of the file. Replicas go on meanwhile. What was interrupted is
// gone on with by another call. It returns how many secrets it sealed.
func (k *Keys) Rotate(ctx context.Context, o RotateOptions) (int, error) {
	if o.Wait == 0 {
		o.Wait = time.Minute
	}
	m := k.master.Load()
	if len(m.keys) == 1 {
		line, err := newMasterLine()
		if err != nil {
			return 0, err
		}
		if m, err = k.rewriteMaster(strings.TrimRight(m.text, "\n") + "\n" + line); err != nil {
			return 0, fmt.Errorf("add a key to --master-key-file %s: %w; add a line to it yourself, on all replicas, and run this again", m.file, err)
		}
		o.Say("added a key to " + m.file)
	}
	to := m.keys[len(m.keys)-1]
	if !o.Alone {
		if err := k.everywhere(ctx, to.id, o); err != nil {
			return 0, err
		}
	}
	if err := k.sealWith(ctx, to.id); err != nil {
		return 0, fmt.Errorf("rotate master key: %w", err)
	}
	total := 0
	for {
		n, err := k.reseal(ctx, to)
		total += n
		if err != nil {
			return total, fmt.Errorf("rotate master key: %w", err)
		}
		if n == 0 {
			break
		}
	}
	var text strings.Builder
	for line := range strings.Lines(m.text) {
		if t := strings.TrimSpace(line); t == "" || strings.HasPrefix(t, "#") || t == to.line {
			text.WriteString(line)
		}
	}
	if _, err := k.rewriteMaster(text.String()); err != nil {
		o.Say(fmt.Sprintf("the old key is of no more use, but could not be taken out of %s (%v): remove its line", m.file, err))
	}
	return total, nil
}

// rewriteMaster replaces the text of the master key file.
func (k *Keys) rewriteMaster(text string) (*master, error) {
	old := k.master.Load()
	m, err := parseMaster(old.file, text)
	if err != nil {
		return old, err
	}
	if err := writeFile(old.file, []byte(text)); err != nil {
		return old, errors.New(reason(err))
	}
	k.master.Store(m)
	return m, nil
}

func (k *Keys) sealWith(ctx context.Context, id string) error {
	_, err := k.config.Store.Update(ctx, []store.Scope{sealingScope()}, func(tx *store.Tx) error {
		if now, err := sealing(tx.Record(sealingTail())); err != nil || now == id {
			return err
		}
		tx.PutRecord(sealingType(), sealingTail(), sealingBody{MasterKey: id, Since: k.config.Now().UTC().Round(0)})
		return nil
	})
	return err
}

// reseal seals with a key what is sealed with another, and returns how much it
// was. Each secret is a transaction of its own.
func (k *Keys) reseal(ctx context.Context, to masterKey) (n int, err error) {
	records, _, err := k.config.Store.Records(ctx, accountsTail)
	if err != nil {
		return 0, err
	}
	for _, r := range records {
		account, id, ok := parseKeyTail(r.Key)
		var b keyBody
		if !ok || json.Unmarshal(r.Body, &b) == nil && b.Secret.MasterKey == to.id {
			continue
		}
		done := false
		_, err := k.config.Store.Update(ctx, []store.Scope{store.AccountScope(account)}, func(tx *store.Tx) error {
			done = false
			now := tx.Record(r.Key)
			if now == nil {
				return nil // revoked meanwhile
			}
			var b keyBody
			if err := json.Unmarshal(now.Body, &b); err != nil {
				return fmt.Errorf("read access key %s: %w", id, err)
			}
			if b.Secret.MasterKey == to.id {
				return nil
			}
			secret, err := k.master.Load().open(owner(account, id), b.Secret)
			if err != nil {
				return fmt.Errorf("read access key %s: %w", id, err)
			}
			if b.Secret, err = to.seal(owner(account, id), secret); err != nil {
				return err
			}
			tx.PutRecord(keyType(), r.Key, b)
			done = true
			return nil
		})
		if err != nil {
			return n, err
		}
		if done {
			n++
		}
	}
	return n, nil
}

// presenceTail is where each replica that runs says which master keys it
// accepts; the rows go with their replica.
const presenceTail = "keys/"

type presence struct {
	MasterKeys []string `json:"masterKeys"` // ids
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
func (k *Keys) lacking(ctx context.Context, id string) ([]string, error) {
	rows, err := k.config.Store.Read(ctx, presenceTail)
	if err != nil {
		return nil, err
	}
	running, err := k.config.Store.Read(ctx, replicasTail)
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
		if _, said := rows[presenceTail+r.ID]; !said && k.config.Now().Sub(r.SeenAt.Time) < silentAfter {
			without = append(without, r.ID+" (which has not said what keys it accepts)")
		}
	}
	slices.Sort(without)
	return without, nil
}

// everywhere waits until all replicas accept a master key.
func (k *Keys) everywhere(ctx context.Context, id string, o RotateOptions) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(o.Wait)
	defer limit.Stop()
	said := false
	for {
		without, err := k.lacking(ctx, id)
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
			return fmt.Errorf("rotate master key: %s: the new key is not in the master key file there: copy %s to it and run this again; nothing is sealed with the new key yet", strings.Join(without, ", "), k.config.MasterKeyFile)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// masterEvery is how often the master key file is read again.
const masterEvery = time.Second

// followMaster takes changes of the master key file and says which keys are
// accepted here, until ctx ends.
func (k *Keys) followMaster(ctx context.Context) {
	tick := time.NewTicker(masterEvery)
	defer tick.Stop()
	tried, announced, said := k.master.Load().text, false, false
	for {
		if !announced {
			err := k.announce(ctx)
			if announced = err == nil; !announced && !said && ctx.Err() == nil {
				k.config.Log.Warn("others do not learn yet which master keys are accepted here", "err", err)
			}
			said = !announced
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		text, err := os.ReadFile(k.config.MasterKeyFile)
		if err != nil || string(text) == tried {
			continue // what was read goes on
		}
		tried = string(text)
		m, err := parseMaster(k.config.MasterKeyFile, tried)
		if err != nil {
			k.config.Log.Error("master key file is not taken, the keys before go on", "err", err)
			continue
		}
		k.master.Store(m)
		k.config.Log.Info("master key file was read again", "keys", len(m.keys))
		k.reopen()
		k.refreshCredentials()
		announced = false
	}
}

func (k *Keys) announce(ctx context.Context) error {
	if k.config.Replica == "" {
		return nil
	}
	value, err := json.Marshal(presence{MasterKeys: k.master.Load().ids()})
	if err != nil {
		return fmt.Errorf("encode master keys: %w", err)
	}
	return k.config.Store.Write(ctx, true, []store.Op{{Key: presenceTail + k.config.Replica, Value: value}})
}
