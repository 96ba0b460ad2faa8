package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
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
	logs    []*segment.Log // of what was done, what was refused, what was read
	keeper  *audit.Trail
	mover   *audit.Mover
	lookups *audit.Lookups
	peers   *audit.Peers   // nil for a replica that has its store to itself
	file    *audit.File    // nil when none is asked for
	webhook *audit.Webhook // as well
	// Deliveries to them, of each log; they are not run without.
	toFile, toWebhook []*audit.Delivery
}

// auditLogs are the directories in DATA_DIR/audit, and of how many eighths of
// --audit-max-bytes they have each. What is refused or read can be made without end
// by who may do nothing; it pushes out none but its like.
var auditLogs = []struct {
	dir     string
	eighths int64
}{{"", 4}, {"refusals", 2}, {"reads", 2}}

// openAudit opens what this replica keeps of events. Also without new ones, the
// old ones can be looked up.
func (d *daemon) openAudit() error {
	c := d.config
	dir := filepath.Join(c.DataDir, "audit")
	t := &trail{}
	for _, of := range auditLogs {
		log, err := segment.Open(segment.Config{
			Dir: filepath.Join(dir, of.dir), MaxBytes: c.AuditMaxBytes * of.eighths / 8, MaxAge: audit.Retention, Log: d.log, Now: time.Now,
		})
		if err != nil {
			t.close()
		}
		if taken, ok := errors.AsType[*segment.InUse](err); ok {
			return usagef("%v: give each replica a --data-dir of its own", taken)
		}
		if err != nil {
			return err
		}
		t.logs = append(t.logs, log)
	}
	log := t.logs[0]
	t.keeper = (&audit.Trail{
		Log: log, Refusals: t.logs[1], Reads: t.logs[2], Region: c.Region, Account: c.Account, WritesOnly: c.Audit == "writes",
		Logger: d.log, Now: time.Now, NewID: uuid.NewString,
	}).Init()
	t.mover = &audit.Mover{Store: d.store, Log: log, Alone: len(c.EtcdEndpoints) == 0, Logger: d.log, Now: time.Now}
	if len(c.EtcdEndpoints) > 0 { // else there are no others
		host, _ := os.Hostname()
		replica, err := audit.ReplicaName(dir, cmp.Or(host, "evermeshd"))
		if err != nil {
			t.close()
			return err
		}
		t.peers = &audit.Peers{Store: d.store, Replica: replica, URL: c.APIAdvertise, Sealer: d.keys.Box(), Client: peerClient(), Logger: d.log, Now: time.Now}
	}
	t.lookups = &audit.Lookups{Logs: t.logs, Store: d.store, Peers: t.peers, Logger: d.log, Now: time.Now}
	if c.AuditFile != "" {
		t.file = &audit.File{Name: c.AuditFile}
		t.toFile = t.deliveries("file", dir, t.file.Send, d.log)
	}
	if c.AuditWebhook != "" {
		t.webhook = audit.NewWebhook(c.AuditWebhook)
		t.toWebhook = t.deliveries("webhook", dir, t.webhook.Send, d.log)
	}
	d.trail = t
	if c.Audit != "off" {
		d.around.audit = t.keeper
	}
	d.metrics.audit(t)
	return nil
}

// deliveries bring what is in each of the logs to one place.
func (t *trail) deliveries(to, dir string, send func(context.Context, [][]byte) error, log *slog.Logger) (out []*audit.Delivery) {
	for i, of := range auditLogs {
		out = append(out, &audit.Delivery{Log: t.logs[i], To: to, Place: filepath.Join(dir, of.dir, to+".place"), Send: send, Logger: log})
	}
	return out
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
	for _, log := range t.logs {
		log.Close()
	}
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

// fault says that events cannot be kept, as of those that came last, nil when they can.
func (t *trail) fault() error {
	for _, log := range t.logs {
		if err := log.Fault(); err != nil {
			return fmt.Errorf("events cannot be kept: %w; calls that read are refused", err)
		}
	}
	return nil
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
	for _, to := range slices.Concat(t.toFile, t.toWebhook) {
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
	event := audit.Connection{ID: c.ID, Principal: c.Principal, Node: c.Node, Refused: c.Refused, At: c.At}
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
