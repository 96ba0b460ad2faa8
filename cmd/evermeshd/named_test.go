package main

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
)

// explain asks the control plane's own ACM and private CA for what a node names.
func TestExplainKnowsCertificates(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	arns := strings.Split(p.python(t, `
mesh, acm, pca = (boto3.client(s) for s in ("appmesh", "acm", "acm-pca"))
authority = pca.create_certificate_authority(CertificateAuthorityType="ROOT", CertificateAuthorityConfiguration=dict(
    KeyAlgorithm="EC_prime256v1", SigningAlgorithm="SHA256WITHECDSA", Subject=dict(CommonName="root")))["CertificateAuthorityArn"]
certificate = acm.request_certificate(DomainName="a.local", CertificateAuthorityArn=authority)["CertificateArn"]
none = certificate[:-36] + "00000000-0000-0000-0000-000000000000"
mesh.create_mesh(meshName="apps")
for name, by in ("there", certificate), ("none", none):
    print(mesh.create_virtual_node(meshName="apps", virtualNodeName=name, spec=dict(
        listeners=[dict(portMapping=dict(port=80, protocol="http"), tls=dict(mode="STRICT", certificate=dict(acm=dict(certificateArn=by))))],
        backendDefaults=dict(clientPolicy=dict(tls=dict(validation=dict(trust=dict(acm=dict(certificateAuthorityArns=[authority])))))),
    ))["virtualNode"]["metadata"]["arn"])
`), "\n")
	for i, want := range []string{"Everything that it refers to exists.", "certificate/00000000-0000-0000-0000-000000000000, which does not exist"} {
		var out api.ExplainOutput
		if err := p.call(t.Context(), "Explain", api.ExplainInput{ResourceARN: arns[i]}, &out); err != nil {
			t.Fatal(err)
		}
		for _, c := range out.Explanation.Conditions {
			if c.Type == api.ConditionTypeResolvedRefs && !strings.Contains(c.Message, want) {
				t.Errorf("%s: got %s, want %s", arns[i], c.Message, want)
			}
		}
		if len(out.Explanation.Problems) != i {
			t.Errorf("%s has the problems %v", arns[i], out.Explanation.Problems)
		}
	}
}
