package main

import (
	"context"
	"maps"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/sts"
	"github.com/evermesh/evermesh/internal/sts/accounts"
	"github.com/evermesh/evermesh/internal/sts/oidc"
	"github.com/evermesh/evermesh/internal/sts/podidentity"
)

// federation is who else has credentials: sessions, pods, proxies with tokens and
// certificates; and who of the proxies may stay.
type federation struct {
	sessions *sts.Sessions
	roles    *sts.Server
	pods     *podidentity.Server

	mu      sync.Mutex
	changed map[string]bool // accounts whose streams are to be authorised again
	wake    chan struct{}
}

// openFederation makes sessions of what IAM knows.
func (d *daemon) openFederation() {
	directory := accounts.New(d.keys, d.keys.Authorizer())
	f := newFederation()
	f.sessions = &sts.Sessions{Lasting: d.keys, Directory: directory, Box: d.keys.Box(), Now: time.Now}
	f.roles = &sts.Server{
		Partition: d.config.Partition, Sessions: f.sessions, Directory: directory,
		Tokens: oidc.New(oidc.Config{CAFile: d.config.OIDCCAFile, Log: d.log, Now: time.Now}),
	}
	f.pods = &podidentity.Server{Store: d.store, Roles: f.roles, Realm: d.realm(), Now: time.Now}
	d.keys.Directory().OnChange(f.note)
	d.federation = f
}

func newFederation() *federation {
	return &federation{changed: map[string]bool{}, wake: make(chan struct{}, 1)}
}

// note remembers whose policies, roles or keys changed.
func (f *federation) note(accounts []string) {
	f.mu.Lock()
	for _, a := range accounts {
		f.changed[a] = true
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *federation) take() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.changed
	f.changed = map[string]bool{}
	return taken
}

// revokeRest is how long apart streams are authorised again, at least: who changes
// policies without a pause does not keep this replica from its work.
const revokeRest = time.Second

// endRevoked has the streams of an account authorised again whenever who may do what
// changed there: those that may not go on are closed within seconds (IAM-037).
func (d *daemon) endRevoked(ctx context.Context) error {
	return d.follow(ctx, func(changed map[string]bool) {
		d.proxies.Reauthorize(func(p auth.Principal, _ api.Key) bool { return changed[p.Account] })
	})
}

// follow calls again with the accounts that changed, at once, but with a rest between two
// calls.
func (f *federation) follow(ctx context.Context, again func(changed map[string]bool)) error {
	rest := time.NewTimer(revokeRest)
	defer rest.Stop()
	for {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		again(f.take())
		rest.Reset(revokeRest)
		select {
		case <-rest.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// streamAction is what a proxy does with the ARN of its node or gateway.
const streamAction = "appmesh:StreamAggregatedResources"

// mayStream says whether a principal's proxies may have the configuration of a node or
// gateway (EMS-054): its mesh lets them in, its key or what its session was made from
// is still there, and its policies allow it. That a session expires does not end a
// stream, as with App Mesh: the next one needs new credentials, at most half an hour
// later.
func (d *daemon) mayStream(p auth.Principal, from ads.From, key api.Key) error {
	if err := d.comeIn(p, key); err != nil {
		return err
	}
	if err := d.holds(p); err != nil {
		return err
	}
	owner := p.Account // what is not there would be made by who asks
	if s := d.loop.Snapshot(); s != nil {
		if r := s.Get(key); r != nil {
			owner = r.Owner
		}
	}
	return d.around.authorizer.Authorize(context.Background(), auth.Question{
		Principal: p, Action: streamAction, Resource: d.realm().ARN(key, owner), Keys: d.streamKeys(p, from, key),
	})
}

// holds says whether the credentials of a stream that is open are there yet.
func (d *daemon) holds(p auth.Principal) error {
	if p.Session != nil {
		if d.sessions.Holds(p) {
			return nil
		}
	} else if p.AccessKeyID == "" {
		return nil
	} else if c, found, err := d.keys.Credential(context.Background(), p.AccessKeyID, ""); err != nil {
		return err
	} else if found && c.Principal.ID == p.ID {
		return nil
	}
	return api.Errorf(api.CodeUnrecognizedClient, "The security token included in the request is invalid.")
}

// streamKeys are the condition keys of a stream. Tags are for the account that set them
// alone (SHARE-023).
func (d *daemon) streamKeys(p auth.Principal, from ads.From, key api.Key) map[string][]string {
	keys := d.fromKeys(from)
	s := d.loop.Snapshot()
	if s == nil {
		return keys
	}
	if r := s.Get(key); r != nil && r.Owner == p.Account {
		tags := service.Pairs(r.Tags, func(t api.TagRef) (key, value string) { return t.Key, t.Value })
		maps.Copy(keys, service.TagKeys(tags, "aws:resourcetag/", "appmesh:resourcetag/"))
	}
	return keys
}

// fromKeys are the condition keys that a stream has by where it comes from, now.
func (d *daemon) fromKeys(from ads.From) map[string][]string {
	now := time.Now().UTC()
	keys := map[string][]string{
		"aws:securetransport": {strconv.FormatBool(from.TLS)}, "aws:requestedregion": {d.config.Region},
		"aws:currenttime": {now.Format(time.RFC3339)}, "aws:epochtime": {strconv.FormatInt(now.Unix(), 10)},
	}
	if host, _, err := net.SplitHostPort(from.Address); err == nil {
		keys["aws:sourceip"] = []string{host}
	}
	return keys
}

// readable says whether a file that a flag names can be read; none is fine.
func readable(flag, file string) error {
	if file == "" {
		return nil
	}
	if _, err := os.ReadFile(file); err != nil {
		return usagef("%s: %v", flag, err)
	}
	return nil
}
