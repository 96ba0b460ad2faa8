package resttest_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

var update = flag.Bool("update", false, "write testdata/protocols.txt anew")

func TestMain(m *testing.M) { testenv.VerifyTestMain(storetest.WithEtcd{M: m}) }

// play makes a service of a model whose operations answer as they are told; those
// that are not mentioned answer nothing.
func play(t testing.TB, name, prefix string, told map[string]func(context.Context, *service.Call) (any, error)) *service.Service {
	t.Helper()
	m, err := model.Named(name)
	if err != nil {
		t.Fatal(err)
	}
	ops := map[string]service.Operation{}
	for op := range m.Operations {
		run := told[op]
		if run == nil {
			run = func(context.Context, *service.Call) (any, error) { return map[string]any{}, nil }
		}
		ops[op] = service.Operation{Run: run, Unsigned: op == "AssumeRoleWithWebIdentity", Reads: strings.HasPrefix(op, "List") || strings.HasPrefix(op, "Get")}
	}
	s, err := service.New(name, prefix, ops)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// trail keeps records.
type trail struct {
	mu   sync.Mutex
	kept []service.Record
	fail error
}

func (a *trail) Event(r service.Record) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.kept = append(a.kept, r)
	return []byte(r.ID)
}

func (a *trail) Append(_ context.Context, r service.Record) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail != nil {
		return a.fail
	}
	a.kept = append(a.kept, r)
	return nil
}

// fails has every Append fail from now on.
func (a *trail) fails(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = err
}

// all are the records so far.
func (a *trail) all() []service.Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.kept)
}

// what tells the operations that were kept, and how they ended.
func (a *trail) what() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, r := range a.kept {
		out = append(out, strings.TrimSpace(r.Source+" "+r.Operation+" "+r.Code))
	}
	return out
}

// Every protocol carries what a client sends to the operation, and its answer and
// its refusals back, as boto3 reads them.
func TestProtocols(t *testing.T) {
	t.Parallel()
	echo := func(out any) func(context.Context, *service.Call) (any, error) {
		return func(context.Context, *service.Call) (any, error) { return out, nil }
	}
	inputs := map[string]map[string]any{}
	var mu sync.Mutex
	seen := func(out any) func(context.Context, *service.Call) (any, error) {
		return func(_ context.Context, c *service.Call) (any, error) {
			mu.Lock()
			defer mu.Unlock()
			inputs[c.Operation] = c.Input
			return out, nil
		}
	}
	at := api.Timestamp{Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	deny := func(code, text string) func(context.Context, *service.Call) (any, error) {
		return func(context.Context, *service.Call) (any, error) { return nil, api.Errorf(code, "%s", text) }
	}
	s := resttest.Serve(t, resttest.Options{Services: []*service.Service{
		play(t, "iam", "iam", map[string]func(context.Context, *service.Call) (any, error){
			"CreateUser": seen(map[string]any{"User": map[string]any{"UserName": "a<b>&\"ä", "Path": "/", "UserId": "AIDA", "Arn": "arn", "CreateDate": at, "Tags": []any{map[string]any{"Key": "k", "Value": ""}}}}),
			"ListUsers":  echo(map[string]any{"IsTruncated": false}),
			"GetUser":    deny("NoSuchEntityException", "The user with name x cannot be found."),
			"DeleteUser": deny(api.CodeAccessDenied, "User: x is not authorized"),
			"GetRole":    deny("Strange", "x"),
			"SimulateCustomPolicy": seen(map[string]any{"EvaluationResults": []any{map[string]any{
				"EvalActionName": "a", "EvalDecision": "allowed", "EvalDecisionDetails": map[string]any{"IAM Policy": "allowed"},
			}}}),
		}),
		play(t, "sts", "sts", map[string]func(context.Context, *service.Call) (any, error){
			"GetCallerIdentity": func(_ context.Context, c *service.Call) (any, error) {
				return map[string]string{"Account": c.Principal.Account, "Arn": c.Principal.ARN, "UserId": c.Principal.ID}, nil
			},
			"AssumeRoleWithWebIdentity": seen(map[string]any{"Provider": "p"}),
		}),
		play(t, "ram", "ram", map[string]func(context.Context, *service.Call) (any, error){
			"CreateResourceShare": seen(map[string]any{"resourceShare": map[string]any{"name": "n", "creationTime": at}}),
			"DeleteResourceShare": seen(map[string]any{"returnValue": true}),
			"GetResourceShares":   deny("UnknownResourceException", "no"),
		}),
		play(t, "eks", "eks", map[string]func(context.Context, *service.Call) (any, error){
			"DescribePodIdentityAssociation": seen(map[string]any{"association": map[string]any{"clusterName": "c d"}}),
		}),
		play(t, "acm", "acm", map[string]func(context.Context, *service.Call) (any, error){
			"ImportCertificate": seen(map[string]any{"CertificateArn": "arn"}),
			"GetCertificate":    deny("ResourceNotFoundException", "no"),
			"ListCertificates":  deny(api.CodeAccessDenied, "no"),
		}),
		play(t, "cloudtrail", "cloudtrail", map[string]func(context.Context, *service.Call) (any, error){
			"LookupEvents": seen(map[string]any{"Events": []any{map[string]any{"EventTime": at, "EventName": "x"}}}),
		}),
		play(t, "servicequotas", "servicequotas", map[string]func(context.Context, *service.Call) (any, error){
			"RequestServiceQuotaIncrease": seen(map[string]any{"RequestedQuota": map[string]any{"DesiredValue": 2.5}}),
		}),
		play(t, "servicediscovery", "servicediscovery", map[string]func(context.Context, *service.Call) (any, error){
			"RegisterInstance":  seen(map[string]any{"OperationId": "op"}),
			"DiscoverInstances": seen(map[string]any{"Instances": []any{map[string]any{"Attributes": map[string]any{"AWS_INSTANCE_IPV4": "10.0.0.1"}}}, "InstancesRevision": -7}),
			"GetNamespace":      echo(map[string]any{"Namespace": map[string]any{"CreateDate": at, "ServiceCount": 3}}),
			"GetService":        deny("ServiceNotFound", "no"),
		}),
		play(t, "acm-pca", "acm-pca", map[string]func(context.Context, *service.Call) (any, error){
			"IssueCertificate": seen(map[string]any{"CertificateArn": "arn"}),
		}),
		play(t, "tagging", "tag", nil),
	}})
	got := s.Python(t, resttest.Root(resttest.AccountA), `
iam = client("iam")
show(iam.create_user(UserName="ann", Path="/x/", Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}]))
show(iam.list_users())
print(refusal(iam.get_user, UserName="x"))
print(refusal(iam.delete_user, UserName="x"))
print(refusal(iam.get_role, RoleName="x"))
show(iam.delete_role(RoleName="x"))
show(iam.simulate_custom_policy(PolicyInputList=["{}"], ActionNames=["a:b", "c:d"], ContextEntries=[{"ContextKeyName": "aws:x", "ContextKeyValues": ["v", "w"], "ContextKeyType": "string"}]))
sts = client("sts")
show(sts.get_caller_identity())
show(client("sts").assume_role_with_web_identity(RoleArn="arn:aws:iam::111111111111:role/x", RoleSessionName="ab", WebIdentityToken="tokentoken"))
print(refusal(sts.assume_role, RoleArn="x", RoleSessionName="!!"))
print(refusal(client("sts", ("AKIANOBODYNOBODY", "x", "")).get_caller_identity))
print(refusal(client("sts", ("AKIAROOT111111111111", "x", "")).get_caller_identity))
ram = client("ram")
show(ram.create_resource_share(name="n", principals=["1", "2"], allowExternalPrincipals=False))
show(ram.delete_resource_share(resourceShareArn="arn:a/b", clientToken="t"))
print(refusal(ram.get_resource_shares, resourceOwner="SELF"))
print(refusal(ram.get_resource_shares, resourceOwner="NOBODY"))
show(ram.list_resources(resourceOwner="SELF"))
show(client("eks").describe_pod_identity_association(clusterName="c d", associationId="a-1"))
acm = client("acm")
show(acm.import_certificate(Certificate=b"cert", PrivateKey=b"key", CertificateChain=b"\x00\xff"))
print(refusal(acm.get_certificate, CertificateArn="arn:aws:acm:us-east-1:111111111111:certificate/12345678-1234-1234-1234-123456789012"))
print(refusal(acm.list_certificates))
print(refusal(acm.describe_certificate, CertificateArn="x" * 21))
show(client("cloudtrail").lookup_events(StartTime=datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.timezone.utc), MaxResults=5))
show(client("service-quotas").request_service_quota_increase(ServiceCode="appmesh", QuotaCode="L-1", DesiredValue=2.5))
sd = client("servicediscovery")
show(sd.register_instance(ServiceId="srv-1", InstanceId="i-1", Attributes={"AWS_INSTANCE_IPV4": "10.0.0.1"}))
show(sd.discover_instances(NamespaceName="n", ServiceName="s", MaxResults=3))
show(sd.get_namespace(Id="ns-1"))
print(refusal(sd.get_service, Id="srv-1"))
print(refusal(sd.get_service, Id="x" * 300))
show(sd.update_instance_custom_health_status(ServiceId="srv-1", InstanceId="i-1", Status="HEALTHY"))
show(client("acm-pca").issue_certificate(CertificateAuthorityArn="arn:aws:acm-pca:us-east-1:111111111111:certificate-authority/12345678-1234-1234-1234-123456789012", Csr=b"csr", SigningAlgorithm="SHA256WITHRSA", Validity={"Value": 5, "Type": "DAYS"}))
show(client("resourcegroupstaggingapi").get_resources(TagFilters=[{"Key": "a"}]))
`)
	if *update {
		if err := os.WriteFile("testdata/protocols.txt", []byte(got+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/protocols.txt")
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(strings.TrimSpace(string(want)), got); diff != "" {
		t.Errorf("testdata/protocols.txt, -want +got:\n%s", diff)
	}
	blob := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	for op, want := range map[string]string{
		"CreateUser":                     `{"Path":"/x/","Tags":[{"Key":"a","Value":"1"},{"Key":"b","Value":""}],"UserName":"ann"}`,
		"SimulateCustomPolicy":           `{"ActionNames":["a:b","c:d"],"ContextEntries":[{"ContextKeyName":"aws:x","ContextKeyType":"string","ContextKeyValues":["v","w"]}],"PolicyInputList":["{}"]}`,
		"AssumeRoleWithWebIdentity":      `{"RoleArn":"arn:aws:iam::111111111111:role/x","RoleSessionName":"ab","WebIdentityToken":"tokentoken"}`,
		"DeleteResourceShare":            `{"clientToken":"t","resourceShareArn":"arn:a/b"}`,
		"DescribePodIdentityAssociation": `{"associationId":"a-1","clusterName":"c d"}`,
		"ImportCertificate":              `{"Certificate":"` + blob("cert") + `","CertificateChain":"` + blob("\x00\xff") + `","PrivateKey":"` + blob("key") + `"}`,
		"LookupEvents":                   `{"MaxResults":5,"StartTime":1772366400}`,
		"RequestServiceQuotaIncrease":    `{"DesiredValue":2.5,"QuotaCode":"L-1","ServiceCode":"appmesh"}`,
		"DiscoverInstances":              `{"MaxResults":3,"NamespaceName":"n","ServiceName":"s"}`,
	} {
		if diff := cmp.Diff(want, text(t, inputs[op])); diff != "" {
			t.Errorf("input of %s, -want +got:\n%s", op, diff)
		}
	}
	if out, ok := s.CLI(t, resttest.Root(resttest.AccountB), "sts", "get-caller-identity", "--query", "Arn", "--output", "text"); !ok || out != "arn:aws:iam::222222222222:root" {
		t.Errorf("the CLI printed %q", out)
	}
}

// Every call leaves one record: in the transaction of a write, or by itself; a call
// that cannot be recorded is not answered.
func TestRecords(t *testing.T) {
	t.Parallel()
	data := storetest.New(t)
	kept := &trail{}
	var mu sync.Mutex
	observed := map[string]int{}
	s := resttest.Serve(t, resttest.Options{Store: data, Audit: kept, Edit: func(c *rest.Config) {
		c.Observe = func(operation, code string, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			observed[operation+" "+code]++
		}
	}, Services: []*service.Service{
		play(t, "iam", "iam", map[string]func(context.Context, *service.Call) (any, error){
			"CreateAccessKey": func(ctx context.Context, c *service.Call) (any, error) {
				if err := c.Allow(ctx, "arn:aws:iam::111111111111:user/ann", nil); err != nil {
					return nil, err
				}
				out := map[string]any{"AccessKey": map[string]any{"AccessKeyId": "AKIA1", "SecretAccessKey": "planted-secret", "UserName": "ann", "Status": "Active"}}
				_, err := data.Update(ctx, []store.Scope{store.AccountScope("111111111111")}, func(tx *store.Tx) error {
					c.Commit(tx, out)
					return nil
				})
				return out, err
			},
			"GetUser": func(ctx context.Context, c *service.Call) (any, error) {
				return nil, c.Allow(ctx, "arn:aws:iam::222222222222:user/bob", nil)
			},
		}),
		play(t, "acm", "acm", nil),
	}})
	root := resttest.Root(resttest.AccountA)
	s.Python(t, root, `
iam, mesh, acm = client("iam"), client("appmesh"), client("acm")
iam.create_access_key(UserName="ann")
refusal(iam.get_user, UserName="bob")
iam.list_users()
mesh.create_mesh(meshName="apps")
mesh.describe_mesh(meshName="apps")
refusal(mesh.create_mesh, meshName="apps")
refusal(mesh.describe_mesh, meshName="apps", meshOwner="222222222222")
acm.import_certificate(Certificate=b"cert", PrivateKey=b"planted-key")
refusal(client("iam", ("AKIANOBODYNOBODY", "x", "")).list_users)
`)
	want := []string{
		"iam.amazonaws.com CreateAccessKey", "iam.amazonaws.com GetUser AccessDenied", "iam.amazonaws.com ListUsers",
		"appmesh.amazonaws.com CreateMesh", "appmesh.amazonaws.com DescribeMesh", "appmesh.amazonaws.com CreateMesh ConflictException",
		"appmesh.amazonaws.com DescribeMesh ForbiddenException", "acm.amazonaws.com ImportCertificate",
	}
	if diff := cmp.Diff(want, kept.what()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	counted := map[string]int{
		"iam:CreateAccessKey OK": 1, "iam:GetUser AccessDenied": 1, "iam:ListUsers OK": 1, "CreateMesh OK": 1, "CreateMesh ConflictException": 1,
		"DescribeMesh OK": 1, "DescribeMesh ForbiddenException": 1, "acm:ImportCertificate OK": 1, "- InvalidClientTokenId": 1,
	}
	// The last call is counted after it was answered.
	testenv.Eventually(t, "every call is counted by its name", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return maps.Equal(counted, observed)
	})
	all := text(t, kept.all())
	for _, planted := range []string{"planted-secret", base64.StdEncoding.EncodeToString([]byte("planted-key"))} {
		if strings.Contains(all, planted) {
			t.Errorf("a record has %q", planted)
		}
	}
	first := kept.all()[0]
	if first.SourceIP != "127.0.0.1" || !strings.Contains(first.UserAgent, "Boto3") || first.Principal.Account != resttest.AccountA || first.ReadOnly ||
		text(t, first.Resources) != `["arn:aws:iam::111111111111:user/ann"]` {
		t.Errorf("record %+v", first)
	}

	kept.fails(api.Errorf("DiskFull", "no space"))
	got := s.Python(t, root, `
print(refusal(client("iam").list_users))
print(refusal(client("appmesh").list_meshes))
client("appmesh").create_mesh(meshName="committed")
`)
	const lost = "The call could not be recorded for the audit trail, so it is not answered: try again."
	if diff := cmp.Diff("503 ServiceUnavailable: "+lost+"\n503 ServiceUnavailableException: "+lost, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func text(t testing.TB, v any) string {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
