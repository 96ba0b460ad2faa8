package quota

import (
	"context"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/quotasapi"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/service"
)

// Service offers the operations of Service Quotas.
func (l *Limits) Service() (*service.Service, error) {
	return service.New(signingName, signingName, map[string]service.Operation{
		"ListServices":                                  service.Read(l.listServices),
		"ListAWSDefaultServiceQuotas":                   service.Read(l.listDefaults),
		"GetAWSDefaultServiceQuota":                     service.Read(l.getDefault),
		"ListServiceQuotas":                             service.Read(l.list),
		"GetServiceQuota":                               service.Read(l.get),
		"RequestServiceQuotaIncrease":                   service.Op(l.ask),
		"GetRequestedServiceQuotaChange":                service.Read(l.getRequest),
		"ListRequestedServiceQuotaChangeHistory":        service.Read(l.history),
		"ListRequestedServiceQuotaChangeHistoryByQuota": service.Read(l.historyOf),
	})
}

// arn is a quota's.
func (l *Limits) arn(account, code string) string {
	return l.Realm.ResourceName(signingName, account, ServiceCode+"/"+code)
}

// state reads an account from the store (API-023).
func (l *Limits) state(ctx context.Context, account string) (state, error) {
	records, _, err := l.Store.Records(ctx, scope(account).String()+"/")
	if err != nil {
		return state{}, err
	}
	return read(records)
}

func (l *Limits) listServices(ctx context.Context, c *service.Call, in *quotasapi.ListServicesRequest) (*quotasapi.ListServicesResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	all := []quotasapi.ServiceInfo{{ServiceCode: ServiceCode, ServiceName: new(serviceName)}}
	page, next, err := paged(all, func(s quotasapi.ServiceInfo) string { return s.ServiceCode }, in.NextToken, in.MaxResults)
	return &quotasapi.ListServicesResponse{Services: page, NextToken: next}, err
}

// shown is a quota with a number, as it is answered; 0 is no limit.
func (l *Limits) shown(q Quota, account string, n int) quotasapi.ServiceQuota {
	out := quotasapi.ServiceQuota{
		ServiceCode: ServiceCode, ServiceName: new(serviceName), QuotaCode: q.Code, QuotaName: new(q.Name),
		QuotaARN: new(l.arn(account, q.Code)), Value: new(float64(n)), Unit: new("None"), Adjustable: new(q.Adjustable),
		GlobalQuota: new(false), QuotaAppliedAtLevel: quotasapi.AppliedLevelEnumAccount,
	}
	if n == 0 {
		out.Value, out.Description = new(float64(NoLimit)), new("There is no limit.")
	}
	return out
}

// offered refuses services that have no quotas here.
func offered(code string) error {
	if code == ServiceCode {
		return nil
	}
	return api.Errorf(quotasapi.CodeNoSuchResource, "The request failed because the specified service does not exist.")
}

func find(service, code string) (Quota, error) {
	if err := offered(service); err != nil {
		return Quota{}, err
	}
	q, ok := named(code)
	if !ok {
		return q, api.Errorf(quotasapi.CodeNoSuchResource, "The request failed because the specified quota %s does not exist.", code)
	}
	return q, nil
}

func (l *Limits) listDefaults(ctx context.Context, c *service.Call, in *quotasapi.ListAWSDEfaultServiceQuotasRequest) (*quotasapi.ListAWSDEfaultServiceQuotasResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	if err := offered(in.ServiceCode); err != nil {
		return nil, err
	}
	var all []quotasapi.ServiceQuota
	for _, q := range Quotas() {
		all = append(all, l.shown(q, c.Principal.Account, q.Default))
	}
	page, next, err := paged(all, codeOf, in.NextToken, in.MaxResults)
	return &quotasapi.ListAWSDEfaultServiceQuotasResponse{Quotas: page, NextToken: next}, err
}

func codeOf(q quotasapi.ServiceQuota) string { return q.QuotaCode }

func (l *Limits) getDefault(ctx context.Context, c *service.Call, in *quotasapi.GetAWSDEfaultServiceQuotaRequest) (*quotasapi.GetAWSDEfaultServiceQuotaResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	q, err := find(in.ServiceCode, in.QuotaCode)
	if err != nil {
		return nil, err
	}
	return &quotasapi.GetAWSDEfaultServiceQuotaResponse{Quota: new(l.shown(q, c.Principal.Account, q.Default))}, nil
}

// list answers with what applies, whoever raised it and when (QUOTA-010).
func (l *Limits) list(ctx context.Context, c *service.Call, in *quotasapi.ListServiceQuotasRequest) (*quotasapi.ListServiceQuotasResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	if err := offered(in.ServiceCode); err != nil {
		return nil, err
	}
	all, err := l.appliedTo(ctx, c.Principal.Account)
	if err != nil {
		return nil, err
	}
	var shown []quotasapi.ServiceQuota
	for _, q := range Quotas() {
		if (in.QuotaCode == "" || in.QuotaCode == q.Code) && in.QuotaAppliedAtLevel != quotasapi.AppliedLevelEnumResource {
			shown = append(shown, l.shown(q, c.Principal.Account, q.get(all)))
		}
	}
	page, next, err := paged(shown, codeOf, in.NextToken, in.MaxResults)
	return &quotasapi.ListServiceQuotasResponse{Quotas: page, NextToken: next}, err
}

func (l *Limits) get(ctx context.Context, c *service.Call, in *quotasapi.GetServiceQuotaRequest) (*quotasapi.GetServiceQuotaResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	q, err := find(in.ServiceCode, in.QuotaCode)
	if err != nil {
		return nil, err
	}
	if in.ContextID != nil {
		return nil, noContext(q)
	}
	all, err := l.appliedTo(ctx, c.Principal.Account)
	if err != nil {
		return nil, err
	}
	return &quotasapi.GetServiceQuotaResponse{Quota: new(l.shown(q, c.Principal.Account, q.get(all)))}, nil
}

// noContext refuses a resource that a quota is to be of: all are of accounts.
func noContext(q Quota) error {
	return api.Errorf(quotasapi.CodeNoSuchResource, "The quota %s is applied to the account: it has no ContextId.", q.Code)
}

// appliedTo are the quotas of an account as they are in the store.
func (l *Limits) appliedTo(ctx context.Context, account string) (mesh.Quotas, error) {
	s, err := l.state(ctx, account)
	if err != nil {
		return mesh.Quotas{}, err
	}
	return s.over(l.Base), nil
}

// mostItems is how many items a page has at most, and by itself.
const mostItems = 100

// paged is a page of a list in whatever order.
func paged[T any](all []T, mark func(T) string, token *string, most *int64) (page []T, next *string, err error) {
	page, next, ok := service.PageAsListed(all, mark, token, most, mostItems)
	if !ok {
		return nil, nil, api.Errorf(quotasapi.CodeInvalidPaginationToken, "Invalid NextToken was provided.")
	}
	if page == nil {
		page = []T{}
	}
	return page, next, nil
}
