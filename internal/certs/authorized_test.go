package certs_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// unless denies a few things and allows all others.
type unless func(q auth.Question) bool

// Authorize satisfies auth.Authorizer.
func (u unless) Authorize(_ context.Context, q auth.Question) error {
	if u(q) {
		return api.Errorf(api.CodeAccessDenied, "%s on %s", q.Action, q.Resource)
	}
	return nil
}

// denying serves a registry behind an authorizer, with App Mesh.
func denying(t *testing.T, denied unless) *resttest.Server {
	t.Helper()
	data := storetest.New(t)
	w := newWorld(t, data, filepath.Join(t.TempDir(), "master-key"))
	var services []*service.Service
	for _, make := range []func() (*service.Service, error){w.ACM, w.PCA} {
		one, err := make()
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, one)
	}
	return resttest.Serve(t, resttest.Options{Store: data, Services: services, Authorizer: denied, Edit: func(c *rest.Config) { c.Certificates = w.ResourceKeys }})
}

// A policy that denies a template denies it however its ARN is spelled, and to who
// comes by way of ACM.
func TestDeniedTemplates(t *testing.T) {
	t.Parallel()
	s := denying(t, func(q auth.Question) bool {
		template := strings.Join(q.Keys["acm-pca:templatearn"], ",")
		return q.Action == "acm-pca:IssueCertificate" && (strings.HasPrefix(template, "arn:aws:acm-pca:::template/Subordinate") || slices.Contains(q.Keys["aws:resourcetag/use"], "nobody"))
	})
	got := s.Python(t, resttest.Root(resttest.AccountA), script+`
top = root()
csr = pca.get_certificate_authority_csr(CertificateAuthorityArn=created("mallory", "SUBORDINATE"))["Csr"]
for arn in ("arn:aws:acm-pca:::", "arn:awsx:acm-pca:::", "arn:aws:acm-pca:eu-west-9::", "arn:aws:acm-pca::111111111111:"):
    print(refusal(pca.issue_certificate, CertificateAuthorityArn=top, Csr=csr, SigningAlgorithm="SHA256WITHECDSA", TemplateArn=arn + "template/SubordinateCACertificate_PathLen0/V1", Validity=dict(Type="DAYS", Value=10))[:30])
acm.request_certificate(DomainName="a.example", CertificateAuthorityArn=top)
pca.tag_certificate_authority(CertificateAuthorityArn=top, Tags=[{"Key": "Use", "Value": "nobody"}])
print(refusal(acm.request_certificate, DomainName="b.example", CertificateAuthorityArn=top)[:56])
`)
	const strange = "400 InvalidArgsException: Temp\n"
	want := "400 AccessDeniedException: acm\n" + strings.Repeat(strange, 3) + "400 AccessDeniedException: acm-pca:IssueCertificate on a"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Who may not see a certificate because of its tags has no node use it, and who may not
// use an authority has no mesh's identities come from it.
func TestDeniedByAMesh_TLS_007(t *testing.T) {
	t.Parallel()
	s := denying(t, func(q auth.Question) bool {
		return slices.Contains(q.Keys["aws:resourcetag/secret"], "yes") &&
			slices.Contains([]string{"acm:DescribeCertificate", "acm-pca:DescribeCertificateAuthority", "acm-pca:IssueCertificate"}, q.Action)
	})
	got := s.Python(t, resttest.Root(resttest.AccountA), script+`
import botocore.auth, botocore.awsrequest, botocore.credentials, urllib.request, urllib.error, os
top = root()
arns = [acm.request_certificate(DomainName=n + ".example", CertificateAuthorityArn=top)["CertificateArn"] for n in ("a", "b")]
acm.add_tags_to_certificate(CertificateArn=arns[0], Tags=[{"Key": "Secret", "Value": "yes"}])
m = client("appmesh")
m.create_mesh(meshName="m")
def node(name, arn):
    return refusal(m.create_virtual_node, meshName="m", virtualNodeName=name, spec={"listeners": [{"portMapping": {"port": 80, "protocol": "http"},
        "tls": {"mode": "STRICT", "certificate": {"acm": {"certificateArn": arn}}}}]}) if arn == arns[0] else m.create_virtual_node(meshName="m", virtualNodeName=name,
        spec={"listeners": [{"portMapping": {"port": 80, "protocol": "http"}, "tls": {"mode": "STRICT", "certificate": {"acm": {"certificateArn": arn}}}}]})["virtualNode"]["virtualNodeName"]
print(node("n", arns[0])[:51])
print(node("n", arns[1]))
def settings(**doc):
    url, body = os.environ["AWS_ENDPOINT_URL"] + "/evermesh/v1/mesh-settings?meshName=m", json.dumps(doc)
    req = botocore.awsrequest.AWSRequest("PUT", url, data=body, headers={"Content-Type": "application/json"})
    botocore.auth.SigV4Auth(botocore.credentials.Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]), "appmesh", "us-east-1").add_auth(req)
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data=body.encode(), headers=dict(req.headers), method="PUT")).status
    except urllib.error.HTTPError as e:
        return "%d %s" % (e.code, json.load(e)["message"][:27])
other = root()
print(settings(identityAuthorities=[top]))
pca.tag_certificate_authority(CertificateAuthorityArn=top, Tags=[{"Key": "Secret", "Value": "yes"}])
print(settings(identityAuthorities=[top, "built-in"]))
print(settings(identityAuthorities=[other]))
print(settings(identityAuthorities=[top]))
`)
	const want = `403 AccessDeniedException: acm:DescribeCertificate 
n
200
200
200
403 acm-pca:IssueCertificate on`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
