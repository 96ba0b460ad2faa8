package auth

import (
	"errors"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// Allow says whether p may do the action (appmesh:CreateRoute) on the resource:
// nil, or an *api.Error with AWS's sentence (IAM-016).
//
// An account's root may do everything in its account, and no account may touch
// another's: ForbiddenException, which App Mesh has for that (MESH-010). An arn
// that is empty or "*" names no resource, as for lists.
func Allow(p Principal, action, arn string) error {
	if arn == "" || arn == "*" {
		return nil
	}
	if n, ok := api.ParseResourceName(arn); ok && n.Account == p.Account {
		return nil
	}
	return api.Errorf(api.CodeForbidden, "User: %s is not authorized to perform: %s on resource: %s", p.ARN, action, arn)
}

// Explicit says whether a refusal is that of a policy that denies, and not for want of
// one that allows.
func Explicit(refusal error) bool {
	known, ok := errors.AsType[*api.Error](refusal)
	return ok && strings.Contains(known.Message, "with an explicit deny in ")
}
