package accounts_test

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/sts"
	"github.com/evermesh/evermesh/internal/sts/accounts"
	"github.com/evermesh/evermesh/internal/sts/oidc"
	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
	"github.com/evermesh/evermesh/internal/sts/podidentity"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(storetest.WithEtcd{M: m}) }

// plane serves IAM, STS and pod identity.
type plane struct {
	*resttest.Server
	sessions *sts.Sessions
}

// replica is a plane on a store.
func replica(t *testing.T, s *store.Store, dir string, issuer *oidctest.Issuer) plane {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	k, err := iam.Open(ctx, iam.Config{
		Store: s, Partition: "aws", Account: resttest.AccountA, MasterKeyFile: filepath.Join(dir, "master-key"), CreateMasterKey: true,
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	directory := accounts.New(k, k.Authorizer())
	sessions := &sts.Sessions{Lasting: resttest.Keys(k), Directory: directory, Box: k.Box(), Now: time.Now}
	roles := &sts.Server{
		Partition: "aws", Sessions: sessions, Directory: directory,
		Tokens: oidc.New(oidc.Config{CAFile: issuer.CAFile, Log: slog.New(slog.DiscardHandler), Now: time.Now}),
	}
	pods := &podidentity.Server{Store: s, Roles: roles, Realm: api.Realm{Partition: "aws", Region: resttest.Region}, Now: time.Now}
	var services []*service.Service
	for _, made := range []func() (*service.Service, error){iam.NewServer(k).Service, roles.Service, pods.Service, pods.Auth} {
		one, err := made()
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, one)
	}
	return plane{resttest.Serve(t, resttest.Options{Store: s, Services: services, Keys: sessions, Authorizer: k.Authorizer()}), sessions}
}

// lines compares what a script printed with what it is to print.
func lines(t *testing.T, name, got, want string) {
	t.Helper()
	t.Run(name, func(t *testing.T) { compare(t, got, want) })
}

func compare(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(strings.TrimSpace(got), "\n"), strings.Split(strings.TrimSpace(want), "\n")
	for i := range max(len(g), len(w)) {
		a, b := "", ""
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			t.Errorf("line %d is\n\t%s\nwant\n\t%s", i+1, a, b)
		}
	}
}

// One script of a user's life with roles, by boto3.
func TestRolesByBoto3(t *testing.T) {
	t.Parallel()
	issuer := oidctest.New(t)
	s := replica(t, storetest.New(t), t.TempDir(), issuer)
	out := s.Python(t, resttest.Root(resttest.AccountA), `
theirs = sys.argv[1:4]
iam, sts = client("iam"), client("sts")
def document(**statement):
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
def key(credentials):
    return credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials.get("SessionToken")
print("root is", sts.get_caller_identity()["Arn"])
iam.create_user(UserName="ann")
ann = key(iam.create_access_key(UserName="ann")["AccessKey"])
trust = document(Effect="Allow", Principal={"AWS": "111111111111"}, Action="sts:AssumeRole")
role = iam.create_role(RoleName="reader", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
iam.put_role_policy(RoleName="reader", PolicyName="p", PolicyDocument=document(Effect="Allow", Action="appmesh:ListMeshes", Resource="*"))
mine = client("sts", ann)
print(refusal(mine.assume_role, RoleArn=role, RoleSessionName="s1"))
iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=document(Effect="Allow", Action="sts:AssumeRole", Resource=role))
session = mine.assume_role(RoleArn=role, RoleSessionName="s1")
print(session["AssumedRoleUser"]["Arn"], session["AssumedRoleUser"]["AssumedRoleId"].split(":")[1], session["Credentials"]["AccessKeyId"][:4])
as_role = key(session["Credentials"])
print("session is", client("sts", as_role).get_caller_identity()["Arn"])
print(client("appmesh", as_role).list_meshes()["meshes"])
print(refusal(client("appmesh", as_role).create_mesh, meshName="m").replace(" with ", " because "))
print(refusal(client("appmesh", (as_role[0], as_role[1], None)).list_meshes))
print(refusal(client("appmesh", (as_role[0], as_role[1], as_role[2][:-4] + "AAAA")).list_meshes))
print(refusal(client("sts", (as_role[0], "x" * 40, as_role[2])).get_caller_identity))

# Who is in possession of the account ends all sessions until now.
iam.put_role_policy(RoleName="reader", PolicyName="revoke", PolicyDocument=document(Effect="Deny", Action="*", Resource="*",
    Condition={"DateLessThan": {"aws:TokenIssueTime": "2100-01-01T00:00:00Z"}}))
print(refusal(client("appmesh", as_role).list_meshes))
iam.delete_role_policy(RoleName="reader", PolicyName="revoke")
print(len(client("appmesh", as_role).list_meshes()["meshes"]))

# The role is made anew under the same name: its old sessions stay dead.
def remove():
    iam.delete_role_policy(RoleName="reader", PolicyName="p")
    iam.delete_role(RoleName="reader")
remove()
print(refusal(client("appmesh", as_role).list_meshes))
iam.create_role(RoleName="reader", AssumeRolePolicyDocument=trust)
iam.put_role_policy(RoleName="reader", PolicyName="p", PolicyDocument=document(Effect="Allow", Action="appmesh:ListMeshes", Resource="*"))
print(refusal(client("appmesh", as_role).list_meshes))
print(refusal(client("sts", as_role).get_caller_identity))

# A key that is switched off is refused at once.
iam.update_access_key(UserName="ann", AccessKeyId=ann[0], Status="Inactive")
print(refusal(mine.get_caller_identity))
iam.update_access_key(UserName="ann", AccessKeyId=ann[0], Status="Active")

# Another account: its role trusts this account, with an external id.
their_iam = client("iam", theirs)
shared = their_iam.create_role(RoleName="shared", AssumeRolePolicyDocument=document(Effect="Allow", Principal={"AWS": "arn:aws:iam::111111111111:root"},
    Action="sts:AssumeRole", Condition={"StringEquals": {"sts:ExternalId": "agreed"}}))["Role"]["Arn"]
print(refusal(mine.assume_role, RoleArn=shared, RoleSessionName="s1", ExternalId="agreed"))
iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=document(Effect="Allow", Action="sts:AssumeRole", Resource="*"))
print(refusal(mine.assume_role, RoleArn=shared, RoleSessionName="s1"))
print(mine.assume_role(RoleArn=shared, RoleSessionName="s1", ExternalId="agreed")["AssumedRoleUser"]["Arn"])

token = mine.get_session_token()["Credentials"]
print(client("sts", key(token)).get_caller_identity()["Arn"], refusal(client("iam", key(token)).get_user)[:33])
federated = sts.get_federation_token(Name="guest", Policy=document(Effect="Allow", Action="appmesh:ListMeshes", Resource="*"))
print(federated["FederatedUser"]["Arn"], client("appmesh", key(federated["Credentials"])).list_meshes()["meshes"])
print(sts.get_access_key_info(AccessKeyId=token["AccessKeyId"])["Account"])
print(refusal(sts.assume_role, RoleArn=shared, RoleSessionName="s1"))
print(refusal(mine.assume_role, RoleArn=shared, RoleSessionName="!"))
`, keyOf(resttest.AccountB)...)
	lines(t, "IAM-014 IAM-038 sessions of users, roles and guests", out, `
root is arn:aws:iam::111111111111:root
403 AccessDenied: User: arn:aws:iam::111111111111:user/ann is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::111111111111:role/reader
arn:aws:sts::111111111111:assumed-role/reader/s1 s1 ASIA
session is arn:aws:sts::111111111111:assumed-role/reader/s1
[]
403 AccessDeniedException: User: arn:aws:sts::111111111111:assumed-role/reader/s1 is not authorized to perform: appmesh:CreateMesh on resource: arn:aws:appmesh:us-east-1:111111111111:mesh/m because no identity-based policy allows the appmesh:CreateMesh action
403 UnrecognizedClientException: The security token included in the request is invalid.
403 UnrecognizedClientException: The security token included in the request is invalid.
403 SignatureDoesNotMatch: The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.
403 AccessDeniedException: User: arn:aws:sts::111111111111:assumed-role/reader/s1 is not authorized to perform: appmesh:ListMeshes on resource: * with an explicit deny in an identity-based policy
0
403 UnrecognizedClientException: The security token included in the request is invalid.
403 UnrecognizedClientException: The security token included in the request is invalid.
403 InvalidClientTokenId: The security token included in the request is invalid.
403 InvalidClientTokenId: The security token included in the request is invalid.
403 AccessDenied: User: arn:aws:iam::111111111111:user/ann is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::222222222222:role/shared
403 AccessDenied: User: arn:aws:iam::111111111111:user/ann is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::222222222222:role/shared
arn:aws:sts::222222222222:assumed-role/shared/s1
arn:aws:iam::111111111111:user/ann 403 AccessDenied: User: arn:aws:i
arn:aws:sts::111111111111:federated-user/guest []
111111111111
403 AccessDenied: Roles may not be assumed by root accounts.
400 ValidationError: 2 validation errors detected: Value '!' at 'roleSessionName' failed to satisfy constraint: Member must have length greater than or equal to 2; Value '!' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]*
`)
}

func keyOf(account string) []string {
	k := resttest.Root(account)
	return []string{k.ID, k.Secret, k.Token}
}

// Pods by IRSA and by Pod Identity, through boto3: the token, the annotation's role,
// the role's policies.
func TestPodsByBoto3(t *testing.T) {
	t.Parallel()
	issuer := oidctest.New(t)
	s := replica(t, storetest.New(t), t.TempDir(), issuer)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(issuer.ServiceAccount(t, "shop", "orders", "sts.amazonaws.com")), 0o600); err != nil {
		t.Fatal(err)
	}
	pod := issuer.ServiceAccount(t, "shop", "orders", sts.PodAudience)
	other := issuer.ServiceAccount(t, "shop", "payments", sts.PodAudience)
	podFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(podFile, []byte(pod), 0o600); err != nil {
		t.Fatal(err)
	}
	container := httptest.NewServer(podidentity.Container(s.Config.Handler))
	t.Cleanup(container.Close)
	expired := oidctest.Sign(t, issuer.Signer(), issuer.Claims("system:serviceaccount:shop:orders", sts.PodAudience, time.Now().Add(-time.Hour), nil), nil)
	out := s.Python(t, resttest.Root(resttest.AccountA), `
url, file, pod, other, expired = sys.argv[1:6]
theirs, mine, container, podfile = sys.argv[6:9], sys.argv[9:12], sys.argv[12], sys.argv[13]
name = url.removeprefix("https://")
iam, sts, eks = client("iam", mine), client("sts", signature_version=UNSIGNED), client("eks", mine)
def document(**statement):
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
token = open(file).read()
role = "arn:aws:iam::111111111111:role/orders"
print(refusal(sts.assume_role_with_web_identity, RoleArn=role, RoleSessionName="pod", WebIdentityToken=token).replace(url, "URL"))
provider = iam.create_open_id_connect_provider(Url=url, ClientIDList=["sts.amazonaws.com"], ThumbprintList=["0" * 40],
    Tags=[{"Key": "evermesh:eks-cluster", "Value": "prod"}])["OpenIDConnectProviderArn"]
print(refusal(sts.assume_role_with_web_identity, RoleArn=role, RoleSessionName="pod", WebIdentityToken=token))
iam.create_role(RoleName="orders", AssumeRolePolicyDocument=document(Effect="Allow", Principal={"Federated": provider}, Action="sts:AssumeRoleWithWebIdentity",
    Condition={"StringEquals": {name + ":sub": "system:serviceaccount:shop:orders", name + ":aud": "sts.amazonaws.com"}}))
iam.put_role_policy(RoleName="orders", PolicyName="p", PolicyDocument=document(Effect="Allow", Action="appmesh:ListMeshes", Resource="*"))
got = sts.assume_role_with_web_identity(RoleArn=role, RoleSessionName="pod", WebIdentityToken=token)
print(got["AssumedRoleUser"]["Arn"], got["SubjectFromWebIdentityToken"], got["Audience"], got["Provider"] == provider)
print(refusal(sts.assume_role_with_web_identity, RoleArn=role, RoleSessionName="pod", WebIdentityToken=pod))
print(refusal(sts.assume_role_with_web_identity, RoleArn=role, RoleSessionName="pod", WebIdentityToken=expired)[:41])

# As the SDK does it in a pod: what EKS's webhook puts into its environment.
for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    del os.environ[variable]
os.environ.update(AWS_ROLE_ARN=role, AWS_WEB_IDENTITY_TOKEN_FILE=file, AWS_ROLE_SESSION_NAME="by-sdk")
sdk = boto3.Session()
print(sdk.client("sts").get_caller_identity()["Arn"], sdk.client("appmesh").list_meshes()["meshes"])

# EKS Pod Identity.
iam.create_role(RoleName="pods", AssumeRolePolicyDocument=document(Effect="Allow", Principal={"Service": "pods.eks.amazonaws.com"}, Action=["sts:AssumeRole", "sts:TagSession"],
    Condition={"StringEquals": {"aws:RequestTag/kubernetes-namespace": "shop", "aws:SourceAccount": "111111111111"}}))
pods = "arn:aws:iam::111111111111:role/pods"
association = dict(clusterName="prod", namespace="shop", serviceAccount="orders", roleArn=pods)
print(refusal(eks.create_pod_identity_association, **{**association, "clusterName": "test"}))
print(refusal(eks.create_pod_identity_association, **{**association, "roleArn": pods.replace("1", "2")}))
made = eks.create_pod_identity_association(**association)["association"]
print(made["associationArn"].rsplit("/", 1)[0], made["associationId"][:2], made["roleArn"] == pods)
print(refusal(eks.create_pod_identity_association, **association) == "409 ResourceInUseException: Association already exists: " + made["associationId"])
print([a["serviceAccount"] for a in eks.list_pod_identity_associations(clusterName="prod", namespace="shop")["associations"]], eks.list_pod_identity_associations(clusterName="prod", namespace="x")["associations"])
show(sorted(eks.describe_pod_identity_association(clusterName="prod", associationId=made["associationId"])["association"]))
unsigned = client("eks-auth", signature_version=UNSIGNED)
for auth in client("eks-auth", mine), unsigned:
    got = auth.assume_role_for_pod_identity(clusterName="prod", token=pod)
    print(got["assumedRoleUser"]["arn"], got["subject"], got["audience"])
c = got["credentials"]
print(client("sts", (c["accessKeyId"], c["secretAccessKey"], c["sessionToken"])).get_caller_identity()["Arn"])
print(refusal(unsigned.assume_role_for_pod_identity, clusterName="prod", token=other))
print(refusal(unsigned.assume_role_for_pod_identity, clusterName="prod", token=expired)[:41])
print(refusal(unsigned.assume_role_for_pod_identity, clusterName="test", token=pod))
print(refusal(unsigned.assume_role_for_pod_identity, clusterName="prod", token="x.y.z"))

# As the SDK does it in a pod of Pod Identity, with the control plane in place of the agent on the node.
for variable in ("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_SESSION_NAME"):
    del os.environ[variable]
os.environ.update(AWS_CONTAINER_CREDENTIALS_FULL_URI=container + "prod", AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=podfile)
print(boto3.Session().client("sts").get_caller_identity()["Arn"])
import urllib.request, urllib.error
for cluster, token in ("test", pod), ("prod", other):
    try:
        urllib.request.urlopen(urllib.request.Request(container + cluster, headers={"Authorization": token}))
    except urllib.error.HTTPError as e:
        print(e.code, e.read().decode().strip())

# Another account says that the cluster is its own, after the first: who does not sign
# gets the first one's role, unless the path names the other; who signs gets the own.
time.sleep(1.1)
client("iam", theirs).create_open_id_connect_provider(Url=url, ClientIDList=[], Tags=[{"Key": "evermesh:eks-cluster", "Value": "prod"}])
print(unsigned.assume_role_for_pod_identity(clusterName="prod", token=pod)["assumedRoleUser"]["arn"])
client("iam", theirs).create_role(RoleName="pods", AssumeRolePolicyDocument=document(Effect="Allow", Principal={"Service": "pods.eks.amazonaws.com"}, Action=["sts:AssumeRole", "sts:TagSession"]))
client("eks", theirs).create_pod_identity_association(**{**association, "roleArn": pods.replace("111111111111", "222222222222")})
print(unsigned.assume_role_for_pod_identity(clusterName="prod", token=pod)["assumedRoleUser"]["arn"])
for account in "111111111111", "222222222222":
    os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = container + account + "/prod"
    print(boto3.Session().client("sts").get_caller_identity()["Arn"])
print(client("eks-auth", mine).assume_role_for_pod_identity(clusterName="prod", token=pod)["assumedRoleUser"]["arn"])
print(eks.update_pod_identity_association(clusterName="prod", associationId=made["associationId"], disableSessionTags=True)["association"]["disableSessionTags"])
print(refusal(client("eks-auth", mine).assume_role_for_pod_identity, clusterName="prod", token=pod)[:57])
# By way of a role to another one, which asks for the pod by its external id.
iam.create_role(RoleName="target", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "111111111111"},
    "Action": ["sts:AssumeRole", "sts:TagSession"], "Condition": {"StringEquals": {"sts:ExternalId": "us-east-1/111111111111/prod/shop/orders"}}}]}))
target = "arn:aws:iam::111111111111:role/target"
change = dict(clusterName="prod", associationId=made["associationId"])
print(eks.update_pod_identity_association(**change, disableSessionTags=False, targetRoleArn=target)["association"]["externalId"])
print(refusal(client("eks-auth", mine).assume_role_for_pod_identity, clusterName="prod", token=pod)[-90:])
iam.put_role_policy(RoleName="pods", PolicyName="on", PolicyDocument=document(Effect="Allow", Action=["sts:AssumeRole", "sts:TagSession"], Resource=target))
print(client("eks-auth", mine).assume_role_for_pod_identity(clusterName="prod", token=pod)["assumedRoleUser"]["arn"])
print(refusal(eks.update_pod_identity_association, **change, policy="{}"))
print(refusal(eks.update_pod_identity_association, **change, roleArn="arn:aws:iam::111111111111:role/nobody"))
print(refusal(eks.update_pod_identity_association, clusterName="prod", associationId="a-x", roleArn=pods))
for n in range(5):
    eks.create_pod_identity_association(**{**association, "serviceAccount": "s%d" % n})
pages = list(eks.get_paginator("list_pod_identity_associations").paginate(clusterName="prod", PaginationConfig={"PageSize": 4}))
print([len(p["associations"]) for p in pages], len({a["associationId"] for p in pages for a in p["associations"]}))
iam.create_user(UserName="eve")
k = iam.create_access_key(UserName="eve")["AccessKey"]
eve = client("eks", (k["AccessKeyId"], k["SecretAccessKey"], None))
print(refusal(eve.list_pod_identity_associations, clusterName="prod")[:140])
iam.put_user_policy(UserName="eve", PolicyName="p", PolicyDocument=document(Effect="Allow", Action="eks:*", Resource="*"))
print(refusal(eve.create_pod_identity_association, **{**association, "serviceAccount": "eve"})[:142])
eks.delete_pod_identity_association(clusterName="prod", associationId=made["associationId"])
print(refusal(eks.describe_pod_identity_association, clusterName="prod", associationId=made["associationId"])[:30])
`, append([]string{issuer.URL, file, pod, other, expired}, slices.Concat(keyOf(resttest.AccountB), keyOf(resttest.AccountA), []string{container.URL + podidentity.ContainerPath, podFile})...)...)
	lines(t, "IAM-033 IAM-014 service accounts, their tokens and their roles", out, `
400 InvalidIdentityToken: No OpenIDConnect provider found in your account for URL
403 AccessDenied: Not authorized to perform sts:AssumeRoleWithWebIdentity
arn:aws:sts::111111111111:assumed-role/orders/pod system:serviceaccount:shop:orders sts.amazonaws.com True
400 InvalidIdentityToken: Incorrect token audience
400 ExpiredTokenException: Token expired:
arn:aws:sts::111111111111:assumed-role/orders/by-sdk []
404 ResourceNotFoundException: No cluster found for name: test.
400 InvalidParameterException: Cross-account pass role is not allowed.
arn:aws:eks:us-east-1:111111111111:podidentityassociation/prod a- True
True
['orders'] []
["associationArn", "associationId", "clusterName", "createdAt", "disableSessionTags", "modifiedAt", "namespace", "roleArn", "serviceAccount"]
arn:aws:sts::111111111111:assumed-role/pods/eks-prod-orders-5d9c {'namespace': 'shop', 'serviceAccount': 'orders'} pods.eks.amazonaws.com
arn:aws:sts::111111111111:assumed-role/pods/eks-prod-orders-5d9c {'namespace': 'shop', 'serviceAccount': 'orders'} pods.eks.amazonaws.com
arn:aws:sts::111111111111:assumed-role/pods/eks-prod-orders-5d9c
404 ResourceNotFoundException: No association found for service account payments in namespace shop of cluster prod.
400 ExpiredTokenException: Token expired:
400 InvalidTokenException: The token's issuer is not that of a cluster with that name.
400 InvalidTokenException: No cluster is known whose tokens are of this issuer.
arn:aws:sts::111111111111:assumed-role/pods/eks-prod-orders-5d9c
400 {"code":"InvalidTokenException","message":"The token's issuer is not that of a cluster with that name."}
404 {"code":"ResourceNotFoundException","message":"No association found for service account payments in namespace shop of cluster prod."}
arn:aws:sts::111111111111:assumed-role/pods/eks-prod-orders-5d9c
arn:aws:sts::111111111111:assumed-role/pods/eks-prod-orders-5d9c
arn:aws:sts::111111111111:assumed-role/pods/eks-prod-orders-5d9c
arn:aws:sts::222222222222:assumed-role/pods/eks-prod-orders-5d9c
arn:aws:sts::111111111111:assumed-role/pods/eks-prod-orders-5d9c
True
400 AccessDeniedException: Unable to assume role arn:aws:
us-east-1/111111111111/prod/shop/orders
t authorized to perform: sts:AssumeRole on resource: arn:aws:iam::111111111111:role/target
arn:aws:sts::111111111111:assumed-role/target/eks-prod-orders-5d9c
400 InvalidParameterException: A policy takes disableSessionTags: a session has no room for both.
400 InvalidParameterException: Role arn:aws:iam::111111111111:role/nobody does not exist.
404 ResourceNotFoundException: No association found for associationId: a-x.
[4, 2] 6
403 AccessDeniedException: User: arn:aws:iam::111111111111:user/eve is not authorized to perform: eks:ListPodIdentityAssociations on resourc
403 AccessDeniedException: User: arn:aws:iam::111111111111:user/eve is not authorized to perform: iam:PassRole on resource: arn:aws:iam::11111
404 ResourceNotFoundException:
`)
}
