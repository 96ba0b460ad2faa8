package cloudmap

import (
	"context"

	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
)

// Watch calls found with the query's endpoints whenever the service that its names
// mean in the query's account is another, until ctx ends: nobody polls (DISC-010).
// It is the registry as a discovery.Source.
//
// A service that is not registered is not known to have none: nothing is found of
// it, so that proxies keep what they have when an outside registry gives way to
// this one, and whoever looks is told by the ledger (D6.4). One that was deleted
// had no instances any more, and that was found.
func (r *Registry) Watch(ctx context.Context, q envoy.EndpointQuery, found func([]envoy.Endpoint)) error {
	pairs, said, unfitBefore := discovery.Attributes(q), false, 0
	changed, done := r.subscribe(topicOf(q.Account, q.Namespace, q.Service))
	defer done()
	for {
		instances, there := r.instances(q, pairs)
		switch {
		case there:
			set, unfit := discovery.Endpoints(q, instances)
			if unfit > unfitBefore {
				r.log.Warn("instances in cloud map have no address that a proxy can use, and are left out",
					"namespace", q.Namespace, "service", q.Service, "account", q.Account, "instances", unfit)
			}
			unfitBefore, said = unfit, false
			found(set)
		case r.Loaded() && !said:
			said = true
			r.log.Info("a service of which proxies want the endpoints is not registered", "namespace", q.Namespace, "service", q.Service, "account", q.Account)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// instances are those of the service that the query means, with all of the pairs;
// there is false for a service that is not known.
func (r *Registry) instances(q envoy.EndpointQuery, pairs map[string]string) (out []discovery.Instance, there bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	k := r.named(q.Account, q.Namespace, q.Service)
	if k == nil {
		return nil, false
	}
	for _, i := range k.instances {
		if discovery.Matches(i.Attributes, pairs) {
			out = append(out, discovery.Instance{Attributes: i.Attributes, Unhealthy: k.definition.Custom != nil && i.Unhealthy})
		}
	}
	return out, true
}
