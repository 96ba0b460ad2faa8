package cloudmap

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// Config is what an API needs, all of it.
type Config struct {
	Store *store.Store
	Realm api.Realm
	Now   func() time.Time
}

// API does Cloud Map's operations on the store. What belongs to an account is seen
// by that account alone: namespaces are not shared (DISC-009).
type API struct{ Config }

// New makes an API.
func New(c Config) *API { return &API{c} }

// anything is the resource of actions that are about none.
const anything = "*"

// Service is the API as a service.
func (a *API) Service() (*service.Service, error) {
	s, err := service.New(name, name, map[string]service.Operation{
		"CreateHttpNamespace":              service.Op(a.createHTTPNamespace),
		"CreatePrivateDnsNamespace":        service.Op(a.createPrivateNamespace),
		"CreatePublicDnsNamespace":         service.Op(a.createPublicNamespace),
		"UpdateHttpNamespace":              service.Op(a.updateHTTPNamespace),
		"UpdatePrivateDnsNamespace":        service.Op(a.updatePrivateNamespace),
		"UpdatePublicDnsNamespace":         service.Op(a.updatePublicNamespace),
		"GetNamespace":                     service.Read(a.getNamespace),
		"ListNamespaces":                   service.Read(a.listNamespaces),
		"DeleteNamespace":                  service.Op(a.deleteNamespace),
		"CreateService":                    service.Op(a.createService),
		"UpdateService":                    service.Op(a.updateService),
		"GetService":                       service.Read(a.getService),
		"ListServices":                     service.Read(a.listServices),
		"DeleteService":                    service.Op(a.deleteService),
		"GetServiceAttributes":             service.Read(a.getAttributes),
		"UpdateServiceAttributes":          service.Op(a.updateAttributes),
		"DeleteServiceAttributes":          service.Op(a.deleteAttributes),
		"RegisterInstance":                 service.Op(a.register),
		"DeregisterInstance":               service.Op(a.deregister),
		"GetInstance":                      service.Read(a.getInstance),
		"ListInstances":                    service.Read(a.listInstances),
		"GetInstancesHealthStatus":         service.Read(a.healthStatus),
		"UpdateInstanceCustomHealthStatus": service.Op(a.updateHealth),
		"DiscoverInstances":                service.Read(a.discover),
		"DiscoverInstancesRevision":        service.Read(a.discoverRevision),
		"GetOperation":                     service.Read(a.getOperation),
		"ListOperations":                   service.Read(a.listOperations),
		"TagResource":                      service.Op(a.tag),
		"UntagResource":                    service.Op(a.untag),
		"ListTagsForResource":              service.Read(a.listTags),
	})
	if err != nil {
		return nil, err
	}
	s.Invalid = cloudmapapi.CodeInvalidInput
	return s, nil
}

// arn is that of a namespace or service: arn:aws:servicediscovery:…:service/srv-….
func (a *API) arn(account, kind, id string) string {
	return a.Realm.ResourceName(name, account, kind+"/"+id)
}

// nobodys is an id that nothing has.
const nobodys = "-"

// named is what a caller means by an id, which may be an ARN: the id, and the ARN. What
// has another ARN is something else, whose id nothing here has.
func (a *API) named(account, kind, text string) (id, arn string) {
	if !strings.HasPrefix(text, "arn:") {
		return text, a.arn(account, kind, text)
	}
	id, own := strings.CutPrefix(text, a.arn(account, kind, ""))
	if !own || strings.Contains(id, "/") {
		return nobodys, text
	}
	return id, text
}

func pair(t cloudmapapi.Tag) (key, value string) { return t.Key, t.Value }

// requested are the condition keys of tags that a request brings.
func requested(tags []cloudmapapi.Tag) map[string][]string {
	return service.RequestTags(service.Pairs(tags, pair))
}

// tagged adds the condition keys of tags that a resource has.
func tagged(keys map[string][]string, tags []cloudmapapi.Tag) map[string][]string {
	return service.Keys(keys, service.TagKeys(service.Pairs(tags, pair), "aws:resourcetag/"))
}

// repeat is the error of a write that was done before, by the same request: it is
// answered as then, and nothing is written.
type repeat struct{ out any }

func (*repeat) Error() string { return "the request was done before" }

// update runs a write on the scopes. fn answers out, which the call's event holds.
func update[Out any](ctx context.Context, a *API, c *service.Call, scopes []store.Scope, fn func(tx *store.Tx) (*Out, error)) (*Out, error) {
	var out *Out
	_, err := a.Store.Update(ctx, scopes, func(tx *store.Tx) error {
		var err error
		if out, err = fn(tx); err != nil {
			return err
		}
		c.Commit(tx, out)
		return nil
	})
	if again, ok := errors.AsType[*repeat](err); ok {
		return again.out.(*Out), nil
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// text is an optional text's value.
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// optional is a text that is absent when it is empty.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
