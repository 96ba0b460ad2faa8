package podidentity

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/eksauthapi"
	"github.com/evermesh/evermesh/internal/api/stsapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/sts"
	"github.com/evermesh/evermesh/internal/sts/oidc"
)

// Auth is EKS Auth: it turns a pod's token into credentials of the role that the pod's
// association has. EKS's agent on the node signs the request; here a pod may also send
// it unsigned, as its token says enough where one account alone knows the cluster.
func (s *Server) Auth() (*service.Service, error) {
	assume := service.Read(s.assume)
	assume.Unsigned = true
	return service.New("eks-auth", "eks-auth", map[string]service.Operation{"AssumeRoleForPodIdentity": assume})
}

func (s *Server) assume(ctx context.Context, c *service.Call, in *eksauthapi.AssumeRoleForPodIdentityRequest) (*eksauthapi.AssumeRoleForPodIdentityResponse, error) {
	account := c.Principal.Account
	if account == "" {
		account, _ = ctx.Value(meant{}).(string)
	} else {
		if err := s.Roles.Current(ctx, c.Principal); err != nil {
			return nil, err
		}
		if err := c.Allow(ctx, s.clusterARN(account, in.ClusterName), nil); err != nil {
			return nil, err
		}
	}
	f, err := s.find(ctx, in.Token, account, in.ClusterName)
	if err != nil {
		return nil, err
	}
	pod := s.podOf(f.account, f.cluster, f.association, f.workload, f.provider)
	if c.Principal.Account == "" { // the event says who it was
		c.Principal = auth.Principal{Session: &auth.Session{Provider: f.provider.ARN, Subject: f.token.Subject}}
	}
	c.About(pod.Association)
	made, err := s.Roles.AssumePod(ctx, pod, c.Keys)
	if err != nil {
		return nil, err
	}
	return &eksauthapi.AssumeRoleForPodIdentityResponse{
		AssumedRoleUser: eksauthapi.AssumedRoleUser{ARN: made.Principal.ARN, AssumeRoleID: made.Principal.ID},
		Audience:        f.token.Audience[0],
		Credentials: eksauthapi.Credentials{
			AccessKeyID: made.AccessKeyID, SecretAccessKey: string(made.Secret), SessionToken: string(made.SessionToken),
			Expiration: api.Timestamp{Time: made.Expires},
		},
		PodIdentityAssociation: eksauthapi.PodIdentityAssociation{AssociationARN: pod.Association, AssociationID: f.association.ID},
		Subject:                eksauthapi.Subject{Namespace: f.workload.namespace, ServiceAccount: f.workload.account},
	}, nil
}

// Principal is who has a service account's token, by the association that it has.
// account is the one whose association counts; empty for the only one that has one.
func (s *Server) Principal(ctx context.Context, raw, account string, keys map[string][]string) (auth.Principal, error) {
	f, err := s.find(ctx, raw, account, "")
	if err != nil {
		return auth.Principal{}, err
	}
	return s.Roles.PodPrincipal(ctx, s.podOf(f.account, f.cluster, f.association, f.workload, f.provider), keys)
}

// found is an association, and the token that it is for.
type found struct {
	account, cluster string
	token            oidc.Token
	provider         sts.Provider
	workload         workload
	association      *association
}

// find verifies a token and finds its association: in the account, or in the one that
// was the first to say that the token's cluster is its own. Who registers the issuer
// after it takes nothing from it, and is named to be meant.
func (s *Server) find(ctx context.Context, raw, account, cluster string) (found, error) {
	if account != "" {
		return s.findIn(ctx, raw, account, cluster)
	}
	issuer := oidc.Name(oidc.Issuer(raw))
	accounts, err := s.Roles.Directory.Accounts(ctx, issuer)
	if err != nil {
		return found{}, err
	}
	var since time.Time
	alone := true
	for _, one := range accounts {
		p, ok, err := s.Roles.Directory.Provider(ctx, one, issuer)
		switch {
		case err != nil:
			return found{}, err
		case !ok || p.Cluster == "":
		case account == "" || p.Created.Before(since):
			account, since, alone = one, p.Created, true
		case p.Created.Equal(since):
			alone = false
		}
	}
	switch {
	case account == "":
		return found{}, api.Errorf(eksauthapi.CodeInvalidToken, "No cluster is known whose tokens are of this issuer.")
	case !alone:
		return found{}, api.Errorf(eksauthapi.CodeInvalidRequest, "More than one account said at once that the cluster of this token is its own: say which is meant.")
	}
	return s.findIn(ctx, raw, account, cluster)
}

func (s *Server) findIn(ctx context.Context, raw, account, cluster string) (found, error) {
	if err := s.Roles.Directory.Fresh(ctx, account); err != nil {
		return found{}, err
	}
	t, p, err := s.Roles.VerifyPod(ctx, account, raw)
	if err != nil {
		return found{}, renamed(err)
	}
	if p.Cluster == "" || cluster != "" && p.Cluster != cluster {
		return found{}, api.Errorf(eksauthapi.CodeInvalidToken, "The token's issuer is not that of a cluster with that name.")
	}
	w, ok := workloadOf(t)
	if !ok {
		return found{}, api.Errorf(eksauthapi.CodeInvalidToken, "The token is not that of a service account.")
	}
	list, err := s.all(ctx, account, p.Cluster)
	if err != nil {
		return found{}, err
	}
	for _, a := range list {
		if a.Namespace == w.namespace && a.ServiceAccount == w.account && a.Provider == p.ARN {
			return found{account: account, cluster: p.Cluster, token: t, provider: p, workload: w, association: a}, nil
		}
	}
	return found{}, api.Errorf(eksauthapi.CodeResourceNotFound, "No association found for service account %s in namespace %s of cluster %s.", w.account, w.namespace, p.Cluster)
}

// renamed is a refusal of a token by the name that EKS Auth has for it.
func renamed(err error) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return err
	}
	switch e.Code {
	case stsapi.CodeInvalidIdentityToken:
		return api.Errorf(eksauthapi.CodeInvalidToken, "%s", e.Message)
	case stsapi.CodeIDPCOmmunicationError:
		return api.Errorf(eksauthapi.CodeServiceUnavailable, "%s", e.Message)
	}
	return err
}

// workload is what a token of Kubernetes says of its pod.
type workload struct{ namespace, account, pod, uid string }

const subjectPrefix = "system:serviceaccount:"

func workloadOf(t oidc.Token) (workload, bool) {
	rest, ok := strings.CutPrefix(t.Subject, subjectPrefix)
	var w workload
	if w.namespace, w.account, _ = strings.Cut(rest, ":"); !ok || w.namespace == "" || w.account == "" {
		return workload{}, false
	}
	claim, _ := t.Claims["kubernetes.io"].(map[string]any)
	pod, _ := claim["pod"].(map[string]any)
	w.pod, _ = pod["name"].(string)
	w.uid, _ = pod["uid"].(string)
	return w, true
}

func (w workload) subject() string { return subjectPrefix + w.namespace + ":" + w.account }

// session is the name of the pod's session, as EKS makes it: eks-CLUSTER-POD-….
func (w workload) session(cluster string) string {
	name := "eks-" + cluster + "-" + w.account
	if w.pod != "" {
		name = "eks-" + cluster + "-" + w.pod
	}
	name = strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, name)
	return name[:min(len(name), 64)]
}
