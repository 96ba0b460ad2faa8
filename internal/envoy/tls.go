package envoy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// source is where a certificate, or authorities, come from: SDS in any case, so
// that a new certificate changes no listener and no cluster, and drains nothing.
// A missing one harms the connections that need it, nothing else. The zero value
// is none.
type source struct {
	name string // of the secret
	own  bool   // from the workload's own SDS server, else from the management service
}

// sdsCluster is the workload's SDS server, which the agent's bootstrap has when
// it was told its socket; the name is App Mesh's.
const sdsCluster = "static_cluster_sds_unix_socket"

func (s source) none() bool { return s.name == "" }

// config asks for the secret; ads is fromADS.
func (s source) config(ads *corev3.ConfigSource) *tlsv3.SdsSecretConfig {
	if !s.own {
		return &tlsv3.SdsSecretConfig{Name: s.name, SdsConfig: ads}
	}
	return &tlsv3.SdsSecretConfig{Name: s.name, SdsConfig: fromServer(sdsCluster)}
}

// reachable is the source as the client's proxies can ask it. One of the
// workload's own server is asked for at the management service, which says what
// is missing, where the bootstrap has no such server.
func (b *build) reachable(s source) source {
	if s.own && b.noSDS {
		return source{name: SecretName{Kind: WorkloadSecret, Name: s.name}.String()}
	}
	return s
}

// serverWait is how long Envoy waits for the first answer of a workload's own
// server. Until then clusters and listeners that need it hold up all others of the
// same change, and at its start everything: a server beside the workload answers at
// once, or is not there yet.
const serverWait = 2 * time.Second

// fromServer is the source of what a cluster's server is asked for alone.
func fromServer(cluster string) *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType: corev3.ApiConfigSource_GRPC, TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{
				TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster}},
			}},
		}},
		ResourceApiVersion:  corev3.ApiVersion_V3,
		InitialFetchTimeout: durationpb.New(serverWait),
	}
}

// certificateFrom is the source of a certificate and key; at most one of the
// three is set, and acm never for clients (MTLS-002).
func certificateFrom(file *api.ListenerTLSFileCertificate, sds *api.ListenerTLSSDSCertificate, acm *api.ListenerTLSACMCertificate) source {
	switch {
	case file != nil:
		return source{name: fileCertificate(file.CertificateChain, file.PrivateKey).String()}
	case sds != nil:
		return source{name: sds.SecretName, own: true}
	case acm != nil:
		return source{name: acmSecret(ACMCertificate, acm.CertificateARN).String()}
	}
	return source{}
}

// trustFrom is the source of authorities; at most one of the three is set, and
// acm never for servers (MTLS-002).
func trustFrom(file *api.TLSValidationContextFileTrust, sds *api.TLSValidationContextSDSTrust, acm *api.TLSValidationContextACMTrust) source {
	switch {
	case file != nil:
		return source{name: fileTrust(file.CertificateChain).String()}
	case sds != nil:
		return source{name: sds.SecretName, own: true}
	case acm != nil:
		return source{name: acmSecret(ACMTrust, acm.CertificateAuthorityARNs...).String()}
	}
	return source{}
}

// secretNames are the names of those sources that the management service
// answers for, sorted.
func secretNames(of ...source) []string {
	var out []string
	for _, s := range of {
		if !s.none() && !s.own {
			out = append(out, s.name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// common is what both ends of TLS have. Versions and ciphers are Envoy's
// defaults, as App Mesh left them: two Envoys agree on TLS 1.2, others may use
// 1.3. Without trust the peer's certificate is not looked at; names then do not
// count.
func common(ads *corev3.ConfigSource, protocol api.PortProtocol, certificate, trust source, names []*tlsv3.SubjectAltNameMatcher) *tlsv3.CommonTlsContext {
	out := &tlsv3.CommonTlsContext{}
	if isHTTP2(protocol) {
		out.AlpnProtocols = []string{"h2"}
	}
	if !certificate.none() {
		out.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{certificate.config(ads)}
	}
	switch {
	case trust.none():
	case len(names) == 0:
		out.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{ValidationContextSdsSecretConfig: trust.config(ads)}
	default:
		out.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: names},
			ValidationContextSdsSecretConfig: trust.config(ads),
		}}
	}
	return out
}

// tlsSocket makes a transport socket of a context that Envoy would take.
func tlsSocket(context checked) (*corev3.TransportSocket, error) {
	if err := context.ValidateAll(); err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: pack(context)},
	}, nil
}

// subjectNames match a certificate's alternative names: one of them must be
// there. Of DNS names, Envoy lets a wildcard in the certificate cover an exact
// name; noWildcard asks for the very name, in any case of letters (TLS-020).
func subjectNames(names []string, noWildcard bool) []*tlsv3.SubjectAltNameMatcher {
	out := make([]*tlsv3.SubjectAltNameMatcher, 0, len(names))
	for _, name := range names {
		m := &tlsv3.SubjectAltNameMatcher{
			SanType: tlsv3.SubjectAltNameMatcher_DNS,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}},
		}
		switch {
		case isAddress(name):
			m.SanType = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
		case strings.Contains(name, ":"):
			m.SanType = tlsv3.SubjectAltNameMatcher_URI
		case noWildcard:
			m.Matcher.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "(?i)" + regexp.QuoteMeta(name)}}
		}
		out = append(out, m)
	}
	return out
}

// isAddress says whether a name is an IP address: it stands in another kind of
// alternative name, and no server name is sent for it.
func isAddress(name string) bool {
	if !strings.Contains(name, ":") && strings.Trim(name, "0123456789.") != "" {
		return false // as nearly always; an error costs more
	}
	_, err := netip.ParseAddr(name)
	return err == nil
}

// termination is what a listener says of TLS.
type termination struct {
	mode               api.ListenerTLSMode
	certificate, trust source
	names              []string
}

// nodeTermination is what a listener of that node says. Where it is by the node's
// identity, clients show theirs.
func nodeTermination(t *api.ListenerTLS, node api.Key) termination {
	switch {
	case t == nil:
		return termination{}
	case mesh.Identified(t):
		return termination{mode: t.Mode, certificate: identitySecret(IdentityCertificate, node), trust: identitySecret(IdentityTrust, node)}
	}
	out := termination{mode: t.Mode, certificate: certificateFrom(t.Certificate.File, t.Certificate.SDS, t.Certificate.ACM)}
	if v := t.Validation; v != nil {
		out.trust, out.names = trustFrom(v.Trust.File, v.Trust.SDS, nil), exactNames(v.SubjectAlternativeNames)
	}
	return out
}

func gatewayTermination(t *api.VirtualGatewayListenerTLS) termination {
	if t == nil {
		return termination{}
	}
	out := termination{mode: api.ListenerTLSMode(t.Mode), certificate: certificateFrom(
		(*api.ListenerTLSFileCertificate)(t.Certificate.File), (*api.ListenerTLSSDSCertificate)(t.Certificate.SDS), (*api.ListenerTLSACMCertificate)(t.Certificate.ACM))}
	if v := t.Validation; v != nil {
		out.trust = trustFrom((*api.TLSValidationContextFileTrust)(v.Trust.File), (*api.TLSValidationContextSDSTrust)(v.Trust.SDS), nil)
		out.names = exactNames(v.SubjectAlternativeNames)
	}
	return out
}

func exactNames(n *api.SubjectAlternativeNames) []string {
	if n == nil {
		return nil
	}
	return n.Match.Exact
}

// offersTLS and offersPlaintext say what the listener takes (TLS-021).
func (t termination) offersTLS() bool {
	return t.mode == api.ListenerTLSModeStrict || t.mode == api.ListenerTLSModePermissive
}

func (t termination) offersPlaintext() bool { return t.mode != api.ListenerTLSModeStrict }

// socket is the server's end of TLS; the problem is of the client's own
// listener. With authorities, a client must have a certificate (MTLS-004). Where
// plaintext is taken too it may show none, and one for any name: more would
// protect nothing, and cut off clients that speak TLS by themselves and get their
// certificates next (MTLS-009).
func (b *build) socket(t termination, protocol api.PortProtocol, where string) (out *corev3.TransportSocket, refs references) {
	fault := func(format string, args ...any) {
		var f faults
		f.add(b.own.Key, ReasonInvalid, "spec.%s.tls: %s, so the listener takes no TLS", where, fmt.Sprintf(format, args...))
		b.report(f.problems)
	}
	remark := func(what string) {
		b.report([]mesh.Problem{{Key: b.own.Key, Reason: mesh.ReasonUnenforced, Message: fmt.Sprintf("spec.%s.tls.validation%s", where, what)}})
	}
	if !t.offersTLS() {
		if !t.trust.none() {
			remark(" has no effect while the mode is DISABLED: nobody speaks TLS with the listener; set PERMISSIVE, or STRICT")
		}
		return nil, refs
	}
	t.certificate, t.trust = b.reachable(t.certificate), b.reachable(t.trust)
	if t.certificate.none() {
		fault("there is no certificate")
		return nil, refs
	}
	names, strict := subjectNames(t.names, false), !t.offersPlaintext()
	if !strict {
		if len(names) > 0 && !t.trust.none() {
			remark(".subjectAlternativeNames has no effect while the mode is PERMISSIVE: names are checked when it is STRICT, and Envoy's statistic ssl.no_certificate tells when all clients show a certificate")
		}
		names = nil // with names, Envoy demands a certificate
	}
	context := &tlsv3.DownstreamTlsContext{CommonTlsContext: common(b.owner.steady().ads, protocol, t.certificate, t.trust, names)}
	if !t.trust.none() {
		context.RequireClientCertificate = wrapperspb.Bool(strict)
	}
	out, err := tlsSocket(context)
	if err != nil {
		fault("Envoy would refuse it: %v", reason(err))
		return nil, refs
	}
	return out, references{secrets: secretNames(t.certificate, t.trust)}
}
