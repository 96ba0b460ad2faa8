package certs

import (
	"context"
	"crypto/x509"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/certs/authority"
	"github.com/evermesh/evermesh/internal/store"
)

// directory is what is known of the records, as the watch told last: what proxies
// are answered from. Keys stay sealed in it.
type directory struct {
	lists lists

	mu           sync.Mutex
	loaded       bool
	authorities  map[string]*stated // by ARN
	certificates map[string]*held
	leaves       map[string]*x509.Certificate
	followers    map[*follower]bool
	signers      map[string]Signer // whose keys were opened, by ARN
}

// follower is somebody who is told what changed; what is not yet told is kept once
// for each ARN, so that it is bounded by what there is.
type follower struct {
	changed map[string]bool
	wake    chan struct{}
}

func (d *directory) init() {
	d.authorities, d.certificates = map[string]*stated{}, map[string]*held{}
	d.leaves, d.followers = map[string]*x509.Certificate{}, map[*follower]bool{}
	d.signers = map[string]Signer{}
}

// everything stands for all ARNs in what followers are told.
const everything = ""

// take learns what the watch has told.
func (r *Registry) take(b store.RecordBatch) {
	d := &r.directory
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.Reset {
		d.authorities, d.certificates, d.leaves = map[string]*stated{}, map[string]*held{}, map[string]*x509.Certificate{}
		d.loaded = true
		d.tell(everything)
	}
	for _, tail := range b.Gone {
		if at, ok := parseTail(tail); ok {
			arn := r.arnAt(at)
			delete(d.authorities, arn)
			delete(d.certificates, arn)
			delete(d.leaves, arn)
			delete(d.signers, arn)
			d.tell(arn)
		}
	}
	for _, record := range b.Records {
		r.learn(record)
	}
}

// arnAt is the ARN of an authority's or certificate's own record; of others "-",
// which is none.
func (r *Registry) arnAt(at place) string {
	switch {
	case at.kind == "authority" && at.rest == "authority":
		return r.arn("acm-pca", at.account, "certificate-authority/"+at.id)
	case at.kind == "certificate":
		return r.arn("acm", at.account, "certificate/"+at.id)
	}
	return "-"
}

// learn takes one record; the directory's mu is held.
func (r *Registry) learn(record store.Record) {
	d := &r.directory
	at, ok := parseTail(record.Key)
	if !ok {
		return
	}
	arn := r.arnAt(at)
	switch {
	case at.kind == "authority" && at.rest == "authority":
		b, err := decode[authorityBody](record)
		if err != nil {
			r.config.Log.Warn("certificate authority cannot be read and is left out", "key", arn, "err", err)
			return
		}
		d.authorities[arn] = &stated{arn, at.account, at.id, b, record.Revision}
	case at.kind == "certificate":
		b, err := decode[certificateBody](record)
		var leaf *x509.Certificate
		if err == nil {
			leaf, err = b.leaf()
		}
		if err != nil {
			r.config.Log.Warn("certificate cannot be read and is left out", "key", arn, "err", err)
			return
		}
		d.certificates[arn] = &held{arn, at.account, at.id, b}
		d.leaves[arn] = leaf
	default:
		return
	}
	d.tell(arn)
}

// tell is called with mu held.
func (d *directory) tell(arn string) {
	for f := range d.followers {
		f.changed[arn] = true
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// Follow calls changed with each certificate and authority that is another, until
// ctx ends. It satisfies secrets.Issuer.
func (r *Registry) Follow(ctx context.Context, changed func(arn string)) error {
	d := &r.directory
	f := &follower{changed: map[string]bool{}, wake: make(chan struct{}, 1)}
	d.mu.Lock()
	d.followers[f] = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.followers, f)
		d.mu.Unlock()
	}()
	for {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		d.mu.Lock()
		news := f.changed
		f.changed = map[string]bool{}
		d.mu.Unlock()
		if news[everything] {
			changed(everything)
			continue
		}
		for arn := range news {
			changed(arn)
		}
	}
}

// authority is what is known of one; nil when it is not known.
func (r *Registry) authority(arn string) *stated {
	r.directory.mu.Lock()
	defer r.directory.mu.Unlock()
	return r.directory.authorities[arn]
}

// certificate is what is known of one, with the certificate itself.
func (r *Registry) certificate(arn string) (*held, *x509.Certificate) {
	r.directory.mu.Lock()
	defer r.directory.mu.Unlock()
	return r.directory.certificates[arn], r.directory.leaves[arn]
}

// rootOf is the last certificate of a chain, in PEM: the root, where the chain has
// it.
func rootOf(chain string) ([]byte, error) {
	all, err := authority.ParseCertificates([]byte(chain))
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return authority.PEM(all[len(all)-1].Raw), nil
}

// due are the certificates that are to be renewed at that time.
func (d *directory) due(now time.Time) []*held {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*held
	for arn, h := range d.certificates {
		if h.due(d.leaves[arn], now) {
			out = append(out, h)
		}
	}
	return out
}

// forgotten are the authorities whose time to be restored is over.
func (d *directory) forgotten(now time.Time) []*stated {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*stated
	for _, a := range d.authorities {
		if !a.Restorable.IsZero() && now.After(a.Restorable) {
			out = append(out, a)
		}
	}
	return out
}
