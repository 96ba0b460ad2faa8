package oidc

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/stsapi"
)

const (
	// fresh is how long keys are used without a look at their issuer, stale how long
	// when it does not answer: a key that an issuer took back ends after fresh.
	fresh = 5 * time.Minute
	stale = time.Hour
	// pause is how long an issuer is not asked again that had not the key that was looked
	// for, and in which it is asked twice at most: with key ids that nobody has, callers
	// could make this process ask without end. It doubles with each fetch that fails, up
	// to patience, which is the pause while what is needed is there.
	pause    = 5 * time.Second
	patience = time.Minute
	// maxIssuers bounds an account's cache, maxFetches how many of its issuers are asked
	// at once.
	maxIssuers = 100
	maxFetches = 4
)

// keys are the keys of issuers, as far as they were asked for: each account has its own,
// so that issuers that do not answer hold up nobody but who registered them.
type keys struct {
	fetcher *fetcher
	log     *slog.Logger
	now     func() time.Time

	mu       sync.Mutex
	accounts map[string]*accountKeys
}

// accountKeys are those of an account.
type accountKeys struct {
	*keys
	slots   chan struct{}      // one for each fetch that runs
	issuers map[string]*issuer // guarded by keys.mu
}

// of finds those of an account that has registered an issuer.
func (k *keys) of(account string) *accountKeys {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := k.accounts[account]
	if a == nil {
		a = &accountKeys{keys: k, slots: make(chan struct{}, maxFetches), issuers: map[string]*issuer{}}
		k.accounts[account] = a
	}
	return a
}

// issuer is one issuer's keys. asking holds one token, for the one that fetches them:
// who has a key meanwhile does not wait.
type issuer struct {
	asking chan struct{}

	// Guarded by keys.mu.
	keys    []jose.JSONWebKey
	fetched time.Time // with success
	tried   time.Time
	before  time.Time // the try before that
	vain    time.Time // the last try that did not bring what was looked for
	failed  int       // fetches since the last success
	used    time.Time
}

func newKeys(c Config) *keys {
	return &keys{
		fetcher: &fetcher{caFile: c.CAFile}, log: c.Log, now: c.Now,
		accounts: map[string]*accountKeys{},
	}
}

// find finds the key of an issuer that a token names, and asks the issuer when it is
// not known, or when what is known has become old.
func (k *accountKeys) find(ctx context.Context, name, id, algorithm string) (*jose.JSONWebKey, error) {
	i := k.issuer(name)
	key, due := k.look(i, id, algorithm)
	if key != nil && !due {
		return key, nil
	}
	select {
	case i.asking <- struct{}{}:
	default:
		if key != nil {
			return key, nil // somebody else renews them
		}
		select {
		case i.asking <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer func() { <-i.asking }()
	// Who held it before may have brought what is looked for.
	if key, due = k.look(i, id, algorithm); due {
		if err := k.fetch(ctx, i, name); err != nil {
			return nil, err
		}
		if key, _ = k.look(i, id, algorithm); key == nil {
			k.inVain(i)
		}
	}
	if key != nil {
		return key, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.old(i) || i.failed > 0 { // it may be a new key: clients try again after this
		return nil, api.Errorf(stsapi.CodeIDPCOmmunicationError, "The keys of identity provider %s could not be fetched: the log of the control plane says why.", shown(name))
	}
	return nil, invalid("Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements")
}

// look finds a key among those that are known and not too old, and says whether its
// issuer is to be asked.
func (k *accountKeys) look(i *issuer, id, algorithm string) (key *jose.JSONWebKey, due bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if !k.old(i) {
		key = pick(i.keys, id, algorithm)
	}
	switch {
	case key != nil: // there is no hurry
		return key, now.Sub(i.tried) >= patience && now.Sub(i.fetched) >= fresh
	case i.failed > 0:
		return nil, now.Sub(i.tried) >= min(pause<<min(i.failed-1, 8), patience)
	}
	return nil, now.Sub(i.vain) >= pause && now.Sub(i.before) >= pause
}

// inVain notes that the fetch of now did not bring what was looked for.
func (k *keys) inVain(i *issuer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	i.vain = i.tried
}

// old says whether the keys are nothing to go by; mu is held.
func (k *keys) old(i *issuer) bool { return k.now().Sub(i.fetched) >= stale }

// fetch asks the issuer; what is known stays when it does not answer. The caller holds
// the token of asking.
func (k *accountKeys) fetch(ctx context.Context, i *issuer, name string) error {
	select {
	case k.slots <- struct{}{}:
		defer func() { <-k.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	// The caller may leave, but others wait for the answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchWait)
	defer cancel()
	got, err := k.fetcher.fetch(ctx, name)
	k.mu.Lock()
	defer k.mu.Unlock()
	i.before, i.tried = i.tried, k.now()
	if err != nil {
		i.failed++
		k.log.Warn("keys of an identity provider could not be fetched", "key", shown(name), "err", err)
		return nil
	}
	i.keys, i.fetched, i.failed = got, i.tried, 0
	return nil
}

// issuer finds an issuer's place in the cache; the one that was not used for the
// longest time makes room.
func (k *accountKeys) issuer(name string) *issuer {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := k.issuers[name]
	if i == nil {
		if len(k.issuers) >= maxIssuers {
			oldest := ""
			for n, other := range k.issuers {
				if oldest == "" || other.used.Before(k.issuers[oldest].used) {
					oldest = n
				}
			}
			delete(k.issuers, oldest)
		}
		i = &issuer{asking: make(chan struct{}, 1)}
		k.issuers[name] = i
	}
	i.used = k.now()
	return i
}

// pick finds the key with that id that is meant for the algorithm. A token without a
// key id is accepted when there is no choice.
func pick(keys []jose.JSONWebKey, id, algorithm string) *jose.JSONWebKey {
	if id == "" && len(keys) != 1 {
		return nil
	}
	for n := range keys {
		key := &keys[n]
		if (id == "" || key.KeyID == id) && (key.Algorithm == "" || key.Algorithm == algorithm) && fits(key.Key, algorithm) {
			return key
		}
	}
	return nil
}
