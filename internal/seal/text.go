package seal

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
)

// Texts that others keep, such as session tokens, are not in the store and cannot
// be sealed anew when the master key changes. So they are sealed with a key of their
// own, which all replicas share and keep as a sealed secret. With the master key it is
// replaced; the one before opens what it sealed for a while.

func textKeyTail() string { return Scope().Tail("textKey") }

func textKeyType() store.Type {
	return store.Type{Name: "textKey", Schema: 1, Members: []string{"created", "secret", "before", "derive"}}
}

type textKeyBody struct {
	Created time.Time `json:"created"`
	Secret  Sealed    `json:"secret"`
	// Before are the keys before, the oldest first.
	Before []textKeyBefore `json:"before,omitempty"`
	// Derive is what keys are derived from, the first secret; nil while it is Secret.
	Derive *Sealed `json:"derive,omitempty"`
}

type textKeyBefore struct {
	Secret Sealed    `json:"secret"`
	Until  time.Time `json:"until"`
}

const (
	textKeyOwner = "text key"
	// textLife is how long a key opens texts after its end: as long as any text counts.
	textLife = 36 * time.Hour
	// textPause is how long the key before goes on sealing, until every replica has the
	// new one.
	textPause = 10 * time.Second
)

// textKeys are the keys of texts, in clear.
type textKeys struct {
	derive []byte
	now    masterKey
	since  time.Time
	before []oldKey // the oldest first
}

type oldKey struct {
	masterKey
	until time.Time
}

// sealing is the key that seals at a time.
func (k *textKeys) sealing(at time.Time) masterKey {
	if n := len(k.before); n > 0 && at.Before(k.since.Add(textPause)) {
		return k.before[n-1].masterKey
	}
	return k.now
}

// textPlace is where the key of texts is.
func textPlace() Place {
	return Place{Tail: textKeyTail(), Read: func(r store.Record) (*Content, error) {
		if r.Key != textKeyTail() {
			return nil, nil
		}
		b := new(textKeyBody)
		if err := json.Unmarshal(r.Body, b); err != nil {
			return nil, err
		}
		c := &Content{Scope: Scope(), Type: textKeyType(), Body: b, Secrets: []Slot{{textKeyOwner, &b.Secret}}}
		for n := range b.Before {
			c.Secrets = append(c.Secrets, Slot{textKeyOwner, &b.Before[n].Secret})
		}
		if b.Derive != nil {
			c.Secrets = append(c.Secrets, Slot{textKeyOwner, b.Derive})
		}
		return c, nil
	}}
}

func newTextSecret() ([]byte, error) {
	raw := make([]byte, masterKeySize)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("draw text key: %w", err)
	}
	return raw, nil
}

// LoadText reads the key of texts, and makes it when there is none yet. Before it
// was done SealText, OpenText and Derive fail; Run does it again when it is another.
func (b *Box) LoadText(ctx context.Context) error {
	fresh, err := newTextSecret()
	if err != nil {
		return err
	}
	var body textKeyBody
	_, err = b.config.Store.Update(ctx, []store.Scope{Scope()}, func(tx *store.Tx) error {
		body = textKeyBody{Created: b.config.Now().UTC().Round(0)}
		if r := tx.Record(textKeyTail()); r != nil {
			return json.Unmarshal(r.Body, &body)
		}
		var err error
		if body.Secret, err = b.Seal(tx, textKeyOwner, fresh); err != nil {
			return err
		}
		tx.PutRecord(textKeyType(), textKeyTail(), body)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read text key: %w", err)
	}
	keys, err := b.openText(body)
	if err != nil {
		return fmt.Errorf("read text key: %w", err)
	}
	b.text.Store(keys)
	return nil
}

// openText opens all of the keys of texts.
func (b *Box) openText(body textKeyBody) (*textKeys, error) {
	k := &textKeys{since: body.Created}
	var err error
	if k.derive, k.now, err = b.textKey(body.Secret); err != nil {
		return nil, err
	}
	for _, old := range body.Before {
		_, key, err := b.textKey(old.Secret)
		if err != nil {
			return nil, err
		}
		k.before = append(k.before, oldKey{key, old.Until})
	}
	if body.Derive != nil {
		if k.derive, err = b.Open(textKeyOwner, *body.Derive); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// textKey opens one of the keys of texts: what it is made of, and the key.
func (b *Box) textKey(s Sealed) ([]byte, masterKey, error) {
	raw, err := b.Open(textKeyOwner, s)
	if err != nil {
		return nil, masterKey{}, err
	}
	own, err := hkdf.Key(sha256.New, raw, nil, "evermesh texts", masterKeySize)
	if err != nil {
		return nil, masterKey{}, err
	}
	key, err := newMasterKey(own)
	return raw, key, err
}

// renewText draws another key of texts. The one before goes on to open for textLife;
// with end nothing opens that was sealed until now.
func (b *Box) renewText(ctx context.Context, end bool) error {
	fresh, err := newTextSecret()
	if err != nil {
		return err
	}
	_, err = b.config.Store.Update(ctx, []store.Scope{Scope()}, func(tx *store.Tx) error {
		r := tx.Record(textKeyTail())
		if r == nil {
			return nil
		}
		var body textKeyBody
		if err := json.Unmarshal(r.Body, &body); err != nil {
			return err
		}
		now := b.config.Now().UTC().Round(0)
		if body.Derive == nil {
			first := body.Secret
			body.Derive = &first
		}
		body.Before = append(slices.DeleteFunc(body.Before, func(old textKeyBefore) bool { return !now.Before(old.Until) }),
			textKeyBefore{body.Secret, now.Add(textLife + textPause)})
		if end {
			body.Before = nil
		}
		body.Created = now
		var err error
		if body.Secret, err = b.Seal(tx, textKeyOwner, fresh); err != nil {
			return err
		}
		tx.PutRecord(textKeyType(), textKeyTail(), body)
		return nil
	})
	if err != nil {
		return fmt.Errorf("replace text key: %w", err)
	}
	return nil
}

// noText is for who may ask again, or another replica.
func noText() error {
	return api.Errorf(api.CodeServiceUnavailable, "This replica does not have the key of sessions yet: it could not be read from the store. Try again.")
}

// SealText seals a text that others keep, such as a session token, as base64 for
// URLs. Every replica opens it for 36 hours at least, whatever becomes of the master
// key, unless Rotate was told otherwise. owner says what it is for, such as "session":
// OpenText needs the same.
func (b *Box) SealText(owner string, text []byte) (string, error) {
	keys := b.text.Load()
	if keys == nil {
		return "", noText()
	}
	s, err := keys.sealing(b.config.Now()).seal(owner, text)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.Data), nil
}

// OpenText is the inverse of SealText. What was not made by it, or for another
// owner, is an error; a key that is not there yet is an *api.Error.
func (b *Box) OpenText(owner, text string) ([]byte, error) {
	keys := b.text.Load()
	if keys == nil {
		return nil, noText()
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // which a decoder skips
		return nil, errors.New("open sealed text: it is not base64")
	}
	opened, err := keys.now.open(owner, data)
	for _, old := range keys.before {
		if err != nil && b.config.Now().Before(old.until) {
			opened, err = old.open(owner, data)
		}
	}
	return opened, err
}

// Derive makes a key of 32 bytes that all replicas have and nobody else, such as
// one by which they know each other; another purpose gives another key. It stays what
// it is when the key of texts is replaced.
func (b *Box) Derive(purpose string) ([]byte, error) {
	keys := b.text.Load()
	if keys == nil {
		return nil, noText()
	}
	return hkdf.Key(sha256.New, keys.derive, nil, "evermesh derived "+purpose, masterKeySize)
}
