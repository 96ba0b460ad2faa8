package iam_test

import (
	"context"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

const (
	accountA = resttest.AccountA
	accountB = resttest.AccountB
)

// serveOn serves IAM and App Mesh over a store to real clients, with the policies of
// the accounts A and B.
func serveOn(t *testing.T, s *store.Store, dir string) (*resttest.Server, *iam.Keys) {
	t.Helper()
	c := replica(s, dir)
	k := open(t, c)
	follow(t, k)
	for _, account := range []string{accountA, accountB} {
		if _, err := k.AddAccount(t.Context(), account); err != nil && !isConflict(err) {
			t.Fatal(err)
		}
	}
	k.Directory().Organizations(func(account string) string {
		if account == accountA {
			return "o-evermeshorg"
		}
		return ""
	})
	server := iam.NewServer(k)
	server.Meshes = func(ctx context.Context, account string) (int, error) {
		list, _, err := s.List(ctx, api.KindMesh, api.Key{Kind: api.KindMesh, Owner: account}, "", 1)
		return len(list), err
	}
	offered, err := server.Service()
	if err != nil {
		t.Fatal(err)
	}
	return resttest.Serve(t, resttest.Options{
		Store: s, Services: []*service.Service{offered}, Keys: k, Authorizer: k.Authorizer(),
		Edit: func(c *rest.Config) {
			c.MeshMade = func(ctx context.Context, p auth.Principal) {
				if err := server.EnsureLinkedRole(ctx, p, k.Authorizer(), nil); err != nil {
					t.Error(err)
				}
			}
		},
	}), k
}

func isConflict(err error) bool {
	refusal, ok := err.(*api.Error) //nolint:errorlint // as AddAccount returns it
	return ok && refusal.Code == api.CodeConflict
}

func serve(t *testing.T) *resttest.Server {
	t.Helper()
	s, _ := serveOn(t, storetest.New(t), t.TempDir())
	return s
}

// The sequence of the guide's step 6 for EC2.
func TestProfileForAnInstance(t *testing.T) {
	t.Run("IAM-034", func(t *testing.T) {
		t.Parallel()
		s := serve(t)
		s.Python(t, resttest.Root(accountA), `
iam = client("iam")
trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
r = iam.create_role(RoleName="mesh-virtual-node-service-b", AssumeRolePolicyDocument=json.dumps(trust))["Role"]
assert r["Arn"] == "arn:aws:iam::111111111111:role/mesh-virtual-node-service-b" and r["RoleId"].startswith("AROA") and len(r["RoleId"]) == 21, r
assert r["AssumeRolePolicyDocument"] == trust and r["MaxSessionDuration"] == 3600 and r["Path"] == "/", r
doc = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "appmesh:StreamAggregatedResources", "Resource": [
    "arn:aws:appmesh:us-east-1:111111111111:mesh/apps/virtualNode/serviceB"]}]}
p = iam.create_policy(PolicyName="virtual-node-policy", PolicyDocument=json.dumps(doc))["Policy"]
assert p["Arn"] == "arn:aws:iam::111111111111:policy/virtual-node-policy" and p["DefaultVersionId"] == "v1" and p["AttachmentCount"] == 0 and p["PolicyId"].startswith("ANPA"), p
iam.attach_role_policy(RoleName=r["RoleName"], PolicyArn=p["Arn"])
made = iam.create_instance_profile(InstanceProfileName="serviceB")["InstanceProfile"]
assert made["Roles"] == [] and made["InstanceProfileId"].startswith("AIPA"), made
iam.add_role_to_instance_profile(InstanceProfileName="serviceB", RoleName=r["RoleName"])
got = iam.get_instance_profile(InstanceProfileName="serviceB")["InstanceProfile"]
assert [x["RoleName"] for x in got["Roles"]] == [r["RoleName"]], got
assert iam.list_attached_role_policies(RoleName=r["RoleName"])["AttachedPolicies"] == [{"PolicyName": "virtual-node-policy", "PolicyArn": p["Arn"]}]
assert iam.get_policy(PolicyArn=p["Arn"])["Policy"]["AttachmentCount"] == 1
assert iam.get_policy_version(PolicyArn=p["Arn"], VersionId="v1")["PolicyVersion"]["Document"] == doc
assert refusal(iam.add_role_to_instance_profile, InstanceProfileName="serviceB", RoleName=r["RoleName"]).startswith("409 LimitExceeded: "), "second role"
assert refusal(iam.delete_role, RoleName=r["RoleName"]) == "409 DeleteConflict: Cannot delete entity, must detach all policies first."
iam.detach_role_policy(RoleName=r["RoleName"], PolicyArn=p["Arn"])
assert refusal(iam.delete_role, RoleName=r["RoleName"]) == "409 DeleteConflict: Cannot delete entity, must remove roles from instance profile first."
assert refusal(iam.delete_instance_profile, InstanceProfileName="serviceB") == "409 DeleteConflict: Cannot delete entity, must remove roles from instance profile first."
assert [x["InstanceProfileName"] for x in iam.list_instance_profiles_for_role(RoleName=r["RoleName"])["InstanceProfiles"]] == ["serviceB"]
iam.remove_role_from_instance_profile(InstanceProfileName="serviceB", RoleName=r["RoleName"])
iam.delete_instance_profile(InstanceProfileName="serviceB")
iam.delete_role(RoleName=r["RoleName"])
iam.delete_policy(PolicyArn=p["Arn"])
assert refusal(iam.get_role, RoleName=r["RoleName"]) == "404 NoSuchEntity: The role with name mesh-virtual-node-service-b cannot be found."
assert refusal(iam.get_policy, PolicyArn=p["Arn"]) == "404 NoSuchEntity: Policy %s was not found." % p["Arn"]
`)
	})
}
