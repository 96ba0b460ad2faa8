package cloudmap

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// nameForm is what services may be called; a service that only the API tells of
// may also have other printable characters.
var (
	nameForm = regexp.MustCompile(`^([a-zA-Z0-9_]|[a-zA-Z0-9_][a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])(\.([a-zA-Z0-9_]|[a-zA-Z0-9_][a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_]))*$`)
	freeForm = regexp.MustCompile(`^[!-~]+$`)
)

// longestName is the length of a service's name.
const longestName = 127

func (a *API) createService(ctx context.Context, c *service.Call, in *cloudmapapi.CreateServiceRequest) (*cloudmapapi.CreateServiceResponse, error) {
	account := c.Principal.Account
	within := text(in.NamespaceID)
	if within == "" && in.DNSConfig != nil {
		within = text(in.DNSConfig.NamespaceID)
	}
	_, nsARN := a.named(account, "namespace", within)
	keys := requested(in.Tags)
	keys["servicediscovery:namespacearn"] = []string{nsARN}
	if within == "" {
		return nil, invalid("Service namespace id cannot be null")
	}
	n, err := a.namespace(ctx, c, within, keys)
	if err != nil {
		return nil, err
	}
	d := definition{
		ID: "srv-" + random(idLength), Name: in.Name, Namespace: n.ID, In: n.Name, Kind: n.Type, Type: cloudmapapi.ServiceTypeDNSHTTP,
		Description: in.Description, Created: a.Now(), RequestID: text(in.CreatorRequestID), Tags: in.Tags,
	}
	if n.Type == cloudmapapi.NamespaceTypeHTTP || in.Type == cloudmapapi.ServiceTypeOptionHTTP {
		d.Type = cloudmapapi.ServiceTypeHTTP
	}
	if err := checkService(&d, in); err != nil {
		return nil, err
	}
	at := placeOf(account, n.Name, d.Name, n.Type)
	var before string // who has the name
	out, err := update(ctx, a, c, []store.Scope{names(account), home(account, d.ID)}, func(tx *store.Tx) (*cloudmapapi.CreateServiceResponse, error) {
		before = ""
		now, err := namespaces.get(tx, namespaceTail(account, n.ID))
		if err != nil {
			return nil, err
		}
		if now == nil {
			return nil, noNamespace(n.ID)
		}
		taken, err := places.get(tx, at)
		if err != nil {
			return nil, err
		}
		if taken != nil {
			before = taken.Service
			return nil, api.Errorf(cloudmapapi.CodeServiceAlreadyExists, "Service with the name %s already exists in the namespace %s: %s", d.Name, n.ID, before)
		}
		now.Services++
		namespaces.put(tx, namespaceTail(account, n.ID), now)
		places.put(tx, at, &place{Namespace: n.ID, Service: d.ID})
		s := &state{Revision: d.Created.UnixMilli()}
		definitions.put(tx, home(account, d.ID).Tail("service"), &d)
		states.put(tx, home(account, d.ID).Tail("service", "state"), s)
		return &cloudmapapi.CreateServiceResponse{Service: a.described(account, &d, s)}, nil
	})
	if before == "" || d.RequestID == "" {
		return out, err
	}
	// A repeat of the request that made it, by its CreatorRequestId, is answered
	// as that was.
	was, now, readErr := a.load(ctx, account, before)
	switch {
	case readErr != nil:
		return nil, readErr
	case was == nil || was.RequestID != d.RequestID:
		return nil, err
	}
	return &cloudmapapi.CreateServiceResponse{Service: a.described(account, was, now)}, nil
}

// checkService refuses what the model cannot say of a service, and takes over how
// it is answered and checked.
func checkService(d *definition, in *cloudmapapi.CreateServiceRequest) error {
	form := nameForm
	if d.Type == cloudmapapi.ServiceTypeHTTP {
		form = freeForm
	}
	switch {
	case len(d.Name) > longestName || !form.MatchString(d.Name):
		return invalid("The name %q of a service has no form that a name may have: want 1 to %d letters, digits, hyphens and underscores, in labels joined by dots.", d.Name, longestName)
	case in.HealthCheckConfig != nil && in.HealthCheckCustomConfig != nil:
		return invalid("You can specify HealthCheckConfig or HealthCheckCustomConfig, and not both.")
	case in.HealthCheckConfig != nil:
		return noProber()
	case d.Type == cloudmapapi.ServiceTypeHTTP && in.DNSConfig != nil:
		return invalid("When you specify an HTTP service, you can't include a DnsConfig element.")
	case d.Type != cloudmapapi.ServiceTypeHTTP && in.DNSConfig == nil:
		return invalid("A service in the DNS namespace %s needs a DnsConfig, or the Type HTTP.", d.Namespace)
	}
	if in.HealthCheckCustomConfig != nil {
		one := int64(1) // Cloud Map takes no other any more
		d.Custom = &cloudmapapi.HealthCheckCustomConfig{FailureThreshold: &one}
	}
	if in.DNSConfig != nil {
		d.Routing = in.DNSConfig.RoutingPolicy
		if d.Routing == "" {
			d.Routing = cloudmapapi.RoutingPolicyMultivalue
		}
		if err := d.answers(in.DNSConfig.DNSRecords); err != nil {
			return err
		}
	}
	return checkTags(d.Tags, nil)
}

// noProber is why a service has no health checks from outside.
func noProber() error {
	return invalid("HealthCheckConfig asks Route 53 to check instances from outside, and there is no Route 53 here: use HealthCheckCustomConfig, and report with UpdateInstanceCustomHealthStatus; proxies check what listeners ask for.")
}

// answers takes over which records instances make.
func (d *definition) answers(records []cloudmapapi.DNSRecord) error {
	if len(records) == 0 {
		return invalid("DnsConfig has no DnsRecords.")
	}
	seen := map[cloudmapapi.RecordType]bool{}
	for _, r := range records {
		if seen[r.Type] {
			return invalid("DnsRecords has the type %s twice.", r.Type)
		}
		seen[r.Type] = true
	}
	switch {
	case seen[cloudmapapi.RecordTypeCname] && len(records) > 1:
		return invalid("DnsRecords has the type CNAME beside others: a name with a CNAME record has nothing else.")
	case seen[cloudmapapi.RecordTypeCname] && d.Routing != cloudmapapi.RoutingPolicyWeighted:
		return invalid("DnsRecords of the type CNAME need the RoutingPolicy WEIGHTED.")
	}
	d.DNS = records
	return nil
}

func noService(id string) error {
	return api.Errorf(cloudmapapi.CodeServiceNotFound, "Service %s does not exist", id)
}

// load reads a service and its state; the definition is nil when there is none.
func (a *API) load(ctx context.Context, account, id string) (*definition, *state, error) {
	all, _, err := a.Store.Records(ctx, home(account, id).Tail("service"))
	if err != nil {
		return nil, nil, err
	}
	d, s := (*definition)(nil), &state{}
	for i := range all {
		switch all[i].Type {
		case definitions.Name:
			d, err = definitions.of(&all[i])
		case states.Name:
			s, err = states.of(&all[i])
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return d, s, nil
}

// found finds a service by its id or ARN, for a caller who may do the call's
// action on it.
func (a *API) found(ctx context.Context, c *service.Call, text string) (*definition, *state, error) {
	id, arn := a.named(c.Principal.Account, "service", text)
	d, s, err := a.load(ctx, c.Principal.Account, id)
	if err != nil {
		return nil, nil, err
	}
	keys := map[string][]string{"servicediscovery:servicearn": {arn}}
	if d != nil {
		keys = tagged(keys, d.Tags)
	}
	if err := c.Allow(ctx, arn, keys); err != nil {
		return nil, nil, err
	}
	if d == nil {
		return nil, nil, noService(text)
	}
	return d, s, nil
}

// service is what a transaction in a service's scope starts from.
func (a *API) service(tx *store.Tx, account, id string) (*definition, *state, error) {
	scope := home(account, id)
	d, err := definitions.get(tx, scope.Tail("service"))
	if err != nil {
		return nil, nil, err
	}
	if d == nil {
		return nil, nil, noService(id)
	}
	s, err := states.get(tx, scope.Tail("service", "state"))
	if err != nil || s == nil {
		s = &state{}
	}
	return d, s, err
}

func (a *API) described(account string, d *definition, s *state) *cloudmapapi.Service {
	arn := a.arn(account, "service", d.ID)
	out := &cloudmapapi.Service{
		ID: &d.ID, ARN: &arn, Name: &d.Name, NamespaceID: &d.Namespace, Type: d.Type, Description: d.Description,
		HealthCheckCustomConfig: d.Custom, CreateDate: &api.Timestamp{Time: d.Created}, CreatorRequestID: optional(d.RequestID),
		InstanceCount: &s.Instances, ResourceOwner: account, CreatedByAccount: account,
	}
	if len(d.DNS) > 0 {
		out.DNSConfig = &cloudmapapi.DNSConfig{NamespaceID: &d.Namespace, RoutingPolicy: d.Routing, DNSRecords: d.DNS}
	}
	return out
}

func (a *API) getService(ctx context.Context, c *service.Call, in *cloudmapapi.GetServiceRequest) (*cloudmapapi.GetServiceResponse, error) {
	d, s, err := a.found(ctx, c, in.ID)
	if err != nil {
		return nil, err
	}
	return &cloudmapapi.GetServiceResponse{Service: a.described(c.Principal.Account, d, s)}, nil
}

func (a *API) listServices(ctx context.Context, c *service.Call, in *cloudmapapi.ListServicesRequest) (*cloudmapapi.ListServicesResponse, error) {
	if err := c.Allow(ctx, anything, nil); err != nil {
		return nil, err
	}
	account := c.Principal.Account
	passes := func(string) bool { return true }
	for _, f := range in.Filters {
		if f.Name == cloudmapapi.ServiceFilterNameResourceOwner {
			mine, err := owned(f.Values)
			if err != nil {
				return nil, err
			}
			passes = both(passes, func(string) bool { return mine })
			continue
		}
		of, err := condition(string(f.Name), f.Condition, f.Values, cloudmapapi.FilterConditionEq, cloudmapapi.FilterConditionIn)
		if err != nil {
			return nil, err
		}
		passes = both(passes, func(id string) bool { return of(id) || of(a.arn(account, "namespace", id)) })
	}
	all, err := places.list(ctx, a.Store, names(account).Tail("service")+"/")
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(p *place) bool { return !passes(p.Namespace) })
	slices.SortFunc(all, func(x, y *place) int { return strings.Compare(x.Service, y.Service) })
	page, next, err := paged(all, in.NextToken, in.MaxResults, func(p *place) string { return p.Service })
	if err != nil {
		return nil, err
	}
	out := &cloudmapapi.ListServicesResponse{NextToken: next, Services: []cloudmapapi.ServiceSummary{}}
	for _, p := range page {
		d, s, err := a.load(ctx, account, p.Service)
		if err != nil {
			return nil, err
		}
		if d == nil {
			continue // it was deleted meanwhile
		}
		full := a.described(account, d, s)
		out.Services = append(out.Services, cloudmapapi.ServiceSummary{
			ID: full.ID, ARN: full.ARN, Name: full.Name, Type: full.Type, Description: full.Description, DNSConfig: full.DNSConfig,
			HealthCheckCustomConfig: full.HealthCheckCustomConfig, CreateDate: full.CreateDate, InstanceCount: full.InstanceCount,
			ResourceOwner: full.ResourceOwner, CreatedByAccount: full.CreatedByAccount,
		})
	}
	return out, nil
}

// updateService changes how a service is answered. As in Cloud Map, what is left
// out of DnsConfig ends, and so does all of it where it is left out whole.
func (a *API) updateService(ctx context.Context, c *service.Call, in *cloudmapapi.UpdateServiceRequest) (*cloudmapapi.UpdateServiceResponse, error) {
	if _, _, err := a.found(ctx, c, in.ID); err != nil {
		return nil, err
	}
	if in.Service.HealthCheckConfig != nil {
		return nil, noProber()
	}
	account := c.Principal.Account
	id, _ := a.named(account, "service", in.ID)
	return update(ctx, a, c, []store.Scope{home(account, id)}, func(tx *store.Tx) (*cloudmapapi.UpdateServiceResponse, error) {
		d, _, err := a.service(tx, account, id)
		if err != nil {
			return nil, err
		}
		if in.Service.Description != nil {
			d.Description = in.Service.Description
		}
		switch {
		case in.Service.DNSConfig == nil:
			d.DNS = nil
		case d.Type == cloudmapapi.ServiceTypeHTTP:
			return nil, invalid("When you specify an HTTP service, you can't include a DnsConfig element.")
		default:
			if err := d.answers(in.Service.DNSConfig.DNSRecords); err != nil {
				return nil, err
			}
		}
		definitions.put(tx, home(account, id).Tail("service"), d)
		operation, err := a.noteService(tx, account, cloudmapapi.OperationTypeUpdateService, d, "")
		return &cloudmapapi.UpdateServiceResponse{OperationID: &operation}, err
	})
}

// noteService writes down an operation on a service, or on an instance of it.
func (a *API) noteService(tx *store.Tx, account string, t cloudmapapi.OperationType, d *definition, instance string) (string, error) {
	o := operation{
		Type: t, At: a.Now(), Targets: map[cloudmapapi.OperationTargetType]string{cloudmapapi.OperationTargetTypeService: d.ID},
		In: map[cloudmapapi.OperationFilterName]string{cloudmapapi.OperationFilterNameNamespaceID: d.Namespace, cloudmapapi.OperationFilterNameServiceID: d.ID},
	}
	if instance != "" {
		o.Targets[cloudmapapi.OperationTargetTypeInstance] = instance
	}
	return note(tx, home(account, d.ID), d.ID, o)
}

func (a *API) deleteService(ctx context.Context, c *service.Call, in *cloudmapapi.DeleteServiceRequest) (*cloudmapapi.DeleteServiceResponse, error) {
	d, _, err := a.found(ctx, c, in.ID)
	if err != nil {
		return nil, err
	}
	account, scope := c.Principal.Account, home(c.Principal.Account, d.ID)
	return update(ctx, a, c, []store.Scope{names(account), scope}, func(tx *store.Tx) (*cloudmapapi.DeleteServiceResponse, error) {
		now, s, err := a.service(tx, account, d.ID)
		if err != nil {
			return nil, err
		}
		if s.Instances > 0 {
			return nil, api.Errorf(cloudmapapi.CodeResourceInUse, "Service contains registered instances; delete the instances before deleting the service")
		}
		n, err := namespaces.get(tx, namespaceTail(account, now.Namespace))
		if err != nil {
			return nil, err
		}
		if n != nil {
			n.Services--
			namespaces.put(tx, namespaceTail(account, n.ID), n)
		}
		places.delete(tx, placeOf(account, now.In, now.Name, now.Kind))
		definitions.delete(tx, scope.Tail("service"))
		states.delete(tx, scope.Tail("service", "state"))
		forget(tx, scope)
		return &cloudmapapi.DeleteServiceResponse{}, nil
	})
}
