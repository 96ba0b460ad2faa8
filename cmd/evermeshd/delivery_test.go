package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/evermesh/evermesh/internal/ads/adstest"
)

// A private key, and all configuration, goes to the proxy that may have it and to no
// other, whatever another asks for.
func TestKeysGoToTheirProxiesAlone(t *testing.T) {
	t.Parallel()
	p := start(t, t.TempDir())
	lines := strings.Split(p.python(t, `
mesh, iam, acm, pca = (boto3.client(s) for s in ("appmesh", "iam", "acm", "acm-pca"))
root = pca.create_certificate_authority(CertificateAuthorityType="ROOT", CertificateAuthorityConfiguration=dict(
    KeyAlgorithm="EC_prime256v1", SigningAlgorithm="SHA256WITHECDSA", Subject=dict(CommonName="root")))["CertificateAuthorityArn"]
own = pca.issue_certificate(CertificateAuthorityArn=root, Csr=pca.get_certificate_authority_csr(CertificateAuthorityArn=root)["Csr"].encode(),
    SigningAlgorithm="SHA256WITHECDSA", TemplateArn="arn:aws:acm-pca:::template/RootCACertificate/V1", Validity=dict(Type="DAYS", Value=100))["CertificateArn"]
pca.import_certificate_authority_certificate(CertificateAuthorityArn=root, Certificate=pca.get_certificate(CertificateAuthorityArn=root, CertificateArn=own)["Certificate"].encode())
certificate = acm.request_certificate(DomainName="sealed.local", CertificateAuthorityArn=root, KeyAlgorithm="EC_prime256v1")["CertificateArn"]
print(certificate)
mesh.create_mesh(meshName="apps")
for name, more in ("sealed", dict(tls=dict(mode="STRICT", certificate=dict(acm=dict(certificateArn=certificate))))), ("other", {}):
    mesh.create_virtual_node(meshName="apps", virtualNodeName=name, spec=dict(
        listeners=[dict(portMapping=dict(port=80, protocol="http"), **more)], serviceDiscovery=dict(dns=dict(hostname=name + ".local"))))
node = "arn:aws:appmesh:us-east-1:000000000000:mesh/apps/virtualNode/"
def allow(*pairs):
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": a, "Resource": r} for a, r in pairs]})
stream, export = "appmesh:StreamAggregatedResources", "acm:ExportCertificate"
for user, policy in {
    "may": allow((stream, node + "sealed"), (export, certificate)),
    "streams": allow((stream, node + "sealed")),
    "exports": allow((stream, node + "other"), (export, "*")),
}.items():
    iam.create_user(UserName=user)
    iam.put_user_policy(UserName=user, PolicyName="p", PolicyDocument=policy)
    k = iam.create_access_key(UserName=user)["AccessKey"]
    print(k["AccessKeyId"], k["SecretAccessKey"])
`), "\n")
	secret := "acm-certificate:" + lines[0]
	keys := map[string]aws.Credentials{}
	for i, user := range []string{"may", "streams", "exports"} {
		id, value, _ := strings.Cut(lines[i+1], " ")
		keys[user] = aws.Credentials{AccessKeyID: id, SecretAccessKey: value}
	}
	address := strings.TrimPrefix(factsOf(t, p).XDSEndpoint, "http://")
	open := func(t *testing.T, user, node string, delta bool) *adstest.Stream {
		t.Helper()
		options := []grpc.DialOption{grpc.WithAuthority("evermesh"), grpc.WithTransportCredentials(insecure.NewCredentials())}
		if user != "" {
			options = append(options, grpc.WithPerRPCCredentials(adstest.Signing{Key: keys[user]}))
		}
		conn, err := grpc.NewClient(address, options...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		s := adstest.Open(t, conn, adstest.Options{Node: "mesh/apps/virtualNode/" + node, Delta: delta, Instance: user + node})
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.CDS}))
		return s
	}
	// given asks for the secret and returns whether its key comes.
	given := func(t *testing.T, s *adstest.Stream) bool {
		t.Helper()
		adstest.Must(t, s.Send(adstest.Request{Type: adstest.SDS, Subscribe: []string{secret}, Names: []string{secret}}))
		for {
			r := s.Next(t)
			if r.Type != adstest.SDS {
				continue
			}
			for _, x := range r.Resources {
				if bytes.Contains(x.GetValue(), []byte("PRIVATE KEY")) {
					return true
				}
			}
			return false
		}
	}
	for _, delta := range []bool{true, false} {
		for _, c := range []struct {
			name, user, node string
			key              bool
			refused          codes.Code
		}{
			{"the proxy that may have it", "may", "sealed", true, 0},
			{"one that may not export the certificate", "streams", "sealed", false, 0},
			{"one of another node that may", "exports", "other", false, 0},
			{"one that says it is of the node", "exports", "sealed", false, codes.PermissionDenied},
			{"nobody in particular", "", "sealed", false, codes.Unauthenticated},
		} {
			t.Run(fmt.Sprintf("SEC-005 %s (delta: %t)", c.name, delta), func(t *testing.T) {
				s := open(t, c.user, c.node, delta)
				if c.refused != 0 {
					r, err := s.Recv()
					if code, _ := adstest.Status(err); code != c.refused {
						t.Errorf("it got %v, %v; want code %v", r, err, c.refused)
					}
					return
				}
				if got := given(t, s); got != c.key {
					t.Errorf("the key is given: %t, want %t", got, c.key)
				}
			})
		}
	}
}
