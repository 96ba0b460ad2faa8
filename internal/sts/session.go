package sts

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
)

// keyPrefix is what ids of temporary access keys begin with.
const keyPrefix = "ASIA"

// Credentials are temporary ones, with what they are the credentials of.
type Credentials struct {
	AccessKeyID  string
	Secret       auth.Secret
	SessionToken auth.Secret
	Expires      time.Time
	Principal    auth.Principal
}

// Sessions makes sessions and knows them again. It is an auth.Keys: what is no
// temporary key it leaves to Lasting.
type Sessions struct {
	Lasting   auth.Keys
	Directory Directory
	Box       Box
	Now       func() time.Time
}

// token is what a session token holds, sealed.
type token struct {
	Version   int            `json:"v"`
	Secret    string         `json:"secret"`
	Principal auth.Principal `json:"principal"` // with its session, without PolicyARNs' texts
	// PolicyARNs are managed policies that narrow the session, as they are when it is
	// used.
	PolicyARNs []string `json:"policyArns,omitempty"`
}

// tokenVersion is refused by versions of this program that read another one.
const tokenVersion = 1

// owner binds a token to its access key: with another key's it does not open.
func owner(accessKeyID string) string { return "session\n" + accessKeyID }

// Issue makes credentials for a principal that has a session, whose times it sets.
func (s *Sessions) Issue(p auth.Principal, d time.Duration) (Credentials, error) {
	return s.issue(p, nil, d)
}

// issue is Issue for a session that managed policies narrow beside its own.
func (s *Sessions) issue(p auth.Principal, policyARNs []string, d time.Duration) (Credentials, error) {
	raw := make([]byte, 30)
	if _, err := rand.Read(raw); err != nil {
		return Credentials{}, fmt.Errorf("draw secret: %w", err)
	}
	id, err := newKeyID(p.Account)
	if err != nil {
		return Credentials{}, err
	}
	session := *p.Session
	session.Issued = s.Now().UTC().Truncate(time.Second)
	session.Expires = session.Issued.Add(d)
	p.AccessKeyID, p.Session = id, &session
	c := Credentials{AccessKeyID: id, Secret: auth.Secret(base64.StdEncoding.EncodeToString(raw)), Expires: session.Expires, Principal: p}
	text, err := json.Marshal(token{Version: tokenVersion, Secret: string(c.Secret), Principal: p, PolicyARNs: policyARNs})
	if err != nil {
		return Credentials{}, fmt.Errorf("encode session: %w", err)
	}
	sealed, err := s.Box.SealText(owner(id), text)
	if err != nil {
		return Credentials{}, fmt.Errorf("seal session: %w", err)
	}
	c.SessionToken = auth.Secret(sealed)
	return c, nil
}

// noPolicy stands for a policy that does not exist any more: it narrows to nothing.
const noPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}`

// Credential opens a session token. It satisfies auth.Keys. What was sealed elsewhere
// or for another key is not found, nor is a session whose user or role is gone.
func (s *Sessions) Credential(ctx context.Context, accessKeyID, sessionToken string) (auth.Credential, bool, error) {
	if !strings.HasPrefix(accessKeyID, keyPrefix) {
		return s.Lasting.Credential(ctx, accessKeyID, sessionToken)
	}
	text, err := s.Box.OpenText(owner(accessKeyID), sessionToken)
	if _, unable := errors.AsType[*api.Error](err); unable {
		return auth.Credential{}, false, err
	} else if err != nil {
		return auth.Credential{}, false, nil // anybody can send one that does not open
	}
	var t token
	if err := json.Unmarshal(text, &t); err != nil {
		return auth.Credential{}, false, fmt.Errorf("read session: %w", err)
	}
	if t.Version != tokenVersion || t.Principal.Session == nil || !s.lasts(t.Principal) || !s.Holds(t.Principal) {
		return auth.Credential{}, false, nil
	}
	for _, arn := range t.PolicyARNs {
		text, found, err := s.Directory.Policy(ctx, arn)
		if err != nil {
			return auth.Credential{}, false, fmt.Errorf("read session policy %s: %w", arn, err)
		}
		if !found {
			text = noPolicy
		}
		t.Principal.Session.Policies = append(t.Principal.Session.Policies, text)
	}
	return auth.Credential{
		Secret: auth.Secret(t.Secret), SessionToken: auth.Secret(sessionToken),
		Principal: t.Principal, Expires: t.Principal.Session.Expires,
	}, true, nil
}

// lasts says whether a session's times are such as STS gives: one that was made with a
// stolen key ends as others do.
func (s *Sessions) lasts(p auth.Principal) bool {
	most := longestSession
	switch p.Type {
	case auth.Root:
		most = rootSession
	case auth.AssumedRole:
		most = longestRoleSession
	case auth.User, auth.FederatedUser:
	}
	return p.Session.Expires.Sub(p.Session.Issued) <= most && !p.Session.Issued.After(s.Now().Add(clockSkew))
}

// clockSkew is how far the clocks of replicas may be apart.
const clockSkew = 5 * time.Minute

// Holds says whether what a session was made from is still there: the role or user
// with that unique id, or the account.
func (s *Sessions) Holds(p auth.Principal) bool {
	if p.Session == nil {
		return true
	}
	id, ok := s.Directory.Current(p.Session.Issuer)
	return ok && id == p.Session.IssuerID
}

// newKeyID draws the id of a temporary key. As AWS's does, it holds its account, which
// GetAccessKeyInfo tells.
func newKeyID(account string) (string, error) {
	n, err := strconv.ParseUint(account, 10, 40)
	if err != nil {
		return "", fmt.Errorf("draw access key: account %q: %w", account, err)
	}
	raw := make([]byte, 10)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("draw access key: %w", err)
	}
	// One bit, then forty of the account, the rest is drawn.
	n = n<<7 | uint64(raw[0])<<40&(1<<47) | uint64(raw[5])&0x7f
	for i := range 6 {
		raw[i] = byte(n >> (40 - 8*i))
	}
	return keyPrefix + base32.StdEncoding.EncodeToString(raw), nil
}

// accountOf is the account in a temporary key's id; ok is false for another key.
func accountOf(accessKeyID string) (account string, ok bool) {
	drawn, ok := strings.CutPrefix(accessKeyID, keyPrefix)
	raw, err := base32.StdEncoding.DecodeString(drawn)
	if !ok || err != nil || len(raw) != 10 {
		return "", false
	}
	var n uint64
	for i := range 6 {
		n = n<<8 | uint64(raw[i])
	}
	if n = n >> 7 & (1<<40 - 1); n > 999_999_999_999 {
		return "", false
	}
	return fmt.Sprintf("%012d", n), true
}
