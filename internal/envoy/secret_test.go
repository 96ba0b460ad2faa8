package envoy_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/mesh"
)

func TestSecretNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		want envoy.SecretName
	}{
		{"file-certificate:/certs/blue.pem:/certs/blue.key", envoy.SecretName{Kind: envoy.FileCertificate, Path: "/certs/blue.pem", Key: "/certs/blue.key"}},
		{"file-trust:/certs/100%25%3A.pem", envoy.SecretName{Kind: envoy.FileTrust, Path: "/certs/100%:.pem"}},
		{"acm-certificate:arn:aws:acm:eu-west-1:123456789012:certificate/a", envoy.SecretName{Kind: envoy.ACMCertificate, ARNs: []string{"arn:aws:acm:eu-west-1:123456789012:certificate/a"}}},
		{"acm-issuer:arn:aws:acm:eu-west-1:123456789012:certificate/a", envoy.SecretName{Kind: envoy.ACMIssuer, ARNs: []string{"arn:aws:acm:eu-west-1:123456789012:certificate/a"}}},
		{"acm-trust:arn:a,arn:b%2C", envoy.SecretName{Kind: envoy.ACMTrust, ARNs: []string{"arn:a", "arn:b,"}}},
	} {
		got, err := envoy.ParseSecret(c.name)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	for _, bad := range []string{"", "blue", "file:/a", "file-certificate:/a", "file-trust:/a:b", "file-trust:/a%41", "acm-certificate:a,b"} {
		if got, err := envoy.ParseSecret(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
}

// Every secret has one name, and what was written is read.
func TestSecretNamesReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.SampledFrom([]rune("ab/:%,25é")))
		n := envoy.SecretName{Kind: rapid.SampledFrom([]envoy.SecretKind{envoy.FileCertificate, envoy.FileTrust, envoy.ACMCertificate, envoy.ACMIssuer, envoy.ACMTrust, envoy.WorkloadSecret}).Draw(t, "kind")}
		switch n.Kind {
		case envoy.FileCertificate:
			n.Path, n.Key = text.Draw(t, "path"), text.Draw(t, "key")
		case envoy.FileTrust:
			n.Path = text.Draw(t, "path")
		case envoy.WorkloadSecret:
			n.Name = text.Draw(t, "name")
		case envoy.ACMTrust:
			n.ARNs = rapid.SliceOfN(text, 1, 3).Draw(t, "arns")
		default:
			n.ARNs = []string{text.Draw(t, "arn")}
		}
		got, err := envoy.ParseSecret(n.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(n, got); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", n, diff)
		}
	})
}

// A bundle's secrets are those that its listeners and clusters ask the management
// service for, by the very names, and every name can be read. What is built from
// the bundle before has them too.
func TestSecretsOfABundle(t *testing.T) {
	t.Parallel()
	count := 0
	check := func(b *envoy.Bundle) {
		asked := map[string]bool{}
		for _, of := range []envoy.Type{envoy.Listener, envoy.Cluster} {
			for _, r := range b.List(of).Resources {
				m, err := (&anypb.Any{TypeUrl: of.URL(), Value: r.Encoded}).UnmarshalNew()
				if err != nil {
					t.Fatal(err)
				}
				askedBy(t, m.ProtoReflect(), asked)
			}
		}
		want := slices.Sorted(maps.Keys(asked))
		if diff := cmp.Diff(want, b.Secrets(), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-asked for +said):\n%s", b.View.Client.Key, diff)
		}
		for _, name := range want {
			count++
			if _, err := envoy.ParseSecret(name); err != nil {
				t.Error(err)
			}
		}
	}
	for _, c := range envoytest.Cases(t) {
		for _, client := range c.Clients(t) {
			b, _ := c.Bundle(t, client)
			check(b)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		w, builder := newWorld(), &envoy.Builder{}
		w.fill(t)
		before := map[mesh.Client]*envoy.Bundle{}
		for range 4 {
			for _, view := range w.views(mesh.EveryTraits()...) {
				b, _ := builder.Build(view, before[view.Client])
				before[view.Client] = b
				check(b)
			}
			w.edit(t)
		}
	})
	if count < 100 {
		t.Errorf("only %d names were seen", count)
	}
}

// Proxies that have no SDS server of the workload's own are sent to no such server:
// what they get differs in nothing else, and only where its secrets are named.
func TestWithoutAServerOfTheWorkload(t *testing.T) {
	t.Parallel()
	const server = "static_cluster_sds_unix_socket"
	differ := 0
	for _, c := range envoytest.Cases(t) {
		var builder envoy.Builder
		for _, key := range c.Clients(t) {
			view, _, _ := mesh.NewSnapshot(1, c.Resources).View(mesh.Client{Key: key, Traits: c.Traits()})
			usual, problems := builder.Build(view, nil)
			other := *view
			other.Client.Traits.NoSDS = true
			without, theirs := builder.Build(&other, nil)
			if diff := cmp.Diff(problems, theirs); diff != "" {
				t.Errorf("%s, %s: other problems (-usual +without):\n%s", c.Name, key, diff)
			}
			for _, of := range []envoy.Type{envoy.Listener, envoy.Route, envoy.Cluster} {
				for _, r := range without.List(of).Resources {
					was := usual.List(of).Get(r.Name)
					switch named := bytes.Contains(was.Encoded, []byte(server)); {
					case bytes.Contains(r.Encoded, []byte(server)):
						t.Errorf("%s, %s: %s names the server", c.Name, key, r.Name)
					case named:
						differ++
						if !slices.ContainsFunc(r.Secrets, func(n string) bool { return strings.HasPrefix(n, "workload-secret:") }) {
							t.Errorf("%s, %s: %s asks for %q", c.Name, key, r.Name, r.Secrets)
						}
					case r.Hash != was.Hash:
						t.Errorf("%s, %s: %s is another for no reason", c.Name, key, r.Name)
					}
				}
			}
		}
	}
	if differ < 3 {
		t.Errorf("only %d listeners and clusters named the server", differ)
	}
}

// askedBy gathers the names that a message's SDS configurations ask ADS for.
func askedBy(t *testing.T, m protoreflect.Message, out map[string]bool) {
	t.Helper()
	switch m := m.Interface().(type) {
	case *anypb.Any:
		inner, err := m.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		askedBy(t, inner.ProtoReflect(), out)
		return
	case *tlsv3.SdsSecretConfig:
		if m.GetSdsConfig().GetAds() != nil {
			out[m.GetName()] = true
		}
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					askedBy(t, v.Message(), out)
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				askedBy(t, v.List().Get(i).Message(), out)
			}
		default:
			askedBy(t, v.Message(), out)
		}
		return true
	})
}
