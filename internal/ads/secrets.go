package ads

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"

	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/envoy"
)

// fetch gets the secrets that the proxy asked for (D9): all of them, or those
// whose delivery is due. What it may not have is left out and noted.
func (p *proxy) fetch(ctx context.Context, all bool) error {
	if p.m == nil {
		return nil
	}
	s := &p.m.of[envoy.Secret] // read here, written by this goroutine only
	secrets, denied := slices.Clone(p.m.secrets), map[string]string{}
	secrets = slices.DeleteFunc(secrets, func(r *envoy.Resource) bool { return !s.has(r.Name) })
	for _, n := range s.names {
		if _, owed := s.owed[n]; !owed && !all {
			if why := p.denied[n]; why != "" {
				denied[n] = why
			}
			continue
		}
		secrets = without(secrets, []string{n})
		r, err := p.secret(ctx, n)
		if err != nil {
			denied[n] = oneLine(err.Error())
			continue
		}
		secrets = union([]*envoy.Resource{r}, secrets)
	}
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	p.mu.Lock()
	p.m.secrets, p.denied = secrets, denied
	p.mu.Unlock()
	p.s.dirty(p.client)
	return nil
}

func (p *proxy) secret(ctx context.Context, name string) (*envoy.Resource, error) {
	if p.s.Secrets == nil {
		return nil, errors.New("no source serves it")
	}
	ctx, cancel := context.WithTimeout(ctx, resolveWait)
	defer cancel()
	value, err := p.s.Secrets.Secret(ctx, p.principal, name)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(value))
	return &envoy.Resource{
		Name: name, Hash: hex.EncodeToString(sum[:16]),
		Encoded: []byte(value),
	}, nil
}
