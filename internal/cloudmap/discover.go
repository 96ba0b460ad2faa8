package cloudmap

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/service"
)

// mostDiscovered is how many instances an answer has that does not say.
const mostDiscovered = 100

// locate finds a service by the names of its namespace and itself, for a caller
// who may discover it. Policies are asked by the names that it has, however the caller
// spells them.
func (a *API) locate(ctx context.Context, c *service.Call, in, called, owner string) (*definition, *state, error) {
	d, s, n, missing := a.meant(ctx, c, in, called, owner)
	if _, refusal := errors.AsType[*api.Error](missing); missing != nil && !refusal {
		return nil, nil, missing
	}
	keys := map[string][]string{"servicediscovery:namespacename": {in}, "servicediscovery:servicename": {called}}
	switch {
	case d != nil:
		keys["servicediscovery:namespacename"] = spellings(d.In, d.Kind)
		keys["servicediscovery:servicename"] = spellings(d.Name, d.Kind)
	case n != nil:
		keys["servicediscovery:namespacename"] = spellings(n.Name, n.Type)
	}
	if err := c.Allow(ctx, anything, keys); err != nil {
		return nil, nil, err
	}
	return d, s, missing
}

// spellings are those by which a policy may name what has a name.
func spellings(name string, t cloudmapapi.NamespaceType) []string {
	if low := spelled(name, t); low != name {
		return []string{name, low}
	}
	return []string{name}
}

// meant is the service that names mean in the caller's account, or else the namespace
// that has no such service.
func (a *API) meant(ctx context.Context, c *service.Call, in, called, owner string) (*definition, *state, *namespace, error) {
	account := c.Principal.Account
	if owner == "" || owner == account { // namespaces are not shared
		id, err := a.place(ctx, account, in, called)
		if err != nil {
			return nil, nil, nil, err
		}
		if id != "" {
			if d, s, err := a.load(ctx, account, id); err != nil || d != nil {
				return d, s, nil, err
			}
		}
		for _, t := range types {
			at, err := places.read(ctx, a.Store, nameTail(account, in, t))
			if err != nil {
				return nil, nil, nil, err
			}
			if at == nil {
				continue
			}
			n, err := namespaces.read(ctx, a.Store, namespaceTail(account, at.Namespace))
			if err != nil {
				return nil, nil, nil, err
			}
			return nil, nil, n, api.Errorf(cloudmapapi.CodeServiceNotFound, "Service %s does not exist in the namespace %s", called, in)
		}
	}
	return nil, nil, nil, api.Errorf(cloudmapapi.CodeNamespaceNotFound, "Namespace %s does not exist", in)
}

// place finds the id of the service that names mean; empty where they mean none.
// Mostly names have one spelling, and all that they could mean lies side by side.
func (a *API) place(ctx context.Context, account, in, called string) (id string, err error) {
	found := map[string]string{}
	for _, t := range types[:2] {
		prefix := names(account).Tail("service", spelled(in, t), spelled(called, t)) + "/"
		if found[prefix] != "" {
			continue
		}
		found[prefix] = prefix
		all, _, err := a.Store.Records(ctx, prefix)
		if err != nil {
			return "", err
		}
		for i := range all {
			p, err := places.of(&all[i])
			if err != nil {
				return "", err
			}
			found[all[i].Key] = p.Service
		}
	}
	for _, t := range types {
		if id := found[placeOf(account, in, called, t)]; id != "" {
			return id, nil
		}
	}
	return "", nil
}

func (a *API) discover(ctx context.Context, c *service.Call, in *cloudmapapi.DiscoverInstancesRequest) (*cloudmapapi.DiscoverInstancesResponse, error) {
	d, s, err := a.locate(ctx, c, in.NamespaceName, in.ServiceName, in.OwnerAccount)
	if err != nil {
		return nil, err
	}
	all, err := a.all(ctx, c.Principal.Account, d.ID)
	if err != nil {
		return nil, err
	}
	all = d.pick(all, in)
	limit := mostDiscovered
	if in.MaxResults != nil {
		limit = int(*in.MaxResults)
	}
	if len(all) > limit {
		// Any of them: callers that take the first few are not all sent to the same.
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:limit]
	}
	out := &cloudmapapi.DiscoverInstancesResponse{InstancesRevision: &s.Revision, Instances: []cloudmapapi.HTTPInstanceSummary{}}
	for _, i := range all {
		out.Instances = append(out.Instances, cloudmapapi.HTTPInstanceSummary{
			InstanceID: &i.ID, NamespaceName: &d.In, ServiceName: &d.Name, HealthStatus: d.health(i), Attributes: i.Attributes,
		})
	}
	return out, nil
}

// pick chooses the instances that a request asks for. Optional parameters narrow
// the choice where that leaves any.
func (d *definition) pick(all []*instance, in *cloudmapapi.DiscoverInstancesRequest) []*instance {
	only := func(list []*instance, keep func(*instance) bool) []*instance {
		return slices.DeleteFunc(slices.Clone(list), func(i *instance) bool { return !keep(i) })
	}
	healthy := func(i *instance) bool { return d.health(i) != cloudmapapi.HealthStatusUnhealthy }
	all = only(all, func(i *instance) bool { return discovery.Matches(i.Attributes, in.QueryParameters) })
	switch in.HealthStatus {
	case cloudmapapi.HealthStatusFilterAll:
	case cloudmapapi.HealthStatusFilterHealthy:
		all = only(all, healthy)
	case cloudmapapi.HealthStatusFilterUnhealthy:
		all = only(all, func(i *instance) bool { return !healthy(i) })
	default: // HEALTHY_OR_ELSE_ALL
		if some := only(all, healthy); len(some) > 0 {
			all = some
		}
	}
	if len(in.OptionalParameters) > 0 {
		if some := only(all, func(i *instance) bool { return discovery.Matches(i.Attributes, in.OptionalParameters) }); len(some) > 0 {
			return some
		}
	}
	return all
}

func (a *API) discoverRevision(ctx context.Context, c *service.Call, in *cloudmapapi.DiscoverInstancesRevisionRequest) (*cloudmapapi.DiscoverInstancesRevisionResponse, error) {
	_, s, err := a.locate(ctx, c, in.NamespaceName, in.ServiceName, in.OwnerAccount)
	if err != nil {
		return nil, err
	}
	return &cloudmapapi.DiscoverInstancesRevisionResponse{InstancesRevision: &s.Revision}, nil
}
