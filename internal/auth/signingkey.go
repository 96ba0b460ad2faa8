package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"sync"
)

// maxSigningKeys bounds the cache: 4,096 access keys at work on one day, at
// about 300 bytes each.
const maxSigningKeys = 4096

// signingKeys keeps the keys that access keys sign with on one day in one region
// for one service. The zero value is empty and ready.
type signingKeys struct {
	mu   sync.Mutex
	keys map[signingKeyID]signingKey
}

type signingKeyID struct {
	accessKeyID string
	scope       scope
}

type signingKey struct {
	secret Secret // the key was derived from; it may have been replaced since
	key    []byte
}

func (c *signingKeys) get(accessKeyID string, s scope, secret Secret) (key []byte, found bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, found := c.keys[signingKeyID{accessKeyID, s}]
	if !found || k.secret != secret {
		return nil, false
	}
	return k.key, true
}

// put keeps a key. A full cache starts anew: it fills once a day, when the old
// day's keys are worthless anyway.
func (c *signingKeys) put(accessKeyID string, s scope, secret Secret, key []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys == nil || len(c.keys) >= maxSigningKeys {
		c.keys = map[signingKeyID]signingKey{}
	}
	c.keys[signingKeyID{accessKeyID, s}] = signingKey{secret: secret, key: key}
}

// derive makes the signing key of a secret for a scope.
func derive(secret Secret, s scope) []byte {
	key := []byte("AWS4" + string(secret))
	for _, part := range []string{s.date, s.region, s.service, terminator} {
		key = mac(key, part)
	}
	return key
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
