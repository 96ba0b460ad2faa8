package iam

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// What unique ids begin with, by what they are of.
const (
	userID    = "AIDA"
	groupID   = "AGPA"
	roleID    = "AROA"
	policyID  = "ANPA"
	profileID = "AIPA"
)

// newID draws a unique id: 21 characters, of which the first four say what it is of.
func newID(prefix string) (string, error) {
	raw := make([]byte, 11)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("draw id: %w", err)
	}
	return prefix + base32.StdEncoding.EncodeToString(raw)[:17], nil
}

// fixedID is the id of what is built in: it is the same everywhere.
func fixedID(prefix, name string) string {
	sum := sha256.Sum256([]byte(name))
	return prefix + base32.StdEncoding.EncodeToString(sum[:11])[:17]
}

// arn is the ARN of something in an account: kind is user, group, role, policy,
// instance-profile or oidc-provider, and path begins and ends with a slash.
func (s *Server) arn(account, kind, path, name string) string {
	return arn(s.partition, account, kind, path, name)
}

func arn(partition, account, kind, path, name string) string {
	if path == "" {
		path = "/"
	}
	return "arn:" + partition + ":iam::" + account + ":" + kind + path + name
}

// ParseARN takes an ARN of IAM apart: arn:aws:iam::111122223333:role/path/name has
// the kind role, the path /path/ and the name. The account of built-in policies is
// aws.
func ParseARN(text string) (account, kind, path, name string, ok bool) {
	n, ok := api.ParseResourceName(text)
	if !ok || n.Service != "iam" || n.Region != "" {
		return "", "", "", "", false
	}
	kind, rest, ok := strings.Cut(n.Resource, "/")
	if !ok {
		return "", "", "", "", false
	}
	i := strings.LastIndexByte(rest, '/')
	return n.Account, kind, "/" + rest[:i+1], rest[i+1:], rest[i+1:] != ""
}
