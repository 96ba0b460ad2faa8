package cloudmap

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	"github.com/evermesh/evermesh/internal/store"
)

// name is what actions, ARNs and scopes call the service.
const name = "servicediscovery"

// rootTail is below which everything of this package lies.
var rootTail = store.ServiceScope(name).String() + "/"

// names is the scope of an account's namespaces, and of which services are in
// them:
//
//	namespace/<id>                        a namespace
//	name/<namespace's name>/<type>        its id
//	service/<namespace's name>/<name>/<type of the namespace>   a service's place
//	operations, operation/<slot>          see operation.go
func names(account string) store.Scope { return store.ServiceScope(name, account, "names") }

// home is the scope of a service:
//
//	service                               what it is
//	service/state                         what its instances count
//	instance/<id>                         an instance
//	operations, operation/<slot>
func home(account, id string) store.Scope { return store.ServiceScope(name, account, "service", id) }

// namespace is the record of one.
type namespace struct {
	ID          string                    `json:"id"`
	Name        string                    `json:"name"`
	Type        cloudmapapi.NamespaceType `json:"type"`
	Description *string                   `json:"description,omitempty"`
	VPC         string                    `json:"vpc,omitempty"`
	Zone        string                    `json:"zone,omitempty"`
	SOATTL      int64                     `json:"soaTtl,omitempty"`
	Created     time.Time                 `json:"created"`
	RequestID   string                    `json:"requestId,omitempty"` // of the creator
	Operation   string                    `json:"operation,omitempty"` // that created it
	Services    int64                     `json:"services,omitempty"`
	Tags        []cloudmapapi.Tag         `json:"tags,omitempty"`
}

// place is the record of where a service is found by its name.
type place struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
}

// definition is the record of a service: what it is, without its instances.
type definition struct {
	ID          string                               `json:"id"`
	Name        string                               `json:"name"`
	Namespace   string                               `json:"namespace"`     // id
	In          string                               `json:"namespaceName"` // its name
	Kind        cloudmapapi.NamespaceType            `json:"namespaceType"` // and type
	Type        cloudmapapi.ServiceType              `json:"type"`
	Description *string                              `json:"description,omitempty"`
	DNS         []cloudmapapi.DNSRecord              `json:"dns,omitempty"`
	Routing     cloudmapapi.RoutingPolicy            `json:"routing,omitempty"`
	Custom      *cloudmapapi.HealthCheckCustomConfig `json:"customHealth,omitempty"`
	Created     time.Time                            `json:"created"`
	RequestID   string                               `json:"requestId,omitempty"`
	Attributes  map[string]string                    `json:"attributes,omitempty"`
	Tags        []cloudmapapi.Tag                    `json:"tags,omitempty"`
}

// state is the record of what a service's instances count.
type state struct {
	// Revision grows with each registration and deregistration (DISC-007), from a
	// time on: one who made a service anew under its old name is not mistaken.
	Revision  int64 `json:"revision"`
	Instances int64 `json:"instances"`
}

// instance is the record of one.
type instance struct {
	ID         string            `json:"id"`
	Attributes map[string]string `json:"attributes,omitempty"`
	RequestID  string            `json:"requestId,omitempty"`
	Operation  string            `json:"operation,omitempty"` // that registered it so
	Unhealthy  bool              `json:"unhealthy,omitempty"`
	Registered time.Time         `json:"registered"`
}

// kind is a kind of records: how they are named, and read.
type kind[B any] struct{ store.Type }

// The kinds of records.
var (
	namespaces  = newKind[namespace]("cloudmap-namespace")
	places      = newKind[place]("cloudmap-place")
	definitions = newKind[definition]("cloudmap-service")
	states      = newKind[state]("cloudmap-state")
	instances   = newKind[instance]("cloudmap-instance")
	operations  = newKind[operation]("cloudmap-operation")
	counters    = newKind[counter]("cloudmap-counter")
)

func newKind[B any](name string) kind[B] {
	t := store.Type{Name: name, Schema: 1}
	for f := range reflect.TypeFor[B]().Fields() {
		member, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		t.Members = append(t.Members, member)
	}
	return kind[B]{t}
}

// of reads a record; nil is none.
func (k kind[B]) of(r *store.Record) (*B, error) {
	if r == nil {
		return nil, nil
	}
	out := new(B)
	if err := json.Unmarshal(r.Body, out); err != nil {
		return nil, fmt.Errorf("read %s: %w", r.Key, err)
	}
	return out, nil
}

// get reads a record of a transaction; nil is none.
func (k kind[B]) get(tx *store.Tx, tail string) (*B, error) { return k.of(tx.Record(tail)) }

// put writes a record.
func (k kind[B]) put(tx *store.Tx, tail string, body *B) { tx.PutRecord(k.Type, tail, body) }

// delete removes a record.
func (k kind[B]) delete(tx *store.Tx, tail string) { tx.DeleteRecord(k.Type, tail) }

// read reads one record of the store; nil is none.
func (k kind[B]) read(ctx context.Context, s *store.Store, tail string) (*B, error) {
	all, _, err := s.Records(ctx, tail)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(r store.Record) bool { return r.Key == tail })
	if i < 0 {
		return nil, nil
	}
	return k.of(&all[i])
}

// list reads the records of the kind below a tail, in order.
func (k kind[B]) list(ctx context.Context, s *store.Store, tail string) ([]*B, error) {
	all, _, err := s.Records(ctx, tail)
	if err != nil {
		return nil, err
	}
	var out []*B
	for i := range all {
		if all[i].Type != k.Name {
			continue
		}
		b, err := k.of(&all[i])
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// spelled is how a name is compared: names in DNS know no case.
func spelled(text string, t cloudmapapi.NamespaceType) string {
	if t == cloudmapapi.NamespaceTypeHTTP {
		return text
	}
	return strings.ToLower(text)
}

// placeOf is the tail of a service's place.
func placeOf(account string, in, service string, t cloudmapapi.NamespaceType) string {
	return names(account).Tail("service", spelled(in, t), spelled(service, t), string(t))
}

// types are those of namespaces, in the order in which a name means one of them.
var types = []cloudmapapi.NamespaceType{cloudmapapi.NamespaceTypeHTTP, cloudmapapi.NamespaceTypeDNSPrivate, cloudmapapi.NamespaceTypeDNSPublic}
