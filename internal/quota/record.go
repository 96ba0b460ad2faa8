package quota

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api/quotasapi"
	"github.com/evermesh/evermesh/internal/store"
)

const (
	signingName = "servicequotas"
	// tail is where the records of all accounts are.
	tail = "service/" + signingName + "/"
)

// The two kinds of records of an account: what a quota is, and who asked for more.
var (
	valueType   = store.Type{Name: "quotaValue", Schema: 1, Members: []string{"set", "granted"}}
	requestType = store.Type{Name: "quotaRequest", Schema: 1, Members: []string{"id", "code", "desired", "status", "created", "updated", "requester"}}
)

// mostRequests is how many answered requests of an account are kept.
const mostRequests = 200

// request is that of an account for more.
type request struct {
	ID        string                  `json:"id"`
	Code      string                  `json:"code"`
	Desired   int                     `json:"desired"`
	Status    quotasapi.RequestStatus `json:"status"`
	Created   time.Time               `json:"created"`
	Updated   time.Time               `json:"updated"`
	Requester string                  `json:"requester"` // an ARN
}

func (r request) open() bool { return r.Status == quotasapi.RequestStatusPending }

func scope(account string) store.Scope { return store.ServiceScope(signingName, account) }

func valueTail(account, code string) string { return scope(account).Tail("value", code) }
func requestTail(account, id string) string { return scope(account).Tail("request", id) }

// parseValueTail takes the key of a value apart.
func parseValueTail(key string) (account, code string, ok bool) {
	parts := strings.Split(strings.TrimPrefix(key, tail), "/")
	if len(parts) != 3 || parts[1] != "value" {
		return "", "", false
	}
	account, err := url.PathUnescape(parts[0])
	code, err2 := url.PathUnescape(parts[2])
	return account, code, errors.Join(err, err2) == nil
}

// state is all that is kept of an account.
type state struct {
	account
	requests []request // newest first
}

// read makes a state of records.
func read(records []store.Record) (state, error) {
	s := state{account: account{map[string]value{}}}
	for _, r := range records {
		var err error
		switch r.Type {
		case valueType.Name:
			var v value
			_, code, _ := parseValueTail(r.Key)
			err = json.Unmarshal(r.Body, &v)
			s.values[code] = v
		case requestType.Name:
			var q request
			err = json.Unmarshal(r.Body, &q)
			s.requests = append(s.requests, q)
		}
		if err != nil {
			return state{}, fmt.Errorf("read %s: %w", r.Key, err)
		}
	}
	slices.SortFunc(s.requests, func(a, b request) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return s, nil
}

// keep writes a request, and forgets the oldest answered ones that are too many.
func keep(tx *store.Tx, account string, s state, r request) {
	tx.PutRecord(requestType, requestTail(account, r.ID), r)
	answered := 0
	for _, old := range s.requests {
		if old.open() || old.ID == r.ID {
			continue
		}
		if answered++; answered >= mostRequests {
			tx.DeleteRecord(requestType, requestTail(account, old.ID))
		}
	}
}
