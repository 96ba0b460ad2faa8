package envoy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/envoy"
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
		n := envoy.SecretName{Kind: rapid.SampledFrom([]envoy.SecretKind{envoy.FileCertificate, envoy.FileTrust, envoy.ACMCertificate, envoy.ACMIssuer, envoy.ACMTrust}).Draw(t, "kind")}
		switch n.Kind {
		case envoy.FileCertificate:
			n.Path, n.Key = text.Draw(t, "path"), text.Draw(t, "key")
		case envoy.FileTrust:
			n.Path = text.Draw(t, "path")
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
