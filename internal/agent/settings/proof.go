package settings

import (
	"net"
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
	if n, ok := api.ParseResourceName(s.Resource.ID); ok {
		p.Account = n.Account
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
