package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/audit/segment"
)

// trail is what keeps, moves, finds and delivers events on this replica.
type trail struct {
	log     *segment.Log
	keeper  *audit.Trail
	mover   *audit.Mover
	lookups *audit.Lookups
	peers   *audit.Peers   // nil for a replica that has its store to itself
	file    *audit.File    // nil when none is asked for
	webhook *audit.Webhook // as well
	// Deliveries to them; they are not run without.
	toFile, toWebhook *audit.Delivery
}

// openAudit opens what this replica keeps of events. Also without new ones, the
// old ones can be looked up.
func (d *daemon) openAudit(replica string) error {
	c := d.config
	dir := filepath.Join(c.DataDir, "audit")
	log, err := segment.Open(segment.Config{Dir: dir, MaxBytes: c.AuditMaxBytes, MaxAge: audit.Retention, Log: d.log, Now: time.Now})
	if taken, ok := errors.AsType[*segment.InUse](err); ok {
		return usagef("%v: give each replica a --data-dir of its own", taken)
	}
	if err != nil {
		return err
	}
	t := &trail{
		log: log,
		keeper: (&audit.Trail{
			Log: log, Region: c.Region, Account: c.Account, WritesOnly: c.Audit == "writes",
			Logger: d.log, Now: time.Now, NewID: uuid.NewString,
		}).Init(),
		mover: &audit.Mover{Store: d.store, Log: log, Alone: len(c.EtcdEndpoints) == 0, Logger: d.log, Now: time.Now},
	}
	if len(c.EtcdEndpoints) > 0 { // else there are no others
		t.peers = &audit.Peers{Store: d.store, Replica: replica, URL: c.APIAdvertise, Sealer: d.keys.Box(), Client: peerClient(), Logger: d.log, Now: time.Now}
	}
	t.lookups = &audit.Lookups{Log: log, Store: d.store, Peers: t.peers, Logger: d.log, Now: time.Now}
	t.toFile = &audit.Delivery{Log: log, To: "file", Place: filepath.Join(dir, "file.place"), Logger: d.log}
	if c.AuditFile != "" {
		t.file = &audit.File{Name: c.AuditFile}
		t.toFile.Send = t.file.Send
	}
	t.toWebhook = &audit.Delivery{Log: log, To: "webhook", Place: filepath.Join(dir, "webhook.place"), Logger: d.log}
	if c.AuditWebhook != "" {
		t.webhook = audit.NewWebhook(c.AuditWebhook)
		t.toWebhook.Send = t.webhook.Send
	}
	d.trail = t
	if c.Audit != "off" {
		d.around.audit = t.keeper
	}
	d.metrics.audit(t)
	return nil
}

// peerClient asks other replicas. What they say to each other is sealed with a key
// that only they have, so certificates need not say who they are.
func peerClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12} //nolint:gosec // see above
	transport.MaxIdleConnsPerHost = 2
	return &http.Client{Transport: transport}
}

// close lets go of everything, when nobody has events any more.
func (t *trail) close() {
	if t == nil {
		return
	}
	t.log.Close()
	if t.peers != nil {
		t.peers.Client.CloseIdleConnections()
	}
	if t.webhook != nil {
		t.webhook.Close()
	}
	if t.file != nil {
		t.file.Close()
	}
}

// announced is the API's URL for other replicas: of an address that is every one of
// this host's, one that others may reach. It is empty when there is none.
func announced(l *listeners) string {
	tcp, ok := l.api.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	ip := tcp.IP
	if ip.IsUnspecified() {
		addresses, _ := net.InterfaceAddrs()
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				ip = n.IP
				break
			}
		}
	}
	scheme, _, _ := strings.Cut(l.addresses.api, "://")
	return scheme + "://" + net.JoinHostPort(ip.String(), strconv.Itoa(tcp.Port))
}

// startAudit works the trail until stop is called, which is after the last call
// and the last stream: their events are kept, moved and, if that does not take
// long, delivered then.
func (d *daemon) startAudit(ctx context.Context, apiURL string) (stop func()) {
	t := d.trail
	ctx = context.WithoutCancel(ctx)
	making, madeAll := context.WithCancel(ctx)
	var makers errgroup.Group
	makers.Go(func() error { return t.keeper.Run(making) })
	makers.Go(func() error { return t.mover.Run(making) })
	if t.peers != nil {
		t.peers.URL = cmp.Or(t.peers.URL, apiURL)
		makers.Go(func() error { return t.peers.Run(making) })
	}

	delivering, deliveredAll := context.WithCancel(ctx)
	var deliverers sync.WaitGroup
	for _, to := range []*audit.Delivery{t.toFile, t.toWebhook} {
		if to.Send == nil {
			continue
		}
		deliverers.Go(func() {
			if err := to.Run(delivering); err != nil {
				d.log.Error("events are not delivered", "to", to.To, "err", err)
			}
		})
	}
	if t.file != nil {
		deliverers.Go(func() { t.reopen(delivering) })
	}
	return func() {
		madeAll()
		if err := makers.Wait(); err != nil {
			d.log.Error("events are missing in the audit trail", "err", err)
		}
		left, cancel := context.WithTimeout(ctx, leaveWait)
		defer cancel()
		if t.peers != nil && !d.away {
			if err := t.peers.Leave(left); err != nil {
				d.log.Warn("replica is asked for its events until its lease ends", "err", err)
			}
		}
		deliveredAll()
		deliverers.Wait()
	}
}

// reopen opens the file of events anew at SIGHUP, until ctx ends.
func (t *trail) reopen(ctx context.Context) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-hangup:
			t.file.Reopen()
		case <-ctx.Done():
			return
		}
	}
}

// connected takes what happened to a proxy's stream.
func (d *daemon) connected(c ads.Connection) {
	if d.around.audit == nil {
		return
	}
	event := audit.Connection{ID: c.ID, Principal: c.Principal, Node: c.Node, At: c.At}
	switch {
	case c.Open:
		event.Status = audit.Established
	case c.Status == nil:
		event.Status = audit.Graceful
	default:
		event.Status, event.Reason = audit.Terminated, c.Status.Code().String()+": "+c.Status.Message()
	}
	d.trail.keeper.Connection(event)
}

// checkAudit refuses settings of the audit trail that cannot be.
func (c config) checkAudit() error {
	const least = 1 << 20
	if c.AuditMaxBytes < least {
		return usagef("--audit-max-bytes %d: want %d at least", c.AuditMaxBytes, least)
	}
	for _, of := range []struct{ flag, value string }{{"--audit-webhook", c.AuditWebhook}, {"--api-advertise", c.APIAdvertise}} {
		if of.value == "" {
			continue
		}
		if u, err := url.Parse(of.value); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return usagef("%s: want a URL such as https://host:port", of.flag) // which may have a password
		}
	}
	return nil
}
