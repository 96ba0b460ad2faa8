package simulate

import (
	"encoding/json"
	"time"

	"github.com/evermesh/evermesh/internal/envoy"
)

// MarshalJSON writes the outcome for programs: members as in the API, in lower
// camel case, without those that say nothing; durations as texts such as "15s".
func (o *Outcome) MarshalJSON() ([]byte, error) {
	out := outcomeJSON{End: [...]string{"forwarded", "answered", "closed"}[o.End], Status: o.Status, GRPCStatus: o.GRPCStatus, Why: o.Why, Hops: []hopJSON{}}
	for _, h := range o.Hops {
		out.Hops = append(out.Hops, h.json())
	}
	for i := range o.Targets {
		out.Targets = append(out.Targets, o.Targets[i].json())
	}
	if o.End == Forwarded && o.Sent.Method != "" {
		out.Sent = &messageJSON{o.Sent.Method, o.Sent.Scheme, o.Sent.Authority, o.Sent.Path, headersJSON(o.Sent.Headers)}
	}
	return json.Marshal(out)
}

type outcomeJSON struct {
	End        string       `json:"end"`
	Status     int          `json:"status,omitempty"`
	GRPCStatus string       `json:"grpcStatus,omitempty"`
	Why        string       `json:"why,omitempty"`
	Hops       []hopJSON    `json:"hops"`
	Targets    []targetJSON `json:"targets,omitempty"`
	Sent       *messageJSON `json:"sent,omitempty"`
}

type messageJSON struct {
	Method    string       `json:"method"`
	Scheme    string       `json:"scheme"`
	Authority string       `json:"authority"`
	Path      string       `json:"path"`
	Headers   []headerJSON `json:"headers,omitempty"`
}

type headerJSON struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func headersJSON(all []Header) (out []headerJSON) {
	for _, h := range all {
		out = append(out, headerJSON(h))
	}
	return out
}

type hopJSON struct {
	Listener          string     `json:"listener"`
	Chain             *int       `json:"chain,omitempty"` // absent: none matches
	Match             string     `json:"match"`
	TLS               *tlsJSON   `json:"tls,omitempty"`
	MaxConnections    uint64     `json:"maxConnections,omitempty"`
	RouteConfig       string     `json:"routeConfig,omitempty"`
	Host              string     `json:"virtualHost,omitempty"`
	Route             *int       `json:"route,omitempty"` // absent: none matches
	Matched           string     `json:"matched,omitempty"`
	Path              string     `json:"path,omitempty"`
	Timeout           string     `json:"timeout,omitempty"`
	PerTry            string     `json:"perTryTimeout,omitempty"`
	Idle              string     `json:"idleTimeout,omitempty"`
	Retry             *retryJSON `json:"retry,omitempty"`
	HiddenFromClients []string   `json:"hiddenFromClients,omitempty"`
	AccessLogs        []string   `json:"accessLogs,omitempty"`
}

type retryJSON struct {
	On       []string `json:"on"`
	Statuses []uint32 `json:"statuses,omitempty"`
	Retries  uint32   `json:"retries"`
}

func (h *Hop) json() hopJSON {
	out := hopJSON{
		Listener: h.Listener, Chain: index(h.Chain), Match: h.Match, TLS: h.TLS.json(), MaxConnections: h.MaxConnections,
		RouteConfig: h.RouteConfig, Host: h.Host, Route: index(h.Route), Matched: h.Matched, Path: h.Path,
		Timeout: text(h.Timeout), PerTry: text(h.PerTry), Idle: text(h.Idle), HiddenFromClients: h.HiddenFromClients, AccessLogs: h.AccessLogs,
	}
	if r := h.Retry; r != nil {
		out.Retry = &retryJSON{r.On, r.Statuses, r.Retries}
	}
	return out
}

func index(i int) *int {
	if i < 0 {
		return nil
	}
	return &i
}

func text(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return span(d)
}

type targetJSON struct {
	Cluster        string       `json:"cluster"`
	Missing        bool         `json:"missing,omitempty"`
	Weight         uint32       `json:"weight"`
	Share          float64      `json:"share"`
	HTTP2          bool         `json:"http2,omitempty"`
	Discovery      Kind         `json:"discovery"`
	Addresses      []string     `json:"addresses,omitempty"`
	Family         string       `json:"addressFamily,omitempty"`
	Query          *queryJSON   `json:"query,omitempty"`
	ConnectTimeout string       `json:"connectTimeout,omitempty"`
	Limits         *limitsJSON  `json:"limits,omitempty"`
	Outlier        *outlierJSON `json:"outlierDetection,omitempty"`
	Checks         []checkJSON  `json:"healthChecks,omitempty"`
	TLS            *tlsJSON     `json:"tls,omitempty"`
}

type queryJSON struct {
	Source     string `json:"source"`
	Namespace  string `json:"namespace"`
	Service    string `json:"service"`
	Attributes string `json:"attributes,omitempty"`
	Port       uint32 `json:"port"`
}

type limitsJSON struct {
	Connections uint32 `json:"connections,omitempty"`
	Pending     uint32 `json:"pendingRequests,omitempty"`
	Requests    uint32 `json:"requests,omitempty"`
	Retries     uint32 `json:"retries,omitempty"`
}

type outlierJSON struct {
	Errors     uint32 `json:"errors"`
	MaxPercent uint32 `json:"maxPercent"`
	Interval   string `json:"interval"`
	Ejection   string `json:"ejection"`
}

type checkJSON struct {
	Protocol  string `json:"protocol"`
	Host      string `json:"host,omitempty"`
	Path      string `json:"path,omitempty"`
	Port      uint32 `json:"port,omitempty"`
	Interval  string `json:"interval"`
	Timeout   string `json:"timeout"`
	Healthy   uint32 `json:"healthyThreshold"`
	Unhealthy uint32 `json:"unhealthyThreshold"`
}

func (t *Target) json() targetJSON {
	out := targetJSON{
		Cluster: t.Cluster, Missing: t.Missing, Weight: t.Weight, Share: t.Share, HTTP2: t.HTTP2, Discovery: t.Kind,
		Addresses: t.Addresses, Family: t.Family, ConnectTimeout: text(t.ConnectTimeout), TLS: t.TLS.json(),
	}
	if q := t.Query; q != (envoy.EndpointQuery{}) {
		out.Query = &queryJSON{q.Source, q.Namespace, q.Service, q.Attributes, q.Port}
	}
	if t.Limits != (Limits{}) {
		l := limitsJSON(t.Limits)
		out.Limits = &l
	}
	if o := t.Outlier; o != nil {
		out.Outlier = &outlierJSON{o.Errors, o.MaxPercent, span(o.Interval), span(o.Ejection)}
	}
	for _, c := range t.Checks {
		out.Checks = append(out.Checks, checkJSON{c.Protocol, c.Host, c.Path, c.Port, span(c.Interval), span(c.Timeout), c.Healthy, c.Unhealthy})
	}
	return out
}

type tlsJSON struct {
	ServerName  string      `json:"serverName,omitempty"`
	ALPN        []string    `json:"alpn,omitempty"`
	Certificate *secretJSON `json:"certificate,omitempty"`
	Trust       *secretJSON `json:"trust,omitempty"` // absent: the other end's certificate is not looked at
	Names       []string    `json:"names,omitempty"`
	Required    bool        `json:"clientCertificateRequired,omitempty"`
}

type secretJSON struct {
	Name   string `json:"name"`
	Server string `json:"server,omitempty"`
}

func (t *TLS) json() *tlsJSON {
	if t == nil {
		return nil
	}
	out := &tlsJSON{ServerName: t.ServerName, ALPN: t.ALPN, Names: t.Names, Required: t.Required}
	if t.Certificate != (Secret{}) {
		c := secretJSON(t.Certificate)
		out.Certificate = &c
	}
	if t.Trust != (Secret{}) {
		c := secretJSON(t.Trust)
		out.Trust = &c
	}
	return out
}
