package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/audit/segment"
)

// audit publishes what becomes of events.
func (m *metrics) audit(t *trail) {
	m.registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "evermesh_audit_events_total", Help: "Events that this replica put on its disk."}, func() float64 { return float64(t.stats().Entries) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "evermesh_audit_syncs_total", Help: "Groups of events that were put on the disk, each with one fsync."}, func() float64 { return float64(t.stats().Groups) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "evermesh_audit_failures_total", Help: "Groups of events that could not be put on the disk: the calls in them failed."}, func() float64 { return float64(t.stats().Failures) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "evermesh_audit_removed_bytes_total", Help: "Bytes of events that were removed because of their age or --audit-max-bytes."}, func() float64 { return float64(t.stats().RemovedBytes) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "evermesh_audit_surplus_bytes_total", Help: "Of them, those that went before their time because of --audit-max-bytes."}, func() float64 { return float64(t.stats().Surplus) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "evermesh_audit_bytes", Help: "Bytes of events on this replica's disk."}, func() float64 { return float64(t.stats().Bytes) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "evermesh_audit_oldest_seconds", Help: "Unix time of the oldest event on this replica's disk; 0 without any."}, func() float64 { return seconds(t.stats().Oldest) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "evermesh_audit_moved_total", Help: "Events of writes that this replica moved from the store to its disk."}, func() float64 { return float64(t.mover.Moved()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "evermesh_audit_waiting", Help: "Events of writes that waited in the store, by this replica's last look."}, func() float64 { return float64(t.mover.Waiting()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "evermesh_audit_lost_connections_total", Help: "Connections of proxies without an event: the disk took none for long, or strangers came too often."}, func() float64 { return float64(t.keeper.Lost()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "evermesh_audit_summed_refusals_total", Help: "Refused calls and streams without an event of their own, as their principal had too many in a minute."}, func() float64 { return float64(t.keeper.Summed()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "evermesh_audit_incomplete_lookups_total", Help: "Lookups of events that were answered without some replica."}, func() float64 { return float64(t.lookups.Incomplete()) }),
	)
	for to, all := range map[string][]*audit.Delivery{"file": t.toFile, "webhook": t.toWebhook} {
		sum := func(of func(audit.DeliveryStats) int64) func() float64 {
			return func() (n float64) {
				for _, one := range all {
					n += float64(of(one.Stats()))
				}
				return n
			}
		}
		m.registry.MustRegister(
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "evermesh_audit_delivered_total", Help: "Events that were delivered to --audit-file or --audit-webhook.", ConstLabels: prometheus.Labels{"to": to}}, sum(func(s audit.DeliveryStats) int64 { return s.Sent })),
			prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "evermesh_audit_skipped_total", Help: "Times that events had been removed before they were delivered.", ConstLabels: prometheus.Labels{"to": to}}, sum(func(s audit.DeliveryStats) int64 { return s.Missed })),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "evermesh_audit_undelivered_bytes", Help: "Bytes of events that are not delivered yet.", ConstLabels: prometheus.Labels{"to": to}}, sum(func(s audit.DeliveryStats) int64 { return s.Behind })),
		)
	}
}

// stats are those of all logs.
func (t *trail) stats() (sum segment.Stats) {
	for _, log := range t.logs {
		s := log.Stats()
		sum.Entries += s.Entries
		sum.Groups += s.Groups
		sum.Failures += s.Failures
		sum.RemovedBytes += s.RemovedBytes
		sum.Surplus += s.Surplus
		sum.Bytes += s.Bytes
		sum.Segments += s.Segments
		if sum.Oldest.IsZero() || !s.Oldest.IsZero() && s.Oldest.Before(sum.Oldest) {
			sum.Oldest = s.Oldest
		}
	}
	return sum
}

// seconds is a time as a metric, 0 for none.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}
