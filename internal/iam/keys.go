package iam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/store"
)

// Config is what Open needs; all of it but CredentialsFile is required.
type Config struct {
	Store *store.Store
	// Partition is that of ARNs: aws.
	Partition string
	// Account is the first account, 12 digits; it is made with its root key
	// when the store does not have it.
	Account string
	// MasterKeyFile holds the key that seals secrets; see --master-key-file.
	MasterKeyFile string
	// CreateMasterKey lets Open make that file while nothing is sealed yet: for
	// an embedded store, whose only replica this is.
	CreateMasterKey bool
	// CredentialsFile gets the root key of Account, now and whenever it is
	// another; empty writes none.
	CredentialsFile string
	// Replica names the one that runs Keys among others.
	Replica string
	Log     *slog.Logger
	Now     func() time.Time
}

// Keys answers for access keys; it is an auth.Keys. A key that another replica
// made or revoked is known as soon as the store's watch tells, within a second, and
// what was made before anybody is refused for the want of it (package catchup); while the
// store cannot be reached, what was known goes on.
type Keys struct {
	config Config
	box    *seal.Box

	mu       sync.RWMutex
	known    map[string]credential // by access key id
	accounts map[string]bool
	root     string // access key id of Account's root

	builtin   map[string]*builtin
	directory *Directory
	used      *lastUsed

	writing sync.Mutex // the credentials file: what is known last is written last
}

// credential is what is known of an access key; err is why its secret cannot be
// read from its record.
type credential struct {
	AccessKey
	account string
	// user is the unique id of whose key it is, empty for a root; inactive is one
	// that is refused.
	user     string
	inactive bool
	record   store.Record
	err      error
}

// Open reads all keys, makes the first account if need be and writes the
// credentials file. A master key that does not open the first account's root key
// is a *seal.MasterKeyError; what else it does not open is logged, and refused when it
// is used.
func Open(ctx context.Context, c Config) (*Keys, error) {
	if !accountForm.MatchString(c.Account) {
		return nil, fmt.Errorf("open keys: %q is not an account: want 12 digits", c.Account)
	}
	k, err := Manage(ctx, c)
	if err != nil {
		return nil, err
	}
	root, _, err := k.ensure(ctx, c.Account)
	if err != nil {
		return nil, err
	}
	if err := k.box.LoadText(ctx); err != nil {
		// Where the store takes no writes, and where that key alone is damaged, what
		// is there is served all the same (D3).
		c.Log.Error("sessions cannot be made or used here", "err", err)
	}
	if c.CredentialsFile == "" {
		return k, nil
	}
	if err := WriteCredentials(c.CredentialsFile, c.Account, root); err != nil {
		return nil, fmt.Errorf("write credentials: %w", err)
	}
	return k, nil
}

// Manage is Open for who changes accounts of a control plane that exists: it
// makes none and writes no file.
func Manage(ctx context.Context, c Config) (*Keys, error) {
	records, revision, err := c.Store.Records(ctx, Tail)
	if err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	all, err := builtins()
	if err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	k := &Keys{
		config: c, known: map[string]credential{}, accounts: map[string]bool{}, builtin: all,
		directory: newDirectory(c.Partition, all, c.Log), used: newLastUsed(),
	}
	k.box, err = seal.Open(seal.Config{
		Store: c.Store, MasterKeyFile: c.MasterKeyFile, CreateMasterKey: c.CreateMasterKey, Sealed: len(records) > 0,
		Replica: c.Replica, Log: c.Log, Now: c.Now, Changed: k.reopened,
	})
	if err != nil {
		return nil, err
	}
	refused := k.take(store.RecordBatch{Reset: true, Records: records, Revision: revision})
	if err := k.fits(refused); err != nil {
		return nil, err
	}
	k.warn(refused)
	return k, nil
}

// fits says whether the master key is the one of what is stored: it has to open
// the root key of the first account or, where that is not stored, any key.
func (k *Keys) fits(refused []credential) error {
	if root, ok := k.known[k.root]; ok {
		return root.err
	}
	if len(refused) > 0 && len(refused) == len(k.known) {
		return refused[0].err
	}
	return nil
}

func (k *Keys) warn(refused []credential) {
	for _, c := range refused {
		k.config.Log.Error("access key cannot be read and is refused", "key", c.ID, "err", c.err)
	}
}

// Credential finds the credential of an access key, from memory. It satisfies
// auth.Keys.
func (k *Keys) Credential(_ context.Context, accessKeyID, _ string) (auth.Credential, bool, error) {
	k.mu.RLock()
	c, ok := k.known[accessKeyID]
	k.mu.RUnlock()
	switch {
	case !ok:
		return auth.Credential{}, false, nil
	case c.err != nil:
		return auth.Credential{}, false, c.err
	}
	p := Root(k.config.Partition, c.account)
	if c.user != "" {
		arn, there := k.directory.byID(c.account, c.user)
		if !there || c.inactive {
			return auth.Credential{}, false, nil
		}
		p = auth.Principal{Account: c.account, ARN: arn, Type: auth.User, ID: c.user}
	}
	p.AccessKeyID = accessKeyID
	return auth.Credential{Secret: c.Secret, Principal: p}, true, nil
}

// Fresh returns when what is known of accounts is at least as new as the store was when
// it was called; otherwise, and while the store cannot be reached, it refuses.
func (k *Keys) Fresh(ctx context.Context, accounts ...string) error {
	for _, account := range accounts {
		head, err := k.config.Store.HeadOf(ctx, store.AccountScope(account))
		if err != nil {
			return api.Errorf(api.CodeServiceUnavailable, "This replica cannot reach its store: ask another.")
		}
		if !k.directory.wait(ctx, head) {
			return api.Errorf(api.CodeServiceUnavailable, "This replica is behind its store: ask another.")
		}
	}
	return nil
}

// Root is the root of an account, who may do everything in it.
func Root(partition, account string) auth.Principal {
	return auth.Principal{Account: account, ARN: "arn:" + partition + ":iam::" + account + ":root", Type: auth.Root, ID: account}
}

// Run follows the store and the master key file until ctx ends, and returns its
// error.
func (k *Keys) Run(ctx context.Context) error {
	var file sync.WaitGroup
	defer file.Wait()
	following, stop := context.WithCancel(ctx)
	defer stop()
	file.Go(func() { k.box.Run(following) })
	file.Go(func() { k.writeUsed(following) })
	defer k.directory.follows(false)
	return k.config.Store.WatchRecords(ctx, Tail, func(b store.RecordBatch) error {
		k.warn(k.take(b))
		if b.Reset {
			k.directory.follows(true)
		}
		k.refreshCredentials()
		return nil
	})
}

// take learns what the watch has told, a batch at once. Only the watch says
// which keys there are, so that nothing older comes after something newer. A key
// that cannot be opened is refused when it is used, and returned; the others go
// on.
func (k *Keys) take(b store.RecordBatch) (refused []credential) {
	defer k.directory.take(b) // last: whoever waits for it finds the keys too
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.known
	if b.Reset {
		k.known, k.accounts = make(map[string]credential, len(b.Records)), map[string]bool{}
	}
	for _, tail := range b.Gone {
		if _, id, ok := parseKeyTail(tail); ok {
			delete(k.known, id)
		}
	}
	for _, r := range b.Records {
		k.note(r)
		if _, id, ok := parseKeyTail(r.Key); ok {
			c := better(before[id], k.read(r))
			if c.err != nil {
				refused = append(refused, c)
			}
			k.known[id] = c
		}
	}
	return refused
}

// better is what a key is known as from now on. A secret never changes: when it
// was sealed anew with a master key that is not here yet, what is known stays.
func better(before, c credential) credential {
	if before.ID == c.ID && c.err != nil && before.err == nil && before.account == c.account {
		if _, ok := errors.AsType[*seal.MasterKeyError](c.err); ok {
			return before
		}
	}
	return c
}

// reopen tries the keys again that could not be read: the master key is another.
// Which keys there are it leaves to the watch.
func (k *Keys) reopen() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, c := range k.known {
		if c.err != nil {
			k.known[id] = k.read(c.record)
		}
	}
}

// reopened is told of another master key.
func (k *Keys) reopened() {
	k.reopen()
	k.refreshCredentials()
}

// Box is what seals the secrets of the keys, for others that have some.
func (k *Keys) Box() *seal.Box { return k.box }

// Place is where the keys are, for the change of the master key.
func Place() seal.Place {
	return seal.Place{Tail: Tail, Read: func(r store.Record) (*seal.Content, error) {
		account, id, ok := parseKeyTail(r.Key)
		if !ok {
			return nil, nil
		}
		b := new(keyBody)
		if err := json.Unmarshal(r.Body, b); err != nil {
			return nil, fmt.Errorf("read access key %s: %w", id, err)
		}
		kind := keyType()
		if b.User != "" {
			kind = userKeyType()
		}
		return &seal.Content{
			Scope: store.AccountScope(account), Type: kind, Body: b, Secrets: []seal.Slot{{Owner: owner(account, id), Sealed: &b.Secret}},
		}, nil
	}}
}

func (k *Keys) learn(c credential) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known[c.ID] = c
}

// note remembers which key is the root of the first account; mu is held.
func (k *Keys) note(r store.Record) {
	if account, kind, _, ok := parseTail(r.Key); ok && kind == "account" {
		k.accounts[account] = true
	}
	var b accountBody
	if r.Key == accountTail(k.config.Account) && json.Unmarshal(r.Body, &b) == nil {
		k.root = b.RootKey
	}
}

// refreshCredentials writes the credentials file when the root key is another.
func (k *Keys) refreshCredentials() {
	if k.config.CredentialsFile == "" {
		return
	}
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.RLock()
	c, ok := k.known[k.root]
	k.mu.RUnlock()
	if !ok || c.err != nil {
		return
	}
	if err := WriteCredentials(k.config.CredentialsFile, k.config.Account, c.AccessKey); err != nil {
		k.config.Log.Error("credentials file was not written", "err", err)
	}
}
