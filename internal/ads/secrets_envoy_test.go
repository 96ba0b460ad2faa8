package ads

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/secrets"
	"github.com/evermesh/evermesh/internal/secrets/secretstest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What a real Envoy does with secrets, on listeners that are socket files: it is
// in a network of its own.

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	out, err := anypb.New(m)
	adstest.Must(t, err)
	return out
}

func made(t *testing.T, name string, m proto.Message, clusters, names []string) *envoy.Resource {
	t.Helper()
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	adstest.Must(t, err)
	sum := sha256.Sum256(encoded)
	return &envoy.Resource{Name: name, Hash: hex.EncodeToString(sum[:]), Encoded: encoded, Clusters: clusters, Secrets: names}
}

func byADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

// tlsOf is a context with a certificate and authorities by name; either may be
// empty.
func tlsOf(certificate, trust string) *tlsv3.CommonTlsContext {
	c := &tlsv3.CommonTlsContext{}
	if certificate != "" {
		c.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{{Name: certificate, SdsConfig: byADS()}}
	}
	if trust != "" {
		c.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: trust, SdsConfig: byADS()}}
	}
	return c
}

// answering is a listener on a socket file that answers 200 by itself; with a
// certificate it speaks TLS, with authorities it wants a certificate.
func answering(t *testing.T, name, path, certificate, trust string) *envoy.Resource {
	t.Helper()
	return listening(t, name, path, certificate, trust, &hcmv3.HttpConnectionManager{
		StatPrefix: name,
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200}},
			}}}},
			ResponseHeadersToAdd: []*corev3.HeaderValueOption{{
				Header: &corev3.HeaderValue{Key: "x-peer", Value: "%DOWNSTREAM_PEER_SERIAL%"}, AppendAction: corev3.HeaderValueOption_ADD_IF_ABSENT,
			}},
		}},
	})
}

// passing is a listener on a socket file that passes everything on to a cluster.
func passing(t *testing.T, name, path, cluster string) *envoy.Resource {
	t.Helper()
	r := listening(t, name, path, "", "", &hcmv3.HttpConnectionManager{
		StatPrefix: name,
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			VirtualHosts: []*routev3.VirtualHost{{Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
			}}}},
		}},
	})
	r.Clusters = []string{cluster}
	return r
}

func listening(t *testing.T, name, path, certificate, trust string, manager *hcmv3.HttpConnectionManager) *envoy.Resource {
	t.Helper()
	manager.HttpFilters = []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(t, &routerv3.Router{})}}}
	chain := &listenerv3.FilterChain{Filters: []*listenerv3.Filter{{Name: "http", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(t, manager)}}}}
	var names []string
	if certificate != "" {
		names = []string{certificate}
		down := &tlsv3.DownstreamTlsContext{CommonTlsContext: tlsOf(certificate, trust)}
		if trust != "" {
			names = append(names, trust)
			down.RequireClientCertificate = wrapperspb.Bool(true)
		}
		chain.TransportSocket = &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(t, down)}}
	}
	return made(t, name, &listenerv3.Listener{Name: name, Address: pipe(path), FilterChains: []*listenerv3.FilterChain{chain}}, nil, names)
}

// asking is a cluster with one endpoint, a socket file, that is spoken to in TLS;
// a connection takes a few requests.
func asking(t *testing.T, name, path, certificate, trust string) *envoy.Resource {
	t.Helper()
	var names []string
	for _, n := range []string{certificate, trust} {
		if n != "" {
			names = append(names, n)
		}
	}
	up := &tlsv3.UpstreamTlsContext{CommonTlsContext: tlsOf(certificate, trust)}
	options := &httpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{MaxRequestsPerConnection: wrapperspb.UInt32(10)},
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{},
		}},
	}
	return made(t, name, &clusterv3.Cluster{
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(t, options)},
		Name:                          name, ConnectTimeout: durationpb.New(testenv.Patience), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: pipe(path)}}}},
		}}},
		TransportSocket: &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(t, up)}},
	}, nil, names)
}

func pipe(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}

func certificateAt(chain, key string) string {
	return envoy.SecretName{Kind: envoy.FileCertificate, Path: chain, Key: key}.String()
}

// get asks a socket file for a page, in TLS if there is a configuration.
func get(path string, c *tls.Config) (*http.Response, error) {
	transport := &http.Transport{TLSClientConfig: c, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	defer transport.CloseIdleConnections()
	scheme := "http"
	if c != nil {
		scheme = "https"
	}
	resp, err := (&http.Client{Transport: transport, Timeout: testenv.Patience}).Get(scheme + "://server.local/")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return resp, err
}

// secretRigs is a rig with a source of secrets, and a directory for socket files.
type secretRigs struct {
	*realRig
	issuer *secretstest.Issuer
	dir    string
	ca     *sdstest.Authority
	log    locked
}

// locked is a buffer that many write to.
type locked struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newSecretRig(t *testing.T) *secretRigs {
	t.Helper()
	r := &secretRigs{issuer: secretstest.New(), dir: filepath.Dir(adstest.Socket(t)), ca: sdstest.NewAuthority(t, "one")}
	source := &secrets.Source{Issuer: r.issuer, Log: slog.New(slog.DiscardHandler)}
	r.realRig = newRealRig(t, func(c *Config) {
		c.Secrets = source
		c.Log = slog.New(slog.NewJSONHandler(&r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	source.Renew = r.Renew
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = source.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func (r *secretRigs) at(name string) string { return filepath.Join(r.dir, name) }

func (r *secretRigs) problems(name string) string {
	row, _ := r.Row(client(name))
	var out []string
	for _, p := range row.Problems {
		out = append(out, p.Reason+": "+p.Message)
	}
	return strings.Join(out, "\n")
}

const arnOf = "arn:aws:acm:us-east-1:" + account + ":certificate/"

func TestRealEnvoyWithoutItsSecret(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newSecretRig(t)
		files := t.TempDir()
		chain, key := filepath.Join(files, "server.pem"), filepath.Join(files, "server.key")
		const denied = arnOf + "denied"
		r.issuer.Issue(t, denied, r.ca, "server.local")
		r.issuer.Forbid(denied, true)
		authority := "arn:aws:acm-pca:us-east-1:" + account + ":certificate-authority/1"
		r.issuer.Trust(authority, r.ca)
		r.issuer.Forbid(authority, true)
		trust := envoy.SecretName{Kind: envoy.ACMTrust, ARNs: []string{authority}}.String()
		r.give("a", spec{
			envoy.Cluster: {asking(t, "back", r.at("file"), "", trust)},
			envoy.Listener: {
				answering(t, "plain", r.at("plain"), "", ""),
				answering(t, "file", r.at("file"), certificateAt(chain, key), ""),
				answering(t, "issued", r.at("issued"), envoy.SecretName{Kind: envoy.ACMCertificate, ARNs: []string{denied}}.String(), ""),
				passing(t, "out", r.at("out"), "back"),
			},
		})
		e := r.envoy(t, delta)
		secure := &tls.Config{RootCAs: r.ca.Pool(), MinVersion: tls.VersionTLS12}
		t.Run("harms nothing but what needs it", func(t *testing.T) {
			adstest.LogEnvoy(t)
			e.Wait(t, "the listener without TLS", func() bool { _, err := get(r.at("plain"), nil); return err == nil })
			if late, of := e.Sum(t, `^sds\..*\.init_fetch_timeout$`); late > 0 || of < 2 {
				t.Errorf("%d of %d secrets were waited for in vain: Envoy waited for what is not delivered", late, of)
			}
			r.current(t)
			for _, name := range []string{"file", "issued"} {
				if _, err := get(r.at(name), secure); err == nil {
					t.Errorf("%s serves TLS without a certificate", name)
				}
			}
			want := []string{
				ReasonSecretDenied + ": Secret acm-certificate:" + denied + " was not delivered: User:  is not authorized to perform: acm:ExportCertificate on resource: " + denied,
				ReasonSecretDenied + ": Secret " + trust + " was not delivered: User:  is not authorized to perform: acm-pca:GetCertificateAuthorityCertificate on resource: " + authority,
				ReasonSecretRefused + ": Secret " + certificateAt(chain, key) + " was refused by Envoy: Invalid path: " + chain,
			}
			testenv.Eventually(t, "the ledger says why", func() bool { return r.problems("a") == strings.Join(want, "\n") })
			row, _ := r.Row(client("a"))
			if want := []string{"acm-certificate:" + denied, certificateAt(chain, key)}; !slices.Equal(row.Lacking, want) {
				t.Errorf("listeners lack %q, want %q", row.Lacking, want)
			}
		})
		t.Run("a file is read when it appears", func(t *testing.T) {
			adstest.LogEnvoy(t)
			r.ca.Issue(t, "server.local").Write(t, files, "server")
			servedNext(t, e, chain, func() bool { _, err := get(r.at("file"), secure); return err == nil })
			testenv.Eventually(t, "the ledger forgets it", func() bool { return !strings.Contains(r.problems("a"), ReasonSecretRefused) })
		})
		t.Run("EMS-056 TLS-008 authorities that were not delivered let nobody in", func(t *testing.T) {
			adstest.LogEnvoy(t)
			if _, err := get(r.at("out"), nil); err == nil || !strings.Contains(err.Error(), "503") {
				t.Errorf("a request whose server nobody can verify: %v", err)
			}
			r.issuer.Forbid(authority, false)
			e.Wait(t, "a request", func() bool { _, err := get(r.at("out"), nil); return err == nil })
		})
		t.Run("EMS-056 TLS-008 a certificate is served when its issuer allows it", func(t *testing.T) {
			adstest.LogEnvoy(t)
			r.issuer.Forbid(denied, false)
			e.Wait(t, "TLS", func() bool { _, err := get(r.at("issued"), secure); return err == nil })
			testenv.Eventually(t, "no problem is left", func() bool { return r.problems("a") == "" })
			if row, _ := r.Row(client("a")); len(row.Lacking) > 0 {
				t.Errorf("listeners still lack %q", row.Lacking)
			}
		})
	})
}

// servedNext waits until a certificate from a file that has just appeared is served. Envoy
// refuses it no more: it is served with the next try, and how long tries wait for each
// other is TestRetriesHaveABound's.
func servedNext(t *testing.T, e *adstest.Envoy, chain string, ok func() bool) {
	t.Helper()
	refusals := `^sds\..*` + regexp.QuoteMeta(filepath.Base(chain)) + `.*\.update_rejected$`
	before, of := e.Sum(t, refusals)
	appeared := time.Now()
	e.Wait(t, "TLS", ok)
	after, _ := e.Sum(t, refusals)
	t.Logf("served %v after the file appeared", time.Since(appeared).Round(time.Millisecond))
	if of != 1 || after > before {
		t.Errorf("Envoy refused it %d times more, on %d subscriptions", after-before, of)
	}
}

func TestRealEnvoysRotateUnderLoad(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newSecretRig(t)
		files := t.TempDir()
		r.ca.Issue(t, "server.local").Write(t, files, "server")
		r.ca.Issue(t, "client.local").Write(t, files, "client")
		trust := envoy.SecretName{Kind: envoy.FileTrust, Path: r.ca.Write(t, files, "trust")}.String()
		file := func(name string) string {
			return certificateAt(filepath.Join(files, name+".pem"), filepath.Join(files, name+".key"))
		}
		issued := arnOf + "server"
		r.issuer.Issue(t, issued, r.ca, "server.local")
		r.give("server", spec{envoy.Listener: {
			answering(t, "file", r.at("file"), file("server"), trust),
			answering(t, "issued", r.at("issued"), envoy.SecretName{Kind: envoy.ACMCertificate, ARNs: []string{issued}}.String(), trust),
		}})
		r.give("a", spec{
			envoy.Cluster: {
				asking(t, "file", r.at("file"), file("client"), trust),
				asking(t, "issued", r.at("issued"), file("client"), envoy.SecretName{Kind: envoy.ACMIssuer, ARNs: []string{issued}}.String()),
			},
			envoy.Listener: {
				passing(t, "to-file", r.at("to-file"), "file"), passing(t, "to-issued", r.at("to-issued"), "issued"),
			},
		})
		adstest.StartEnvoy(t, adstest.Options{Node: nodeID("server"), Instance: "s", Delta: delta}, r.socket)
		e := r.envoy(t, delta)
		for _, name := range []string{"to-file", "to-issued"} {
			e.Wait(t, "a request over "+name, func() bool { _, err := get(r.at(name), nil); return err == nil })
		}
		loads := []*load{startLoad(t, r.at("to-file")), startLoad(t, r.at("to-issued"))}

		// within is how long until a certificate with the serial of c is seen.
		within := func(t *testing.T, what string, seen func() string, c sdstest.Certificate) {
			t.Helper()
			began, want := time.Now(), c.Pair(t).Leaf.SerialNumber.Text(16)
			// The longest time between two ticks is what the machine is capable of now, whatever Envoy does.
			done, longest := make(chan struct{}), make(chan time.Duration)
			go func() {
				tick := time.NewTicker(10 * time.Millisecond)
				defer tick.Stop()
				last, most := time.Now(), time.Duration(0)
				for {
					select {
					case <-tick.C:
						most, last = max(most, time.Since(last)), time.Now()
					case <-done:
						longest <- most
						return
					}
				}
			}()
			seenIt := false
			defer func() {
				if !seenIt { // the test has failed and goes
					close(done)
					<-longest
				}
			}()
			testenv.Eventually(t, what, func() bool { return strings.TrimLeft(seen(), "0") == want })
			seenIt = true
			took := time.Since(began)
			close(done)
			gap := <-longest
			t.Logf("%s is seen %v after it was there", what, took.Round(time.Millisecond))
			if took > 5*time.Second+10*gap {
				t.Errorf("%s was seen after %v, %v between two ticks", what, took, gap)
			}
		}
		shows := func(name string) func() string {
			mine := r.ca.Issue(t, "probe.local").Pair(t)
			return func() string {
				// The probe looks at what the server shows, and verifies nothing.
				resp, err := get(r.at(name), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{mine}})
				if err != nil {
					return ""
				}
				return resp.TLS.PeerCertificates[0].SerialNumber.Text(16)
			}
		}
		shown := func() string { // by the client's Envoy, on a new connection
			resp, err := get(r.at("to-file"), nil)
			if err != nil {
				return ""
			}
			return resp.Header.Get("X-Peer")
		}
		t.Run("files that are moved into place", func(t *testing.T) {
			adstest.LogEnvoy(t)
			c := r.ca.Issue(t, "server.local")
			move(t, c, files, "server")
			within(t, "the server's certificate", shows("file"), c)
			c = r.ca.Issue(t, "client.local")
			move(t, c, files, "client")
			within(t, "the client's certificate", shown, c)
		})
		t.Run("files that are overwritten, when another is moved beside them", func(t *testing.T) {
			adstest.LogEnvoy(t)
			c := r.ca.Issue(t, "server.local")
			c.Write(t, files, "server")
			loads[0].more(t, 100)
			if now := shows("file")(); now == c.Pair(t).Leaf.SerialNumber.Text(16) {
				t.Error("Envoy has noticed that a file was overwritten: docs/adr/0019 says that it does not")
			}
			swap(t, nil, files, "reload")
			within(t, "the overwritten certificate", shows("file"), c)
		})
		t.Run("another authority, by way of both", func(t *testing.T) {
			adstest.LogEnvoy(t)
			next := sdstest.NewAuthority(t, "two")
			swap(t, slices.Concat(r.ca.PEM, next.PEM), files, "trust.pem")
			loads[0].more(t, 300)
			for _, name := range []string{"server", "client"} {
				c := next.Issue(t, name+".local")
				move(t, c, files, name)
				if name == "server" {
					within(t, "the server's certificate of the new authority", shows("file"), c)
				} else {
					within(t, "the client's certificate of the new authority", shown, c)
				}
			}
			loads[0].more(t, 300)
			// The certificates of issued ones are still of the old authority.
			swap(t, slices.Concat(next.PEM, r.ca.PEM), files, "trust.pem")
			loads[0].more(t, 300)
		})
		t.Run("EMS-031 TLS-024 issued certificates come as secrets", func(t *testing.T) {
			adstest.LogEnvoy(t)
			for range 3 {
				within(t, "the issued certificate", shows("issued"), r.issuer.Issue(t, issued, r.ca, "server.local"))
			}
			loads[1].more(t, 300)
		})
		t.Run("another stream, on which every secret is given twice", func(t *testing.T) {
			adstest.LogEnvoy(t)
			since := map[string]time.Time{"a": r.since("a"), "server": r.since("server")}
			updates := e.Stat(t, "cluster.file.client_ssl_socket_factory.ssl_context_update_by_sds")
			r.stopSocket()
			r.listen(t)
			for name, before := range since {
				e.Wait(t, "another stream of "+name, func() bool { return r.since(name).After(before) })
			}
			e.Wait(t, "the client's certificate and authorities are read", func() bool {
				return e.Stat(t, "cluster.file.client_ssl_socket_factory.ssl_context_update_by_sds") >= updates+2
			})
			for _, l := range loads {
				l.more(t, 300)
			}
		})
		for i, l := range loads {
			total, failed := l.stop()
			change := []string{"certificate rotation, files and authorities", "certificate rotation, issued"}[i]
			t.Logf("drops: %s: %d requests, %d failed", change, total, failed)
			if failed > 0 || total < 1000 {
				t.Errorf("load %d: %d of %d requests failed: %v", i, failed, total, l.first)
			}
		}
	})
}

func TestRealEnvoyWaitsForSecretsAndForNothingElse(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newSecretRig(t)
		gate := &gated{Secrets: r.Secrets, gate: make(chan struct{})}
		r.Secrets = gate
		old, next := arnOf+"old", arnOf+"new"
		cert := func(arn string) string {
			return envoy.SecretName{Kind: envoy.ACMCertificate, ARNs: []string{arn}}.String()
		}
		root := func(arn string) string { return envoy.SecretName{Kind: envoy.ACMIssuer, ARNs: []string{arn}}.String() }
		for _, arn := range []string{old, next} {
			r.issuer.Issue(t, arn, r.ca, "server.local")
		}
		gate.held = root(next)
		r.give("server", spec{envoy.Listener: {
			answering(t, "old", r.at("old"), cert(old), ""), answering(t, "new", r.at("new"), cert(next), ""),
		}})
		goal := func(target string) spec {
			// The old cluster stays: connections that the listener drains use it.
			clusters := []*envoy.Resource{asking(t, "old", r.at("old"), "", root(old))}
			if target == "new" {
				clusters = append(clusters, asking(t, "new", r.at("new"), "", root(next)))
			}
			return spec{
				envoy.Cluster:  clusters,
				envoy.Listener: {passing(t, "out", r.at("out"), target)},
			}
		}
		r.give("a", goal("old"))
		adstest.StartEnvoy(t, adstest.Options{Node: nodeID("server"), Instance: "s", Delta: delta}, r.socket)
		// Connections that Envoy ends while a busy machine has their client stand still fail
		// a request: they are not ended in this test.
		e := adstest.StartEnvoy(t, adstest.Options{Node: nodeID("a"), Instance: "i-1", Delta: delta, NodeAlways: !delta, Drain: 2 * testenv.Patience}, r.socket)
		e.Wait(t, "a request", func() bool { _, err := get(r.at("out"), nil); return err == nil })
		r.current(t)
		l := startLoad(t, r.at("out"))

		r.give("a", goal("new"))
		e.Wait(t, "the new cluster, which waits for its authorities", func() bool { return e.Stat(t, "cluster_manager.warming_clusters") == 1 })
		l.more(t, 200)
		if got := r.state("a"); got != api.ProxyStatePending {
			t.Errorf("state is %s", got)
		}
		// Another secret goes out meanwhile.
		updates := e.Stat(t, "cluster.old.client_ssl_socket_factory.ssl_context_update_by_sds")
		both := *r.ca
		both.PEM = slices.Concat(r.ca.PEM, sdstest.NewAuthority(t, "other").PEM)
		r.issuer.Issue(t, old, &both, "server.local")
		e.Wait(t, "it", func() bool {
			return e.Stat(t, "cluster.old.client_ssl_socket_factory.ssl_context_update_by_sds") > updates
		})
		l.more(t, 200)
		close(gate.gate)
		r.current(t)
		if _, err := get(r.at("out"), nil); err != nil {
			t.Errorf("a new connection: %v", err)
		}
		e.Wait(t, "a request by the new cluster", func() bool { return e.Stat(t, "cluster.new.upstream_rq_completed") > 0 })
		l.more(t, 200)
		total, failed := l.stop()
		t.Logf("%d of %d requests failed", failed, total)
		if failed > 0 {
			t.Errorf("%d of %d requests failed: %v", failed, total, l.first)
		}
	})
}

func TestKeysOfIssuedCertificatesAreNowhereToBeSeen(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newSecretRig(t)
		good, bad := arnOf+"good", arnOf+"bad"
		name := func(arn string) string {
			return envoy.SecretName{Kind: envoy.ACMCertificate, ARNs: []string{arn}}.String()
		}
		c := r.issuer.Issue(t, good, r.ca, "server.local")
		// Envoy refuses a key of another certificate, and says why.
		other := sdstest.Certificate{Chain: r.ca.Issue(t, "server.local").Chain, Key: c.Key}
		r.issuer.Put(bad, other, r.ca)
		r.give("a", spec{envoy.Listener: {
			answering(t, "good", r.at("good"), name(good), ""), answering(t, "bad", r.at("bad"), name(bad), ""),
		}})
		e := r.envoy(t, delta)
		secure := &tls.Config{RootCAs: r.ca.Pool(), MinVersion: tls.VersionTLS12}
		e.Wait(t, "TLS", func() bool { _, err := get(r.at("good"), secure); return err == nil })
		testenv.Eventually(t, "the ledger says what Envoy refused", func() bool { return strings.Contains(r.problems("a"), "KEY_VALUES_MISMATCH") })
		row, _ := r.Row(client("a"))
		ledger, err := json.Marshal(row)
		adstest.Must(t, err)
		block, _ := pem.Decode(c.Key)
		raw := string(block.Bytes)
		for where, text := range map[string]string{
			"the log": r.log.String(), "the ledger": string(ledger), "the server, printed": fmt.Sprintf("%+v %#v", r.States(), r.Secrets),
			"Envoy's configuration": e.Get(t, "/config_dump?include_eds"), "Envoy's certificates": e.Get(t, "/certs"), "Envoy's log": e.Log(),
		} {
			for _, form := range []string{raw, string(c.Key), strings.Split(string(c.Key), "\n")[1], hex.EncodeToString(block.Bytes), base64.StdEncoding.EncodeToString(c.Key)} {
				if strings.Contains(text, form) {
					t.Errorf("%s has the key", where)
				}
			}
		}
		if !strings.Contains(r.log.String(), "KEY_VALUES_MISMATCH") {
			t.Errorf("the log says nothing of the refusal:\n%s", r.log.String())
		}
	})
}

// gated is a source that holds one secret back until the gate is open.
type gated struct {
	Secrets
	held string
	gate chan struct{}
}

func (g *gated) Secret(ctx context.Context, p auth.Caller, client api.Key, name string, form int) (auth.Secret, error) {
	if name == g.held {
		select {
		case <-g.gate:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return g.Secrets.Secret(ctx, p, client, name, form)
}

// move puts a certificate where another is, one file after the other, as whoever
// is careful does.
func move(t *testing.T, c sdstest.Certificate, dir, name string) {
	t.Helper()
	swap(t, c.Chain, dir, name+".pem")
	swap(t, c.Key, dir, name+".key")
}

func swap(t *testing.T, text []byte, dir, name string) {
	t.Helper()
	beside := filepath.Join(dir, name+".new")
	adstest.Must(t, os.WriteFile(beside, text, 0o600))
	adstest.Must(t, os.Rename(beside, filepath.Join(dir, name)))
}

// load is a client that never stops and never repeats.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu            sync.Mutex
	total, failed int
	first         error
}

func startLoad(t *testing.T, path string) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for range 2 {
		l.done.Go(func() { l.work(ctx, path) })
	}
	t.Cleanup(func() { l.stop() })
	return l
}

func (l *load) work(ctx context.Context, path string) {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}
	for ctx.Err() == nil {
		resp, err := c.Post("http://server.local/", "text/plain", strings.NewReader("once"))
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
		}
		l.mu.Lock()
		l.total++
		if err != nil {
			l.failed++
			l.first = cmp.Or(l.first, err)
		}
		l.mu.Unlock()
		select {
		case <-time.After(time.Millisecond): // it shares the processors with what it watches
		case <-ctx.Done():
		}
	}
}

// more waits for so many more requests, however slowly they go on.
func (l *load) more(t *testing.T, n int) {
	t.Helper()
	sent := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.total
	}
	for was, want := sent(), sent()+n; was < want; was = sent() {
		testenv.Eventually(t, "another request", func() bool { return sent() > was })
	}
}

func (l *load) stop() (total, failed int) {
	l.cancel()
	l.done.Wait()
	return l.total, l.failed
}
