package main

import (
	"context"
	"crypto/fips140"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/credentials"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/sts/podidentity"
)

// addresses is where the control plane can be reached, once it listens.
type addresses struct {
	api, xds     string // as clients write them
	apiCA, xdsCA string // files, empty without TLS or when they hold no root
	apiCert      string // file, empty without TLS
}

// listeners are the open listeners and what they serve with.
type listeners struct {
	api, xds, admin net.Listener
	dnsUDP          net.PacketConn // nil where no names are answered
	dnsTCP          net.Listener
	apiTLS, xdsTLS  *tls.Config
	certificates    []*certificate
	addresses       addresses
	ownDir          string // of the certificate that is ours to renew; empty when none is
}

func (l *listeners) close() {
	for _, x := range []net.Listener{l.api, l.xds, l.admin, l.dnsTCP} {
		if x != nil {
			_ = x.Close() // served listeners are closed already
		}
	}
	if l.dnsUDP != nil {
		_ = l.dnsUDP.Close()
	}
}

// listen opens everything before anything is served, so that a taken port is an
// error at start and not half a control plane.
func (d *daemon) listen() (*listeners, error) {
	l := &listeners{}
	err := d.listenAll(l)
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (d *daemon) listenAll(l *listeners) error {
	c := d.config
	var err error
	if l.api, err = listen("--api-listen", c.APIListen); err != nil {
		return err
	}
	if l.xds, err = listen("--xds-listen", c.XDSListen); err != nil {
		return err
	}
	if l.admin, err = listen("--admin-listen", c.AdminListen); err != nil {
		return err
	}
	if err = d.listenDNS(l); err != nil {
		return err
	}
	l.addresses.api, l.addresses.xds = "http://"+reachable(l.api), "http://"+reachable(l.xds)
	if c.APITLSCert != "" {
		if l.apiTLS, err = d.certificate(l, "api", c.APITLSCert, c.APITLSKey, ""); err != nil {
			return err
		}
		l.addresses.api, l.addresses.apiCert = "https://"+reachable(l.api), c.APITLSCert
		if rooted(c.APITLSCert) {
			l.addresses.apiCA = c.APITLSCert
		}
	}
	cert, key := c.XDSTLSCert, c.XDSTLSKey
	if c.ownXDS() {
		l.ownDir = filepath.Join(c.DataDir, "tls")
		if cert, key, err = ownCertificate(l.ownDir, ownHosts(c.XDSListen), time.Now()); err != nil {
			return err
		}
		l.addresses.xdsCA = filepath.Join(l.ownDir, "ca.pem")
	}
	if cert == "" {
		return nil
	}
	if l.xdsTLS, err = d.certificate(l, "xds", cert, key, c.XDSClientCA); err != nil {
		return err
	}
	l.addresses.xds = reachable(l.xds)
	return nil
}

func (d *daemon) certificate(l *listeners, name, cert, key, clientCA string) (*tls.Config, error) {
	served, err := newCertificate(name, cert, key, clientCA, d.log)
	if err != nil {
		return nil, usagef("%v", err)
	}
	l.certificates = append(l.certificates, served)
	d.metrics.certificate(name, served.notAfter)
	return served.config(), nil
}

// reachable is a listener's address for a client on this host.
func reachable(l net.Listener) string {
	if l.Addr().Network() == "unix" {
		return l.Addr().String()
	}
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return l.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// run serves until ctx ends, then lets go in an order that nobody notices: not
// ready any more, the streams end one after another, requests finish; the store
// closes after that.
func (d *daemon) run(ctx context.Context) error {
	l, err := d.listen()
	if err != nil {
		return err
	}
	defer l.close()
	defer d.leave(ctx)
	defer d.startAudit(ctx, announced(l))()
	apiServer := httpServer(d.trail.lookups.Before(podidentity.Container(d.besideLists(d.api))), l.apiTLS, d.log, mostConnections())
	adminServer := httpServer(adminHandler(d.ready, d.metrics.registry), nil, d.log, adminConnections)
	adminServer.WriteTimeout = 0 // a profile takes as long as it is asked to
	var creds credentials.TransportCredentials
	if l.xdsTLS != nil {
		creds = credentials.NewTLS(l.xdsTLS)
	}

	creds, asked := ads.Beside(creds)
	xdsServer := d.xdsServer()

	// The parts outlive ctx until the streams have ended.
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, working := errgroup.WithContext(working)
	part := func(name string, f func(context.Context) error) {
		g.Go(func() error {
			if err := f(working); err != nil && working.Err() == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	part("keys", d.keys.Run)
	part("shares", d.shares.Run)
	part("memory", d.memory.Run)
	part("quotas", d.quotas.Run)
	part("seats", d.seats.Run)
	part("guests", d.endGuests)
	part("revoked", d.endRevoked)
	part("registry", d.registry.Run)
	part("dns", func(ctx context.Context) error { return d.serveDNS(ctx, l) })
	part("endpoints", d.endpoints.Run)
	part("publishing", d.loop.Run)
	part("drains", d.drains.Run)
	part("ledger", d.ledger.Run)
	part("certificates", d.certs.Run)
	part("secrets", d.secrets.Run)
	part("xds", func(ctx context.Context) error { return d.proxies.Serve(ctx, l.xds, creds) })
	for _, served := range l.certificates {
		part("certificate of "+served.listener, served.follow)
	}
	part("certificate", func(ctx context.Context) error { return d.renew(ctx, l.ownDir) })
	part("backups", d.backups.run)
	part("heap", tuneHeap)
	part("requests of proxies", func(context.Context) error { return serveHTTP(xdsServer, asked) })
	part("api", func(context.Context) error { return serveHTTP(apiServer, l.api) })
	part("admin", func(context.Context) error { return serveHTTP(adminServer, l.admin) })
	part("shutdown", func(working context.Context) error {
		select {
		case <-ctx.Done():
			d.drain(working, apiServer)
		case <-working.Done(): // a part failed: there is no order to keep
		}
		_ = apiServer.Close()
		_ = xdsServer.Close()
		_ = adminServer.Close()
		stop()
		return nil
	})

	facts := d.facts(&l.addresses)
	facts.Quotas = d.config.Quotas
	if err := writeFacts(d.config.DataDir, facts); err != nil {
		stop()
		return errors.Join(err, g.Wait())
	}
	d.log.Warn("resources are not encrypted in the store, only secrets are: encrypt its disk where they are confidential")
	d.ready.check, d.ready.limited = d.readyCheck, d.limited
	d.ready.set("")
	d.log.Info("control plane is up", "api", l.addresses.api, "xds", l.addresses.xds, "admin", l.admin.Addr().String(),
		"account", d.config.Account, "region", d.config.Region, "version", version, "fips", fips140.Enabled())
	return g.Wait()
}

const (
	// leaveWait bounds how long a replica that ends waits for its store.
	leaveWait = 2 * time.Second
	// keepWait bounds how long it notes its proxies before their streams end.
	keepWait = 5 * time.Second
	// lookWait bounds how long it looks whether there is one.
	lookWait = time.Second
)

// leave takes the replica out of the ledger, but for a note of its proxies. However the
// parts ended, it has no streams any more.
func (d *daemon) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWait)
	defer cancel()
	if d.away {
		d.log.Warn("replica stays in the ledger until it is forgotten, as the store does not answer")
		return
	}
	d.keepRows(ctx)
	if err := d.ledger.Leave(ctx); err != nil {
		d.log.Warn("replica stays in the ledger until it is forgotten", "err", err)
	}
}

// renewEvery is how often our own certificate is looked at; it is made anew when
// a third of its life is left, and served without a restart.
const renewEvery = 12 * time.Hour

func (d *daemon) renew(ctx context.Context, dir string) error {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if dir == "" {
			continue
		}
		if _, _, err := ownCertificate(dir, ownHosts(d.config.XDSListen), time.Now()); err != nil {
			d.log.Error("certificate was not renewed", "err", err)
		}
	}
}

// drain is the order in which a replica leaves.
func (d *daemon) drain(ctx context.Context, apiServer *http.Server) {
	spread := time.Duration(d.config.DrainSeconds) * time.Second
	d.ready.set("draining")
	d.log.Info("control plane is leaving", "drain", spread)
	ctx, cancel := context.WithTimeout(ctx, spread+10*time.Second)
	defer cancel()
	d.keepSeats(ctx) // before the first of them goes elsewhere
	d.proxies.Drain(ctx, spread)
	// Requests finish, unless they wait for a store that is away: nothing that
	// is waited for then would come.
	looking, done := context.WithTimeout(ctx, lookWait)
	_, err := d.store.Head(looking)
	done()
	if d.away = err != nil; d.away {
		ctx, cancel = context.WithTimeout(ctx, lookWait)
		defer cancel()
	}
	if err := apiServer.Shutdown(ctx); err != nil {
		d.log.Warn("requests were cut off", "err", err)
	}
}

// readyCheck says why the replica cannot serve, nil when it can (D13).
func (d *daemon) readyCheck(ctx context.Context) error {
	if d.loop.Snapshot() == nil {
		return errors.New("the mesh is being loaded")
	}
	if _, err := d.store.Head(ctx); err != nil {
		return fmt.Errorf("the store does not answer: %w", err)
	}
	return nil
}

// limited says what the replica does not do although it is ready, nil when it does all.
func (d *daemon) limited(ctx context.Context) error {
	if err := d.store.Ready(ctx); err != nil {
		return err
	}
	return d.trail.fault()
}

func serveHTTP(s *http.Server, l net.Listener) error {
	var err error
	if s.TLSConfig != nil {
		err = s.ServeTLS(l, "", "")
	} else {
		err = s.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
