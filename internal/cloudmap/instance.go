package cloudmap

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// Attributes of instances that mean something here, beside those of package
// discovery. All others pass through: k8s.io/pod, ECS_TASK_DEFINITION_FAMILY.
const (
	attributeCNAME  = "AWS_INSTANCE_CNAME"
	attributeAlias  = "AWS_ALIAS_DNS_NAME"
	attributeEC2    = "AWS_EC2_INSTANCE_ID"
	attributeHealth = "AWS_INIT_HEALTH_STATUS"
)

// mostAttributeBytes bounds an instance's attributes, keys and values together.
const mostAttributeBytes = 5000

func instanceTail(account, service, id string) string {
	return home(account, service).Tail("instance", id)
}

// register makes an instance or replaces it. Health that was reported stays, but
// for what AWS_INIT_HEALTH_STATUS says anew.
func (a *API) register(ctx context.Context, c *service.Call, in *cloudmapapi.RegisterInstanceRequest) (*cloudmapapi.RegisterInstanceResponse, error) {
	d, _, err := a.found(ctx, c, in.ServiceID)
	if err != nil {
		return nil, err
	}
	account := c.Principal.Account
	return update(ctx, a, c, []store.Scope{home(account, d.ID)}, func(tx *store.Tx) (*cloudmapapi.RegisterInstanceResponse, error) {
		now, s, err := a.service(tx, account, d.ID)
		if err != nil {
			return nil, err
		}
		if err := checkInstance(now, in.Attributes); err != nil {
			return nil, err
		}
		tail := instanceTail(account, d.ID, in.InstanceID)
		before, err := instances.get(tx, tail)
		if err != nil {
			return nil, err
		}
		i := &instance{ID: in.InstanceID, Attributes: in.Attributes, RequestID: text(in.CreatorRequestID), Registered: a.Now()}
		if before == nil {
			s.Instances++
		} else {
			if i.RequestID != "" && before.RequestID == i.RequestID && maps.Equal(before.Attributes, i.Attributes) {
				return nil, &repeat{&cloudmapapi.RegisterInstanceResponse{OperationID: &before.Operation}}
			}
			i.Unhealthy = before.Unhealthy
		}
		if initial := in.Attributes[attributeHealth]; initial != "" && now.Custom != nil {
			i.Unhealthy = initial == string(cloudmapapi.HealthStatusUnhealthy)
		}
		s.Revision++
		if i.Operation, err = a.noteService(tx, account, cloudmapapi.OperationTypeRegisterInstance, now, i.ID); err != nil {
			return nil, err
		}
		instances.put(tx, tail, i)
		states.put(tx, home(account, d.ID).Tail("service", "state"), s)
		return &cloudmapapi.RegisterInstanceResponse{OperationID: &i.Operation}, nil
	})
}

// checkInstance refuses attributes with which an instance of the service could
// not be found.
func checkInstance(d *definition, attributes map[string]string) error {
	size, own := 0, 0
	for key, value := range attributes {
		size += len(key) + len(value)
		if !strings.HasPrefix(key, "AWS_") {
			own++
		}
	}
	v4, v6 := attributes[discovery.AttributeIPv4], attributes[discovery.AttributeIPv6]
	switch {
	case size > mostAttributeBytes:
		return invalid("The attributes have %d characters in all: at most %d are allowed.", size, mostAttributeBytes)
	case own > mostAttributes:
		return invalid("The instance has %d custom attributes: at most %d are allowed.", own, mostAttributes)
	case attributes[attributeEC2] != "":
		return invalid("AWS_EC2_INSTANCE_ID asks EC2 for the instance's address, and there is no EC2 here: give AWS_INSTANCE_IPV4.")
	case v4 != "" && !discovery.Address(v4).Is4():
		return invalid("AWS_INSTANCE_IPV4 is %q, which is not an IPv4 address.", v4)
	case v6 != "" && !discovery.Address(v6).Is6():
		return invalid("AWS_INSTANCE_IPV6 is %q, which is not an IPv6 address.", v6)
	case attributes[attributeCNAME] != "" && !domain(strings.TrimSuffix(attributes[attributeCNAME], ".")):
		return invalid("AWS_INSTANCE_CNAME is %q, which is not a domain name.", attributes[attributeCNAME])
	}
	if port := attributes[discovery.AttributePort]; port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return invalid("AWS_INSTANCE_PORT is %q, which is not a port: want 1 to 65535.", port)
		}
	}
	if h := attributes[attributeHealth]; h != "" && h != string(cloudmapapi.HealthStatusHealthy) && h != string(cloudmapapi.HealthStatusUnhealthy) {
		return invalid("AWS_INIT_HEALTH_STATUS is %q: want HEALTHY or UNHEALTHY.", h)
	}
	if attributes[attributeAlias] != "" {
		return checkAlias(d, attributes)
	}
	return checkRecords(d, attributes)
}

// checkAlias is for an instance that stands for a name of somebody else's, such as
// a load balancer's.
func checkAlias(d *definition, attributes map[string]string) error {
	switch {
	case !domain(strings.TrimSuffix(attributes[attributeAlias], ".")):
		return invalid("AWS_ALIAS_DNS_NAME is %q, which is not a domain name.", attributes[attributeAlias])
	case len(d.DNS) > 0 && d.Routing != cloudmapapi.RoutingPolicyWeighted:
		return invalid("AWS_ALIAS_DNS_NAME needs a service with the RoutingPolicy WEIGHTED.")
	case slices.ContainsFunc(d.DNS, func(r cloudmapapi.DNSRecord) bool {
		return r.Type == cloudmapapi.RecordTypeSrv || r.Type == cloudmapapi.RecordTypeCname
	}):
		return invalid("AWS_ALIAS_DNS_NAME needs a service whose DnsRecords are A or AAAA.")
	}
	for _, key := range []string{discovery.AttributeIPv4, discovery.AttributeIPv6, discovery.AttributePort, attributeCNAME} {
		if attributes[key] != "" {
			return invalid("AWS_ALIAS_DNS_NAME and %s cannot be given together.", key)
		}
	}
	return nil
}

// checkRecords asks for what the service's DNS records are made of.
func checkRecords(d *definition, attributes map[string]string) error {
	has := map[cloudmapapi.RecordType]bool{}
	for _, r := range d.DNS {
		has[r.Type] = true
	}
	v4, v6 := attributes[discovery.AttributeIPv4] != "", attributes[discovery.AttributeIPv6] != ""
	want := func(key, why string) error {
		return invalid("The service has %s records, for which an instance needs %s.", why, key)
	}
	switch {
	case has[cloudmapapi.RecordTypeA] && has[cloudmapapi.RecordTypeAaaa] && !v4 && !v6:
		return want("AWS_INSTANCE_IPV4 or AWS_INSTANCE_IPV6", "A and AAAA")
	case has[cloudmapapi.RecordTypeA] && !has[cloudmapapi.RecordTypeAaaa] && !v4:
		return want("AWS_INSTANCE_IPV4", "A")
	case has[cloudmapapi.RecordTypeAaaa] && !has[cloudmapapi.RecordTypeA] && !v6:
		return want("AWS_INSTANCE_IPV6", "AAAA")
	case has[cloudmapapi.RecordTypeSrv] && !v4 && !v6:
		return want("AWS_INSTANCE_IPV4 or AWS_INSTANCE_IPV6", "SRV")
	case has[cloudmapapi.RecordTypeSrv] && attributes[discovery.AttributePort] == "":
		return want("AWS_INSTANCE_PORT", "SRV")
	case has[cloudmapapi.RecordTypeCname] && attributes[attributeCNAME] == "":
		return want("AWS_INSTANCE_CNAME", "CNAME")
	}
	return nil
}

func noInstance(id string) error {
	return api.Errorf(cloudmapapi.CodeInstanceNotFound, "Instance %s does not exist", id)
}

func (a *API) deregister(ctx context.Context, c *service.Call, in *cloudmapapi.DeregisterInstanceRequest) (*cloudmapapi.DeregisterInstanceResponse, error) {
	d, _, err := a.found(ctx, c, in.ServiceID)
	if err != nil {
		return nil, err
	}
	account := c.Principal.Account
	return update(ctx, a, c, []store.Scope{home(account, d.ID)}, func(tx *store.Tx) (*cloudmapapi.DeregisterInstanceResponse, error) {
		now, s, err := a.service(tx, account, d.ID)
		if err != nil {
			return nil, err
		}
		tail := instanceTail(account, d.ID, in.InstanceID)
		if tx.Record(tail) == nil {
			return nil, noInstance(in.InstanceID)
		}
		s.Revision++
		s.Instances--
		instances.delete(tx, tail)
		states.put(tx, home(account, d.ID).Tail("service", "state"), s)
		id, err := a.noteService(tx, account, cloudmapapi.OperationTypeDeregisterInstance, now, in.InstanceID)
		return &cloudmapapi.DeregisterInstanceResponse{OperationID: &id}, err
	})
}

func (a *API) getInstance(ctx context.Context, c *service.Call, in *cloudmapapi.GetInstanceRequest) (*cloudmapapi.GetInstanceResponse, error) {
	d, _, err := a.found(ctx, c, in.ServiceID)
	if err != nil {
		return nil, err
	}
	account := c.Principal.Account
	i, err := instances.read(ctx, a.Store, instanceTail(account, d.ID, in.InstanceID))
	if err != nil {
		return nil, err
	}
	if i == nil {
		return nil, noInstance(in.InstanceID)
	}
	return &cloudmapapi.GetInstanceResponse{ResourceOwner: account, Instance: &cloudmapapi.Instance{
		ID: i.ID, Attributes: i.Attributes, CreatorRequestID: optional(i.RequestID), CreatedByAccount: account,
	}}, nil
}

// all reads a service's instances, in the order of their ids.
func (a *API) all(ctx context.Context, account, service string) ([]*instance, error) {
	out, err := instances.list(ctx, a.Store, home(account, service).Tail("instance")+"/")
	slices.SortFunc(out, func(x, y *instance) int { return strings.Compare(x.ID, y.ID) })
	return out, err
}

func (a *API) listInstances(ctx context.Context, c *service.Call, in *cloudmapapi.ListInstancesRequest) (*cloudmapapi.ListInstancesResponse, error) {
	d, _, err := a.found(ctx, c, in.ServiceID)
	if err != nil {
		return nil, err
	}
	account := c.Principal.Account
	all, err := a.all(ctx, account, d.ID)
	if err != nil {
		return nil, err
	}
	page, next, err := paged(all, in.NextToken, in.MaxResults, func(i *instance) string { return i.ID })
	if err != nil {
		return nil, err
	}
	out := &cloudmapapi.ListInstancesResponse{NextToken: next, ResourceOwner: account, Instances: []cloudmapapi.InstanceSummary{}}
	for _, i := range page {
		out.Instances = append(out.Instances, cloudmapapi.InstanceSummary{ID: &i.ID, Attributes: i.Attributes, CreatedByAccount: account})
	}
	return out, nil
}
