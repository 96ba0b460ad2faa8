package settings

import (
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// OpenTelemetry is a collector that takes OTLP.
type OpenTelemetry struct {
	HTTP    bool   // protobuf in requests of HTTP/1.1, else gRPC
	Path    string // of those requests
	Socket  string // "" for Address and Port
	Address string // name or IP address
	Port    int
	CAFile  string // PEM, of the collector's certificate; "" for plaintext
	Headers []Header
	Service string // "" for <mesh>/<resource>

	// Attributes says that OTEL_RESOURCE_ATTRIBUTES has some, which Envoy reads itself.
	Attributes bool
	// Ratio is the share of traces that begin here and are sampled; what another began is sampled as it was there.
	// Without it Envoy samples all.
	Ratio *float64
}

// Header is one that goes with what a collector is sent. Its value is mostly a secret: it goes into Envoy's environment, and
// stands in no file, no log and no answer of an administration interface.
type Header struct {
	Name  string
	Value string
	// Variable is what Envoy's environment has it as.
	Variable string
}

// signal is what OpenTelemetry's variables call so, with those that are of it alone: each outranks the one for all.
type signal struct {
	endpoint, protocol, headers, certificate string

	path      string // of requests by HTTP, behind the address for all signals
	variables string // begin the names of Envoy's, for headers
	byHTTP    bool   // Envoy can
}

var (
	tracesSignal = signal{
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
		"/v1/traces", "OTLP_TRACES_HEADER_", true,
	}
	metricsSignal = signal{
		"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_HEADERS", "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
		"/v1/metrics", "OTLP_METRICS_HEADER_", false,
	}
)

// The ports of OTLP by protocol.
const (
	otlpGRPCPort = 4317
	otlpHTTPPort = 4318
)

// systemCAs are where systems keep the authorities that they trust.
var systemCAs = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/cert.pem", "/etc/ssl/cert.pem"}

// either is the name of a signal's variable if that is set, else of the one for all.
func (v *variables) either(one, all string) string {
	if v.has(one) {
		return one
	}
	return all
}

// openTelemetry reads where a collector is, by OpenTelemetry's own variables: that of the signal, else the general one.
func (v *variables) openTelemetry(of signal) *OpenTelemetry {
	o := &OpenTelemetry{Service: v.text("OTEL_SERVICE_NAME", ""), Attributes: v.has("OTEL_RESOURCE_ATTRIBUTES"), Address: "127.0.0.1", Port: otlpGRPCPort}
	protocol := v.either(of.protocol, "OTEL_EXPORTER_OTLP_PROTOCOL")
	switch p := v.text(protocol, "grpc"); {
	case p == "grpc":
	case p == "http/protobuf" && of.byHTTP:
		o.HTTP, o.Path, o.Port = true, of.path, otlpHTTPPort
	case p == "http/protobuf":
		v.fail(protocol, "%q: metrics go by grpc only, for not every Envoy that is supported has another way: set %s=grpc, and %s", p, of.protocol, of.endpoint)
	default:
		v.fail(protocol, "%q: neither grpc nor, for traces, http/protobuf", p)
	}
	v.headers(o, v.either(of.headers, "OTEL_EXPORTER_OTLP_HEADERS"), of.variables)
	name := v.either(of.endpoint, "OTEL_EXPORTER_OTLP_ENDPOINT")
	text := v.text(name, "")
	if text == "" {
		return o
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		v.fail(name, "is no address, such as http://127.0.0.1:4317")
		return o
	}
	if o.HTTP && u.Scheme != "unix" {
		o.Path = u.EscapedPath() // a signal's own address is meant as it is
		if name != of.endpoint {
			o.Path = strings.TrimRight(o.Path, "/") + of.path
		}
		if o.Path == "" {
			o.Path = "/"
		}
		u.Path = ""
	}
	switch {
	case u.Scheme == "unix" && u.Host == "" && u.Path != "":
		o.Socket = u.Path
		v.socketPath(name, o.Socket)
		return o
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		v.fail(name, "must be http://host:port, https://host:port or unix:///path, such as http://127.0.0.1:4317; a path is for http/protobuf, and secrets for OTEL_EXPORTER_OTLP_HEADERS")
		return o
	}
	o.Address = u.Hostname()
	if p := u.Port(); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			v.fail(name, "has no port from 1 to 65535")
		}
		o.Port = int(n)
	}
	if u.Scheme == "https" {
		o.CAFile = v.text(v.either(of.certificate, "OTEL_EXPORTER_OTLP_CERTIFICATE"), systemCA())
	}
	return o
}

// headers reads pairs NAME=VALUE with commas between them, of which the values may be percent-encoded. A value is not
// repeated in what is said of them.
func (v *variables) headers(o *OpenTelemetry, name, variables string) {
	for item := range strings.SplitSeq(v.text(name, ""), ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		n := len(o.Headers) + 1
		key, value, ok := strings.Cut(item, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		value, err := url.PathUnescape(strings.TrimSpace(value))
		switch {
		case !ok || err != nil || value == "" || !httpguts.ValidHeaderFieldName(key) || !httpguts.ValidHeaderFieldValue(value):
			v.fail(name, "its item %d is no header, such as api-key=secret: a name, = and a value, of which what is no letter or digit is percent-encoded", n)
			return
		case reserved(key):
			v.fail(name, "its item %d is a header that Envoy makes itself", n)
			return
		}
		o.Headers = append(o.Headers, Header{key, value, variables + strconv.Itoa(n)})
	}
}

// reserved says whether a header is of the protocol, and not for users.
func reserved(name string) bool {
	return strings.HasPrefix(name, "grpc-") || slices.Contains([]string{"connection", "content-length", "content-type", "host", "te", "transfer-encoding", "upgrade"}, name)
}

// EnvoyEnvironment are lines NAME=VALUE that Envoy's environment has beside the agent's, which the bootstrap names.
func (b BootstrapSettings) EnvoyEnvironment() (lines []string) {
	for _, o := range []*OpenTelemetry{b.Tracing.OpenTelemetry, b.Metrics} {
		if o == nil {
			continue
		}
		for _, h := range o.Headers {
			lines = append(lines, h.Variable+"="+h.Value)
		}
	}
	return lines
}

func systemCA() string {
	for _, file := range systemCAs {
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return systemCAs[0]
}

// sampler reads OpenTelemetry's variables of sampling, as far as Envoy can do it.
func (v *variables) sampler() *float64 {
	const name, argument = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
	switch s := v.text(name, "always_on"); s {
	case "always_on", "parentbased_always_on":
		return nil
	case "parentbased_traceidratio":
		share := v.hardShare(argument, v.text(argument, "1"))
		return &share
	default:
		v.fail(name, "%q is none of always_on, parentbased_always_on and parentbased_traceidratio", s)
		return nil
	}
}
