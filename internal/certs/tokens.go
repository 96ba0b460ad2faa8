package certs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api/pcaapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// How long idempotency tokens hold, by the reference of either service.
const (
	acmTokens = time.Hour
	pcaTokens = 5 * time.Minute
)

// repeat is a call that may be one: what its idempotency token was answered with.
type repeat struct {
	key      string // of the token; empty when the call has none
	replaces int64  // the token that does not hold any more, by its revision
	arn      string // the answer; empty when the call is a new one
}

// claimed is what is kept with a token.
type claimed struct {
	ARN string    `json:"arn"`
	At  time.Time `json:"at"`
}

// before finds what a call's idempotency token was answered with, so that no key is
// drawn in vain.
func (r *Registry) before(ctx context.Context, c *service.Call, token string) (repeat, error) {
	key, err := tokenKey(c, token)
	if err != nil || key == "" {
		return repeat{}, err
	}
	t, err := r.config.Store.Token(ctx, key)
	if err != nil {
		return repeat{}, err
	}
	if t == nil {
		t = &store.Token{Key: key}
	}
	return r.repeat(ctx, c, *t)
}

// repeat says whether a token holds: for its time, and as long as what it was answered
// with is there.
func (r *Registry) repeat(ctx context.Context, c *service.Call, t store.Token) (repeat, error) {
	out := repeat{key: t.Key, replaces: t.Revision}
	if t.Revision == 0 {
		return out, nil
	}
	var was claimed
	if err := json.Unmarshal(t.Result, &was); err != nil {
		return out, fmt.Errorf("read what a token was answered with: %w", err)
	}
	life := acmTokens
	if c.Service.Prefix == "acm-pca" {
		life = pcaTokens
	}
	if r.now().Sub(was.At) >= life {
		return out, nil
	}
	there, err := r.Exists(ctx, was.ARN)
	if there {
		out.arn = was.ARN
	}
	return out, err
}

// once makes a call idempotent: it is done once for its token and its input, and
// repeats are answered with the same ARN. run writes in a transaction of its scopes and
// returns the ARN.
func (r *Registry) once(ctx context.Context, c *service.Call, call repeat, scopes []store.Scope, run func(tx *store.Tx) (arn string, err error)) (string, error) {
	for {
		var arn string
		_, err := r.config.Store.Update(ctx, scopes, func(tx *store.Tx) error {
			var err error
			if arn, err = run(tx); err != nil || call.key == "" {
				return err
			}
			result, err := json.Marshal(claimed{arn, r.now()})
			if err == nil {
				tx.Claim(store.Token{Key: call.key, Result: result, Revision: call.replaces})
			}
			return err
		})
		taken, ok := errors.AsType[*store.TokenTaken](err)
		if !ok {
			return arn, err
		}
		if call, err = r.repeat(ctx, c, taken.Token); err != nil || call.arn != "" {
			return call.arn, err
		}
	}
}

// tokenKey is where a call's idempotency token is kept; empty for none. The input is in
// it: AWS says nothing of a token that comes with another input, and has no error for
// it, so that is another call.
func tokenKey(c *service.Call, token string) (string, error) {
	if token == "" {
		return "", nil
	}
	input, err := json.Marshal(c.Input)
	if err != nil {
		return "", fmt.Errorf("encode input: %w", err)
	}
	sum := sha256.Sum256([]byte(c.Principal.Account + "\n" + c.Operation + "\n" + token + "\n" + string(input)))
	return c.Service.Prefix + "-" + hex.EncodeToString(sum[:]), nil
}

// Exists says whether what an ARN names is there: a certificate of ACM, an authority that
// was not deleted, or a certificate that one issued. What is none of these ARNs is not.
func (r *Registry) Exists(ctx context.Context, arn string) (bool, error) {
	if account, path, ok := r.arnOf("acm", arn); ok {
		if len(path) != 2 || path[0] != "certificate" || uuid.Validate(path[1]) != nil {
			return false, nil
		}
		h, err := r.certificateAt(ctx, account, path[1])
		return h != nil, err
	}
	account, path, ok := r.arnOf("acm-pca", arn)
	if !ok || len(path) < 2 || path[0] != "certificate-authority" || uuid.Validate(path[1]) != nil {
		return false, nil
	}
	a, err := r.authorityAt(ctx, account, path[1])
	switch {
	case err != nil || a == nil:
		return false, err
	case len(path) == 2:
		return a.Status != pcaapi.CertificateAuthorityStatusDeleted, nil
	case len(path) != 4 || path[2] != "certificate":
		return false, nil
	}
	b, err := r.issuedAt(ctx, a, path[3])
	return b != nil, err
}
