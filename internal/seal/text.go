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
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/store"
)

// Texts that others keep, such as session tokens, are not in the store and cannot
// be sealed anew when the master key changes. So they are sealed with a key of their
// own, which all replicas share: it is drawn once and kept as a sealed secret.

func textKeyTail() string { return Scope().Tail("textKey") }

func textKeyType() store.Type {
	return store.Type{Name: "textKey", Schema: 1, Members: []string{"created", "secret"}}
}

type textKeyBody struct {
	Created time.Time `json:"created"`
	Secret  Sealed    `json:"secret"`
}

const textKeyOwner = "text key"

// textKey is that key: raw is what others are derived from.
type textKey struct {
	raw []byte
	masterKey
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
		return &Content{Scope: Scope(), Type: textKeyType(), Body: b, Secrets: []Slot{{textKeyOwner, &b.Secret}}}, nil
	}}
}

// LoadText reads the key of texts, and makes it when there is none yet. Before it
// was done SealText, OpenText and Derive fail.
func (b *Box) LoadText(ctx context.Context) error {
	fresh := make([]byte, masterKeySize)
	if _, err := rand.Read(fresh); err != nil {
		return fmt.Errorf("draw text key: %w", err)
	}
	var raw []byte
	_, err := b.config.Store.Update(ctx, []store.Scope{Scope()}, func(tx *store.Tx) error {
		if r := tx.Record(textKeyTail()); r != nil {
			var body textKeyBody
			if err := json.Unmarshal(r.Body, &body); err != nil {
				return err
			}
			var err error
			raw, err = b.Open(textKeyOwner, body.Secret)
			return err
		}
		secret, err := b.Seal(tx, textKeyOwner, fresh)
		if err != nil {
			return err
		}
		raw = fresh
		tx.PutRecord(textKeyType(), textKeyTail(), textKeyBody{Created: b.config.Now().UTC().Round(0), Secret: secret})
		return nil
	})
	if err != nil {
		return fmt.Errorf("read text key: %w", err)
	}
	own, err := hkdf.Key(sha256.New, raw, nil, "evermesh texts", masterKeySize)
	if err != nil {
		return fmt.Errorf("read text key: %w", err)
	}
	key, err := newMasterKey(own)
	if err != nil {
		return fmt.Errorf("read text key: %w", err)
	}
	b.text.Store(&textKey{raw, key})
	return nil
}

var errNoText = errors.New("the key that seals texts is not there yet: the store could not be read or written")

// SealText seals a text that others keep, such as a session token, as base64 for
// URLs. Every replica opens it, whatever becomes of the master key. owner says what
// it is for, such as "session": OpenText needs the same.
func (b *Box) SealText(owner string, text []byte) (string, error) {
	key := b.text.Load()
	if key == nil {
		return "", errNoText
	}
	s, err := key.seal(owner, text)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.Data), nil
}

// OpenText is the inverse of SealText. What was not made by it, or for another
// owner, is an error.
func (b *Box) OpenText(owner, text string) ([]byte, error) {
	key := b.text.Load()
	if key == nil {
		return nil, errNoText
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") { // which a decoder skips
		return nil, errors.New("open sealed text: it is not base64")
	}
	return key.open(owner, data)
}

// Derive makes a key of 32 bytes that all replicas have and nobody else, such as
// one by which they know each other; another purpose gives another key.
func (b *Box) Derive(purpose string) ([]byte, error) {
	key := b.text.Load()
	if key == nil {
		return nil, errNoText
	}
	return hkdf.Key(sha256.New, key.raw, nil, "evermesh derived "+purpose, masterKeySize)
}
