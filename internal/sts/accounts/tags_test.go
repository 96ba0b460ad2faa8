package accounts_test

import (
	"testing"

	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
)

// Policies know providers and associations by their tags.
func TestTagsOfProvidersAndAssociations(t *testing.T) {
	t.Parallel()
	s := replica(t, storetest.New(t), t.TempDir(), oidctest.New(t))
	out := s.Python(t, resttest.Root(resttest.AccountA), `
iam, eks = client("iam"), client("eks")
def statement(**more):
    return dict({"Effect": "Allow", "Action": "*", "Resource": "*"}, **more)
def document(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
kept, loose = [iam.create_open_id_connect_provider(Url="https://idp.example/" + name, Tags=[{"Key": "evermesh:eks-cluster", "Value": name}, {"Key": "Keep", "Value": keep}])["OpenIDConnectProviderArn"]
    for name, keep in (("a", "yes"), ("b", "no"))]
role = iam.create_role(RoleName="pods", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": "sts:AssumeRole"}]}))["Role"]["Arn"]
ids = [eks.create_pod_identity_association(clusterName="a", namespace="shop", serviceAccount=name, roleArn=role, tags={"Keep": keep})["association"]["associationId"]
    for name, keep in (("a", "yes"), ("b", "no"))]
iam.create_user(UserName="eve")
iam.put_user_policy(UserName="eve", PolicyName="p", PolicyDocument=document(statement(), statement(Effect="Deny", Condition={"StringEquals": {"aws:ResourceTag/keep": "yes"}})))
k = iam.create_access_key(UserName="eve")["AccessKey"]
eve, evil = [client(name, (k["AccessKeyId"], k["SecretAccessKey"], None)) for name in ("iam", "eks")]
def both(function, of, **arguments):
    for value in of[1]:
        said = refusal(function, **{of[0]: value}, **arguments).split(":")[0] if value == of[1][0] else function(**{of[0]: value}, **arguments)["ResponseMetadata"]["HTTPStatusCode"]
        print(said, end=" " if value == of[1][0] else "\n")
of = ("OpenIDConnectProviderArn", (kept, loose))
both(eve.get_open_id_connect_provider, of)
both(eve.add_client_id_to_open_id_connect_provider, of, ClientID="x")
both(eve.remove_client_id_from_open_id_connect_provider, of, ClientID="x")
both(eve.update_open_id_connect_provider_thumbprint, of, ThumbprintList=["0" * 40])
both(eve.delete_open_id_connect_provider, of)
of = ("associationId", ids)
both(evil.describe_pod_identity_association, of, clusterName="a")
both(evil.update_pod_identity_association, of, clusterName="a", disableSessionTags=True)
both(evil.delete_pod_identity_association, of, clusterName="a")
`)
	lines(t, "IAM-010 by tags of the resource", out, `
403 AccessDenied 200
403 AccessDenied 200
403 AccessDenied 200
403 AccessDenied 200
403 AccessDenied 200
403 AccessDeniedException 200
403 AccessDeniedException 200
403 AccessDeniedException 200
`)
}
