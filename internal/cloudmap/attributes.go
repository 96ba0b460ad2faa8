package cloudmap

import (
	"context"
	"maps"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// mostAttributes is how many attributes of its own a service or instance may have.
const mostAttributes = 30

func (a *API) getAttributes(ctx context.Context, c *service.Call, in *cloudmapapi.GetServiceAttributesRequest) (*cloudmapapi.GetServiceAttributesResponse, error) {
	d, _, err := a.found(ctx, c, in.ServiceID)
	if err != nil {
		return nil, err
	}
	arn, all := a.arn(c.Principal.Account, "service", d.ID), d.Attributes
	if all == nil {
		all = map[string]string{}
	}
	return &cloudmapapi.GetServiceAttributesResponse{ServiceAttributes: &cloudmapapi.ServiceAttributes{
		ServiceARN: &arn, ResourceOwner: c.Principal.Account, Attributes: all,
	}}, nil
}

func (a *API) updateAttributes(ctx context.Context, c *service.Call, in *cloudmapapi.UpdateServiceAttributesRequest) (*cloudmapapi.UpdateServiceAttributesResponse, error) {
	return &cloudmapapi.UpdateServiceAttributesResponse{}, a.editService(ctx, c, in.ServiceID, func(d *definition) error {
		all := maps.Clone(d.Attributes)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, in.Attributes)
		if len(all) > mostAttributes {
			return api.Errorf(cloudmapapi.CodeServiceAttributesLimitExceeded, "Cannot update service attributes because the number of attributes for the service exceeds the limit of %d.", mostAttributes)
		}
		d.Attributes = all
		return nil
	})
}

func (a *API) deleteAttributes(ctx context.Context, c *service.Call, in *cloudmapapi.DeleteServiceAttributesRequest) (*cloudmapapi.DeleteServiceAttributesResponse, error) {
	return &cloudmapapi.DeleteServiceAttributesResponse{}, a.editService(ctx, c, in.ServiceID, func(d *definition) error {
		d.Attributes = maps.Clone(d.Attributes)
		for _, key := range in.Attributes {
			delete(d.Attributes, key)
		}
		return nil
	})
}

// editService changes a service's record, for a caller who may.
func (a *API) editService(ctx context.Context, c *service.Call, text string, edit func(*definition) error) error {
	d, _, err := a.found(ctx, c, text)
	if err != nil {
		return err
	}
	account := c.Principal.Account
	_, err = update(ctx, a, c, []store.Scope{home(account, d.ID)}, func(tx *store.Tx) (*struct{}, error) {
		now, _, err := a.service(tx, account, d.ID)
		if err != nil {
			return nil, err
		}
		if err := edit(now); err != nil {
			return nil, err
		}
		definitions.put(tx, home(account, d.ID).Tail("service"), now)
		return &struct{}{}, nil
	})
	return err
}
