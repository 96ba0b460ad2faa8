package certs

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// Config is what New needs; all of it but CRL, Using and Trusting is required.
type Config struct {
	Store *store.Store
	// Box seals the keys of authorities and certificates.
	Box   *seal.Box
	Realm api.Realm
	// Authorizer decides which principals of proxies get certificates.
	Authorizer auth.Authorizer
	// CRL is where the lists of revoked certificates are served, without a slash at
	// the end: http://127.0.0.1:7070/evermesh/crl. Certificates name it, so proxies
	// and whoever else checks them must reach it; empty leaves it out.
	CRL string
	// Using names the resources of meshes that name certificates, by the certificates'
	// ARNs; nil says that none does.
	Using func(ctx context.Context) (map[string][]string, error)
	// Trusting are the meshes whose settings name authorities of ACM PCA for identities;
	// nil says that none does.
	Trusting func(ctx context.Context) ([]Trusting, error)
	Log      *slog.Logger
	Now      func() time.Time
}

// Registry has the authorities and certificates of all accounts.
type Registry struct {
	config    Config
	directory directory
}

// New makes a Registry. Run makes it serve proxies.
func New(c Config) *Registry {
	r := &Registry{config: c}
	r.directory.init()
	return r
}

func (r *Registry) now() time.Time { return r.config.Now().UTC().Truncate(time.Millisecond) }

// arnOf takes an ARN of a service apart: the parts of its path. ok is false for what
// is none of this control plane.
func (r *Registry) arnOf(service, arn string) (account string, path []string, ok bool) {
	n, ok := api.ParseResourceName(arn)
	if !ok || n.Partition != r.config.Realm.Partition || n.Service != service || n.Region != r.config.Realm.Region || len(n.Account) != 12 {
		return "", nil, false
	}
	return n.Account, strings.Split(n.Resource, "/"), true
}

func (r *Registry) arn(service, account, path string) string {
	return r.config.Realm.ResourceName(service, account, path)
}

// tag is a tag of either service.
type tag struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
}

// mostTags is how many tags a resource may have.
const mostTags = 50

// tagCodes are what a service calls faults of tags.
type tagCodes struct{ invalid, tooMany string }

// tagged adds tags to others; of one key the new value counts.
func tagged(old, added []tag, codes tagCodes) ([]tag, error) {
	out := slices.Clone(old)
	for _, t := range added {
		if strings.HasPrefix(strings.ToLower(t.Key), "aws:") {
			return nil, api.Errorf(codes.invalid, "Tag keys that begin with aws: are reserved: %s.", t.Key)
		}
		if i := slices.IndexFunc(out, func(x tag) bool { return x.Key == t.Key }); i >= 0 {
			out[i].Value = t.Value
		} else {
			out = append(out, t)
		}
	}
	if len(out) > mostTags {
		return nil, api.Errorf(codes.tooMany, "A resource has at most %d tags.", mostTags)
	}
	return out, nil
}

func (t tag) pair() (key, value string) { return t.Key, t.Value }

// resourceKeys are the condition keys of a resource's tags.
func resourceKeys(tags []tag) map[string][]string {
	return service.TagKeys(service.Pairs(tags, tag.pair), "aws:resourcetag/")
}

// requestKeys are the condition keys of tags that a call gives.
func requestKeys(tags []tag) map[string][]string {
	return service.RequestTags(service.Pairs(tags, tag.pair))
}

// page is service.Page for the two services here, whose tokens are texts.
func page[T any](all []T, key func(T) string, token string, most *int64, usual int) (items []T, next string, ok bool) {
	items, more, ok := service.Page(all, key, &token, most, usual)
	if more != nil {
		next = *more
	}
	return items, next, ok
}
