package podidentity

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/eksapi"
	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/sts"
)

// passed is who gets a role that is put into an association, as iam:PassedToService.
const passed = "pods.eks.amazonaws.com"

// enter asks for permission on a resource, and finds the cluster's provider.
func (s *Server) enter(ctx context.Context, c *service.Call, cluster, resource string, keys map[string][]string) (sts.Provider, error) {
	if err := c.Allow(ctx, resource, keys); err != nil {
		return sts.Provider{}, err
	}
	p, found, err := s.Roles.Directory.Cluster(ctx, c.Principal.Account, cluster)
	if err == nil && !found {
		err = api.Errorf(eksapi.CodeResourceNotFound, "No cluster found for name: %s.", cluster)
	}
	return p, err
}

// enterTo is enter for an association, which policies may know by its tags; it is nil
// when there is none of that id.
func (s *Server) enterTo(ctx context.Context, c *service.Call, cluster, id string) (sts.Provider, *association, error) {
	account := c.Principal.Account
	a, err := s.byID(ctx, account, cluster, id)
	if err != nil {
		return sts.Provider{}, nil, err
	}
	var keys map[string][]string
	if a != nil {
		keys = service.TagKeys(maps.All(a.Tags), "aws:resourcetag/")
	}
	p, err := s.enter(ctx, c, cluster, s.associationARN(account, cluster, id), keys)
	return p, a, err
}

func (s *Server) create(ctx context.Context, c *service.Call, in *eksapi.CreatePodIdentityAssociationRequest) (*eksapi.CreatePodIdentityAssociationResponse, error) {
	account := c.Principal.Account
	provider, err := s.enter(ctx, c, in.ClusterName, s.clusterARN(account, in.ClusterName), service.RequestTags(maps.All(in.Tags)))
	if err != nil {
		return nil, err
	}
	a := &association{
		Namespace: in.Namespace, ServiceAccount: in.ServiceAccount, RoleARN: in.RoleARN, Target: or(in.TargetRoleARN, ""),
		Policy: or(in.Policy, ""), Untagged: in.DisableSessionTags != nil && *in.DisableSessionTags,
		Tags: in.Tags, Created: s.Now().UTC().Round(0), Token: or(in.ClientRequestToken, ""), Provider: provider.ARN,
	}
	a.Modified = a.Created
	if in.Namespace == "" || in.ServiceAccount == "" {
		return nil, invalid("namespace and serviceAccount must not be empty.")
	}
	if err := s.usable(ctx, c, in.ClusterName, a); err != nil {
		return nil, err
	}
	if a.ID, err = newID(); err != nil {
		return nil, err
	}
	var out *eksapi.CreatePodIdentityAssociationResponse
	scope := scopeOf(account, in.ClusterName)
	_, err = s.Store.Update(ctx, []store.Scope{scope}, func(tx *store.Tx) error {
		others := tx.Records(scope.Tail(recordKind) + "/")
		for _, r := range others {
			other, err := read(r)
			if err != nil {
				return err
			}
			if other.Namespace != a.Namespace || other.ServiceAccount != a.ServiceAccount {
				continue
			}
			if a.Token != "" && a.Token == other.Token && a.RoleARN == other.RoleARN {
				out = &eksapi.CreatePodIdentityAssociationResponse{Association: s.api(account, in.ClusterName, other)}
				return nil
			}
			return api.Errorf(eksapi.CodeResourceInUse, "Association already exists: %s", other.ID)
		}
		if len(others) >= maxAssociations {
			return api.Errorf(eksapi.CodeResourceLimitExceeded, "A cluster has at most %d pod identity associations.", maxAssociations)
		}
		out = &eksapi.CreatePodIdentityAssociationResponse{Association: s.api(account, in.ClusterName, a)}
		tx.PutRecord(recordType(), tailOf(account, in.ClusterName, a.ID), a)
		c.Commit(tx, out)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// usable checks the roles and the policy of an association: the caller hands a role on
// to pods, so it must be of the same account, and the caller allowed to pass it.
func (s *Server) usable(ctx context.Context, c *service.Call, cluster string, a *association) error {
	account := c.Principal.Account
	if n, ok := api.ParseResourceName(a.RoleARN); !ok || n.Service != "iam" || !strings.HasPrefix(n.Resource, "role/") {
		return invalid("%s is no ARN of a role.", a.RoleARN)
	} else if n.Account != account {
		return invalid("Cross-account pass role is not allowed.")
	}
	if err := c.AllowAction(ctx, "iam:PassRole", a.RoleARN, map[string][]string{
		"iam:passedtoservice": {passed}, "iam:associatedresourcearn": {s.clusterARN(account, cluster)},
	}); err != nil {
		return err
	}
	if _, found, err := s.Roles.Directory.Role(ctx, a.RoleARN); err != nil {
		return err
	} else if !found {
		return invalid("Role %s does not exist.", a.RoleARN)
	}
	if a.Target != "" {
		a.ExternalID = strings.Join([]string{s.Realm.Region, account, cluster, a.Namespace, a.ServiceAccount}, "/")
	}
	if a.Policy == "" {
		return nil
	}
	if !a.Untagged {
		return invalid("A policy takes disableSessionTags: a session has no room for both.")
	}
	d, err := policy.Parse(a.Policy)
	if err == nil {
		err = d.ForIdentity()
	}
	if err != nil {
		return invalid("The policy is malformed: %v", err)
	}
	return nil
}

func (s *Server) update(ctx context.Context, c *service.Call, in *eksapi.UpdatePodIdentityAssociationRequest) (*eksapi.UpdatePodIdentityAssociationResponse, error) {
	account := c.Principal.Account
	provider, _, err := s.enterTo(ctx, c, in.ClusterName, in.AssociationID)
	if err != nil {
		return nil, err
	}
	var out *eksapi.UpdatePodIdentityAssociationResponse
	_, err = s.Store.Update(ctx, []store.Scope{scopeOf(account, in.ClusterName)}, func(tx *store.Tx) error {
		a, err := one(tx, account, in.ClusterName, in.AssociationID)
		if err != nil {
			return err
		}
		a.RoleARN, a.Target, a.Policy = or(in.RoleARN, a.RoleARN), or(in.TargetRoleARN, a.Target), or(in.Policy, a.Policy)
		if in.DisableSessionTags != nil {
			a.Untagged = *in.DisableSessionTags
		}
		if err := s.usable(ctx, c, in.ClusterName, a); err != nil {
			return err
		}
		a.Provider, a.Modified = provider.ARN, s.Now().UTC().Round(0)
		out = &eksapi.UpdatePodIdentityAssociationResponse{Association: s.api(account, in.ClusterName, a)}
		tx.PutRecord(recordType(), tailOf(account, in.ClusterName, a.ID), a)
		c.Commit(tx, out)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) remove(ctx context.Context, c *service.Call, in *eksapi.DeletePodIdentityAssociationRequest) (*eksapi.DeletePodIdentityAssociationResponse, error) {
	account := c.Principal.Account
	if _, _, err := s.enterTo(ctx, c, in.ClusterName, in.AssociationID); err != nil {
		return nil, err
	}
	var out *eksapi.DeletePodIdentityAssociationResponse
	_, err := s.Store.Update(ctx, []store.Scope{scopeOf(account, in.ClusterName)}, func(tx *store.Tx) error {
		a, err := one(tx, account, in.ClusterName, in.AssociationID)
		if err != nil {
			return err
		}
		out = &eksapi.DeletePodIdentityAssociationResponse{Association: s.api(account, in.ClusterName, a)}
		tx.DeleteRecord(recordType(), tailOf(account, in.ClusterName, a.ID))
		c.Commit(tx, out)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// one finds an association in a transaction.
func one(tx *store.Tx, account, cluster, id string) (*association, error) {
	r := tx.Record(tailOf(account, cluster, id))
	if r == nil {
		return nil, absent(id)
	}
	return read(*r)
}

func (s *Server) describe(ctx context.Context, c *service.Call, in *eksapi.DescribePodIdentityAssociationRequest) (*eksapi.DescribePodIdentityAssociationResponse, error) {
	_, a, err := s.enterTo(ctx, c, in.ClusterName, in.AssociationID)
	if err == nil && a == nil {
		err = absent(in.AssociationID)
	}
	if err != nil {
		return nil, err
	}
	return &eksapi.DescribePodIdentityAssociationResponse{Association: s.api(c.Principal.Account, in.ClusterName, a)}, nil
}

const pageSize = 100

func (s *Server) list(ctx context.Context, c *service.Call, in *eksapi.ListPodIdentityAssociationsRequest) (*eksapi.ListPodIdentityAssociationsResponse, error) {
	account := c.Principal.Account
	if _, err := s.enter(ctx, c, in.ClusterName, s.clusterARN(account, in.ClusterName), nil); err != nil {
		return nil, err
	}
	all, err := s.all(ctx, account, in.ClusterName)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(a *association) bool {
		return in.Namespace != nil && a.Namespace != *in.Namespace || in.ServiceAccount != nil && a.ServiceAccount != *in.ServiceAccount
	})
	page, next, ok := service.Page(all, func(a *association) string { return a.ID }, in.NextToken, in.MaxResults, pageSize)
	if !ok {
		return nil, invalid("The nextToken is not one that a list gave out.")
	}
	out := &eksapi.ListPodIdentityAssociationsResponse{Associations: []eksapi.PodIdentityAssociationSummary{}, NextToken: next}
	for _, a := range page {
		arn := s.associationARN(account, in.ClusterName, a.ID)
		out.Associations = append(out.Associations, eksapi.PodIdentityAssociationSummary{
			AssociationARN: &arn, AssociationID: &a.ID, ClusterName: &in.ClusterName, Namespace: &a.Namespace, ServiceAccount: &a.ServiceAccount,
		})
	}
	return out, nil
}

func invalid(format string, args ...any) error {
	return api.Errorf(eksapi.CodeInvalidParameter, format, args...)
}

func absent(id string) error {
	return api.Errorf(eksapi.CodeResourceNotFound, "No association found for associationId: %s.", id)
}

// podOf is what an association gives to the pod of a token.
func (s *Server) podOf(account, cluster string, a *association, w workload, p sts.Provider) sts.Pod {
	pod := sts.Pod{
		RoleARN: a.RoleARN, Session: w.session(cluster), Association: s.associationARN(account, cluster, a.ID),
		Provider: p.ARN, Subject: w.subject(), Target: a.Target, ExternalID: a.ExternalID,
	}
	if a.Policy != "" {
		pod.Policies = []string{a.Policy}
	}
	if a.Untagged {
		return pod
	}
	pod.Tags = map[string]string{
		"eks-cluster-arn": s.clusterARN(account, cluster), "eks-cluster-name": cluster,
		"kubernetes-namespace": w.namespace, "kubernetes-service-account": w.account,
	}
	if w.pod != "" {
		pod.Tags["kubernetes-pod-name"], pod.Tags["kubernetes-pod-uid"] = w.pod, w.uid
	}
	return pod
}
