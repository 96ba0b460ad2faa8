package simulate

import (
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// TLS is one end of TLS as it is configured.
type TLS struct {
	ServerName  string   // SNI that a client's end sends
	ALPN        []string // protocols that are offered
	Certificate Secret   // zero: none is shown
	// Trust are the authorities by which the other end's certificate is checked;
	// zero: it is not looked at.
	Trust Secret
	// Names are alternative names of which the other end's certificate must have
	// one, in words; none: any will do.
	Names []string
	// Required says that a server's end takes only clients with a certificate.
	Required bool

	matchers []*tlsv3.SubjectAltNameMatcher
}

// Secret is a certificate with its key, or authorities, by name.
type Secret struct {
	Name string
	// Server is the cluster that is asked for it; empty: the control plane.
	Server string
}

// String names the secret and who is asked.
func (s Secret) String() string {
	if s.Server != "" {
		return s.Name + " of " + s.Server
	}
	return s.Name
}

// tlsOf reads a transport socket; nil is plaintext.
func tlsOf(socket *corev3.TransportSocket) (*TLS, error) {
	if socket == nil {
		return nil, nil
	}
	packed := socket.GetTypedConfig()
	server, client := &tlsv3.DownstreamTlsContext{}, &tlsv3.UpstreamTlsContext{}
	out := &TLS{}
	var common *tlsv3.CommonTlsContext
	switch {
	case packed.MessageIs(server):
		if err := packed.UnmarshalTo(server); err != nil {
			return nil, fmt.Errorf("decode TLS: %w", err)
		}
		common, out.Required = server.GetCommonTlsContext(), server.GetRequireClientCertificate().GetValue()
	case packed.MessageIs(client):
		if err := packed.UnmarshalTo(client); err != nil {
			return nil, fmt.Errorf("decode TLS: %w", err)
		}
		common, out.ServerName = client.GetCommonTlsContext(), client.GetSni()
	default:
		return nil, fmt.Errorf("transport socket %s is not understood here", socket.GetName())
	}
	out.ALPN = common.GetAlpnProtocols()
	switch c := common.GetTlsCertificateSdsSecretConfigs(); len(c) {
	case 0:
	case 1:
		out.Certificate = secretOf(c[0])
	default:
		return nil, fmt.Errorf("%d certificates at one end of TLS are not simulated", len(c))
	}
	if c := common.GetCombinedValidationContext(); c != nil {
		out.Trust = secretOf(c.GetValidationContextSdsSecretConfig())
		out.matchers = c.GetDefaultValidationContext().GetMatchTypedSubjectAltNames()
	} else if c := common.GetValidationContextSdsSecretConfig(); c != nil {
		out.Trust = secretOf(c)
	}
	for _, m := range out.matchers {
		out.Names = append(out.Names, m.GetSanType().String()+" "+stringText(m.GetMatcher()))
	}
	return out, nil
}

func secretOf(c *tlsv3.SdsSecretConfig) Secret {
	out := Secret{Name: c.GetName()}
	for _, g := range c.GetSdsConfig().GetApiConfigSource().GetGrpcServices() {
		out.Server = g.GetEnvoyGrpc().GetClusterName()
	}
	return out
}

// refuses says why a server's end closes a connection of a client whose
// certificate has those names; empty when it takes it.
func (p *Proxy) refuses(t *TLS, names []string) string {
	switch {
	case names == nil && (t.Required || len(t.matchers) > 0): // who asks for a name gets a certificate
		return "the client has no certificate"
	case names == nil || t.Trust == Secret{} || len(t.matchers) == 0:
		return ""
	case !slices.ContainsFunc(t.matchers, func(m *tlsv3.SubjectAltNameMatcher) bool {
		return slices.ContainsFunc(names, func(n string) bool { return p.alternative(m, n) })
	}):
		return "the client's certificate is for other names"
	}
	return ""
}

// alternative says whether an alternative name, "DNS:front.local", is the one
// that is matched. Of DNS names a wildcard covers what an exact matcher asks for.
func (p *Proxy) alternative(m *tlsv3.SubjectAltNameMatcher, name string) bool {
	kind, value, _ := strings.Cut(name, ":")
	want := map[tlsv3.SubjectAltNameMatcher_SanType]string{
		tlsv3.SubjectAltNameMatcher_DNS: "DNS", tlsv3.SubjectAltNameMatcher_URI: "URI", tlsv3.SubjectAltNameMatcher_IP_ADDRESS: "IP",
	}[m.GetSanType()]
	if kind != want {
		return false
	}
	if exact, ok := m.GetMatcher().GetMatchPattern().(*matcherv3.StringMatcher_Exact); ok && kind == "DNS" {
		if suffix, wild := strings.CutPrefix(value, "*."); wild {
			_, rest, found := strings.Cut(exact.Exact, ".")
			return found && strings.EqualFold(rest, suffix)
		}
		return strings.EqualFold(value, exact.Exact)
	}
	return p.text(m.GetMatcher(), value)
}
