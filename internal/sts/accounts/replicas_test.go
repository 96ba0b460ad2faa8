package accounts_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/sts"
	"github.com/evermesh/evermesh/internal/sts/accounts"
	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
)

// A session that one replica made is known to the others, which never heard of it; and
// ends on all of them within a second.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	issuer, store, dir := oidctest.New(t), storetest.New(t), t.TempDir()
	one := replica(t, store, dir, issuer)
	two := replica(t, store, dir, issuer)
	out := one.Python(t, resttest.Root(resttest.AccountA), `
other = sys.argv[1]
def at(service, key, url=None):
    return boto3.client(service, endpoint_url=url, aws_access_key_id=key[0], aws_secret_access_key=key[1], aws_session_token=key[2])
def within(what, function):
    began = time.time()
    while time.time() - began < 5:
        got = refusal_or(function)
        if got.startswith("403"):
            print(what, "in time" if time.time() - began < 1 else "late: %.1f s" % (time.time() - began), got.split(":")[0])
            return
        time.sleep(0.02)
    print(what, "never")
def refusal_or(function):
    try:
        function()
        return "200"
    except exceptions.ClientError as e:
        return "%d %s" % (e.response["ResponseMetadata"]["HTTPStatusCode"], e.response["Error"]["Code"])
iam = client("iam")
iam.create_user(UserName="ann")
k = iam.create_access_key(UserName="ann")["AccessKey"]
ann = (k["AccessKeyId"], k["SecretAccessKey"], None)
iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}))
role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "111111111111"}, "Action": "sts:AssumeRole"}]}))["Role"]["Arn"]
c = at("sts", ann).assume_role(RoleArn=role, RoleSessionName="s1")["Credentials"]
session = (c["AccessKeyId"], c["SecretAccessKey"], c["SessionToken"])
began = time.time()
while refusal_or(at("sts", session, other).get_caller_identity) != "200" and time.time() - began < 5:
    time.sleep(0.02)
print("known elsewhere", time.time() - began < 1, at("sts", session, other).get_caller_identity()["Arn"])
iam.update_access_key(UserName="ann", AccessKeyId=ann[0], Status="Inactive")
within("key off", at("sts", ann, other).get_caller_identity)
iam.delete_role(RoleName="r")
within("role gone", at("sts", session, other).get_caller_identity)
print(refusal_or(at("sts", session).get_caller_identity))
`, two.URL)
	lines(t, "IAM-014 sessions and keys on two replicas", out, `
known elsewhere True arn:aws:sts::111111111111:assumed-role/r/s1
key off in time 403 InvalidClientTokenId
role gone in time 403 InvalidClientTokenId
403 InvalidClientTokenId
`)
}

// What people type: a few calls of the AWS CLI.
func TestByCLI(t *testing.T) {
	t.Parallel()
	issuer := oidctest.New(t)
	s := replica(t, storetest.New(t), t.TempDir(), issuer)
	a := resttest.Root(resttest.AccountA)
	run := func(want string, arguments ...string) {
		t.Helper()
		if out, ok := s.CLI(t, a, arguments...); !ok || out != want {
			t.Errorf("%q\nprinted %q, want %q", arguments, out, want)
		}
	}
	run(resttest.AccountA+"\tarn:aws:iam::"+resttest.AccountA+":root", "sts", "get-caller-identity", "--query", "[Account,Arn]", "--output", "text")
	run("true", "sts", "get-session-token", "--query", "starts_with(Credentials.AccessKeyId, 'ASIA')")
	out, ok := s.CLI(t, a, "eks", "list-pod-identity-associations", "--cluster-name", "prod")
	if want := "(ResourceNotFoundException) when calling the ListPodIdentityAssociations operation (reached max retries: 0): No cluster found for name: prod."; ok || !strings.Contains(out, want) {
		t.Errorf("printed %q, want %q", out, want)
	}
	// A session whose time is over.
	root := iam.Root("aws", resttest.AccountA)
	root.Session = &auth.Session{Issuer: root.ARN, IssuerID: root.ID}
	over, err := s.sessions.Issue(root, 0)
	if err != nil {
		t.Fatal(err)
	}
	out, ok = s.CLI(t, resttest.Key{ID: over.AccessKeyID, Secret: string(over.Secret), Token: string(over.SessionToken)}, "sts", "get-caller-identity")
	if want := "(ExpiredToken) when calling the GetCallerIdentity operation (reached max retries: 0): The security token included in the request is expired"; ok || !strings.Contains(out, want) {
		t.Errorf("printed %q, want %q", out, want)
	}
}

// What a session costs each request that it signs, beside a lasting key.
func BenchmarkCredential(b *testing.B) {
	c := iam.Config{
		Store: storetest.New(b), Partition: "aws", Account: resttest.AccountA, MasterKeyFile: filepath.Join(b.TempDir(), "master-key"), CreateMasterKey: true,
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	if _, err := iam.Open(b.Context(), c); err != nil { // makes the account, which the next one reads
		b.Fatal(err)
	}
	k, err := iam.Open(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	directory := accounts.New(k, k.Authorizer())
	sessions := &sts.Sessions{Lasting: k, Directory: directory, Box: k.Box(), Now: time.Now}
	root := iam.Root("aws", resttest.AccountA)
	root.Session = &auth.Session{
		Issuer: root.ARN, IssuerID: root.ID, Name: "s", Tags: map[string]string{"team": "books"},
		Policies: []string{`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"appmesh:*","Resource":"*"}]}`},
	}
	made, err := sessions.Issue(root, time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("the token has %d characters", len(made.SessionToken))
	b.ReportAllocs()
	for b.Loop() {
		if _, found, err := sessions.Credential(context.Background(), made.AccessKeyID, string(made.SessionToken)); err != nil || !found {
			b.Fatal(found, err)
		}
	}
}
