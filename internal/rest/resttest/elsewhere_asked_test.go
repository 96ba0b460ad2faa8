package resttest_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
)

// interview lets everybody do everything, and keeps what it was asked.
type interview struct {
	mu    sync.Mutex
	asked []string
}

// Authorize satisfies auth.Authorizer.
func (i *interview) Authorize(_ context.Context, q auth.Question) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	line := q.Action + " " + q.Resource
	for _, key := range []string{"acm-pca:templatearn", "iam:policyarn", "iam:passedtoservice", "acm:domainnames", "aws:tagkeys"} {
		if values := q.Keys[key]; values != nil {
			line += " " + key + "=" + strings.Join(values, ",")
		}
	}
	i.asked = append(i.asked, line)
	return nil
}

// upstream is a place elsewhere that keeps what it is sent.
type upstream struct {
	*httptest.Server
	mu   sync.Mutex
	sent []string
}

func newUpstream(t testing.TB) *upstream {
	u := &upstream{}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		u.mu.Lock()
		u.sent = append(u.sent, strings.Join([]string{r.Method, r.RequestURI, strings.Join(r.Header.Values("X-Amz-Target"), ","), string(body)}, " "))
		u.mu.Unlock()
		answer := `{"__type": "Refused", "message": "no"}`
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
			answer = `<ErrorResponse><Error><Code>Refused</Code><Message>no</Message></Error></ErrorResponse>`
		}
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, answer) // a client that is gone cannot be told
	}))
	t.Cleanup(u.Close)
	return u
}

// What policies are asked about is what the input names for the operation: no free text
// takes its place, and where nothing is named it is *.
func TestElsewhereIsAskedByWhatTheOperationIsAbout_IAM_010(t *testing.T) {
	t.Parallel()
	up, heard := newUpstream(t), &interview{}
	names := []string{"iam", "servicediscovery", "acm", "acm-pca", "eks", "ram"}
	services := make([]*service.Service, len(names))
	for i, name := range names {
		services[i] = play(t, name, name, nil)
	}
	s := resttest.Serve(t, resttest.Options{Services: services, Authorizer: heard, Edit: func(c *rest.Config) {
		c.Elsewhere, c.ElsewhereFor = elsewhere(t, up.URL, names...), resttest.AccountA
	}})
	got := s.Python(t, resttest.Root(resttest.AccountA), `
iam, sd, acm, pca, eks, ram = [client(n) for n in ("iam", "servicediscovery", "acm", "acm-pca", "eks", "ram")]
mine = "arn:aws:servicediscovery:us-east-1:111111111111:service/mine"
refusal(iam.update_role, RoleName="victim", Description="arn:aws:iam::111111111111:role/mine")
refusal(iam.create_user, UserName="ann", Path="/ops/", Tags=[{"Key": "a", "Value": "b"}])
refusal(iam.update_user, UserName="ann", NewUserName="bob")
refusal(iam.attach_role_policy, RoleName="r", PolicyArn="arn:aws:iam::aws:policy/AWSAppMeshFullAccess")
refusal(iam.create_open_id_connect_provider, Url="https://oidc.example.com/c/")
refusal(iam.add_role_to_instance_profile, InstanceProfileName="p", RoleName="r")
refusal(iam.create_access_key)
refusal(iam.list_users)
refusal(sd.register_instance, ServiceId="srv-1", InstanceId="i-1", CreatorRequestId=mine, Attributes={"a": mine})
refusal(sd.delete_service, Id="arn:aws:servicediscovery:us-east-1:999999999999:service/srv-2")
print(refusal(sd.delete_service, Id="arn:aws:servicediscovery:us-east-1:999999999999:namespace/ns-2")[:60])
print(refusal(sd.delete_service, Id="arn:awsx:servicediscovery:us-east-1:999999999999:service/srv-2")[:60])
refusal(sd.list_services)
ca = "arn:aws:acm-pca:us-east-1:111111111111:certificate-authority/11111111-1111-1111-1111-111111111111"
refusal(acm.request_certificate, DomainName="a.example", CertificateAuthorityArn=ca)
refusal(pca.issue_certificate, CertificateAuthorityArn=ca, Csr=b"x", SigningAlgorithm="SHA256WITHRSA", Validity=dict(Type="DAYS", Value=1))
print(refusal(pca.issue_certificate, CertificateAuthorityArn=ca, TemplateArn="arn:awsx:acm-pca:::template/RootCACertificate/V1", Csr=b"x", SigningAlgorithm="SHA256WITHRSA", Validity=dict(Type="DAYS", Value=1))[:60])
refusal(eks.create_pod_identity_association, clusterName="c", namespace="n", serviceAccount="s", roleArn="arn:aws:iam::111111111111:role/r", tags={"k": "v"})
refusal(ram.create_resource_share, name="x", resourceArns=["arn:aws:appmesh:us-east-1:111111111111:mesh/m"])
`)
	const refused = "400 ValidationException: 1 validation error detected: Value "
	if want := strings.TrimSpace(strings.Repeat(refused+"\n", 3)); got != want {
		t.Errorf("strange ARNs: %s", got)
	}
	const a, ca = ":111111111111:", "arn:aws:acm-pca:us-east-1:111111111111:certificate-authority/11111111-1111-1111-1111-111111111111"
	const template = " acm-pca:templatearn=arn:aws:acm-pca:::template/EndEntityCertificate/V1"
	want := []string{
		"iam:UpdateRole arn:aws:iam:" + a + "role/victim",
		"iam:CreateUser arn:aws:iam:" + a + "user/ops/ann aws:tagkeys=a",
		"iam:UpdateUser arn:aws:iam:" + a + "user/bob", "iam:UpdateUser arn:aws:iam:" + a + "user/ann",
		"iam:AttachRolePolicy arn:aws:iam:" + a + "role/r iam:policyarn=arn:aws:iam::aws:policy/AWSAppMeshFullAccess",
		"iam:CreateOpenIDConnectProvider arn:aws:iam:" + a + "oidc-provider/oidc.example.com/c",
		"iam:AddRoleToInstanceProfile arn:aws:iam:" + a + "instance-profile/p",
		"iam:PassRole arn:aws:iam:" + a + "role/r iam:passedtoservice=ec2.amazonaws.com",
		"iam:CreateAccessKey *",
		"iam:ListUsers arn:aws:iam:" + a + "user/",
		"servicediscovery:RegisterInstance arn:aws:servicediscovery:us-east-1" + a + "service/srv-1",
		"servicediscovery:DeleteService arn:aws:servicediscovery:us-east-1" + a + "service/srv-2",
		"servicediscovery:ListServices *",
		"acm:RequestCertificate *" + template + " acm:domainnames=a.example",
		"acm-pca:IssueCertificate " + ca + template + " acm:domainnames=a.example",
		"acm-pca:IssueCertificate " + ca + template,
		"eks:CreatePodIdentityAssociation arn:aws:eks:us-east-1" + a + "cluster/c aws:tagkeys=k",
		"iam:PassRole arn:aws:iam:" + a + "role/r iam:passedtoservice=pods.eks.amazonaws.com aws:tagkeys=k",
		"ram:CreateResourceShare *",
	}
	if diff := cmp.Diff(want, heard.asked); diff != "" {
		t.Errorf("policies were asked, -want +got:\n%s", diff)
	}
}

// only lets the action be done on one resource.
type only struct{ resource string }

// Authorize satisfies auth.Authorizer.
func (o only) Authorize(_ context.Context, q auth.Question) error {
	if q.Resource == o.resource {
		return nil
	}
	return api.Errorf(api.CodeAccessDenied, "not on %s", q.Resource)
}

// Who may do something to one thing there cannot do it to another.
func TestElsewhereFreeTextNamesNothing_IAM_010(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	const mine = "arn:aws:iam::111111111111:role/mine"
	s := resttest.Serve(t, resttest.Options{Services: []*service.Service{play(t, "iam", "iam", nil)}, Authorizer: only{mine}, Edit: func(c *rest.Config) {
		c.Elsewhere, c.ElsewhereFor = elsewhere(t, up.URL, "iam"), resttest.AccountA
	}})
	got := s.Python(t, resttest.Root(resttest.AccountA), `
print(refusal(client("iam").update_role, RoleName="victim", Description="`+mine+`"))
refusal(client("iam").update_role, RoleName="mine", Description="x")
`)
	if want := "403 AccessDenied: not on arn:aws:iam::111111111111:role/victim"; got != want {
		t.Errorf("got %s", got)
	}
	if want := []string{"POST /  Action=UpdateRole&Description=x&RoleName=mine&Version=2010-05-08"}; !slices.Equal(up.sent, want) {
		t.Errorf("sent %q", up.sent)
	}
}

// What goes on is what was read and checked: no query beside a form or a document, no
// member that the model does not know, no second target.
func TestElsewhereGetsWhatWasRead(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	names := []string{"iam", "acm", "eks"}
	services := []*service.Service{play(t, "iam", "iam", nil), play(t, "acm", "acm", nil), play(t, "eks", "eks", nil)}
	s := resttest.Serve(t, resttest.Options{Services: services, Edit: func(c *rest.Config) {
		c.Elsewhere, c.ElsewhereFor = elsewhere(t, up.URL, names...), resttest.AccountA
	}})
	s.Python(t, resttest.Root(resttest.AccountA), `
import botocore.auth, botocore.awsrequest, botocore.credentials, urllib.request, urllib.error, os
def send(service, method, path, data, headers):
    url = os.environ["AWS_ENDPOINT_URL"] + path
    req = botocore.awsrequest.AWSRequest(method, url, data=data, headers=headers)
    botocore.auth.SigV4Auth(botocore.credentials.Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]), service, "us-east-1").add_auth(req)
    try:
        urllib.request.urlopen(urllib.request.Request(url, data=data.encode() if data else None, headers=dict(req.headers), method=method))
    except urllib.error.HTTPError:
        pass
form = {"Content-Type": "application/x-www-form-urlencoded"}
send("iam", "POST", "/?Action=DeleteUser&UserName=victim&Version=2010-05-08", "Action=GetUser&UserName=me&Version=2010-05-08&Other=x", form)
send("iam", "POST", "/", "Action=TagUser&UserName=me&Version=2010-05-08&Tags.member.1.Key=a&Tags.member.1.Value=b&Tags.member.02.Key=c&Tags.member.02.Value=d", form)
send("iam", "GET", "/?Action=GetUser&UserName=me&Version=2010-05-08", None, {})
arn = "arn:aws:acm:us-east-1:111111111111:certificate/11111111-1111-1111-1111-111111111111"
send("acm", "POST", "/other?CertificateArn=victim", json.dumps({"CertificateArn": arn, "certificateArn": "victim"}), {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "CertificateManager.DescribeCertificate"})
send("eks", "GET", "/clusters/a%20b/pod-identity-associations?clusterName=victim&maxResults=5", None, {})
send("eks", "POST", "/clusters/c/pod-identity-associations/a-1", json.dumps({"clusterName": "victim", "policy": "p"}), {"Content-Type": "application/json"})
`)
	want := []string{
		"POST /  Action=GetUser&UserName=me&Version=2010-05-08",
		"POST /  Action=TagUser&Tags.member.1.Key=a&Tags.member.1.Value=b&UserName=me&Version=2010-05-08",
		"POST /  Action=GetUser&UserName=me&Version=2010-05-08",
		`POST / CertificateManager.DescribeCertificate {"CertificateArn":"arn:aws:acm:us-east-1:111111111111:certificate/11111111-1111-1111-1111-111111111111"}`,
		"GET /clusters/a%20b/pod-identity-associations?maxResults=5  ",
	}
	if len(up.sent) != 6 {
		t.Fatalf("sent %q", up.sent)
	}
	if diff := cmp.Diff(want, up.sent[:5]); diff != "" {
		t.Errorf("sent, -want +got:\n%s", diff)
	}
	if last := up.sent[5]; !strings.Contains(last, `"policy":"p"`) || strings.Contains(last, "victim") {
		t.Errorf("sent %s", last)
	}
}
