// Package podidentity gives roles to pods by associations of a cluster, a namespace and
// a service account, in the shape of EKS Pod Identity.
//
// Start with Server. Service keeps associations (associations.go); Auth is what turns
// a pod's token into credentials, and Principal the same for a proxy's stream
// (assume.go). A cluster exists for an account as soon as an OIDC provider of it has
// the tag iam.ClusterTag: whose tokens its pods have follows from that.
package podidentity

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/eksapi"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/sts"
)

// Server keeps associations and answers by them.
type Server struct {
	Store *store.Store
	Roles *sts.Server
	Realm api.Realm
	Now   func() time.Time
}

// Service is the part of EKS that manages associations.
func (s *Server) Service() (*service.Service, error) {
	return service.New("eks", "eks", map[string]service.Operation{
		"CreatePodIdentityAssociation":   service.Op(s.create),
		"DeletePodIdentityAssociation":   service.Op(s.remove),
		"DescribePodIdentityAssociation": service.Read(s.describe),
		"ListPodIdentityAssociations":    service.Read(s.list),
		"UpdatePodIdentityAssociation":   service.Op(s.update),
	})
}

// maxAssociations is how many a cluster may have, as with EKS.
const maxAssociations = 5000

// association is the body of a record: service/eks/ACCOUNT/CLUSTER/association/ID.
type association struct {
	ID             string            `json:"id"` // a-…
	Namespace      string            `json:"namespace"`
	ServiceAccount string            `json:"serviceAccount"`
	RoleARN        string            `json:"roleArn"`
	Target         string            `json:"target,omitempty"` // ARN of a role
	ExternalID     string            `json:"externalId,omitempty"`
	Policy         string            `json:"policy,omitempty"`
	Untagged       bool              `json:"untagged,omitempty"` // sessions have no tags
	Tags           map[string]string `json:"tags,omitempty"`
	Created        time.Time         `json:"created"`
	Modified       time.Time         `json:"modified"`
	Token          string            `json:"token,omitempty"` // of the request that made it
	// Provider is the ARN of the cluster's provider when the association was made or
	// last changed: another one that gets the cluster's name does not get its roles.
	Provider string `json:"provider"`
}

func recordType() store.Type {
	return store.Type{Name: "podIdentityAssociation", Schema: 1, Members: []string{
		"id", "namespace", "serviceAccount", "roleArn", "target", "externalId", "policy", "untagged", "tags", "created", "modified", "token", "provider",
	}}
}

const recordKind = "association"

func scopeOf(account, cluster string) store.Scope { return store.ServiceScope("eks", account, cluster) }

func tailOf(account, cluster, id string) string {
	return scopeOf(account, cluster).Tail(recordKind, id)
}

func read(r store.Record) (*association, error) {
	a := new(association)
	if err := json.Unmarshal(r.Body, a); err != nil {
		return nil, fmt.Errorf("read association %s: %w", r.Key, err)
	}
	return a, nil
}

// all reads the associations of a cluster, in the order of their ids.
func (s *Server) all(ctx context.Context, account, cluster string) ([]*association, error) {
	records, _, err := s.Store.Records(ctx, scopeOf(account, cluster).Tail(recordKind)+"/")
	if err != nil {
		return nil, fmt.Errorf("read associations: %w", err)
	}
	list := make([]*association, 0, len(records))
	for _, r := range records {
		a, err := read(r)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

// byID reads an association as it is now; nil is none.
func (s *Server) byID(ctx context.Context, account, cluster, id string) (*association, error) {
	tail := tailOf(account, cluster, id)
	records, _, err := s.Store.Records(ctx, tail)
	if err != nil {
		return nil, fmt.Errorf("read association: %w", err)
	}
	for _, r := range records {
		if r.Key == tail { // others begin with it
			return read(r)
		}
	}
	return nil, nil
}

func newID() (string, error) {
	raw := make([]byte, 11)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("draw id: %w", err)
	}
	return "a-" + strings.ToLower(base32.StdEncoding.EncodeToString(raw)[:17]), nil
}

func (s *Server) arn(account, resource string) string {
	return s.Realm.ResourceName("eks", account, resource)
}

func (s *Server) clusterARN(account, cluster string) string {
	return s.arn(account, "cluster/"+cluster)
}

func (s *Server) associationARN(account, cluster, id string) string {
	return s.arn(account, "podidentityassociation/"+cluster+"/"+id)
}

// api is an association as EKS answers it.
func (s *Server) api(account, cluster string, a *association) *eksapi.PodIdentityAssociation {
	arn := s.associationARN(account, cluster, a.ID)
	return &eksapi.PodIdentityAssociation{
		AssociationARN: &arn, AssociationID: &a.ID, ClusterName: &cluster, Namespace: &a.Namespace, ServiceAccount: &a.ServiceAccount,
		RoleARN: &a.RoleARN, TargetRoleARN: text(a.Target), ExternalID: text(a.ExternalID), Policy: text(a.Policy), DisableSessionTags: &a.Untagged,
		CreatedAt: &api.Timestamp{Time: a.Created}, ModifiedAt: &api.Timestamp{Time: a.Modified}, Tags: a.Tags,
	}
}

// text is nil for an empty one.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func or(s *string, fallback string) string {
	if s == nil {
		return fallback
	}
	return *s
}
