package rest

import (
	"context"
	"fmt"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// named are the problems with the certificates and authorities that a node or gateway
// names by ARN: those that are not there, and what is no such ARN. sure says that all were
// looked for: what is in another account, or of a service that is elsewhere, is not.
func (e *explainer) named(ctx context.Context, r *api.Resource) (out []mesh.Problem, sure bool, err error) {
	sure = true
	for _, named := range mesh.ARNsOf(r) {
		if named.ARN == mesh.IdentityCertificate {
			continue
		}
		what, service, form := "certificate", "acm", "certificate/ID"
		if named.Authority {
			what, service, form = "certificate authority", "acm-pca", "certificate-authority/ID"
		}
		add := func(format string, args ...any) {
			out = append(out, mesh.Problem{Key: e.key, Reason: mesh.ReasonNotFound, Message: named.Path + " " + fmt.Sprintf(format, args...) + "; until then TLS that needs it fails"})
		}
		n, ok := api.ParseResourceName(named.ARN)
		kind, _, _ := strings.Cut(form, "/")
		switch {
		case !ok || n.Service != service || !strings.HasPrefix(n.Resource, kind+"/"):
			add("is %q, which is no ARN of a %s: name one, %s", named.ARN, what, e.s.Realm.ResourceName(service, r.Owner, form))
		case n.Account != r.Owner || e.s.Exists == nil || e.s.Elsewhere[service] != nil:
			sure = false
		default:
			there, err := e.s.Exists(ctx, named.ARN)
			if err != nil {
				return nil, false, err
			}
			if !there {
				add("names %s %s, which does not exist: name one that does, or make one", what, named.ARN)
			}
		}
	}
	return out, sure, nil
}
