package iam

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/store"
)

// Guards are the operator's policies on a whole account: as service control policies
// of AWS Organizations, they bound what its users, its roles and its root may do, and
// give nothing (IAM-015). The record is account/<id>/guard.

const guardRecord = "guard"

func guardTail(account string) string { return store.AccountScope(account).Tail(guardRecord) }

func guardType() store.Type {
	return store.Type{Name: guardRecord, Schema: 1, Members: []string{"policies", "updated"}}
}

type guardBody struct {
	Policies []string  `json:"policies"`
	Updated  time.Time `json:"updated"`
}

// guardsPerAccount is as many as AWS attaches to an account.
const guardsPerAccount = 5

// Guard makes the policies, JSON texts, the guards of an account in place of those
// before; none take them away. Every replica goes by them within a second. A text that
// is no policy is a BadRequestException, as is an account that is not 12 digits; one
// that does not exist is a NotFoundException.
func (k *Keys) Guard(ctx context.Context, account string, policies []string) error {
	if !accountForm.MatchString(account) {
		return api.Errorf(api.CodeBadRequest, "%q is not an account: want 12 digits.", account)
	}
	if len(policies) > guardsPerAccount {
		return api.Errorf(api.CodeBadRequest, "An account may have up to %d guards.", guardsPerAccount)
	}
	for i, text := range policies {
		d, err := policy.Parse(text)
		if err == nil {
			err = d.ForIdentity()
		}
		if err != nil {
			return api.Errorf(api.CodeBadRequest, "Guard %d is no policy: %v", i+1, err)
		}
	}
	_, err := k.config.Store.Update(ctx, []store.Scope{store.AccountScope(account)}, func(tx *store.Tx) error {
		switch {
		case tx.Record(accountTail(account)) == nil:
			return api.Errorf(api.CodeNotFound, "Account %s does not exist.", account)
		case len(policies) > 0:
			tx.PutRecord(guardType(), guardTail(account), guardBody{Policies: policies, Updated: k.config.Now().UTC().Round(0)})
		case tx.Record(guardTail(account)) != nil:
			tx.DeleteRecord(guardType(), guardTail(account))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("guard account %s: %w", account, err)
	}
	return nil
}

// Guards are the texts of an account's guards, as the store has them now.
func (k *Keys) Guards(ctx context.Context, account string) ([]string, error) {
	f := &fresh{ctx: ctx, store: k.config.Store}
	b, err := read[guardBody](f, guardTail(account))
	if err = firstOf(f.err, err); err != nil || b == nil {
		return nil, err
	}
	return b.Policies, nil
}

// learnGuards takes the record of an account's guards in. One that cannot be read
// lets nothing through.
func learnGuards(account string, r store.Record) []*document {
	var b guardBody
	if json.Unmarshal(r.Body, &b) != nil {
		b.Policies = []string{denyAll}
	}
	var out []*document
	for i, text := range b.Policies {
		out = append(out, &document{source: source{fromInput, fmt.Sprintf("guard %d of account %s", i+1, account)}, text: text})
	}
	return out
}
