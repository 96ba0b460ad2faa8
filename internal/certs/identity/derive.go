package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"time"
)

const (
	// life is how long an identity is valid, from its slot's beginning on; half is a
	// slot: then there is another one.
	life = 24 * time.Hour
	half = life / 2
	// skew is how long before that it is valid already.
	skew = time.Hour
)

// slot is the time in which a client has one certificate: its number and its
// beginning. Each client's slots begin at a moment of their own, so that not all of
// them change at once.
func slot(id string, now time.Time) (n int64, from time.Time) {
	sum := sha256.Sum256([]byte(id))
	phase := int64(binary.BigEndian.Uint64(sum[:8]) % uint64(half/time.Second))
	length := int64(half / time.Second)
	n = (now.Unix() - phase) / length
	return n, time.Unix(n*length+phase, 0).UTC()
}

// keyOf derives a key of P-256 for a purpose.
func keyOf(secret []byte, purpose string) (crypto.Signer, error) {
	for try := range 100 { // one of 2^32 does not do
		raw, err := hkdf.Key(sha256.New, secret, nil, fmt.Sprintf("key %s %d", purpose, try), 32)
		if err != nil {
			return nil, fmt.Errorf("derive key: %w", err)
		}
		if key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw); err == nil {
			return steady{key}, nil
		}
	}
	return nil, fmt.Errorf("derive key for %s: none is one", purpose)
}

// serialOf derives a serial number of 16 bytes for a purpose.
func serialOf(secret []byte, purpose string) *big.Int {
	sum := hmac.New(sha256.New, secret)
	sum.Write([]byte("serial " + purpose))
	raw := sum.Sum(nil)[:16]
	raw[0] = raw[0]&0x7f | 0x40
	return new(big.Int).SetBytes(raw)
}

// steady signs the same in the same way each time (RFC 6979), so that replicas make
// the same certificate.
type steady struct{ *ecdsa.PrivateKey }

// Sign satisfies crypto.Signer.
func (s steady) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(nil, digest, opts)
}
