package cloudmap

import (
	"context"
	"slices"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// health is what is said of an instance: that of a service without health checks
// is unknown, and counts as healthy.
func (d *definition) health(i *instance) cloudmapapi.HealthStatus {
	switch {
	case d.Custom == nil:
		return cloudmapapi.HealthStatusUnknown
	case i.Unhealthy:
		return cloudmapapi.HealthStatusUnhealthy
	}
	return cloudmapapi.HealthStatusHealthy
}

func (a *API) healthStatus(ctx context.Context, c *service.Call, in *cloudmapapi.GetInstancesHealthStatusRequest) (*cloudmapapi.GetInstancesHealthStatusResponse, error) {
	d, _, err := a.found(ctx, c, in.ServiceID)
	if err != nil {
		return nil, err
	}
	all, err := a.all(ctx, c.Principal.Account, d.ID)
	if err != nil {
		return nil, err
	}
	if in.Instances != nil {
		for _, id := range in.Instances {
			if !slices.ContainsFunc(all, func(i *instance) bool { return i.ID == id }) {
				return nil, noInstance(id)
			}
		}
		all = slices.DeleteFunc(all, func(i *instance) bool { return !slices.Contains(in.Instances, i.ID) })
	}
	page, next, err := paged(all, in.NextToken, in.MaxResults, func(i *instance) string { return i.ID })
	if err != nil {
		return nil, err
	}
	out := &cloudmapapi.GetInstancesHealthStatusResponse{NextToken: next, Status: map[string]cloudmapapi.HealthStatus{}}
	for _, i := range page {
		out.Status[i.ID] = d.health(i)
	}
	return out, nil
}

// updateHealth takes in what somebody says of an instance. It counts at once:
// Cloud Map's own waits about 30 seconds, to no good for callers.
func (a *API) updateHealth(ctx context.Context, c *service.Call, in *cloudmapapi.UpdateInstanceCustomHealthStatusRequest) (*struct{}, error) {
	d, _, err := a.found(ctx, c, in.ServiceID)
	if err != nil {
		return nil, err
	}
	account := c.Principal.Account
	return update(ctx, a, c, []store.Scope{home(account, d.ID)}, func(tx *store.Tx) (*struct{}, error) {
		now, _, err := a.service(tx, account, d.ID)
		if err != nil {
			return nil, err
		}
		if now.Custom == nil {
			return nil, api.Errorf(cloudmapapi.CodeCustomHealthNotFound, "Service %s has no HealthCheckCustomConfig", d.ID)
		}
		tail := instanceTail(account, d.ID, in.InstanceID)
		i, err := instances.get(tx, tail)
		if err != nil {
			return nil, err
		}
		if i == nil {
			return nil, noInstance(in.InstanceID)
		}
		i.Unhealthy = in.Status == cloudmapapi.CustomHealthStatusUnhealthy
		instances.put(tx, tail, i)
		return &struct{}{}, nil
	})
}
