package cloudmap

import (
	"context"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// soaTTL is how long resolvers remember that a name is not there, in seconds,
// where a namespace does not say.
const soaTTL = 15

func namespaceTail(account, id string) string { return names(account).Tail("namespace", id) }

func nameTail(account, name string, t cloudmapapi.NamespaceType) string {
	return names(account).Tail("name", spelled(name, t), string(t))
}

func (a *API) createHTTPNamespace(ctx context.Context, c *service.Call, in *cloudmapapi.CreateHTTPNamespaceRequest) (*cloudmapapi.CreateHTTPNamespaceResponse, error) {
	id, err := a.createNamespace(ctx, c, namespace{Name: in.Name, Type: cloudmapapi.NamespaceTypeHTTP, Description: in.Description, RequestID: text(in.CreatorRequestID), Tags: in.Tags})
	return &cloudmapapi.CreateHTTPNamespaceResponse{OperationID: &id}, err
}

func (a *API) createPrivateNamespace(ctx context.Context, c *service.Call, in *cloudmapapi.CreatePrivateDNSNamespaceRequest) (*cloudmapapi.CreatePrivateDNSNamespaceResponse, error) {
	n := namespace{Name: in.Name, Type: cloudmapapi.NamespaceTypeDNSPrivate, Description: in.Description, RequestID: text(in.CreatorRequestID), Tags: in.Tags, VPC: in.Vpc}
	if in.Properties != nil {
		n.SOATTL = in.Properties.DNSProperties.SOA.TTL
	}
	id, err := a.createNamespace(ctx, c, n)
	return &cloudmapapi.CreatePrivateDNSNamespaceResponse{OperationID: &id}, err
}

func (a *API) createPublicNamespace(ctx context.Context, c *service.Call, in *cloudmapapi.CreatePublicDNSNamespaceRequest) (*cloudmapapi.CreatePublicDNSNamespaceResponse, error) {
	n := namespace{Name: in.Name, Type: cloudmapapi.NamespaceTypeDNSPublic, Description: in.Description, RequestID: text(in.CreatorRequestID), Tags: in.Tags}
	if in.Properties != nil {
		n.SOATTL = in.Properties.DNSProperties.SOA.TTL
	}
	id, err := a.createNamespace(ctx, c, n)
	return &cloudmapapi.CreatePublicDNSNamespaceResponse{OperationID: &id}, err
}

// createNamespace returns the operation's id. A repeat of the request that made
// the namespace, by its CreatorRequestId, is answered as that was.
func (a *API) createNamespace(ctx context.Context, c *service.Call, n namespace) (string, error) {
	if err := c.Allow(ctx, anything, requested(n.Tags)); err != nil {
		return "", err
	}
	if err := checkNamespace(n); err != nil {
		return "", err
	}
	account := c.Principal.Account
	n.ID, n.Created = "ns-"+random(idLength), a.Now()
	if n.Type != cloudmapapi.NamespaceTypeHTTP {
		n.Zone = "Z" + strings.ToUpper(random(13))
		if n.SOATTL == 0 {
			n.SOATTL = soaTTL
		}
	}
	out, err := update(ctx, a, c, []store.Scope{names(account)}, func(tx *store.Tx) (*cloudmapapi.CreateHTTPNamespaceResponse, error) {
		taken, err := places.get(tx, nameTail(account, n.Name, n.Type))
		if err != nil {
			return nil, err
		}
		if taken != nil {
			was, err := namespaces.get(tx, namespaceTail(account, taken.Namespace))
			if err != nil {
				return nil, err
			}
			if was != nil && n.RequestID != "" && was.RequestID == n.RequestID {
				return nil, &repeat{&cloudmapapi.CreateHTTPNamespaceResponse{OperationID: &was.Operation}}
			}
			return nil, api.Errorf(cloudmapapi.CodeNamespaceAlreadyExists, "Namespace with the name %s and the type %s already exists: %s", n.Name, n.Type, taken.Namespace)
		}
		made := n
		if made.Operation, err = a.note(tx, account, cloudmapapi.OperationTypeCreateNamespace, n.ID); err != nil {
			return nil, err
		}
		namespaces.put(tx, namespaceTail(account, n.ID), &made)
		places.put(tx, nameTail(account, n.Name, n.Type), &place{Namespace: n.ID})
		return &cloudmapapi.CreateHTTPNamespaceResponse{OperationID: &made.Operation}, nil
	})
	if err != nil {
		return "", err
	}
	return *out.OperationID, nil
}

// note writes down an operation on a namespace.
func (a *API) note(tx *store.Tx, account string, t cloudmapapi.OperationType, id string) (string, error) {
	return note(tx, names(account), "", operation{
		Type: t, At: a.Now(), Targets: map[cloudmapapi.OperationTargetType]string{cloudmapapi.OperationTargetTypeNamespace: id},
		In: map[cloudmapapi.OperationFilterName]string{cloudmapapi.OperationFilterNameNamespaceID: id},
	})
}

// checkNamespace refuses what the model cannot say of a namespace.
func checkNamespace(n namespace) error {
	if n.Name == "" || strings.ContainsFunc(n.Name, func(r rune) bool { return r < '!' || r > '~' }) {
		return invalid("The name %q of a namespace has characters other than letters, digits and punctuation of ASCII, or none.", n.Name)
	}
	if n.Type != cloudmapapi.NamespaceTypeHTTP && !domain(n.Name) {
		return invalid("The name %q is not a domain name: want labels of at most 63 letters, digits, hyphens and underscores, joined by dots.", n.Name)
	}
	return checkTags(n.Tags, nil)
}

// domain says whether a text is a domain name as Cloud Map takes them.
func domain(text string) bool {
	if text == "" || len(text) > 253 {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool { return !word(r) && r != '-' }) {
			return false
		}
	}
	return true
}

func word(r rune) bool {
	return r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

func (a *API) updateHTTPNamespace(ctx context.Context, c *service.Call, in *cloudmapapi.UpdateHTTPNamespaceRequest) (*cloudmapapi.UpdateHTTPNamespaceResponse, error) {
	id, err := a.updateNamespace(ctx, c, in.ID, cloudmapapi.NamespaceTypeHTTP, func(n *namespace) { n.Description = &in.Namespace.Description })
	return &cloudmapapi.UpdateHTTPNamespaceResponse{OperationID: &id}, err
}

func (a *API) updatePrivateNamespace(ctx context.Context, c *service.Call, in *cloudmapapi.UpdatePrivateDNSNamespaceRequest) (*cloudmapapi.UpdatePrivateDNSNamespaceResponse, error) {
	id, err := a.updateNamespace(ctx, c, in.ID, cloudmapapi.NamespaceTypeDNSPrivate, func(n *namespace) {
		if in.Namespace.Description != nil {
			n.Description = in.Namespace.Description
		}
		if p := in.Namespace.Properties; p != nil {
			n.SOATTL = p.DNSProperties.SOA.TTL
		}
	})
	return &cloudmapapi.UpdatePrivateDNSNamespaceResponse{OperationID: &id}, err
}

func (a *API) updatePublicNamespace(ctx context.Context, c *service.Call, in *cloudmapapi.UpdatePublicDNSNamespaceRequest) (*cloudmapapi.UpdatePublicDNSNamespaceResponse, error) {
	id, err := a.updateNamespace(ctx, c, in.ID, cloudmapapi.NamespaceTypeDNSPublic, func(n *namespace) {
		if in.Namespace.Description != nil {
			n.Description = in.Namespace.Description
		}
		if p := in.Namespace.Properties; p != nil {
			n.SOATTL = p.DNSProperties.SOA.TTL
		}
	})
	return &cloudmapapi.UpdatePublicDNSNamespaceResponse{OperationID: &id}, err
}

func (a *API) updateNamespace(ctx context.Context, c *service.Call, text string, t cloudmapapi.NamespaceType, edit func(*namespace)) (string, error) {
	n, err := a.namespace(ctx, c, text, nil)
	if err != nil {
		return "", err
	}
	if n.Type != t {
		return "", invalid("Namespace %s has the type %s: it is updated by the operation for that type.", n.ID, n.Type)
	}
	account := c.Principal.Account
	out, err := update(ctx, a, c, []store.Scope{names(account)}, func(tx *store.Tx) (*cloudmapapi.UpdateHTTPNamespaceResponse, error) {
		now, err := namespaces.get(tx, namespaceTail(account, n.ID))
		if err != nil {
			return nil, err
		}
		if now == nil {
			return nil, noNamespace(n.ID)
		}
		edit(now)
		namespaces.put(tx, namespaceTail(account, n.ID), now)
		id, err := a.note(tx, account, cloudmapapi.OperationTypeUpdateNamespace, n.ID)
		return &cloudmapapi.UpdateHTTPNamespaceResponse{OperationID: &id}, err
	})
	if err != nil {
		return "", err
	}
	return *out.OperationID, nil
}

func noNamespace(id string) error {
	return api.Errorf(cloudmapapi.CodeNamespaceNotFound, "Namespace %s does not exist", id)
}

// namespace finds one by its id or ARN, for a caller who may do the call's action
// on it.
func (a *API) namespace(ctx context.Context, c *service.Call, text string, keys map[string][]string) (*namespace, error) {
	id, arn := a.named(c.Principal.Account, "namespace", text)
	n, err := namespaces.read(ctx, a.Store, namespaceTail(c.Principal.Account, id))
	if err != nil {
		return nil, err
	}
	if n != nil {
		keys = tagged(keys, n.Tags)
	}
	if err := c.Allow(ctx, arn, keys); err != nil {
		return nil, err
	}
	if n == nil {
		return nil, noNamespace(text)
	}
	return n, nil
}

func (a *API) getNamespace(ctx context.Context, c *service.Call, in *cloudmapapi.GetNamespaceRequest) (*cloudmapapi.GetNamespaceResponse, error) {
	n, err := a.namespace(ctx, c, in.ID, nil)
	if err != nil {
		return nil, err
	}
	s := a.summary(c.Principal.Account, n)
	return &cloudmapapi.GetNamespaceResponse{Namespace: &cloudmapapi.Namespace{
		ID: s.ID, ARN: s.ARN, Name: s.Name, Type: s.Type, Description: s.Description, Properties: s.Properties, CreateDate: s.CreateDate,
		ServiceCount: s.ServiceCount, ResourceOwner: s.ResourceOwner, CreatorRequestID: optional(n.RequestID),
	}}, nil
}

func (a *API) summary(account string, n *namespace) cloudmapapi.NamespaceSummary {
	arn := a.arn(account, "namespace", n.ID)
	properties := &cloudmapapi.NamespaceProperties{HTTPProperties: &cloudmapapi.HTTPProperties{HTTPName: &n.Name}}
	if n.Type != cloudmapapi.NamespaceTypeHTTP {
		properties.DNSProperties = &cloudmapapi.DNSProperties{HostedZoneID: &n.Zone, SOA: &cloudmapapi.SOA{TTL: n.SOATTL}}
	}
	return cloudmapapi.NamespaceSummary{
		ID: &n.ID, ARN: &arn, Name: &n.Name, Type: n.Type, Description: n.Description, Properties: properties,
		CreateDate: &api.Timestamp{Time: n.Created}, ServiceCount: &n.Services, ResourceOwner: account,
	}
}

func (a *API) listNamespaces(ctx context.Context, c *service.Call, in *cloudmapapi.ListNamespacesRequest) (*cloudmapapi.ListNamespacesResponse, error) {
	if err := c.Allow(ctx, anything, nil); err != nil {
		return nil, err
	}
	var filters []func(*namespace) bool
	for _, f := range in.Filters {
		if f.Name == cloudmapapi.NamespaceFilterNameResourceOwner {
			mine, err := owned(f.Values)
			if err != nil {
				return nil, err
			}
			filters = append(filters, func(*namespace) bool { return mine })
			continue
		}
		passes, err := condition(string(f.Name), f.Condition, f.Values, cloudmapapi.FilterConditionEq, cloudmapapi.FilterConditionIn, cloudmapapi.FilterConditionBeginsWith)
		if err != nil {
			return nil, err
		}
		filters = append(filters, func(n *namespace) bool {
			if f.Name == cloudmapapi.NamespaceFilterNameType {
				return passes(string(n.Type))
			}
			return passes(n.Name)
		})
	}
	all, err := namespaces.list(ctx, a.Store, names(c.Principal.Account).Tail("namespace")+"/")
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(n *namespace) bool {
		return slices.ContainsFunc(filters, func(passes func(*namespace) bool) bool { return !passes(n) })
	})
	page, next, err := paged(all, in.NextToken, in.MaxResults, func(n *namespace) string { return n.ID })
	if err != nil {
		return nil, err
	}
	out := &cloudmapapi.ListNamespacesResponse{NextToken: next, Namespaces: []cloudmapapi.NamespaceSummary{}}
	for _, n := range page {
		out.Namespaces = append(out.Namespaces, a.summary(c.Principal.Account, n))
	}
	return out, nil
}

func (a *API) deleteNamespace(ctx context.Context, c *service.Call, in *cloudmapapi.DeleteNamespaceRequest) (*cloudmapapi.DeleteNamespaceResponse, error) {
	n, err := a.namespace(ctx, c, in.ID, nil)
	if err != nil {
		return nil, err
	}
	account := c.Principal.Account
	return update(ctx, a, c, []store.Scope{names(account)}, func(tx *store.Tx) (*cloudmapapi.DeleteNamespaceResponse, error) {
		now, err := namespaces.get(tx, namespaceTail(account, n.ID))
		switch {
		case err != nil:
			return nil, err
		case now == nil:
			return nil, noNamespace(n.ID)
		case now.Services > 0:
			return nil, api.Errorf(cloudmapapi.CodeResourceInUse, "Namespace contains registered services; delete the services before deleting the namespace")
		}
		namespaces.delete(tx, namespaceTail(account, n.ID))
		places.delete(tx, nameTail(account, now.Name, now.Type))
		id, err := a.note(tx, account, cloudmapapi.OperationTypeDeleteNamespace, n.ID)
		return &cloudmapapi.DeleteNamespaceResponse{OperationID: &id}, err
	})
}
