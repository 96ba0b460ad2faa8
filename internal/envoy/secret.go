package envoy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// A bundle holds names of secrets, never secrets (D9). A name says by itself
// what is to be sent for it, so that whoever answers SDS needs no table, and
// who reads a config dump sees which certificate a listener has:
//
//	file-certificate:<chain path>:<key path>   tls_certificate, read by Envoy itself
//	file-trust:<path>                          validation_context, read by Envoy itself
//	acm-certificate:<certificate arn>          tls_certificate with its chain and key
//	acm-trust:<authority arn>[,<arn>...]       validation_context: the certificates of these authorities
//	acm-issuer:<certificate arn>               validation_context: the root that this certificate chains to
//	identity-certificate:<owner>/<mesh>        tls_certificate: the identity of the proxy's own node or gateway
//	identity-trust:<owner>/<mesh>              validation_context: who issues the identities of the mesh
//	workload-secret:<secret name>              nothing: the proxy has no SDS server to ask (mesh.Traits.NoSDS)
//
// A secret of files holds their paths. Envoy watches the directories of both by
// itself, and reads again when something is moved into them; a file that is
// written in place is not noticed. Of a response with several secrets it takes
// none if it refuses one. TestFilesChange and TestTLS show these.
//
// In paths, % and : are percent-encoded; in ARNs, % and the comma. Certificates
// of a workload's own SDS server (sds in the API) have no such name: Envoy asks
// its socket for them, under the name that the resource gives. Only proxies without
// such a server ask here, and are told so.

// SecretKind is what a secret is made of.
type SecretKind string

// The kinds; each is the first word of the names.
const (
	FileCertificate     SecretKind = "file-certificate"
	FileTrust           SecretKind = "file-trust"
	ACMCertificate      SecretKind = "acm-certificate"
	ACMTrust            SecretKind = "acm-trust"
	ACMIssuer           SecretKind = "acm-issuer"
	IdentityCertificate SecretKind = "identity-certificate"
	IdentityTrust       SecretKind = "identity-trust"
	WorkloadSecret      SecretKind = "workload-secret"
)

// SecretName is what the name of a secret says. Certificates and keys are
// sent for FileCertificate, ACMCertificate and IdentityCertificate, nothing for WorkloadSecret, authorities
// for the others.
type SecretName struct {
	Kind SecretKind
	// Path is the file of the certificate chain, or of the trusted authorities, on
	// the machine of the proxy; for files.
	Path string
	// Key is the file of the private key; for FileCertificate.
	Key string
	// ARNs are one certificate, for ACMCertificate and ACMIssuer, or authorities,
	// sorted, for ACMTrust.
	ARNs []string
	// Name is the resource's secretName; for WorkloadSecret.
	Name string
	// Mesh is <owner>/<mesh>; for IdentityCertificate and IdentityTrust. The same name
	// is another certificate for each node, so that clients share what names it.
	Mesh string
}

var (
	pathEscape = strings.NewReplacer("%", "%25", ":", "%3A")
	arnEscape  = strings.NewReplacer("%", "%25", ",", "%2C")
	unescape   = strings.NewReplacer("%25", "%", "%3A", ":", "%2C", ",")
)

// String is the secret's name on the wire, which ParseSecret reads.
func (n SecretName) String() string {
	var parts []string
	switch n.Kind {
	case FileCertificate:
		return string(n.Kind) + ":" + pathEscape.Replace(n.Path) + ":" + pathEscape.Replace(n.Key)
	case FileTrust:
		return string(n.Kind) + ":" + pathEscape.Replace(n.Path)
	case WorkloadSecret:
		return string(n.Kind) + ":" + n.Name
	case IdentityCertificate, IdentityTrust:
		return string(n.Kind) + ":" + n.Mesh
	default:
		for _, arn := range n.ARNs {
			parts = append(parts, arnEscape.Replace(arn))
		}
	}
	return string(n.Kind) + ":" + strings.Join(parts, ",")
}

// fileCertificate names a certificate and key that lie beside the proxy.
func fileCertificate(chain, key string) SecretName {
	return SecretName{Kind: FileCertificate, Path: chain, Key: key}
}

// fileTrust names authorities that lie beside the proxy.
func fileTrust(path string) SecretName { return SecretName{Kind: FileTrust, Path: path} }

// acmSecret names a secret of certificates' or authorities' ARNs; their order
// does not matter.
func acmSecret(kind SecretKind, arns ...string) SecretName {
	sorted := slices.Clone(arns)
	slices.Sort(sorted)
	return SecretName{Kind: kind, ARNs: slices.Compact(sorted)}
}

// identitySecret names a secret of the identities in the key's mesh.
func identitySecret(kind SecretKind, key api.Key) source {
	return source{name: SecretName{Kind: kind, Mesh: key.Owner + "/" + key.Mesh}.String()}
}

var errSecretName = errors.New("no name of a secret")

// ParseSecret reads a name as String writes it; anything else is an error, so
// that a secret has one name.
func ParseSecret(name string) (SecretName, error) {
	kind, rest, _ := strings.Cut(name, ":")
	n := SecretName{Kind: SecretKind(kind)}
	switch n.Kind {
	case FileCertificate:
		chain, key, _ := strings.Cut(rest, ":")
		n.Path, n.Key = unescape.Replace(chain), unescape.Replace(key)
	case FileTrust:
		n.Path = unescape.Replace(rest)
	case WorkloadSecret:
		n.Name = rest
	case IdentityCertificate, IdentityTrust:
		n.Mesh = rest
	case ACMCertificate, ACMIssuer:
		n.ARNs = []string{unescape.Replace(rest)}
	case ACMTrust:
		for arn := range strings.SplitSeq(rest, ",") {
			n.ARNs = append(n.ARNs, unescape.Replace(arn))
		}
	default:
		return SecretName{}, fmt.Errorf("read %q: %w", name, errSecretName)
	}
	if n.String() != name {
		return SecretName{}, fmt.Errorf("read %q: %w", name, errSecretName)
	}
	return n, nil
}

// Secrets are the names of the secrets that the client's proxies may ask the
// management service for, sorted: those that the bundle's listeners and clusters
// refer to. Nobody writes to the slice.
func (b *Bundle) Secrets() []string {
	l, c := b.lists[Listener].secrets, b.lists[Cluster].secrets
	switch {
	case len(c) == 0:
		return l
	case len(l) == 0:
		return c
	}
	return union(l, c)
}

// secretsOf are the names that some resources refer to, sorted.
func secretsOf(resources []*Resource) []string {
	var out []string
	for _, r := range resources {
		out = append(out, r.Secrets...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}
