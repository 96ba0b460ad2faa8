package envoy

import (
	"fmt"
	"slices"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/evermesh/evermesh/internal/api"
)

// staticSocket is where a bootstrap without an agent looks for the workload's
// SDS server; SPIRE's agent listens there by default.
const staticSocket = "/run/spire/sockets/agent.sock"

// noService is the management service of a bootstrap that has none.
const noService = "no_management_service"

// inlineSecrets makes what a bootstrap's listeners and clusters refer to part of
// it: files become secrets that Envoy reads at its start, and the workload's SDS
// server a cluster. Issued certificates exist nowhere but in the management
// service, which is one that nobody reaches here: connections that need them
// fail.
func inlineSecrets(out *bootstrapv3.Bootstrap) error {
	in := inliner{secrets: map[string]*tlsv3.Secret{}}
	for _, l := range out.GetStaticResources().GetListeners() {
		for _, chain := range l.GetFilterChains() {
			if err := in.socket(chain.GetTransportSocket(), &tlsv3.DownstreamTlsContext{}); err != nil {
				return fmt.Errorf("listener %s: %w", l.GetName(), err)
			}
		}
	}
	for _, c := range out.GetStaticResources().GetClusters() {
		if err := in.socket(c.GetTransportSocket(), &tlsv3.UpstreamTlsContext{}); err != nil {
			return fmt.Errorf("cluster %s: %w", c.GetName(), err)
		}
	}
	for _, name := range in.names {
		out.StaticResources.Secrets = append(out.StaticResources.Secrets, in.secrets[name])
	}
	if in.issued {
		out.StaticResources.Clusters = append(out.StaticResources.Clusters, withoutEndpoints(noService))
	}
	if in.own {
		out.StaticResources.Clusters = append(out.StaticResources.Clusters, &clusterv3.Cluster{
			Name: sdsCluster, ClusterDiscoveryType: discoveryType(clusterv3.Cluster_STATIC), ConnectTimeout: durationpb.New(time.Second),
			TypedExtensionProtocolOptions: protocolOptions(api.PortProtocolHTTP2),
			LoadAssignment: assignment(sdsCluster, &corev3.Address{
				Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: staticSocket}},
			}),
		})
	}
	return nil
}

// inliner gathers what has to be in a bootstrap.
type inliner struct {
	names   []string // of secrets, as met
	secrets map[string]*tlsv3.Secret
	own     bool // the workload's SDS server is asked
	issued  bool // the management service is
}

// tlsContext is either end of TLS.
type tlsContext interface {
	checked
	GetCommonTlsContext() *tlsv3.CommonTlsContext
}

func (in *inliner) socket(s *corev3.TransportSocket, m tlsContext) error {
	if s == nil {
		return nil
	}
	if err := s.GetTypedConfig().UnmarshalTo(m); err != nil {
		return fmt.Errorf("decode a transport socket: %w", err)
	}
	all := slices.Clone(m.GetCommonTlsContext().GetTlsCertificateSdsSecretConfigs())
	if c := m.GetCommonTlsContext().GetValidationContextSdsSecretConfig(); c != nil {
		all = append(all, c)
	}
	if c := m.GetCommonTlsContext().GetCombinedValidationContext().GetValidationContextSdsSecretConfig(); c != nil {
		all = append(all, c)
	}
	for _, c := range all {
		if c.GetSdsConfig().GetAds() == nil {
			in.own = true
			continue
		}
		secret := fileSecret(c.GetName())
		if secret == nil {
			// Not by ADS: Envoy does not survive that in a cluster of its bootstrap.
			in.issued, c.SdsConfig = true, fromServer(noService)
			continue
		}
		c.SdsConfig = nil // the secret of that name in the bootstrap
		if in.secrets[c.GetName()] == nil {
			in.names = append(in.names, c.GetName())
			in.secrets[c.GetName()] = secret
		}
	}
	s.ConfigType = &corev3.TransportSocket_TypedConfig{TypedConfig: pack(m)}
	return nil
}

// fileSecret is the secret of files that a name stands for, else nil.
func fileSecret(name string) *tlsv3.Secret {
	n, err := ParseSecret(name)
	if err != nil {
		return nil
	}
	file := func(path string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
	}
	switch n.Kind {
	case FileCertificate:
		return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: file(n.Path), PrivateKey: file(n.Key),
		}}}
	case FileTrust:
		return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: file(n.Path),
		}}}
	}
	return nil
}
