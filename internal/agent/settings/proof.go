package settings

import (
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// Proof is how the agent says whose proxy this is, where that is not by a signature.
type Proof struct {
	// TokenFile holds the token of a Kubernetes service account (EVERMESH_TOKEN_FILE). It is read for each stream, as
	// it is replaced all the time.
	TokenFile string
	// CertFile and KeyFile are a client certificate (APPMESH_XDS_CLIENT_CERT_FILE, APPMESH_XDS_CLIENT_KEY_FILE), read
	// for each connection.
	CertFile, KeyFile string
	// Role is the ARN of the role that token or certificate stand for (EVERMESH_ROLE_ARN); a token without it has the
	// role of its pod identity association. Account is the one whose association that is; "" for the only one.
	Role, Account string
	// Server is the SPIFFE id that the control plane's certificate must have instead of the endpoint's name
	// (EVERMESH_XDS_SERVER_ID); "" for the name.
	Server string
	// Pod says that TokenFile is one that the pod had for AWS.
	Pod bool
}

// proof reads it. The account is that of the resource's ARN.
func (s *Settings) proof(v *variables) {
	p := &s.Proof
	p.TokenFile, p.Role = v.text("EVERMESH_TOKEN_FILE", ""), v.text("EVERMESH_ROLE_ARN", "")
	p.CertFile, p.KeyFile = v.text("APPMESH_XDS_CLIENT_CERT_FILE", ""), v.text("APPMESH_XDS_CLIENT_KEY_FILE", "")
	if (p.CertFile == "") != (p.KeyFile == "") {
		v.fail("APPMESH_XDS_CLIENT_CERT_FILE", "and APPMESH_XDS_CLIENT_KEY_FILE belong together: set both or none")
	}
	if p.Role != "" && (!strings.HasPrefix(p.Role, "arn:") || !strings.Contains(p.Role, ":role/")) {
		v.fail("EVERMESH_ROLE_ARN", "%q is no ARN of a role, such as arn:aws:iam::111122223333:role/orders", p.Role)
	}
	if p.Role != "" && p.TokenFile == "" && p.CertFile == "" {
		v.fail("EVERMESH_ROLE_ARN", "takes EVERMESH_TOKEN_FILE or APPMESH_XDS_CLIENT_CERT_FILE: what signs has its role already")
	}
	if p.Server = v.text("EVERMESH_XDS_SERVER_ID", ""); p.Server != "" {
		if id, err := url.Parse(p.Server); err != nil || id.Scheme != "spiffe" || id.Host == "" || id.RawQuery != "" || id.Fragment != "" {
			v.fail("EVERMESH_XDS_SERVER_ID", "%q is no SPIFFE id, such as spiffe://prod.example/ns/evermesh/sa/evermeshd", p.Server)
		}
	}
	if n, ok := api.ParseResourceName(s.Resource.ID); ok {
		p.Account = n.Account
	}
}

// The addresses of the agent that EKS runs on each node for pod identities.
const (
	podIdentityIPv4 = "169.254.170.23"
	podIdentityIPv6 = "fd00:ec2::23"
)

// ofThePod takes the token that a pod has for AWS already as the proof: what EKS's webhook puts there for the role of a
// service account, or for its pod identity association. AWS would give sessions for it that the control plane does not
// know; the control plane takes the token itself. What outranks it in AWS's rules is used as ever, and so is an STS that
// is named. A token goes over TLS only, so an endpoint in plaintext leaves things as they are.
func (s *Settings) ofThePod(v *variables) {
	p := &s.Proof
	if slices.ContainsFunc([]string{"AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE"}, v.has) {
		return
	}
	for _, e := range s.Endpoints {
		if !e.TLS && !e.Here() {
			return
		}
	}
	if *p != (Proof{Account: p.Account, Server: p.Server}) || len(s.Endpoints) == 0 || v.has("AWS_ENDPOINT_URL") || v.has("AWS_ENDPOINT_URL_STS") {
		return
	}
	token, role := v.text("AWS_WEB_IDENTITY_TOKEN_FILE", ""), v.text("AWS_ROLE_ARN", "")
	if token != "" && role != "" {
		p.TokenFile, p.Role, p.Pod = token, role, true
		return
	}
	source, err := url.Parse(v.text("AWS_CONTAINER_CREDENTIALS_FULL_URI", ""))
	if err != nil || token != "" || v.has("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
		return
	}
	if host := source.Hostname(); host == podIdentityIPv4 || host == podIdentityIPv6 {
		p.TokenFile = v.text("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "")
		p.Pod = p.TokenFile != ""
	}
}

// Unsigned says whether the stream is not to be signed: something else is the proof.
func (p Proof) Unsigned() bool { return p.TokenFile != "" || p.CertFile != "" && p.Role != "" }

// Here says whether the endpoint is on this machine.
func (e Endpoint) Here() bool {
	if e.Network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(e.Address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}
