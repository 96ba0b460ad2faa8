package accounts_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/sts"
	"github.com/evermesh/evermesh/internal/sts/accounts"
	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Who may register providers does not get the roles of a cluster's pods by that: a
// cluster has one provider, and its associations are for that one alone.
func TestOneProviderForACluster(t *testing.T) {
	t.Parallel()
	issuer, rogue := oidctest.New(t), oidctest.New(t)
	s := replica(t, storetest.New(t), t.TempDir(), issuer)
	out := s.Python(t, resttest.Root(resttest.AccountA), `
real, rogue, token, own = sys.argv[1:5]
iam, eks = client("iam"), client("eks")
def document(**statement):
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
def register(iam, url, cluster="prod"):
    return iam.create_open_id_connect_provider(Url=url, Tags=[{"Key": "evermesh:eks-cluster", "Value": cluster}])["OpenIDConnectProviderArn"]
first = register(iam, real)
role = iam.create_role(RoleName="orders", AssumeRolePolicyDocument=document(Effect="Allow", Principal={"Service": "pods.eks.amazonaws.com"}, Action=["sts:AssumeRole", "sts:TagSession"]))["Role"]["Arn"]
made = eks.create_pod_identity_association(clusterName="prod", namespace="shop", serviceAccount="orders", roleArn=role)["association"]["associationId"]
unsigned = client("eks-auth", signature_version=UNSIGNED)
def refused(token):
    return refusal(unsigned.assume_role_for_pod_identity, clusterName="prod", token=token)
def pod(token):
    return unsigned.assume_role_for_pod_identity(clusterName="prod", token=token)["assumedRoleUser"]["arn"]
print(refusal(register, iam=iam, url=rogue).replace(real, "REAL"))
print(refused(token))
print(pod(own))
# Not even by way of a provider that takes the place of the one that was removed.
iam.delete_open_id_connect_provider(OpenIDConnectProviderArn=first)
register(iam, rogue)
print(refused(token))
# Who may change associations, and pass the role, says that it is so.
eks.update_pod_identity_association(clusterName="prod", associationId=made)
print(pod(token))
for n in range(99):
    register(iam, "https://example.com/%d" % n, "c%d" % n)
print(refusal(register, iam=iam, url="https://example.com/more", cluster="more"))
`, issuer.URL, rogue.URL, rogue.ServiceAccount(t, "shop", "orders", sts.PodAudience), issuer.ServiceAccount(t, "shop", "orders", sts.PodAudience))
	lines(t, "IAM-033 one provider for a cluster", out, `
409 EntityAlreadyExists: The cluster prod is that of provider REAL already: a cluster has one, so choose another name for the tag evermesh:eks-cluster.
400 InvalidTokenException: No cluster is known whose tokens are of this issuer.
arn:aws:sts::111111111111:assumed-role/orders/eks-prod-orders-5d9c
404 ResourceNotFoundException: No association found for service account orders in namespace shop of cluster prod.
arn:aws:sts::111111111111:assumed-role/orders/eks-prod-orders-5d9c
409 LimitExceeded: Cannot exceed quota for OpenIdConnectProvidersPerAccount: 100
`)
}

// A replica that does not follow the store takes keys for good that have ended: no
// session comes of them there, as it would hold everywhere.
func TestCutOffReplicaMakesNoSessions(t *testing.T) {
	t.Parallel()
	stores, dir := storetest.Replicas(t, 2), t.TempDir()
	open := func(i int) *iam.Keys {
		k, err := iam.Open(t.Context(), iam.Config{
			Store: stores[i], Partition: "aws", Account: resttest.AccountA, MasterKeyFile: filepath.Join(dir, "master-key"), CreateMasterKey: true,
			Log: slog.New(slog.DiscardHandler), Now: time.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := open(0)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- first.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	users, err := iam.NewServer(first).Service()
	if err != nil {
		t.Fatal(err)
	}
	do := func(operation string, in map[string]any) any {
		t.Helper()
		out, err := users.Operations[operation].Run(ctx, &service.Call{
			ID: "1", Service: users, Operation: operation, Principal: iam.Root("aws", resttest.AccountA), Input: in, Authorizer: first.Authorizer(),
		})
		if err != nil {
			t.Fatal(operation, err)
		}
		return out
	}
	do("CreateUser", map[string]any{"UserName": "eve"})
	key := do("CreateAccessKey", map[string]any{"UserName": "eve"}).(*iamapi.CreateAccessKeyResponse).AccessKey
	second := open(1) // reads, and follows no more
	roles := &sts.Server{
		Partition: "aws", Directory: accounts.New(second, second.Authorizer()),
		Sessions: &sts.Sessions{Lasting: second, Directory: accounts.New(second, second.Authorizer()), Box: second.Box(), Now: time.Now},
	}
	served, err := roles.Service()
	if err != nil {
		t.Fatal(err)
	}
	session := func() error {
		c, found, err := second.Credential(ctx, key.AccessKeyID, "")
		if err != nil || !found {
			t.Fatal("the replica does not take the key any more", err)
		}
		_, err = served.Operations["GetSessionToken"].Run(ctx, &service.Call{
			ID: "1", Service: served, Operation: "GetSessionToken", Principal: c.Principal, Input: map[string]any{}, Authorizer: second.Authorizer(),
		})
		return err
	}
	if err := session(); err != nil {
		t.Errorf("a replica that knows all makes no session: %v", err)
	}
	do("UpdateAccessKey", map[string]any{"UserName": "eve", "AccessKeyId": key.AccessKeyID, "Status": "Inactive"})
	if known, ok := errors.AsType[*api.Error](session()); !ok || known.Code != api.CodeServiceUnavailable {
		t.Errorf("a replica that is behind answers %v", known)
	}
}

// accountsOf opens the accounts of a store, with the master key of a directory.
func accountsOf(t *testing.T, s *store.Store, dir string) *iam.Keys {
	t.Helper()
	cfg := iam.Config{
		Store: s, Partition: "aws", Account: resttest.AccountA, MasterKeyFile: filepath.Join(dir, "master-key"), CreateMasterKey: true,
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	if _, err := iam.Open(t.Context(), cfg); err != nil { // makes the account, which the next one reads
		t.Fatal(err)
	}
	k, err := iam.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sessionsOf(k *iam.Keys, box sts.Box) *sts.Sessions {
	return &sts.Sessions{Lasting: k, Directory: accounts.New(k, k.Authorizer()), Box: box, Now: time.Now}
}

func rootSession(t *testing.T, s *sts.Sessions) sts.Credentials {
	t.Helper()
	root := iam.Root("aws", resttest.AccountA)
	root.Session = &auth.Session{Issuer: root.ARN, IssuerID: root.ID}
	made, err := s.Issue(root, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// Who has a copy of the store and the master key makes sessions of any root, until
// rotate-master-key --end-sessions.
func TestTheEndOfAStolenMasterKey(t *testing.T) {
	t.Parallel()
	s, dir := storetest.New(t), t.TempDir()
	k := accountsOf(t, s, dir)
	stolen := accountsOf(t, s, dir).Box() // has read all
	forge := func() (bool, error) {
		made := rootSession(t, sessionsOf(k, stolen))
		_, found, err := sessionsOf(k, k.Box()).Credential(t.Context(), made.AccessKeyID, string(made.SessionToken))
		return found, err
	}
	if found, err := forge(); !found || err != nil {
		t.Fatalf("the stolen key seals nothing that counts (error %v): the test shows nothing", err)
	}
	if _, err := k.Box().Rotate(t.Context(), []seal.Place{iam.Place()}, seal.RotateOptions{Alone: true, End: true, Say: func(string) {}}); err != nil {
		t.Fatal(err)
	}
	if err := k.Box().LoadText(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found, err := forge(); found || err != nil {
		t.Errorf("found %v, error %v", found, err)
	}
	own := rootSession(t, sessionsOf(k, k.Box()))
	if _, found, err := sessionsOf(k, k.Box()).Credential(t.Context(), own.AccessKeyID, string(own.SessionToken)); !found || err != nil {
		t.Errorf("a new session is found %v, error %v", found, err)
	}
}

// A replica that has not read the key of sessions says so, and clients ask again; it
// does not call their sessions bad.
func TestNoKeyOfSessionsYet(t *testing.T) {
	t.Parallel()
	s, dir := storetest.New(t), t.TempDir()
	k := accountsOf(t, s, dir)
	box, err := seal.Open(seal.Config{Store: s, MasterKeyFile: filepath.Join(dir, "master-key"), Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	made := rootSession(t, sessionsOf(k, k.Box()))
	ask := func() (bool, error) {
		_, found, err := sessionsOf(k, box).Credential(t.Context(), made.AccessKeyID, string(made.SessionToken))
		return found, err
	}
	if _, err := ask(); err == nil {
		t.Error("the session is called bad")
	} else if known, ok := errors.AsType[*api.Error](err); !ok || known.Code != api.CodeServiceUnavailable {
		t.Errorf("error %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { box.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	testenv.Eventually(t, "the key is read, and the session counts", func() bool { found, err := ask(); return found && err == nil })
}

// What was sealed with a stolen key, but as STS never makes it, is no session.
func TestForgedSessionsDoNotLast(t *testing.T) {
	t.Parallel()
	k := accountsOf(t, storetest.New(t), t.TempDir())
	now := time.Now()
	at := now
	forger := &sts.Sessions{Lasting: k, Directory: accounts.New(k, k.Authorizer()), Box: k.Box(), Now: func() time.Time { return at }}
	verifier := &sts.Sessions{Lasting: k, Directory: accounts.New(k, k.Authorizer()), Box: k.Box(), Now: func() time.Time { return now }}
	for _, c := range []struct {
		name  string
		begun time.Duration
		lasts time.Duration
		ok    bool
	}{
		{"an hour, as roots have", 0, time.Hour, true},
		{"longer than a root's", 0, time.Hour + time.Second, false},
		{"ten years", 0, 10 * 365 * 24 * time.Hour, false},
		{"begins in the future", time.Hour, time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := iam.Root("aws", resttest.AccountA)
			root.Session = &auth.Session{Issuer: root.ARN, IssuerID: root.ID}
			at = now.Add(c.begun)
			made, err := forger.Issue(root, c.lasts)
			if err != nil {
				t.Fatal(err)
			}
			if _, found, err := verifier.Credential(t.Context(), made.AccessKeyID, string(made.SessionToken)); err != nil || found != c.ok {
				t.Errorf("found %v, error %v", found, err)
			}
		})
	}
}
