package main

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// metrics are the control plane's own (D13). No label is per proxy or resource.
type metrics struct {
	registry   *prometheus.Registry
	requests   *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	publish    *prometheus.HistogramVec
	revision   prometheus.Gauge
	streams    *prometheus.GaugeVec
	responses  *prometheus.CounterVec
	rejections *prometheus.CounterVec
	txn        prometheus.Histogram
	conflicts  prometheus.Counter
	catchUps   prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		registry:   prometheus.NewRegistry(),
		requests:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "evermesh_api_requests_total", Help: "API requests by operation and error code (OK for none)."}, []string{"operation", "code"}),
		seconds:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "evermesh_api_request_seconds", Help: "Time to answer an API request.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}, []string{"operation"}),
		publish:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "evermesh_publish_seconds", Help: "Time of a publication's phases: apply, build, set.", Buckets: prometheus.ExponentialBuckets(0.00005, 2, 18)}, []string{"phase"}),
		revision:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "evermesh_snapshot_revision", Help: "Store revision up to which everything is published."}),
		streams:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "evermesh_xds_streams", Help: "Open xDS streams by dialect."}, []string{"dialect"}),
		responses:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "evermesh_xds_responses_total", Help: "xDS responses sent, by type."}, []string{"type"}),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "evermesh_xds_rejections_total", Help: "xDS responses that a proxy refused, by type."}, []string{"type"}),
		txn:        prometheus.NewHistogram(prometheus.HistogramOpts{Name: "evermesh_store_txn_seconds", Help: "Time of a store transaction.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}),
		conflicts:  prometheus.NewCounter(prometheus.CounterOpts{Name: "evermesh_store_conflicts_total", Help: "Store transactions repeated because another writer was first."}),
		catchUps:   prometheus.NewCounter(prometheus.CounterOpts{Name: "evermesh_catchup_reads_total", Help: "Reads of how far the store is, before somebody is refused by what this replica remembers."}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "evermesh_build_info", Help: "Always 1; the version is in the labels.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.seconds, m.publish, m.revision, m.streams, m.responses, m.rejections,
		m.txn, m.conflicts, m.catchUps, build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) request(operation, code string, took time.Duration) {
	m.requests.WithLabelValues(operation, code).Inc()
	m.seconds.WithLabelValues(operation).Observe(took.Seconds())
}

func (m *metrics) published(phase string, took time.Duration) {
	m.publish.WithLabelValues(phase).Observe(took.Seconds())
}

// watch adds what is counted only when somebody scrapes: proxies by state and
// problems by reason.
func (m *metrics) watch(proxies func() map[string]int, problems func() []mesh.Problem) {
	m.registry.MustRegister(
		gauges{prometheus.NewDesc("evermesh_proxies", "Connected proxies by state.", []string{"state"}, nil), proxies},
		gauges{prometheus.NewDesc("evermesh_problems", "Problems of resources that connected proxies need, by reason.", []string{"reason"}, nil), func() map[string]int {
			out := map[string]int{}
			for _, p := range problems() {
				out[p.Reason]++
			}
			return out
		}},
	)
}

// gauges is a family of gauges with one label, counted at each scrape.
type gauges struct {
	desc  *prometheus.Desc
	count func() map[string]int
}

func (g gauges) Describe(ch chan<- *prometheus.Desc) { ch <- g.desc }

func (g gauges) Collect(ch chan<- prometheus.Metric) {
	for label, n := range g.count() {
		ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(n), label)
	}
}

// certificate publishes when a served certificate ends.
func (m *metrics) certificate(name string, notAfter func() time.Time) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "evermesh_certificate_expiry_seconds", Help: "Unix time at which the served certificate ends.",
		ConstLabels: prometheus.Labels{"listener": name},
	}, func() float64 { return float64(notAfter().Unix()) }))
}

// endpoints publishes how old the oldest endpoint set in use is.
func (m *metrics) endpoints(age func() time.Duration) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "evermesh_endpoints_age_seconds",
		Help: "Time since the endpoint source last told a set that a connected proxy needs: of all sets, the longest. It grows while the source is away.",
	}, func() float64 { return age().Seconds() }))
}

// dns counts queries for names. There is nothing of it where none are answered.
func (m *metrics) dns(contested func() int) func(kind, result string) {
	queries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "evermesh_dns_queries_total",
		Help: "DNS queries by type of record and what became of them: a response code, VIRTUAL (of a virtual service), FORWARDED, or LIMITED (told to come over TCP).",
	}, []string{"type", "result"})
	m.registry.MustRegister(queries, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "evermesh_dns_contested_namespaces", Help: "Names of private DNS namespaces that several accounts have; the first one's is answered.",
	}, func() float64 { return float64(contested()) }))
	return func(kind, result string) { queries.WithLabelValues(kind, result).Inc() }
}

// meter counts what happens on xDS streams.
func (m *metrics) meter() ads.Meter {
	return ads.Meter{
		Streams: func(d api.Dialect, change int) { m.streams.WithLabelValues(string(d)).Add(float64(change)) },
		Sent:    func(t api.DiscoveryType) { m.responses.WithLabelValues(string(t)).Inc() },
		Refused: func(t api.DiscoveryType) { m.rejections.WithLabelValues(string(t)).Inc() },
	}
}
