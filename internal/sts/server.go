package sts

import (
	"context"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/stsapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/sts/oidc"
)

// Server answers the operations of STS, and assumes roles for callers beside the API.
type Server struct {
	Partition string // of ARNs: aws
	Sessions  *Sessions
	Directory Directory
	Tokens    *oidc.Verifier
}

// codeParameter is of values that the model allows and STS does not.
const codeParameter = "InvalidParameterValue"

// codeValidation is of what the model would refuse, if it could say it.
const codeValidation = "ValidationException"

// Service is STS, as package rest serves it. Nothing is written: a session is in its
// token.
func (s *Server) Service() (*service.Service, error) {
	web := service.Read(s.assumeRoleWithWebIdentity)
	web.Unsigned = true
	return service.New("sts", "sts", map[string]service.Operation{
		"AssumeRole":                service.Read(s.assumeRole),
		"AssumeRoleWithWebIdentity": web,
		"GetAccessKeyInfo":          service.Read(s.getAccessKeyInfo),
		"GetCallerIdentity":         service.Read(s.getCallerIdentity),
		"GetFederationToken":        service.Read(s.getFederationToken),
		"GetSessionToken":           service.Read(s.getSessionToken),
	})
}

// Current refuses a caller whose key has ended, by what is known of its account and of
// the others at least as of now: a session that is made outlives the key, and holds on
// every replica, so one that is cut off from its store makes none.
func (s *Server) Current(ctx context.Context, p auth.Principal, others ...string) error {
	if err := s.Directory.Fresh(ctx, append(others, p.Account)...); err != nil {
		return err
	}
	holds := s.Sessions.Holds(p)
	if p.Session == nil && p.AccessKeyID != "" {
		var err error
		if _, holds, err = s.Sessions.Lasting.Credential(ctx, p.AccessKeyID, ""); err != nil {
			return err
		}
	}
	if !holds {
		return api.Errorf(api.CodeUnrecognizedClient, "The security token included in the request is invalid.")
	}
	return nil
}

// getCallerIdentity needs no permission, as with AWS.
func (s *Server) getCallerIdentity(_ context.Context, c *service.Call, _ *stsapi.GetCallerIdentityRequest) (*stsapi.GetCallerIdentityResponse, error) {
	return &stsapi.GetCallerIdentityResponse{Account: &c.Principal.Account, ARN: c.Principal.ARN, UserID: &c.Principal.ID}, nil
}

func (s *Server) getAccessKeyInfo(ctx context.Context, c *service.Call, in *stsapi.GetAccessKeyInfoRequest) (*stsapi.GetAccessKeyInfoResponse, error) {
	if err := c.Allow(ctx, "*", nil); err != nil {
		return nil, err
	}
	account, ok := accountOf(in.AccessKeyID)
	if !ok {
		lasting, found, err := s.Sessions.Lasting.Credential(ctx, in.AccessKeyID, "")
		if err != nil {
			return nil, err
		}
		account, ok = lasting.Principal.Account, found
	}
	if !ok {
		return nil, api.Errorf(codeValidation, "Access key %s is not known.", in.AccessKeyID)
	}
	return &stsapi.GetAccessKeyInfoResponse{Account: &account}, nil
}

const (
	defaultSession = 12 * time.Hour // of GetSessionToken and GetFederationToken
	rootSession    = time.Hour      // at most, of a root
	longestSession = 36 * time.Hour
)

// tokenLife is how long credentials of GetSessionToken and GetFederationToken last.
func tokenLife(p auth.Principal, seconds *int64) time.Duration {
	d := defaultSession
	if seconds != nil {
		d = min(time.Duration(*seconds)*time.Second, longestSession)
	}
	if p.Type == auth.Root {
		d = min(d, rootSession)
	}
	return d
}

// withoutMFA narrows credentials of GetSessionToken: made without MFA they are of no
// use for IAM.
const withoutMFA = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":"iam:*","Resource":"*"}]}`

// withoutIAM narrows credentials of GetFederationToken: of IAM and STS they may nothing
// but what needs no permission, GetCallerIdentity.
const withoutIAM = `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":["iam:*","sts:*"],"Resource":"*"}]}`

// lasting refuses what only a user or root may, with a key that lasts.
func lasting(c *service.Call, operation string) error {
	if c.Principal.Session != nil || c.Principal.Type != auth.User && c.Principal.Type != auth.Root {
		return api.Errorf(api.CodeAccessDenied, "Cannot call %s with session credentials", operation)
	}
	return nil
}

func (s *Server) getSessionToken(ctx context.Context, c *service.Call, in *stsapi.GetSessionTokenRequest) (*stsapi.GetSessionTokenResponse, error) {
	if err := lasting(c, "GetSessionToken"); err != nil {
		return nil, err
	}
	if err := noMFA(in.SerialNumber, in.TokenCode); err != nil {
		return nil, err
	}
	if err := s.Current(ctx, c.Principal); err != nil {
		return nil, err
	}
	p := c.Principal
	p.Session = &auth.Session{Issuer: p.ARN, IssuerID: p.ID, Policies: []string{withoutMFA}}
	made, err := s.Sessions.issue(p, nil, tokenLife(p, in.DurationSeconds))
	if err != nil {
		return nil, err
	}
	return &stsapi.GetSessionTokenResponse{Credentials: made.api()}, nil
}

// noMFA refuses codes of devices: there are none here.
func noMFA(serial, code string) error {
	if serial == "" && code == "" {
		return nil
	}
	return api.Errorf(api.CodeAccessDenied, "MultiFactorAuthentication failed, unable to validate MFA code.  Please verify your MFA serial number is valid and associated with this user.")
}

// getFederationToken needs permission for the federated user that it makes. Without a
// policy that user may do nothing.
func (s *Server) getFederationToken(ctx context.Context, c *service.Call, in *stsapi.GetFederationTokenRequest) (*stsapi.GetFederationTokenResponse, error) {
	if err := lasting(c, "GetFederationToken"); err != nil {
		return nil, err
	}
	account := c.Principal.Account
	arn := "arn:" + s.Partition + ":sts::" + account + ":federated-user/" + in.Name
	l, err := limitsOf(account, in.Policy, in.PolicyARNs, in.Tags, nil)
	if err != nil {
		return nil, err
	}
	if err := s.Current(ctx, c.Principal); err != nil {
		return nil, err
	}
	if err := c.Allow(ctx, arn, l.keys); err != nil {
		return nil, err
	}
	if len(l.tags) > 0 {
		if err := c.AllowAction(ctx, "sts:TagSession", arn, l.keys); err != nil {
			return nil, err
		}
	}
	if err := s.there(ctx, l.arns); err != nil {
		return nil, err
	}
	p := auth.Principal{
		Account: account, ARN: arn, Type: auth.FederatedUser, ID: account + ":" + in.Name,
		Session: &auth.Session{Issuer: c.Principal.ARN, IssuerID: c.Principal.ID, Name: in.Name, Policies: append(l.policies, withoutIAM), Tags: l.tags},
	}
	made, err := s.Sessions.issue(p, l.arns, tokenLife(c.Principal, in.DurationSeconds))
	if err != nil {
		return nil, err
	}
	return &stsapi.GetFederationTokenResponse{
		Credentials: made.api(), PackedPolicySize: l.packed,
		FederatedUser: &stsapi.FederatedUser{ARN: arn, FederatedUserID: p.ID},
	}, nil
}

// api is the credentials as STS answers them.
func (c Credentials) api() *stsapi.Credentials {
	return &stsapi.Credentials{
		AccessKeyID: c.AccessKeyID, SecretAccessKey: string(c.Secret), SessionToken: string(c.SessionToken),
		Expiration: api.Timestamp{Time: c.Expires},
	}
}

// sessionARN is the ARN of a role's session: the role's path is not in it.
func (s *Server) sessionARN(r Role, name string) string {
	return strings.Join([]string{"arn", s.Partition, "sts", "", r.Account, "assumed-role/" + r.Name + "/" + name}, ":")
}
