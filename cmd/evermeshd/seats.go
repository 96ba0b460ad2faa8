package main

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/ledger"
	"github.com/evermesh/evermesh/internal/quota"
)

// openSeats counts connected proxies where there are quotas of them. What the replica
// before this one left in the ledger is taken over: its proxies come back.
func (d *daemon) openSeats(ctx context.Context, reader *ledger.Reader, replica string) {
	d.seats = (&quota.Seats{
		Limits: d.quotas, Settings: d.quotaSet, Ledger: reader, Replica: replica, Log: d.log, Now: time.Now, Full: d.quotaFull,
	}).Init()
	d.metrics.registry.MustRegister(ratios{
		prometheus.NewDesc("evermesh_quota_usage_ratio", "Share of a quota of connected proxies that the fullest node or gateway uses, by the quota's code.", []string{"quota"}, nil),
		d.seats.Usage,
	})
	rows, err := reader.All(ctx)
	var left map[api.Key]map[string]time.Time
	if err == nil {
		left, err = reader.Left(ctx, api.Key{})
	}
	if err != nil {
		d.log.Warn("proxies of before are not known, and for an hour no quota of them refuses any", "err", err)
		d.seats.Forgot()
		return
	}
	d.seats.Remember(rows, left)
}

// keepSeats notes who is connected, and was lately, for whoever they come back to: this
// replica takes its rows in the ledger with it. It does so whether or not there are quotas
// now, as there may be when they come. Nobody comes in any more.
func (d *daemon) keepSeats(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, keepWait)
	defer cancel()
	d.proxies.Close()
	d.proxies.Proxies(d.seats.Came)
	if err := d.ledger.Keep(ctx, d.seats.Lately(), quota.RemembersFor); err != nil {
		d.log.Warn("proxies are not noted, and may count as new where there are quotas", "err", err)
	}
}

// keepRows does the same when the streams have ended, by what the ledger has yet: they may
// have ended without an order.
func (d *daemon) keepRows(ctx context.Context) {
	reader := &ledger.Reader{Store: d.store, Flushed: d.ledger.Changed, Now: time.Now}
	rows, err := reader.All(ctx)
	if err != nil {
		d.log.Warn("proxies are not noted, and may count as new where there are quotas", "err", err)
		return
	}
	d.seats.Remember(slices.DeleteFunc(rows, func(r api.LedgerRow) bool { return r.Replica != d.seats.Replica }), nil)
	d.keepSeats(ctx)
}

// quotaFull makes an event of the warning.
func (d *daemon) quotaFull(ctx context.Context, key api.Key, code string, proxies, limit int) {
	if d.around.audit == nil {
		return
	}
	if err := d.trail.keeper.Quota(ctx, audit.QuotaUsage{ARN: d.realm().ARN(key, d.owner(key)), Code: code, Used: proxies, Limit: limit, At: time.Now()}); err != nil {
		d.log.Warn("warning of a quota has no event", "key", key.String(), "err", err)
	}
}

// room says how many proxies a node or gateway may have.
func (d *daemon) room(ctx context.Context, key api.Key) ads.Room {
	most, code, elsewhere := d.seats.Of(ctx, key)
	return ads.Room{
		Most: most, Quota: code, Elsewhere: elsewhere,
		Known: func(instance, peer string) bool { return d.seats.Known(key, instance, peer) },
		Came:  func(instance, peer string) { d.seats.Came(key, instance, peer) },
	}
}

// quotaSet is what a mesh's settings say of quotas, as this replica knows them.
func (d *daemon) quotaSet(key api.Key) api.QuotaSet {
	if s := d.loop.Snapshot(); s != nil {
		if r := s.Get(key); r != nil {
			return r.Settings.Quotas
		}
	}
	return ""
}

// ratios is a family of gauges with one label, read at each scrape.
type ratios struct {
	desc *prometheus.Desc
	read func() map[string]float64
}

func (s ratios) Describe(ch chan<- *prometheus.Desc) { ch <- s.desc }

func (s ratios) Collect(ch chan<- prometheus.Metric) {
	for label, v := range s.read() {
		ch <- prometheus.MustNewConstMetric(s.desc, prometheus.GaugeValue, v, label)
	}
}
