package sts

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/sts/oidc"
)

// Callers beside the API: a proxy that shows a token or a certificate, a pod that an
// association gives a role. The role's trust policy decides as for others.

// AssumeToken is the principal of who has the token of a provider and wants a role, as
// AssumeRoleWithWebIdentity makes it. keys are condition keys of the request.
func (s *Server) AssumeToken(ctx context.Context, raw, roleARN string, keys map[string][]string) (auth.Principal, error) {
	name := "proxy"
	if subject := oidc.Subject(raw); subject != "" {
		name = sessionName(subject)
	}
	w, err := s.web(ctx, raw, roleARN, name, keys)
	if err != nil {
		return auth.Principal{}, err
	}
	w.session.Issued, w.session.Expires = w.token.Issued, w.token.Expires
	return s.session(w.role, name, w.session), nil
}

// AssumeCertificate is the principal of who has a verified certificate with that SPIFFE
// id and wants a role: its trust policy lets Federated spiffe://DOMAIN perform
// sts:AssumeRoleWithWebIdentity, with the id as the condition key spiffe:sub.
func (s *Server) AssumeCertificate(ctx context.Context, id *url.URL, expires time.Time, roleARN string, keys map[string][]string) (auth.Principal, error) {
	if _, err := roleAccount(roleARN); err != nil {
		return auth.Principal{}, err
	}
	role, found, err := s.Directory.Role(ctx, roleARN)
	if err != nil {
		return auth.Principal{}, err
	}
	name := sessionName(strings.Trim(id.Path, "/"))
	domain := "spiffe://" + id.Host
	all := with(keys, map[string][]string{
		"spiffe:sub": {id.String()}, "aws:federatedprovider": {domain}, "sts:rolesessionname": {name},
	})
	if !found || !vouched(role, federated(domain), []string{actionWeb}, all) {
		return auth.Principal{}, api.Errorf(api.CodeAccessDenied, "Not authorized to perform %s", actionWeb)
	}
	return s.session(role, name, auth.Session{
		Provider: domain, Subject: id.String(), Issued: s.Sessions.Now(), Expires: expires,
	}), nil
}

// podService is the service that trust policies of pods' roles name.
const podService = "pods.eks.amazonaws.com"

// PodAudience is the audience of tokens that Kubernetes makes for EKS Pod Identity.
const PodAudience = podService

// VerifyPod verifies the token of a pod for an account whose provider is bound to a
// cluster.
func (s *Server) VerifyPod(ctx context.Context, account, raw string) (oidc.Token, Provider, error) {
	return s.verify(ctx, account, raw, []string{PodAudience})
}

// Pod is a pod that an association gives a role.
type Pod struct {
	RoleARN     string
	Session     string // its session's name
	Association string // ARN
	Provider    string // ARN
	Subject     string // system:serviceaccount:NAMESPACE:NAME
	// Tags are what the cluster says of the pod, as tags of its session; nil for none.
	Tags     map[string]string
	Policies []string // that narrow it
}

// AssumePod makes credentials for a pod. The role must be in the account of the
// association, which the caller has checked, and trust the service that gives roles to
// pods.
func (s *Server) AssumePod(ctx context.Context, pod Pod, keys map[string][]string) (Credentials, error) {
	p, role, err := s.pod(ctx, pod, keys)
	if err != nil {
		return Credentials{}, err
	}
	return s.Sessions.issue(p, nil, min(podSession, role.MaxSession))
}

// podSession is how long a pod's credentials last; its SDK asks again before.
const podSession = 6 * time.Hour

// PodPrincipal is AssumePod for who needs no credentials.
func (s *Server) PodPrincipal(ctx context.Context, pod Pod, keys map[string][]string) (auth.Principal, error) {
	p, _, err := s.pod(ctx, pod, keys)
	return p, err
}

func (s *Server) pod(ctx context.Context, pod Pod, keys map[string][]string) (auth.Principal, Role, error) {
	account, err := roleAccount(pod.RoleARN)
	if err != nil {
		return auth.Principal{}, Role{}, err
	}
	role, found, err := s.Directory.Role(ctx, pod.RoleARN)
	if err != nil {
		return auth.Principal{}, Role{}, err
	}
	var transitive []string
	for key := range pod.Tags {
		transitive = append(transitive, key)
	}
	all := with(keys, tagKeys(pod.Tags, transitive), map[string][]string{
		"aws:sourceaccount": {account}, "aws:sourcearn": {pod.Association}, "sts:rolesessionname": {pod.Session},
	})
	if !found || !vouched(role, policy.Principal{Service: podService}, needs(actionAssume, len(pod.Tags) > 0, false), all) {
		return auth.Principal{}, Role{}, api.Errorf(api.CodeAccessDenied, "Unable to assume role %s: its trust policy must let %s perform %s and %s.", pod.RoleARN, podService, actionAssume, actionTag)
	}
	return s.session(role, pod.Session, auth.Session{
		Provider: pod.Provider, Subject: pod.Subject, Tags: pod.Tags, Transitive: transitive, Policies: pod.Policies,
		Issued: s.Sessions.Now(), Expires: s.Sessions.Now().Add(podSession),
	}), role, nil
}

// sessionName makes a name of a session of what a token or certificate is about.
func sessionName(subject string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("_=,.@-", r):
			return r
		}
		return '-'
	}, strings.TrimPrefix(subject, "system:serviceaccount:"))
	if len(name) > 64 {
		name = name[len(name)-64:]
	}
	for len(name) < 2 {
		name += "-"
	}
	return name
}
