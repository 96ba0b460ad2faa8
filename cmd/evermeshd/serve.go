package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/metadata"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/catchup"
	"github.com/evermesh/evermesh/internal/certs"
	"github.com/evermesh/evermesh/internal/certs/identity"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/cloudmap"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/drain"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/ledger"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/publish"
	"github.com/evermesh/evermesh/internal/quota"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/secrets"
	"github.com/evermesh/evermesh/internal/share"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/sts/proxyauth"
)

// daemon is the control plane's parts, wired together. They depend on each
// other in one direction, store first.
type daemon struct {
	config  config
	log     *slog.Logger
	metrics *metrics
	ready   *readiness

	store     *store.Store
	keys      *iam.Keys
	identity  *iam.Server
	registry  *cloudmap.Registry
	endpoints *discovery.Registry
	proxies   *ads.Server
	secrets   *secrets.Source
	loop      *publish.Loop
	drains    *drain.Drains
	ledger    *ledger.Writer
	api       *rest.Server
	shares    *share.Shares
	memory    *catchup.Memory
	quotas    *quota.Limits
	seats     *quota.Seats
	around    around
	trail     *trail
	certs     *certs.Registry
	issued    *identity.Issuer
	backups   *scheduled

	*federation
	streams *proxyauth.Streams

	away bool // the store did not answer when the replica left
}

// serveUntilDone runs the control plane until ctx ends.
func serveUntilDone(ctx context.Context, cfg config) error {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return usagef("--data-dir: %v", err)
	}
	d := &daemon{
		config: cfg, log: newLog(os.Stderr, cfg.LogLevel, cfg.LogFormat),
		metrics: newMetrics(), ready: &readiness{reason: "starting"},
	}
	var err error
	if d.store, err = d.openStore(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while it waited for etcd
		}
		return err
	}
	defer func() {
		if err := d.store.Close(); err != nil {
			d.log.Error("store did not close", "err", err)
		}
	}()
	defer func() { d.trail.close() }()
	if err := d.wire(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while it read what there is
		}
		return err
	}
	return d.run(ctx)
}

// wire makes the parts, without starting them.
func (d *daemon) wire(ctx context.Context) error {
	c, realm := d.config, d.realm()
	replica := api.Replica{ID: replicaID(), Address: &c.XDSListen, Version: version}
	keys, err := iam.Open(ctx, iam.Config{
		Store: d.store, Replica: replica.ID, Partition: c.Partition, Account: c.Account, Log: d.log, Now: time.Now,
		MasterKeyFile: c.MasterKeyFile, CreateMasterKey: len(c.EtcdEndpoints) == 0, CredentialsFile: d.credentials(),
	})
	var wrongKey *seal.MasterKeyError
	switch {
	case errors.As(err, &wrongKey):
		return usagef("%v", err)
	case err != nil:
		return err
	}
	d.keys, d.backups = keys, d.scheduledBackups(replica.ID)
	d.openIdentity()
	d.openFederation()
	if err := d.openAudit(); err != nil {
		return err
	}
	d.openRegistry()
	source, own, err := d.endpointSource(ctx)
	if err != nil {
		return err
	}
	d.endpoints = discovery.New(discovery.Config{Source: source, Own: own, Memory: d.store, Log: d.log, Now: time.Now})
	if err := d.endpoints.Load(ctx); err != nil {
		return err
	}

	anonymous := iam.Root(c.Partition, c.Account)
	if err := d.openShares(ctx); err != nil {
		return err
	}
	d.openMemory()
	if err := d.openQuotas(ctx); err != nil {
		return err
	}
	d.openCertificates()
	services, err := d.services()
	if err != nil {
		return err
	}
	elsewhere, err := d.elsewhereServices(ctx, services)
	if err != nil {
		return err
	}
	verifier := auth.NewVerifier(d.sessions, c.Region, rest.SigningNames(services), time.Now)

	d.streams = &proxyauth.Streams{Verify: verifier.Verify, Roles: d.roles, Pods: d.pods}

	d.ledger = (&ledger.Writer{
		Store: d.store, Replica: replica, Log: d.log, Now: time.Now,
		Row: d.row, Lost: func(since time.Time) { d.proxies.EndSince(since) },
	}).Init()
	reader := &ledger.Reader{Store: d.store, Realm: realm, Flushed: d.ledger.Changed, Now: time.Now}
	d.openSeats(ctx, reader, replica.ID)
	if len(c.EtcdEndpoints) == 0 {
		if err := d.ledger.Clear(ctx); err != nil {
			// A disk that is almost full takes no writes, and is no reason not to
			// serve what is there (D3).
			d.log.Warn("ledger keeps what the replica before left", "err", err)
		}
	}
	d.secrets = &secrets.Source{Issuer: d.certificateIssuer(elsewhere), Identities: d.issued, Renew: func(concerns func(string) bool) { d.proxies.Renew(concerns) }, Log: d.log}
	d.proxies = ads.New(ads.Config{
		Realm: realm, Replica: replica.ID, PublishWait: c.PublishWait, Log: d.log, Now: time.Now,
		Authenticate: func(ctx context.Context, method string, md metadata.MD) (auth.Principal, error) {
			if c.Auth == "off" {
				return anonymous, nil
			}
			return d.streams.Authenticate(ctx, method, md)
		},
		Authorize: d.mayStream, Memory: d.memory, Keys: d.fromKeys, Room: d.room, Secrets: d.secrets, Dirty: d.ledger.Dirty, Connected: d.connected,
		Joined: func() { d.drains.Joined() },
		Meter:  d.metrics.meter(),
	})
	d.drains = drain.New(drain.Config{
		Store: d.store, Ledger: reader, Endpoints: d.endpoints, Instances: d.proxies.Instances, Log: d.log, Now: time.Now,
		Snapshot: func(ctx context.Context) (*mesh.Snapshot, error) { return d.loop.Fresh(ctx) },
	})
	if err := d.drains.Load(ctx); err != nil {
		return err
	}
	d.loop = publish.New(publish.Config{
		Store: d.store, Proxies: d.proxies, Endpoints: d.endpoints, Log: d.log, Workers: runtime.GOMAXPROCS(0),
		Ledger: reader, Rows: d.store, PublishWait: c.PublishWait,
		Observe: d.metrics.published, Now: time.Now, Problematic: d.ledger.Dirty,
		Applied: func(revision int64) {
			d.metrics.revision.Set(float64(revision))
			d.ledger.Applied(revision)
			d.issued.Look()
		},
		Drained: d.ledger.Drained,
	})
	d.proxies.Clients, reader.Affected = d.loop, d.loop.Affected
	d.metrics.endpoints(d.endpoints.Age)
	d.metrics.watch(d.proxies.States, func() []mesh.Problem { return d.loop.Problems(api.Key{}) })

	served := rest.Config{
		Store: d.store, Realm: realm, Log: d.log, Anonymous: anonymous, Rate: c.APIRate,
		Ledger: reader, Drains: d.drains, Snapshot: d.loop.Fresh, Quotas: d.quotas, Services: services, Elsewhere: elsewhere, ElsewhereFor: c.Account, Authorizer: d.around.authorizer, Shares: d.around.shares, Memory: d.memory, Audit: d.around.audit,
		Observe: d.metrics.request, Now: time.Now, NewID: uuid.NewString, MeshMade: d.meshMade, Certificates: d.certs.ResourceKeys, Exists: d.certs.Exists, Authority: d.certs.AuthorityStatus,
	}
	if c.Auth != "off" {
		served.Verify, served.Holds = verifier.Verify, d.holds
	}
	if c.AccessLog == "on" {
		served.AccessLog = d.log
	}
	d.api, err = rest.New(served)
	return err
}

// credentials is the file that holds the root key of the first account.
func (d *daemon) credentials() string { return filepath.Join(d.config.DataDir, "credentials") }

// openStore opens etcd, in this process or outside.
func (d *daemon) openStore(ctx context.Context) (*store.Store, error) {
	o := d.config.storeOptions()
	o.Log, o.Patience = d.log, patience
	o.Observe = func(took time.Duration, conflicts int) {
		d.metrics.txn.Observe(took.Seconds())
		d.metrics.conflicts.Add(float64(conflicts))
	}
	s, err := store.Open(ctx, o)
	return s, misconfigured(err)
}

// patience is how long a start waits for an external etcd: what starts both at
// once need not order them, and what restarts processes sees a real end.
const patience = time.Minute

// misconfigured makes settings with which no store will ever open wrong usage.
func misconfigured(err error) error {
	if wrong, ok := errors.AsType[*store.Misconfigured](err); ok {
		return usagef("%v", wrong)
	}
	return err
}

// mostProblems is how many problems of a node or gateway its ledger row names.
const mostProblems = 50

// row is what the ledger keeps of a client: what its proxies have, and what
// could not be done for them.
func (d *daemon) row(c mesh.Client) (api.LedgerRow, bool) {
	row, ok := d.proxies.Row(c)
	if !ok {
		return row, false
	}
	for _, p := range d.loop.ProblemsOf(c) {
		if len(row.Problems) == mostProblems {
			break
		}
		row.Problems = append(row.Problems, api.Problem{ResourceARN: d.realm().ARN(p.Key, d.owner(p.Key)), Reason: p.Reason, Message: p.Message})
	}
	return row, true
}

func (d *daemon) realm() api.Realm {
	return api.Realm{Partition: d.config.Partition, Region: d.config.Region}
}

// owner is the account that created the resource; the mesh's when it is not
// known.
func (d *daemon) owner(key api.Key) string {
	if s := d.loop.Snapshot(); s != nil {
		if r := s.Get(key); r != nil {
			return r.Owner
		}
	}
	return key.Owner
}

// replicaID names this replica in the ledger. It is another after every start;
// the ledger knows a successor by its host and address.
func replicaID() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "evermeshd"
	}
	return host + "-" + uuid.NewString()[:8]
}

// facts is what local tools need to know.
func (d *daemon) facts(a *addresses) client.Facts {
	return client.Facts{
		APIEndpoint: a.api, XDSEndpoint: a.xds, APICertificate: absolute(a.apiCert), CABundle: absolute(a.apiCA), XDSCABundle: absolute(a.xdsCA),
		Region: d.config.Region, Partition: d.config.Partition, Account: d.config.Account,
		Credentials: absolute(d.credentials()),
	}
}

func absolute(file string) string {
	if full, err := filepath.Abs(file); err == nil && file != "" {
		return full
	}
	return file
}
