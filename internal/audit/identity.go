package audit

import (
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
)

// identity is who did it, CloudTrail's userIdentity (AUDIT-002).
type identity struct {
	Type           string          `json:"type"`
	PrincipalID    string          `json:"principalId,omitempty"`
	ARN            string          `json:"arn,omitempty"`
	AccountID      string          `json:"accountId,omitempty"`
	AccessKeyID    string          `json:"accessKeyId,omitempty"`
	UserName       string          `json:"userName,omitempty"`
	Provider       string          `json:"identityProvider,omitempty"`
	SessionContext *sessionContext `json:"sessionContext,omitempty"`
	InvokedBy      string          `json:"invokedBy,omitempty"`
}

// sessionContext is what temporary credentials were made from.
type sessionContext struct {
	Issuer         *sessionIssuer    `json:"sessionIssuer,omitempty"`
	WebID          *webIDFederation  `json:"webIdFederationData,omitempty"`
	Attributes     sessionAttributes `json:"attributes"`
	SourceIdentity string            `json:"sourceIdentity,omitempty"`
}

type sessionIssuer struct {
	Type        string `json:"type"`
	PrincipalID string `json:"principalId,omitempty"`
	ARN         string `json:"arn,omitempty"`
	AccountID   string `json:"accountId,omitempty"`
	UserName    string `json:"userName,omitempty"`
}

type webIDFederation struct {
	Provider   string            `json:"federatedProvider"`
	Attributes map[string]string `json:"attributes"`
}

type sessionAttributes struct {
	CreationDate string `json:"creationDate"`
	MFA          string `json:"mfaAuthenticated"`
}

// Types of identities, in CloudTrail's words.
const (
	typeRoot        = "Root"
	typeUser        = "IAMUser"
	typeAssumedRole = "AssumedRole"
	typeFederated   = "FederatedUser"
	typeWebIdentity = "WebIdentityUser"
	typeAccount     = "AWSAccount"
	typeService     = "AWSService"
	typeUnknown     = "Unknown"
)

// identityOf tells who the principal is.
func identityOf(p auth.Principal) identity {
	id := identity{PrincipalID: p.ID, ARN: p.ARN, AccountID: p.Account, AccessKeyID: p.AccessKeyID}
	resource := resourceOf(p.ARN)
	switch {
	case p.Type == auth.AssumedRole:
		id.Type = typeAssumedRole
	case p.Type == auth.FederatedUser:
		id.Type = typeFederated
	case p.Type == auth.User:
		id.Type, id.UserName = typeUser, lastPart(resource)
	case p.Type == auth.Root, resource == "root":
		id.Type = typeRoot
		if id.PrincipalID == "" {
			id.PrincipalID = p.Account
		}
	case p.Account == "" && p.Session != nil && p.Session.Subject != "":
		id.Type, id.Provider, id.UserName = typeWebIdentity, p.Session.Provider, p.Session.Subject
		if id.PrincipalID == "" {
			id.PrincipalID = p.Session.Provider + ":" + p.Session.Subject
		}
		return id
	case strings.HasSuffix(p.ARN, ".amazonaws.com"):
		return identity{Type: typeService, InvokedBy: p.ARN}
	default:
		id.Type = typeUnknown
	}
	if p.Session != nil {
		id.SessionContext = contextOf(p)
	}
	return id
}

func contextOf(p auth.Principal) *sessionContext {
	s := p.Session
	c := &sessionContext{Attributes: sessionAttributes{CreationDate: stamp(s.Issued), MFA: "false"}, SourceIdentity: s.SourceIdentity}
	if s.MFA {
		c.Attributes.MFA = "true"
	}
	if s.Issuer != "" {
		of, _ := api.ParseResourceName(s.Issuer)
		c.Issuer = &sessionIssuer{ARN: s.Issuer, AccountID: of.Account, UserName: lastPart(of.Resource)}
		switch kind, _, _ := strings.Cut(of.Resource, "/"); kind {
		case "role":
			c.Issuer.Type = "Role"
			c.Issuer.PrincipalID, _, _ = strings.Cut(p.ID, ":")
		case "root":
			c.Issuer.Type, c.Issuer.PrincipalID, c.Issuer.UserName = "Root", c.Issuer.AccountID, ""
		default:
			c.Issuer.Type = typeUser
		}
	}
	if s.Provider != "" {
		c.WebID = &webIDFederation{Provider: s.Provider, Attributes: map[string]string{}}
	}
	return c
}

// stranger is what another account is told of the principal: which account it is
// of, and an id that only that account can tell a name for.
func stranger(p auth.Principal) identity {
	id := p.ID
	if id == "" {
		id = p.Account
	}
	return identity{Type: typeAccount, PrincipalID: id, AccountID: p.Account}
}

// name is what lookups find the identity by, CloudTrail's Username: a user's
// name, a session's, root.
func (i identity) name() string {
	switch i.Type {
	case typeRoot:
		return "root"
	case typeAssumedRole, typeFederated:
		return lastPart(resourceOf(i.ARN))
	case typeUser, typeWebIdentity:
		return i.UserName
	case typeService:
		return i.InvokedBy
	}
	return i.AccountID
}

// resourceOf is what an ARN names in its service; empty when it is none.
func resourceOf(arn string) string {
	n, _ := api.ParseResourceName(arn)
	return n.Resource
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }
