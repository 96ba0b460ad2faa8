package cloudmap

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// kept is how many operations a scope remembers, the last ones. A service's go
// with it.
const kept = 48

// operation is the record of what an operation did. It is done when it is told:
// clients that wait for an operation find SUCCESS.
type operation struct {
	ID      string                                     `json:"id"`
	Type    cloudmapapi.OperationType                  `json:"type"`
	At      time.Time                                  `json:"at"`
	Targets map[cloudmapapi.OperationTargetType]string `json:"targets"`
	In      map[cloudmapapi.OperationFilterName]string `json:"in,omitempty"` // what filters ask for
}

// counter counts a scope's operations.
type counter struct {
	Operations int64 `json:"operations"`
}

// random is a part of ids: lower-case letters and digits.
func random(n int) string {
	var text string
	for len(text) < n {
		text += strings.ToLower(rand.Text())
	}
	return text[:n]
}

// ids of services and namespaces have this many random characters, as AWS's.
const idLength = 16

// note writes an operation into a scope and returns its id, in which its place is
// named: <random>-<slot><rest of a service's id>.
func note(tx *store.Tx, scope store.Scope, serviceID string, o operation) (string, error) {
	count, err := counters.get(tx, scope.Tail("operations"))
	if err != nil {
		return "", err
	}
	if count == nil {
		count = &counter{}
	}
	slot := strconv.FormatInt(count.Operations%kept, 36)
	if len(slot) == 1 {
		slot = "0" + slot
	}
	o.ID = random(32) + "-" + slot + strings.TrimPrefix(serviceID, "srv-")
	operations.put(tx, scope.Tail("operation", slot), &o)
	counters.put(tx, scope.Tail("operations"), &counter{count.Operations + 1})
	return o.ID, nil
}

// forget removes a scope's operations.
func forget(tx *store.Tx, scope store.Scope) {
	for n := range int64(kept) {
		slot := strconv.FormatInt(n, 36)
		if len(slot) == 1 {
			slot = "0" + slot
		}
		if tail := scope.Tail("operation", slot); tx.Record(tail) != nil {
			operations.delete(tx, tail)
		}
	}
	counters.delete(tx, scope.Tail("operations"))
}

// locate finds where an operation of that id would be.
func locate(account, id string) (tail string, ok bool) {
	_, at, ok := strings.Cut(id, "-")
	switch {
	case !ok || len(at) < 2:
		return "", false
	case len(at) == 2:
		return names(account).Tail("operation", at), true
	}
	return home(account, "srv-"+at[2:]).Tail("operation", at[:2]), true
}

func (a *API) getOperation(ctx context.Context, c *service.Call, in *cloudmapapi.GetOperationRequest) (*cloudmapapi.GetOperationResponse, error) {
	if err := c.Allow(ctx, anything, nil); err != nil {
		return nil, err
	}
	account := c.Principal.Account
	missing := api.Errorf(cloudmapapi.CodeOperationNotFound, "Operation with the ID %s does not exist, or is too long ago: the last %d of a service, and of an account's namespaces, are kept.", in.OperationID, kept)
	tail, ok := locate(account, in.OperationID)
	if !ok || in.OwnerAccount != "" && in.OwnerAccount != account {
		return nil, missing
	}
	o, err := operations.read(ctx, a.Store, tail)
	if err != nil {
		return nil, err
	}
	if o == nil || o.ID != in.OperationID {
		return nil, missing
	}
	at, targets := api.Timestamp{Time: o.At}, map[string]string{}
	for t, id := range o.Targets {
		targets[string(t)] = id
	}
	return &cloudmapapi.GetOperationResponse{Operation: &cloudmapapi.Operation{
		ID: &o.ID, Status: cloudmapapi.OperationStatusSuccess, Type: o.Type, CreateDate: &at, UpdateDate: &at,
		OwnerAccount: account, Targets: targets,
	}}, nil
}

func (a *API) listOperations(ctx context.Context, c *service.Call, in *cloudmapapi.ListOperationsRequest) (*cloudmapapi.ListOperationsResponse, error) {
	if err := c.Allow(ctx, anything, nil); err != nil {
		return nil, err
	}
	wanted, err := operationFilters(in.Filters)
	if err != nil {
		return nil, err
	}
	all, err := operations.list(ctx, a.Store, store.ServiceScope(name, c.Principal.Account).String()+"/")
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(o *operation) bool { return !wanted(o) })
	slices.SortFunc(all, func(x, y *operation) int {
		if x.At.Equal(y.At) {
			return strings.Compare(x.ID, y.ID)
		}
		return y.At.Compare(x.At)
	})
	page, next, err := paged(all, in.NextToken, in.MaxResults, func(o *operation) string {
		return fmt.Sprintf("%020d/%s", 1<<62-o.At.UnixNano(), o.ID) // the newest first
	})
	if err != nil {
		return nil, err
	}
	out := &cloudmapapi.ListOperationsResponse{NextToken: next, Operations: []cloudmapapi.OperationSummary{}}
	for _, o := range page {
		out.Operations = append(out.Operations, cloudmapapi.OperationSummary{ID: &o.ID, Status: cloudmapapi.OperationStatusSuccess})
	}
	return out, nil
}

// operationFilters is whether an operation passes all filters.
func operationFilters(filters []cloudmapapi.OperationFilter) (func(*operation) bool, error) {
	var all []func(*operation) bool
	for _, f := range filters {
		if f.Name == cloudmapapi.OperationFilterNameUpdateDate {
			from, to, err := between(f.Condition, f.Values)
			if err != nil {
				return nil, err
			}
			all = append(all, func(o *operation) bool { return !o.At.Before(from) && !o.At.After(to) })
			continue
		}
		passes, err := condition(string(f.Name), f.Condition, f.Values, cloudmapapi.FilterConditionEq, cloudmapapi.FilterConditionIn)
		if err != nil {
			return nil, err
		}
		all = append(all, func(o *operation) bool {
			switch f.Name {
			case cloudmapapi.OperationFilterNameStatus:
				return passes(string(cloudmapapi.OperationStatusSuccess))
			case cloudmapapi.OperationFilterNameType:
				return passes(string(o.Type))
			}
			return passes(o.In[f.Name])
		})
	}
	return func(o *operation) bool {
		return !slices.ContainsFunc(all, func(passes func(*operation) bool) bool { return !passes(o) })
	}, nil
}

// between reads the two times of a filter, seconds since the epoch.
func between(with cloudmapapi.FilterCondition, values []string) (from, to time.Time, err error) {
	if with != cloudmapapi.FilterConditionBetween || len(values) != 2 {
		return from, to, invalid("The filter UPDATE_DATE takes the condition BETWEEN and two times.")
	}
	var at [2]time.Time
	for i, v := range values {
		seconds, err := strconv.ParseFloat(v, 64)
		if err != nil {
			return from, to, invalid("The filter UPDATE_DATE has the value %q: want seconds since the epoch, such as 1516925490.087.", v)
		}
		at[i] = time.UnixMilli(int64(seconds * 1000))
	}
	return at[0], at[1], nil
}
