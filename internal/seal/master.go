package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

const masterKeySize = 32 // AES-256

// MasterKeyError says that the master key file is absent, unreadable, or not
// the one that sealed what is stored. Its text names the setting; it is a fault
// of the configuration.
type MasterKeyError struct {
	File   string
	Reason string
}

func (e *MasterKeyError) Error() string { return "--master-key-file " + e.File + ": " + e.Reason }

// master is what the file holds: all of its keys open. Which one seals says the
// store; the first, as long as they were never changed.
type master struct {
	file string
	text string
	keys []masterKey
}

// masterKey is a key with its name in records, which tells nothing about it.
type masterKey struct {
	id   string
	line string // of the file
	aead cipher.AEAD
}

// Sealed is a secret at rest, a member of its record's body.
type Sealed struct {
	MasterKey string `json:"masterKey"`
	Data      []byte `json:"data"` // nonce and ciphertext
}

// loadMaster reads a master key file: one or two lines, each with 32 bytes in
// base64. With create a file that does not exist is made, unless it is needed:
// then something is sealed with the one that is missing.
func loadMaster(file string, create, needed bool) (*master, error) {
	text, err := os.ReadFile(file)
	switch missing := errors.Is(err, fs.ErrNotExist); {
	case missing && needed:
		return nil, &MasterKeyError{file, "no such file, and the stored access keys are sealed with the key that was in it: bring it back"}
	case missing && create:
		text, err = createMaster(file)
	}
	if err != nil {
		return nil, &MasterKeyError{file, reason(err)}
	}
	return parseMaster(file, string(text))
}

func parseMaster(file, text string) (*master, error) {
	m := &master{file: file, text: text}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(raw) != masterKeySize {
			return nil, &MasterKeyError{file, fmt.Sprintf("a line is not %d bytes in base64; head -c %d /dev/urandom | base64 makes one", masterKeySize, masterKeySize)}
		}
		k, err := newMasterKey(raw)
		if err != nil {
			return nil, fmt.Errorf("make cipher: %w", err)
		}
		k.line = line
		m.keys = append(m.keys, k)
	}
	if len(m.keys) == 0 || len(m.keys) > 2 {
		return nil, &MasterKeyError{file, fmt.Sprintf("it holds %d keys: want one, or two while they change", len(m.keys))}
	}
	return m, nil
}

// reason is a file's error without its path, which stands before it already.
func reason(err error) string {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Op + ": " + path.Err.Error()
	}
	return err.Error()
}

func createMaster(file string) ([]byte, error) {
	line, err := newMasterLine()
	if err != nil {
		return nil, err
	}
	return []byte(line), WriteFile(file, []byte(line))
}

func newMasterLine() (string, error) {
	raw := make([]byte, masterKeySize)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("draw master key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(raw) + "\n", nil
}

func newMasterKey(raw []byte) (masterKey, error) {
	block, err := aes.NewCipher(raw)
	if err != nil {
		return masterKey{}, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return masterKey{}, err
	}
	name := hmac.New(sha256.New, raw)
	name.Write([]byte("evermesh master key id"))
	return masterKey{id: hex.EncodeToString(name.Sum(nil)[:8]), aead: aead}, nil
}

// with finds a key by its id.
func (m *master) with(id string) (masterKey, error) {
	i := slices.IndexFunc(m.keys, func(k masterKey) bool { return k.id == id })
	if i < 0 {
		return masterKey{}, &MasterKeyError{m.file, fmt.Sprintf("what is stored was sealed with another master key (%s; the file holds %s): give the file that the first replica was started with, or, when the key was changed, the one that it was changed in", id, strings.Join(m.ids(), " and "))}
	}
	return m.keys[i], nil
}

func (m *master) ids() []string {
	var ids []string
	for _, k := range m.keys {
		ids = append(ids, k.id)
	}
	return ids
}

// seal seals a secret; owner is what it belongs to, so that a sealed secret
// cannot be moved to another record.
func (k masterKey) seal(owner string, secret []byte) (Sealed, error) {
	nonce := make([]byte, k.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return Sealed{}, fmt.Errorf("seal secret: %w", err)
	}
	return Sealed{MasterKey: k.id, Data: k.aead.Seal(nonce, nonce, secret, []byte(owner))}, nil
}

// open is the inverse of seal. A secret that another master key sealed is a
// *MasterKeyError.
func (m *master) open(owner string, s Sealed) ([]byte, error) {
	k, err := m.with(s.MasterKey)
	if err != nil {
		return nil, err
	}
	return k.open(owner, s.Data)
}

func (k masterKey) open(owner string, data []byte) ([]byte, error) {
	if len(data) < k.aead.NonceSize() {
		return nil, errors.New("sealed secret is too short")
	}
	nonce, text := data[:k.aead.NonceSize()], data[k.aead.NonceSize():]
	secret, err := k.aead.Open(nil, nonce, text, []byte(owner))
	if err != nil {
		return nil, fmt.Errorf("open sealed secret: %w", err)
	}
	return secret, nil
}
