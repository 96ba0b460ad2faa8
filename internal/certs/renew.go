package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/acmapi"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

const (
	// renewEvery is how often certificates are looked at.
	renewEvery = 15 * time.Second
	// retryShare is the part of what is left of a certificate's life that a failed
	// renewal waits for the next try, an hour at most.
	retryShare = 20
	retryMost  = time.Hour
	// sweepEvery is how often what has ended is removed.
	sweepEvery = time.Hour
	// kept is how long an issued certificate is kept after its end.
	kept = 30 * 24 * time.Hour
)

// Run follows the records and renews certificates, until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	var fresh sync.WaitGroup
	defer fresh.Wait()
	renewing, stop := context.WithCancel(ctx)
	defer stop()
	fresh.Go(func() { r.keepFresh(renewing) })
	return r.config.Store.WatchRecords(ctx, certsTail, func(b store.RecordBatch) error {
		r.take(b)
		return nil
	})
}

// due says whether the certificate is to be renewed: at two thirds of its life, and
// after a failed try again.
func (h *held) due(leaf *x509.Certificate, now time.Time) bool {
	if h.Type != acmapi.CertificateTypePrivate || h.Status != acmapi.CertificateStatusIssued || leaf == nil {
		return false
	}
	if now.Before(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)) {
		return false
	}
	if h.Renewal == nil || h.Renewal.Status != acmapi.RenewalStatusFailed {
		return true
	}
	pause := max(min(leaf.NotAfter.Sub(now)/retryShare, retryMost), renewEvery)
	return now.Sub(h.Renewal.Updated) >= pause
}

// keepFresh renews what is due. Every replica does; who commits first has done it,
// and the others find that it is not due any more.
func (r *Registry) keepFresh(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	var swept time.Time
	for {
		now := r.now()
		for _, h := range r.directory.due(now) {
			if err := r.renew(ctx, h, nil); err != nil && ctx.Err() == nil {
				r.config.Log.Warn("certificate was not renewed", "key", h.arn, "err", err)
			}
		}
		if now.Sub(swept) >= sweepEvery {
			if swept = now; ctx.Err() == nil {
				if err := r.sweep(ctx, now); err != nil && ctx.Err() == nil {
					r.config.Log.Warn("certificates that have ended were not removed", "err", err)
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// renew has a certificate issued anew, with another key under the same ARN. A call
// renews whether it is due or not, and learns why not; without one what goes wrong
// is kept with the certificate and logged.
func (r *Registry) renew(ctx context.Context, h *held, c *service.Call) error {
	body := *h.certificateBody
	fresh, err := r.fresh(ctx, &body)
	if err != nil {
		return err
	}
	failure := body.Failure
	if fresh == nil && c != nil {
		return api.Errorf(acmapi.CodeValidation, "Certificate %s was not renewed: %s: its certificate authority %s cannot issue.", h.arn, failure, h.Authority)
	}
	scopes := append([]store.Scope{seal.Scope()}, fresh.scopes()...)
	err = r.changeCertificate(ctx, h, scopes, func(tx *store.Tx, b *certificateBody) error {
		leaf, err := b.leaf()
		if err != nil {
			return err
		}
		now := r.now()
		if c != nil && b.Status != acmapi.CertificateStatusIssued {
			return notEligible(h.arn) // it was revoked meanwhile
		}
		if b.Status != acmapi.CertificateStatusIssued || b.Certificate != h.Certificate || c == nil && !(&held{certificateBody: b}).due(leaf, now) {
			return errNotDue
		}
		if fresh == nil {
			b.Renewal = &renewal{Status: acmapi.RenewalStatusFailed, Reason: failure, Updated: now}
			return nil
		}
		issued := b.Issued
		if err := r.settle(tx, fresh, h.tail(), b); err != nil {
			return err
		}
		b.Issued = issued // as in AWS; NotBefore tells of the renewal
		b.Renewal = &renewal{Status: acmapi.RenewalStatusSuccess, Updated: now}
		if c != nil {
			c.Commit(tx, nil)
		}
		return nil
	})
	switch {
	case errors.Is(err, errNotDue):
		return nil
	case err == nil && fresh == nil:
		r.config.Log.Error("certificate was not renewed: its authority cannot issue", "key", h.arn, "err", string(failure))
	case err == nil:
		r.config.Log.Info("certificate was renewed", "key", h.arn)
	}
	return err
}

// errNotDue says that another was first.
var errNotDue = errors.New("another replica has renewed it")

// sweep removes what has ended: issued certificates a month after their end, and
// deleted authorities when they can be restored no more, with what they issued and
// revoked.
func (r *Registry) sweep(ctx context.Context, now time.Time) error {
	gone := map[string]bool{}
	for _, a := range r.directory.forgotten(now) {
		if err := r.forget(ctx, a, now); err != nil {
			return err
		}
		gone[issuedTail+a.account+"/"+a.id+"/"] = true
	}
	records, _, err := r.config.Store.Records(ctx, issuedTail)
	if err != nil {
		return err
	}
	for _, record := range records {
		b, err := decode[issuedBody](record)
		if err != nil {
			return err
		}
		account, id, serial, ok := issuedAt(record.Key)
		if !ok || now.Before(b.NotAfter.Add(kept)) && !gone[issuedTail+account+"/"+id+"/"] {
			continue
		}
		if _, err := r.config.Store.Update(ctx, []store.Scope{issuedScope(account, id, serial)}, func(tx *store.Tx) error {
			tx.DeleteRecord(issuedType(), record.Key)
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// forget removes a deleted authority for good.
func (r *Registry) forget(ctx context.Context, a *stated, now time.Time) error {
	scope := authorityScope(a.account, a.id)
	_, err := r.config.Store.Update(ctx, []store.Scope{scope}, func(tx *store.Tx) error {
		record := tx.Record(a.tail())
		if record == nil {
			return nil
		}
		b, err := decode[authorityBody](*record)
		if err != nil || b.Restorable.IsZero() || now.Before(b.Restorable) {
			return err // it was restored
		}
		for _, x := range tx.Records(scope.Tail() + "/") {
			t := authorityType()
			switch at, _ := parseTail(x.Key); {
			case len(at.rest) > len("revoked/") && at.rest[:len("revoked/")] == "revoked/":
				t = revokedType()
			case at.rest != "authority":
				t = permissionType()
			}
			tx.DeleteRecord(t, x.Key)
		}
		return nil
	})
	return err
}
