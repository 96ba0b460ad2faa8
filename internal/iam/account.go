package iam

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/store"
)

// Tail is where accounts, with who and what is in them, are in the store.
const Tail = "account/"

// The records: account/<id>/account, account/<id>/key/<access key id> for a root's key
// and account/<id>/userKey/<access key id> for a user's. A release that knew roots
// alone takes no user's key for a root's.
func accountTail(id string) string      { return store.AccountScope(id).Tail("account") }
func keyTail(id, key string) string     { return store.AccountScope(id).Tail(rootKeyRecord, key) }
func userKeyTail(id, key string) string { return store.AccountScope(id).Tail(userKeyRecord, key) }

const (
	rootKeyRecord = "key"
	userKeyRecord = "userKey"
)

func accountType() store.Type {
	return store.Type{Name: "account", Schema: 1, Members: []string{"created", "rootKey"}}
}

func keyType() store.Type {
	return store.Type{Name: "accessKey", Schema: 1, Members: []string{"created", "secret"}}
}

func userKeyType() store.Type {
	return store.Type{Name: userKeyRecord, Schema: 1, Members: []string{"created", "secret", "user", "status"}}
}

type accountBody struct {
	Created time.Time `json:"created"`
	RootKey string    `json:"rootKey"` // access key id
}

type keyBody struct {
	Created time.Time   `json:"created"`
	Secret  seal.Sealed `json:"secret"`
	User    string      `json:"user,omitempty"`   // unique id of the user; empty for a root
	Status  string      `json:"status,omitempty"` // Inactive for a key that is refused
}

// AccessKey is an access key with its secret.
type AccessKey struct {
	ID     string // AKIA and 16 of A-Z2-7
	Secret auth.Secret
}

// newAccessKey draws a key that looks like AWS's.
func newAccessKey() (AccessKey, error) {
	raw := make([]byte, 10+30)
	if _, err := rand.Read(raw); err != nil {
		return AccessKey{}, fmt.Errorf("draw access key: %w", err)
	}
	return AccessKey{
		ID:     "AKIA" + base32.StdEncoding.EncodeToString(raw[:10]),
		Secret: auth.Secret(base64.StdEncoding.EncodeToString(raw[10:])),
	}, nil
}

// owner is what a key's secret is bound to.
func owner(account, key string) string { return account + "\n" + key }

var accountForm = regexp.MustCompile(`^[0-9]{12}$`)

// AddAccount makes another account and returns its root key, the only time that
// it is shown. An id that is not 12 digits is a BadRequestException, an account
// that exists a ConflictException.
func (k *Keys) AddAccount(ctx context.Context, id string) (AccessKey, error) {
	if !accountForm.MatchString(id) {
		return AccessKey{}, api.Errorf(api.CodeBadRequest, "%q is not an account: want 12 digits.", id)
	}
	root, made, err := k.ensure(ctx, id)
	if err == nil && !made {
		return AccessKey{}, api.Errorf(api.CodeConflict, "Account %s exists already.", id)
	}
	return root, err
}

// ResetRoot gives an account another root key and returns it, the only time
// that it is shown. The old one ends with the same transaction: every replica
// refuses it as soon as its watch tells. An account that does not exist is a
// NotFoundException.
func (k *Keys) ResetRoot(ctx context.Context, id string) (AccessKey, error) {
	fresh, err := newAccessKey()
	if err != nil {
		return AccessKey{}, err
	}
	now := k.config.Now().UTC().Round(0)
	_, err = k.config.Store.Update(ctx, []store.Scope{store.AccountScope(id), seal.Scope()}, func(tx *store.Tx) error {
		account := tx.Record(accountTail(id))
		if account == nil {
			return api.Errorf(api.CodeNotFound, "Account %s does not exist.", id)
		}
		var b accountBody
		if err := json.Unmarshal(account.Body, &b); err != nil {
			return fmt.Errorf("read account: %w", err)
		}
		secret, err := k.box.Seal(tx, owner(id, fresh.ID), []byte(fresh.Secret))
		if err != nil {
			return err
		}
		tx.DeleteRecord(keyType(), keyTail(id, b.RootKey))
		b.RootKey = fresh.ID
		tx.PutRecord(accountType(), accountTail(id), b)
		tx.PutRecord(keyType(), keyTail(id, fresh.ID), keyBody{Created: now, Secret: secret})
		return nil
	})
	if err != nil {
		return AccessKey{}, fmt.Errorf("reset root key of account %s: %w", id, err)
	}
	return fresh, nil
}

// AccountExists says whether there is an account, also one that another replica has
// just made.
func (k *Keys) AccountExists(ctx context.Context, id string) (bool, error) {
	if k.hasAccount(id) {
		return true, nil
	}
	records, _, err := k.config.Store.Records(ctx, accountTail(id))
	if err != nil {
		return false, fmt.Errorf("look for account %s: %w", id, err)
	}
	return slices.ContainsFunc(records, func(r store.Record) bool { return r.Key == accountTail(id) }), nil
}

// ensure makes the account with a root key unless it exists, and returns the
// root key in either case.
func (k *Keys) ensure(ctx context.Context, id string) (root AccessKey, made bool, err error) {
	fresh, err := newAccessKey()
	if err != nil {
		return AccessKey{}, false, err
	}
	now := k.config.Now().UTC().Round(0)
	var existing *store.Record
	_, err = k.config.Store.Update(ctx, []store.Scope{store.AccountScope(id), seal.Scope()}, func(tx *store.Tx) error {
		existing = nil
		if account := tx.Record(accountTail(id)); account != nil {
			var b accountBody
			if err := json.Unmarshal(account.Body, &b); err != nil {
				return fmt.Errorf("read account: %w", err)
			}
			if existing = tx.Record(keyTail(id, b.RootKey)); existing == nil {
				return fmt.Errorf("root key %s of account %s is not stored", b.RootKey, id)
			}
			return nil
		}
		secret, err := k.box.Seal(tx, owner(id, fresh.ID), []byte(fresh.Secret))
		if err != nil {
			return err
		}
		tx.PutRecord(accountType(), accountTail(id), accountBody{Created: now, RootKey: fresh.ID})
		tx.PutRecord(keyType(), keyTail(id, fresh.ID), keyBody{Created: now, Secret: secret})
		return nil
	})
	if err != nil {
		return AccessKey{}, false, fmt.Errorf("make account %s: %w", id, err)
	}
	if existing == nil {
		// Known here at once, not only when the watch tells.
		k.learn(credential{AccessKey: fresh, account: id})
		return fresh, true, nil
	}
	c := k.read(*existing)
	return c.AccessKey, false, c.err
}

// read opens the record of a key.
func (k *Keys) read(r store.Record) (c credential) {
	c.account, c.ID, _ = parseKeyTail(r.Key)
	c.record = r
	var b keyBody
	if err := json.Unmarshal(r.Body, &b); err != nil {
		c.err = fmt.Errorf("read access key %s: %w", c.ID, err)
		return c
	}
	c.user, c.inactive = b.User, b.Status == inactive
	secret, err := k.box.Open(owner(c.account, c.ID), b.Secret)
	if err != nil {
		c.err = fmt.Errorf("read access key %s: %w", c.ID, err)
	}
	c.Secret = auth.Secret(secret)
	return c
}

// parseKeyTail takes the key of an access key's record apart. Neither part has
// characters that are encoded.
func parseKeyTail(tail string) (account, key string, ok bool) {
	parts := strings.Split(tail, "/")
	if len(parts) != 4 || parts[0]+"/" != Tail || parts[2] != rootKeyRecord && parts[2] != userKeyRecord {
		return "", "", false
	}
	return parts[1], parts[3], true
}
