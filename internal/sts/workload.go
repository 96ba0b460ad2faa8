package sts

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/policy"
	"github.com/evermesh/evermesh/internal/service"
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
	all := service.Keys(keys, map[string][]string{
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
	// Target is the ARN of a role that the pod gets by way of the first one, which
	// must be allowed to assume it with ExternalID; empty for none.
	Target, ExternalID string
}

// AssumePod makes credentials for a pod. The role must be in the account of the
// association, which the caller has checked, and trust the service that gives roles to
// pods.
func (s *Server) AssumePod(ctx context.Context, pod Pod, keys map[string][]string) (Credentials, error) {
	p, d, err := s.pod(ctx, pod, keys)
	if err != nil {
		return Credentials{}, err
	}
	return s.Sessions.issue(p, nil, d)
}

// podSession is how long a pod's credentials last; its SDK asks again before.
const podSession = 6 * time.Hour

// PodPrincipal is AssumePod for who needs no credentials.
func (s *Server) PodPrincipal(ctx context.Context, pod Pod, keys map[string][]string) (auth.Principal, error) {
	p, d, err := s.pod(ctx, pod, keys)
	if err != nil {
		return auth.Principal{}, err
	}
	p.Session.Issued = s.Sessions.Now()
	p.Session.Expires = p.Session.Issued.Add(d)
	return p, nil
}

// pod makes the pod's session, and says how long it may last.
func (s *Server) pod(ctx context.Context, pod Pod, keys map[string][]string) (auth.Principal, time.Duration, error) {
	account, err := roleAccount(pod.RoleARN)
	if err != nil {
		return auth.Principal{}, 0, err
	}
	role, found, err := s.Directory.Role(ctx, pod.RoleARN)
	if err != nil {
		return auth.Principal{}, 0, err
	}
	transitive := slices.Sorted(maps.Keys(pod.Tags))
	all := service.Keys(keys, tagKeys(pod.Tags, transitive), map[string][]string{
		"aws:sourceaccount": {account}, "aws:sourcearn": {pod.Association}, "sts:rolesessionname": {pod.Session},
	})
	if !found || !vouched(role, policy.Principal{Service: podService}, needs(actionAssume, len(pod.Tags) > 0, false), all) {
		return auth.Principal{}, 0, api.Errorf(api.CodeAccessDenied, "Unable to assume role %s: its trust policy must let %s perform %s and %s.", pod.RoleARN, podService, actionAssume, actionTag)
	}
	session := auth.Session{Provider: pod.Provider, Subject: pod.Subject, Tags: pod.Tags, Transitive: transitive}
	if pod.Target == "" {
		session.Policies = pod.Policies
		return s.session(role, pod.Session, session), min(podSession, role.MaxSession), nil
	}
	first := s.session(role, pod.Session, session)
	if account, err = roleAccount(pod.Target); err != nil {
		return auth.Principal{}, 0, err
	}
	if err := s.Directory.Fresh(ctx, account); err != nil {
		return auth.Principal{}, 0, err
	}
	if role, found, err = s.Directory.Role(ctx, pod.Target); err != nil {
		return auth.Principal{}, 0, err
	}
	if !found {
		return auth.Principal{}, 0, notAuthorized(first, actionAssume, pod.Target)
	}
	all = service.Keys(keys, tagKeys(pod.Tags, transitive), map[string][]string{
		"sts:externalid": {pod.ExternalID}, "sts:rolesessionname": {pod.Session},
	})
	if err := s.trusts(ctx, role, first, needs(actionAssume, len(pod.Tags) > 0, false), all); err != nil {
		return auth.Principal{}, 0, err
	}
	session.Policies = pod.Policies
	return s.session(role, pod.Session, session), min(chainedSession, role.MaxSession), nil
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
