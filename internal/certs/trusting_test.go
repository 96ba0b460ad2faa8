package certs_test

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/certs"
)

// An authority that a mesh's settings name for identities is not taken from it: the one
// that issues is neither disabled nor deleted, one that is trusted is not deleted.
func TestAuthoritiesOfIdentitiesStay(t *testing.T) {
	t.Parallel()
	w := alone(t)
	arns := lines(w.run(t, `
for name in "issues", "trusted": print(root(name))
print(created("pending", "ROOT"))
`))
	issues, trusted, pending := arns[0], arns[1], arns[2]
	const mesh = "arn:aws:appmesh:us-east-1:111111111111:mesh/shop"
	w.mu.Lock()
	w.meshes = []certs.Trusting{{Mesh: mesh, Authorities: []string{issues, trusted}}}
	w.mu.Unlock()
	w.run(t, strings.NewReplacer("ISSUES", issues, "TRUSTED", trusted, "MESH", mesh).Replace(`
switch, gone = pca.update_certificate_authority, pca.delete_certificate_authority
has(refusal(switch, CertificateAuthorityArn="ISSUES", Status="DISABLED"), "400 InvalidStateException: The certificate authority ISSUES cannot be disabled: the settings of MESH name it for identities")
has(refusal(gone, CertificateAuthorityArn="ISSUES"), "400 InvalidStateException: The certificate authority ISSUES cannot be deleted: the settings of MESH name it for identities")
switch(CertificateAuthorityArn="TRUSTED", Status="DISABLED")
has(refusal(gone, CertificateAuthorityArn="TRUSTED"), "cannot be deleted: the settings of MESH name it")
same((state("ISSUES"), state("TRUSTED")), ("ACTIVE", "DISABLED"))
`))
	for arn, want := range map[string]string{
		issues: "ACTIVE", trusted: "DISABLED",
		pending: "PENDING_CERTIFICATE", issues[:len(issues)-12] + "000000000000": "", "no": "",
	} {
		if got, err := w.AuthorityStatus(t.Context(), arn); got != want || err != nil {
			t.Errorf("%s is %q, error %v", arn, got, err)
		}
	}
	w.mu.Lock()
	w.meshes = nil
	w.mu.Unlock()
	w.run(t, strings.ReplaceAll(`
pca.delete_certificate_authority(CertificateAuthorityArn="TRUSTED")
same(state("TRUSTED"), "DELETED")
`, "TRUSTED", trusted))
}
