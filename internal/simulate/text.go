package simulate

import (
	"fmt"
	"strings"
	"time"
)

// String tells the outcome as a person reads it: the way first, then the end.
func (o *Outcome) String() string {
	var b strings.Builder
	for i, h := range o.Hops {
		if i > 0 {
			b.WriteString("then, as a second hop of the same proxy,\n")
		}
		h.write(&b)
	}
	switch o.End {
	case Answered:
		fmt.Fprintf(&b, "is answered %d", o.Status)
		if o.GRPCStatus != "" {
			fmt.Fprintf(&b, ", gRPC status %s", o.GRPCStatus)
		}
		fmt.Fprintf(&b, ": %s\n", o.Why)
	case Closed:
		fmt.Fprintf(&b, "is closed: %s\n", o.Why)
	default:
		for i := range o.Targets {
			o.Targets[i].write(&b)
		}
		if o.Sent.Method != "" {
			fmt.Fprintf(&b, "as %s %s://%s%s\n", o.Sent.Method, o.Sent.Scheme, o.Sent.Authority, o.Sent.Path)
			for _, h := range o.Sent.Headers {
				fmt.Fprintf(&b, "  %s: %s\n", h.Name, h.Value)
			}
		}
	}
	return b.String()
}

func (h *Hop) write(b *strings.Builder) {
	if h.Chain < 0 {
		fmt.Fprintf(b, "at listener %s, no filter chain\n", h.Listener)
		return
	}
	fmt.Fprintf(b, "at listener %s, chain %d (%s)\n", h.Listener, h.Chain, h.Match)
	if h.TLS != nil {
		fmt.Fprintf(b, "  TLS ends here%s\n", h.TLS)
	}
	if h.RouteConfig != "" {
		fmt.Fprintf(b, "  routes %s", h.RouteConfig)
		if h.Host != "" {
			fmt.Fprintf(b, ", virtual host %s", h.Host)
		}
		if h.Route >= 0 {
			fmt.Fprintf(b, ", route %d (%s)", h.Route, h.Matched)
		}
		b.WriteByte('\n')
	}
	var limits []string
	if h.Timeout > 0 {
		limits = append(limits, "within "+span(h.Timeout))
	}
	if h.PerTry > 0 {
		limits = append(limits, "each try within "+span(h.PerTry))
	}
	if h.Idle > 0 {
		limits = append(limits, "silent for at most "+span(h.Idle))
	}
	if r := h.Retry; r != nil {
		text := fmt.Sprintf("tried again up to %d times on %s", r.Retries, strings.Join(r.On, ", "))
		if len(r.Statuses) > 0 {
			text += strings.ReplaceAll(strings.Trim(fmt.Sprint(" ", r.Statuses), "[]"), "[", "")
		}
		limits = append(limits, text)
	}
	if limits != nil {
		fmt.Fprintf(b, "  %s\n", strings.Join(limits, "; "))
	}
	for _, l := range h.AccessLogs {
		fmt.Fprintf(b, "  logged in %s\n", l)
	}
}

func (t *Target) write(b *strings.Builder) {
	fmt.Fprintf(b, "goes to %s", t.Cluster)
	if t.Share != 1 {
		fmt.Fprintf(b, " (%.4g %%)", 100*t.Share)
	}
	fmt.Fprintf(b, ": %s", t.Discovery)
	if t.HTTP2 {
		b.WriteString(", by HTTP/2")
	}
	fmt.Fprintf(b, ", connected within %s", span(t.ConnectTimeout))
	for _, l := range []struct {
		n    uint32
		what string
	}{{t.Limits.Connections, "connections"}, {t.Limits.Pending, "waiting requests"}, {t.Limits.Requests, "requests"}, {t.Limits.Retries, "retries"}} {
		if l.n > 0 {
			fmt.Fprintf(b, ", at most %d %s", l.n, l.what)
		}
	}
	b.WriteByte('\n')
	if t.TLS != nil {
		fmt.Fprintf(b, "  by TLS%s\n", t.TLS)
	}
	if o := t.Outlier; o != nil {
		fmt.Fprintf(b, "  an endpoint is left alone for %s after %d errors, looked at every %s, at most %d %% of them\n", span(o.Ejection), o.Errors, span(o.Interval), o.MaxPercent)
	}
	for _, c := range t.Checks {
		fmt.Fprintf(b, "  checked by %s", c.Protocol)
		if c.Path != "" {
			fmt.Fprintf(b, " %s%s", c.Host, c.Path)
		}
		if c.Port != 0 {
			fmt.Fprintf(b, " on port %d", c.Port)
		}
		fmt.Fprintf(b, " every %s within %s, %d to be healthy, %d not to be\n", span(c.Interval), span(c.Timeout), c.Healthy, c.Unhealthy)
	}
}

// String tells where endpoints are.
func (d Discovery) String() string {
	list := strings.Join(d.Addresses, ", ")
	switch d.Kind {
	case Nothing:
		return "no endpoints"
	case Fixed:
		return list
	case OneName:
		return fmt.Sprintf("%s by DNS (%s), one address at a time", list, d.Family)
	case AllNames:
		return fmt.Sprintf("%s by DNS (%s), every address", list, d.Family)
	case Original:
		return "where the connection was going, " + list
	}
	text := fmt.Sprintf("%s of %s in %s", d.Query.Service, d.Query.Namespace, d.Query.Source)
	if d.Query.Attributes != "" {
		text += " with " + strings.ReplaceAll(d.Query.Attributes, "\n", " and ")
	}
	if list == "" {
		list = "none known"
	}
	return text + ": " + list
}

// span is a duration without zeroes that say nothing.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// String tells one end of TLS, as the end of a sentence.
func (t *TLS) String() string {
	var b strings.Builder
	if t.ServerName != "" {
		fmt.Fprintf(&b, ", to server name %s", t.ServerName)
	}
	if t.Certificate != (Secret{}) {
		fmt.Fprintf(&b, ", with certificate %s", t.Certificate)
	}
	if len(t.ALPN) > 0 {
		fmt.Fprintf(&b, ", offering %s", strings.Join(t.ALPN, ", "))
	}
	if t.Trust == (Secret{}) {
		b.WriteString("; the other end's certificate is not looked at")
		return b.String()
	}
	fmt.Fprintf(&b, "; the other end's certificate must be by %s", t.Trust)
	if len(t.Names) > 0 {
		fmt.Fprintf(&b, " and for %s", strings.Join(t.Names, " or "))
	}
	if t.Required {
		b.WriteString(", and be there")
	}
	return b.String()
}
