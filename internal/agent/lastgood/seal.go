package lastgood

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// What must not be read off a disk is sealed: a random key opens it, and that key lies beside it once for each thing
// that proves who the agent is, sealed with a key derived from that. Whoever can open it could ask the control plane
// for the same. The seal is bound to all of the file, so that it says as well who wrote it; it is there when there is no
// secret, too.

const (
	keyBytes  = 32
	sealLabel = "evermesh last good configuration"
	// mostSlots bounds the ways to open a file.
	mostSlots = 8
)

var (
	errSealed = errors.New("sealed by another identity, or changed")
	errBare   = errors.New("it is not sealed, and this agent has a key: somebody else wrote it, or the agent before it had none")
	errNoKey  = errors.New("nothing is there to prove it by")
)

// prove is c with its secrets, when one of the keys' owners wrote it. Without keys it is c, unproven; so it is with none that
// opens it, where identities rotate and an absence may have outlasted one, unless strict.
func (c *configuration) prove(keys [][]byte, strict bool) (*configuration, error) {
	switch {
	case len(keys) == 0 && strict:
		return nil, errNoKey
	case len(keys) == 0:
		return c, nil
	case len(c.sealed) == 0:
		return nil, errBare
	}
	whole, err := c.open(keys)
	if errors.Is(err, errSealed) && !strict {
		return c, nil
	}
	return whole, err
}

// secret says whether something in it is to be sealed.
func (c *configuration) secret() bool {
	for _, r := range c.kinds[secretType].resources {
		if sensitive(r.any) {
			return true
		}
	}
	return false
}

// sensitive says whether an encoded Any with an envoy.extensions.transport_sockets.tls.v3.Secret holds what must not be
// read off a disk. Certificates in files, of which it has the paths, and authorities are none; what is not understood is.
func sensitive(encoded []byte) bool {
	safe := true
	check := func(err error) error {
		safe = safe && err == nil
		return nil
	}
	err := fields(encoded, func(n protowire.Number, secret []byte) error {
		if n != 2 {
			return nil
		}
		return fields(secret, func(n protowire.Number, v []byte) error {
			switch n {
			case 1, 4: // name, validation context
				return nil
			case 2: // TLS certificate
				return check(fields(v, certificateField))
			}
			return check(errSealed)
		})
	})
	return err != nil || !safe
}

// certificateField is an error for a field of a TlsCertificate that holds something secret.
func certificateField(n protowire.Number, v []byte) error {
	switch n {
	case 1, 4, 5, 7: // chain, OCSP staple, timestamps, watched directory
		return nil
	case 2, 3: // private key, password
		return fields(v, func(n protowire.Number, source []byte) error {
			if n == 1 || n == 4 || len(source) == 0 { // a path, a variable's name
				return nil
			}
			return errSealed
		})
	}
	return errSealed
}

// seal seals plain for whoever has one of the keys; bound is what it belongs to.
func seal(plain, bound []byte, keys [][]byte) ([]byte, error) {
	salt, inner := make([]byte, keyBytes), make([]byte, keyBytes)
	_, _ = rand.Read(salt) // never fails
	_, _ = rand.Read(inner)
	out := appendBytes(nil, 1, salt)
	for _, key := range keys[:min(len(keys), mostSlots)] {
		box, err := derived(key, salt)
		if err != nil {
			return nil, err
		}
		out = appendBytes(out, 2, box.Seal(nil, nil, inner, bound))
	}
	box, err := boxOf(inner)
	if err != nil {
		return nil, err
	}
	return appendBytes(out, 3, box.Seal(nil, nil, plain, bound)), nil
}

// unseal is the way back.
func unseal(sealed, bound []byte, keys [][]byte) ([]byte, error) {
	var salt, content []byte
	var slots [][]byte
	err := fields(sealed, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			salt = v
		case 2:
			slots = append(slots, v)
		case 3:
			content = v
		}
		return nil
	})
	if err != nil || len(slots) > mostSlots {
		return nil, errMessage
	}
	for _, key := range keys {
		box, err := derived(key, salt)
		if err != nil {
			return nil, err
		}
		for _, slot := range slots {
			inner, err := box.Open(nil, nil, slot, bound)
			if err != nil {
				continue
			}
			if box, err = boxOf(inner); err != nil {
				return nil, err
			}
			plain, err := box.Open(nil, nil, content, bound)
			if err != nil {
				return nil, fmt.Errorf("open secrets: %w", err)
			}
			return plain, nil
		}
	}
	return nil, errSealed
}

func derived(key, salt []byte) (cipher.AEAD, error) {
	out, err := hkdf.Key(sha256.New, key, salt, sealLabel, keyBytes)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return boxOf(out)
}

func boxOf(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make box: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// fingerprint tells keys apart, in memory only.
func fingerprint(keys [][]byte) string {
	h := sha256.New()
	for _, key := range keys {
		_, _ = h.Write(protowire.AppendBytes(nil, key)) // never fails
	}
	return string(h.Sum(nil))
}
