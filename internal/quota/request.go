package quota

import (
	"context"
	"math"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/quotasapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// ask answers an account that wants more: at once yes up to the operator's bound; above,
// the request stays open until the operator sets the quota.
func (l *Limits) ask(ctx context.Context, c *service.Call, in *quotasapi.RequestServiceQuotaIncreaseRequest) (*quotasapi.RequestServiceQuotaIncreaseResponse, error) {
	account := c.Principal.Account
	err := c.Allow(ctx, l.arn(account, in.QuotaCode), map[string][]string{"servicequotas:service": {in.ServiceCode}})
	if err != nil {
		return nil, err
	}
	q, err := find(in.ServiceCode, in.QuotaCode)
	switch {
	case err != nil:
		return nil, err
	case in.ContextID != nil:
		return nil, noContext(q)
	case !q.Adjustable:
		return nil, api.Errorf(quotasapi.CodeIllegalArgument, "The quota %s (%s) is not adjustable.", q.Code, q.Name)
	case in.DesiredValue != math.Trunc(in.DesiredValue) || in.DesiredValue < 1 || in.DesiredValue > NoLimit:
		return nil, api.Errorf(quotasapi.CodeIllegalArgument, "The desired value must be a whole number from 1 to %d.", NoLimit)
	}
	r := request{
		ID: l.NewID(), Code: q.Code, Desired: int(in.DesiredValue), Status: quotasapi.RequestStatusPending,
		Requester: c.Principal.ARN,
	}
	var out *quotasapi.RequestServiceQuotaIncreaseResponse
	_, err = l.Store.Update(ctx, []store.Scope{scope(account)}, func(tx *store.Tx) error {
		s, err := read(tx.Records(scope(account).String() + "/"))
		if err != nil {
			return err
		}
		r.Created = l.Now()
		r.Updated = r.Created
		if r.Status, err = l.decide(s, q, r.Desired); err != nil {
			return err
		}
		if r.Status == quotasapi.RequestStatusApproved {
			// Kept also where nothing limits: it counts in meshes whose settings do.
			v := s.values[q.Code]
			v.Granted = max(v.Granted, r.Desired)
			tx.PutRecord(valueType, valueTail(account, q.Code), v)
		}
		keep(tx, account, s, r)
		out = &quotasapi.RequestServiceQuotaIncreaseResponse{RequestedQuota: new(l.asked(account, r))}
		c.Commit(tx, out)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, l.Refresh(ctx, account)
}

// decide is what becomes of a request for more of a quota.
func (l *Limits) decide(s state, q Quota, desired int) (quotasapi.RequestStatus, error) {
	now := q.get(s.over(l.Base))
	switch {
	case now != 0 && desired <= now:
		return "", api.Errorf(quotasapi.CodeIllegalArgument, "You must provide a quota value greater than the current quota value, which is %d.", now)
	case slices.ContainsFunc(s.requests, func(r request) bool { return r.Code == q.Code && r.open() }):
		return "", api.Errorf(quotasapi.CodeResourceAlreadyExists, "Only one open service quota increase request is allowed per quota.")
	case desired <= l.Bound*q.Default:
		// Also while nothing limits: what is granted applies once something does.
		return quotasapi.RequestStatusApproved, nil
	}
	return quotasapi.RequestStatusPending, nil
}

// asked is a request as it is answered.
func (l *Limits) asked(account string, r request) quotasapi.RequestedServiceQuotaChange {
	q, _ := named(r.Code)
	out := quotasapi.RequestedServiceQuotaChange{
		ID: r.ID, ServiceCode: ServiceCode, ServiceName: new(serviceName), QuotaCode: r.Code, QuotaName: new(q.Name),
		QuotaARN: new(l.arn(account, r.Code)), DesiredValue: new(float64(r.Desired)), Status: r.Status,
		Created: &api.Timestamp{Time: r.Created}, LastUpdated: &api.Timestamp{Time: r.Updated},
		Requester: new(r.Requester), GlobalQuota: new(false), Unit: new("None"),
		QuotaRequestedAtLevel: quotasapi.AppliedLevelEnumAccount,
	}
	if r.Status == quotasapi.RequestStatusApproved {
		out.RequestType = quotasapi.RequestTypeAutomaticManagement
	}
	return out
}

func (l *Limits) getRequest(ctx context.Context, c *service.Call, in *quotasapi.GetRequestedServiceQuotaChangeRequest) (*quotasapi.GetRequestedServiceQuotaChangeResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	s, err := l.state(ctx, c.Principal.Account)
	if err != nil {
		return nil, err
	}
	for _, r := range s.requests {
		if r.ID == in.RequestID {
			return &quotasapi.GetRequestedServiceQuotaChangeResponse{RequestedQuota: new(l.asked(c.Principal.Account, r))}, nil
		}
	}
	return nil, api.Errorf(quotasapi.CodeNoSuchResource, "The request failed because the specified quota request does not exist.")
}

func (l *Limits) history(ctx context.Context, c *service.Call, in *quotasapi.ListRequestedServiceQuotaChangeHistoryRequest) (*quotasapi.ListRequestedServiceQuotaChangeHistoryResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	if in.ServiceCode != "" {
		if err := offered(in.ServiceCode); err != nil {
			return nil, err
		}
	}
	page, next, err := l.requests(ctx, c.Principal.Account, "", in.Status, in.QuotaRequestedAtLevel, in.NextToken, in.MaxResults)
	return &quotasapi.ListRequestedServiceQuotaChangeHistoryResponse{RequestedQuotas: page, NextToken: next}, err
}

func (l *Limits) historyOf(ctx context.Context, c *service.Call, in *quotasapi.ListRequestedServiceQuotaChangeHistoryByQuotaRequest) (*quotasapi.ListRequestedServiceQuotaChangeHistoryByQuotaResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	if _, err := find(in.ServiceCode, in.QuotaCode); err != nil {
		return nil, err
	}
	page, next, err := l.requests(ctx, c.Principal.Account, in.QuotaCode, in.Status, in.QuotaRequestedAtLevel, in.NextToken, in.MaxResults)
	return &quotasapi.ListRequestedServiceQuotaChangeHistoryByQuotaResponse{RequestedQuotas: page, NextToken: next}, err
}

// requests is a page of an account's requests, newest first.
func (l *Limits) requests(ctx context.Context, account, code string, status quotasapi.RequestStatus, level quotasapi.AppliedLevelEnum, token *string, most *int64) ([]quotasapi.RequestedServiceQuotaChange, *string, error) {
	s, err := l.state(ctx, account)
	if err != nil {
		return nil, nil, err
	}
	var all []quotasapi.RequestedServiceQuotaChange
	for _, r := range s.requests {
		if (code == "" || r.Code == code) && (status == "" || r.Status == status) && level != quotasapi.AppliedLevelEnumResource {
			all = append(all, l.asked(account, r))
		}
	}
	return paged(all, func(r quotasapi.RequestedServiceQuotaChange) string { return r.ID }, token, most)
}

// Set is the operator's word on a quota of an account: exactly n, 0 for no limit; nil
// takes earlier words back, and what was granted with them. A request that is open is
// answered by it. Replicas that run follow within a second.
func (l *Limits) Set(ctx context.Context, account, code string, n *int) error {
	q, ok := named(code)
	if !ok || q.of == nil {
		return api.Errorf(quotasapi.CodeNoSuchResource, "there is no quota %s that can be set", code)
	}
	_, err := l.Store.Update(ctx, []store.Scope{scope(account)}, func(tx *store.Tx) error {
		s, err := read(tx.Records(scope(account).String() + "/"))
		if err != nil {
			return err
		}
		v := value{Set: n}
		tx.PutRecord(valueType, valueTail(account, code), v)
		now := v.over(*q.of(&l.Base))
		for _, r := range s.requests {
			if r.Code != code || !r.open() {
				continue
			}
			r.Updated = l.Now()
			r.Status = quotasapi.RequestStatusNotApproved
			if now == 0 || now >= r.Desired {
				r.Status = quotasapi.RequestStatusApproved
			}
			keep(tx, account, s, r)
		}
		return nil
	})
	return err
}

// State is what an operator sees of an account's quota.
type State struct {
	Quota
	Applied int // 0 is no limit
	Set     *int
	Granted int
	// Open is the desired value of a request that waits for an answer; 0 for none.
	Open int
}

// States are all quotas of an account, in the order of their codes.
func (l *Limits) States(ctx context.Context, account string) ([]State, error) {
	s, err := l.state(ctx, account)
	if err != nil {
		return nil, err
	}
	all := s.over(l.Base)
	var out []State
	for _, q := range Quotas() {
		v := s.values[q.Code]
		one := State{Quota: q, Applied: q.get(all), Set: v.Set, Granted: v.Granted}
		for _, r := range s.requests {
			if r.Code == q.Code && r.open() {
				one.Open = r.Desired
			}
		}
		out = append(out, one)
	}
	return out, nil
}
