package quota_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/quota"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// replica serves App Mesh and its quotas on a store.
func replica(t testing.TB, data *store.Store, base mesh.Quotas) (*resttest.Server, *quota.Limits) {
	t.Helper()
	var ids atomic.Int64
	l, err := quota.Open(t.Context(), quota.Config{
		Store: data, Realm: api.Realm{Partition: "aws", Region: resttest.Region}, Base: base, Bound: 10,
		Log: slog.New(slog.DiscardHandler), Now: time.Now, NewID: func() string { return fmt.Sprintf("request-%p-%d", &ids, ids.Add(1)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() { _ = l.Run(ctx) })
	t.Cleanup(func() { stop(); following.Wait() })
	s, err := l.Service()
	if err != nil {
		t.Fatal(err)
	}
	return resttest.Serve(t, resttest.Options{
		Store: data, Services: []*service.Service{s}, Edit: func(c *rest.Config) { c.Quotas = l },
	}), l
}

// AWS's numbers, as it published them.
const table = `L-33E8F9C9 50 True Connected Envoy processes per virtual gateway
L-50F6C35A 200 True Virtual routers per mesh
L-606A910B 50 True Connected Envoy processes per virtual node
L-8775AB18 50 True Backends per virtual node
L-87E74146 3 True Virtual gateways per mesh
L-AC861A39 15 True Meshes per account
L-AE1D9567 10 False Weighted targets per route
L-BB90B7FF 50 True Routes per virtual router
L-DA7495A7 200 True Virtual services per mesh
L-E043DFB4 200 True Virtual nodes per mesh
L-F6F26D09 10 True Gateway routes per virtual gateway`

// same compares what a script printed, line by line.
func same(t *testing.T, got, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(strings.TrimSpace(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Error(diff)
	}
}

// A fresh installation tells AWS's numbers, and stops nobody.
func TestAFreshInstallation(t *testing.T) {
	t.Parallel()
	s, _ := replica(t, storetest.New(t), mesh.Quotas{})
	root := resttest.Root(resttest.AccountA)
	t.Run("QUOTA-001 the guide's command prints the table", func(t *testing.T) {
		got, ok := s.CLI(t, root, "service-quotas", "list-aws-default-service-quotas",
			"--query", "Quotas[*].{Adjustable:Adjustable,Name:QuotaName,Value:Value,Code:QuotaCode}", "--service-code", "appmesh", "--output", "text")
		if !ok {
			t.Fatal(got)
		}
		var want []string
		for line := range strings.Lines(table) {
			f := strings.SplitN(strings.TrimSpace(line), " ", 4)
			want = append(want, strings.Join([]string{f[2], f[0], f[3], f[1]}, "\t"))
		}
		same(t, got, strings.Join(want, "\n"))
	})
	t.Run("QUOTA-002 QUOTA-003 QUOTA-012 services, defaults, what applies, and requests", func(t *testing.T) {
		got := s.Python(t, root, `
q = client("service-quotas")
print([(s["ServiceCode"], s["ServiceName"]) for s in q.list_services()["Services"]])
pages = q.get_paginator("list_aws_default_service_quotas").paginate(ServiceCode="appmesh", PaginationConfig={"PageSize": 3})
n = 0
for page in pages:
    n += 1
    for one in page["Quotas"]:
        print(one["QuotaCode"], int(one["Value"]), one["Adjustable"], one["QuotaName"])
print(n, "pages")
show(q.get_aws_default_service_quota(ServiceCode="appmesh", QuotaCode="L-606A910B")["Quota"])
print(sorted({(int(one["Value"]), one.get("Description", "")) for one in q.list_service_quotas(ServiceCode="appmesh")["Quotas"]}))
# What nothing limits is granted, and goes on to be without a limit.
r = q.request_service_quota_increase(ServiceCode="appmesh", QuotaCode="L-AC861A39", DesiredValue=20)["RequestedQuota"]
print(r["Status"], int(q.get_service_quota(ServiceCode="appmesh", QuotaCode="L-AC861A39")["Quota"]["Value"]))
m = client("appmesh")
for n in range(25):
    m.create_mesh(meshName="m%d" % n)
print(len(m.list_meshes()["meshes"]), "meshes")
# Refusals.
print(refusal(q.get_service_quota, ServiceCode="vpc", QuotaCode="L-AC861A39"))
print(refusal(q.get_service_quota, ServiceCode="appmesh", QuotaCode="L-00000000"))
print(refusal(q.get_service_quota, ServiceCode="appmesh", QuotaCode="L-AC861A39", ContextId="*"))
print(refusal(q.list_service_quotas, ServiceCode="appmesh", NextToken="bm8"))
print(refusal(q.request_service_quota_increase, ServiceCode="appmesh", QuotaCode="L-AE1D9567", DesiredValue=20))
print(refusal(q.request_service_quota_increase, ServiceCode="appmesh", QuotaCode="L-AC861A39", DesiredValue=2.5))
print(refusal(q.get_requested_service_quota_change, RequestId="none"))
`)
		same(t, got, `[('appmesh', 'AWS App Mesh')]
`+table+`
4 pages
{"Adjustable": true, "GlobalQuota": false, "QuotaAppliedAtLevel": "ACCOUNT", "QuotaArn": "arn:aws:servicequotas:us-east-1:111111111111:appmesh/L-606A910B", "QuotaCode": "L-606A910B", "QuotaName": "Connected Envoy processes per virtual node", "ServiceCode": "appmesh", "ServiceName": "AWS App Mesh", "Unit": "None", "Value": 50}
[(10, ''), (2147483647, 'There is no limit.')]
APPROVED 2147483647
25 meshes
400 NoSuchResourceException: The request failed because the specified service does not exist.
400 NoSuchResourceException: The request failed because the specified quota L-00000000 does not exist.
400 NoSuchResourceException: The quota L-AC861A39 is applied to the account: it has no ContextId.
400 InvalidPaginationTokenException: Invalid NextToken was provided.
400 IllegalArgumentException: The quota L-AE1D9567 (Weighted targets per route) is not adjustable.
400 IllegalArgumentException: The desired value must be a whole number from 1 to 2147483647.
400 NoSuchResourceException: The request failed because the specified quota request does not exist.`)
	})
}

// With AWS's numbers an account is stopped, asks for more, and goes on at once through
// whichever replica.
func TestAnAccountAsksForMore(t *testing.T) {
	t.Parallel()
	data := storetest.Replicas(t, 2)
	s, _ := replica(t, data[0], mesh.AppMeshQuotas())
	other, limits := replica(t, data[1], mesh.AppMeshQuotas())
	got := s.Python(t, resttest.Root(resttest.AccountA), `
q, m = client("service-quotas"), client("appmesh")
there = boto3.client("appmesh", endpoint_url=sys.argv[1])
for n in range(15):
    m.create_mesh(meshName="m%d" % n)
print(refusal(m.create_mesh, meshName="m15"))
print(refusal(there.create_mesh, meshName="m15"))
ask = lambda code, n: q.request_service_quota_increase(ServiceCode="appmesh", QuotaCode=code, DesiredValue=n)["RequestedQuota"]
print(refusal(q.request_service_quota_increase, ServiceCode="appmesh", QuotaCode="L-AC861A39", DesiredValue=15))
r = ask("L-AC861A39", 16)
print(r["Status"], r["RequestType"], int(r["DesiredValue"]), r["Requester"])
there.create_mesh(meshName="m15")
print(refusal(m.create_mesh, meshName="m16"))
print([int(one["Value"]) for one in q.list_service_quotas(ServiceCode="appmesh")["Quotas"] if one["QuotaCode"] == "L-AC861A39"])
# Above ten times AWS's number it is for the operator to say.
late = ask("L-AC861A39", 151)
print(late["Status"], late.get("RequestType"))
print(refusal(q.request_service_quota_increase, ServiceCode="appmesh", QuotaCode="L-AC861A39", DesiredValue=17))
print(q.get_requested_service_quota_change(RequestId=late["Id"])["RequestedQuota"]["Status"])
ask("L-87E74146", 30)
print([(r["QuotaCode"], r["Status"]) for p in q.get_paginator("list_requested_service_quota_change_history").paginate(PaginationConfig={"PageSize": 1}) for r in p["RequestedQuotas"]])
print([r["Status"] for r in q.list_requested_service_quota_change_history(Status="PENDING", ServiceCode="appmesh")["RequestedQuotas"]])
print([int(r["DesiredValue"]) for r in q.list_requested_service_quota_change_history_by_quota(ServiceCode="appmesh", QuotaCode="L-AC861A39")["RequestedQuotas"]])
# Another account has its own.
b = client("service-quotas", `+resttest.Root(resttest.AccountB).Text()+`)
print([int(one["Value"]) for one in b.list_service_quotas(ServiceCode="appmesh", QuotaCode="L-AC861A39")["Quotas"]], b.list_requested_service_quota_change_history()["RequestedQuotas"])
`, other.URL)
	t.Run("QUOTA-004 QUOTA-009 QUOTA-010 it is stopped, raised, and shown what applies", func(t *testing.T) {
		same(t, got, `400 LimitExceededException: You've reached the limit on number of Meshes(15) for the account 111111111111.
400 LimitExceededException: You've reached the limit on number of Meshes(15) for the account 111111111111.
400 IllegalArgumentException: You must provide a quota value greater than the current quota value, which is 15.
APPROVED AutomaticManagement 16 arn:aws:iam::111111111111:root
400 LimitExceededException: You've reached the limit on number of Meshes(16) for the account 111111111111.
[16]
PENDING None
400 ResourceAlreadyExistsException: Only one open service quota increase request is allowed per quota.
PENDING
[('L-87E74146', 'APPROVED'), ('L-AC861A39', 'PENDING'), ('L-AC861A39', 'APPROVED')]
['PENDING']
[151, 16]
[15] []`)
	})
	t.Run("QUOTA-012 the operator's word answers the request and counts on every replica", func(t *testing.T) {
		here, err := quota.Open(t.Context(), quota.Config{Store: data[0], Base: mesh.AppMeshQuotas(), Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if err := here.Set(t.Context(), resttest.AccountA, "L-AC861A39", new(0)); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "the other replica knows it", func() bool { return limits.For(resttest.AccountA, "").Meshes == 0 })
		same(t, s.Python(t, resttest.Root(resttest.AccountA), `
q = client("service-quotas")
print([r["Status"] for r in q.list_requested_service_quota_change_history_by_quota(ServiceCode="appmesh", QuotaCode="L-AC861A39")["RequestedQuotas"]])
`), `['APPROVED', 'APPROVED']`)
		if err := here.Set(t.Context(), resttest.AccountA, "L-AC861A39", new(3)); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "the other replica knows it", func() bool { return limits.For(resttest.AccountA, "").Meshes == 3 })
		if err := here.Set(t.Context(), resttest.AccountA, "L-AC861A39", nil); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "the other replica knows it", func() bool { return limits.For(resttest.AccountA, "").Meshes == 15 })
		if err := here.Set(t.Context(), resttest.AccountA, "L-AE1D9567", new(20)); err == nil {
			t.Error("what the model bounds was set")
		}
	})
}

// What counts in a mesh: what is said for all, for its owner's account, and by itself.
func TestWhatCounts_QUOTA_011(t *testing.T) {
	t.Parallel()
	const a, nodes = resttest.AccountA, "L-E043DFB4"
	open := func(t *testing.T, base mesh.Quotas) *quota.Limits {
		l, err := quota.Open(t.Context(), quota.Config{Store: storetest.New(t), Base: base, Bound: 10, Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for name, c := range map[string]struct {
		base             mesh.Quotas
		set              *int
		unset, aws, none int // nodes of a mesh whose settings say nothing, AWS and NONE
	}{
		"no limits for all":                 {mesh.Quotas{}, nil, 0, 200, 0},
		"AWS's for all":                     {mesh.AppMeshQuotas(), nil, 200, 200, 0},
		"a limit for one account":           {mesh.Quotas{}, new(7), 7, 7, 0},
		"none for one account":              {mesh.AppMeshQuotas(), new(0), 0, 0, 0},
		"fewer than AWS's, for one account": {mesh.AppMeshQuotas(), new(7), 7, 7, 0},
		"more than AWS's, for one account":  {mesh.AppMeshQuotas(), new(300), 300, 300, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t, c.base)
			if c.set != nil {
				if err := l.Set(t.Context(), a, nodes, c.set); err != nil {
					t.Fatal(err)
				}
				if err := l.Refresh(t.Context(), a); err != nil {
					t.Fatal(err)
				}
			}
			for set, want := range map[api.QuotaSet]int{"": c.unset, api.QuotaSetAWS: c.aws, api.QuotaSetNone: c.none} {
				if got := l.For(a, set).VirtualNodes; got != want {
					t.Errorf("settings %q: %d, want %d", set, got, want)
				}
			}
			if got := l.For(resttest.AccountB, "").VirtualNodes; got != c.base.VirtualNodes {
				t.Errorf("another account has %d", got)
			}
		})
	}
}

// What memory knows is what a write needs: no store is asked on its way.
func TestAQuestionCostsNothing(t *testing.T) {
	_, l := replica(t, storetest.New(t), mesh.AppMeshQuotas())
	if err := l.Set(t.Context(), resttest.AccountA, "L-E043DFB4", new(300)); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the watch tells", func() bool { return l.For(resttest.AccountA, "").VirtualNodes == 300 })
	// All goroutines are counted, those of etcd, too: what is counted every time is its own.
	least := testing.AllocsPerRun(100, func() { l.For(resttest.AccountA, "") })
	for range 10 {
		least = min(least, testing.AllocsPerRun(100, func() { l.For(resttest.AccountA, "") }))
	}
	if least > 0 {
		t.Errorf("it allocates %v times", least)
	}
}

// What is asked beyond the operator's bound waits also while nothing limits: granted, it
// would apply as soon as something does.
func TestTheBoundHoldsWithoutLimits(t *testing.T) {
	t.Parallel()
	s, l := replica(t, storetest.New(t), mesh.Quotas{})
	same(t, s.Python(t, resttest.Root(resttest.AccountA), `
q = client("service-quotas")
for code, desired in [("L-AC861A39", 151), ("L-DA7495A7", 2000)]:
    print(q.request_service_quota_increase(ServiceCode="appmesh", QuotaCode=code, DesiredValue=desired)["RequestedQuota"]["Status"])
`), "PENDING\nAPPROVED")
	if got := l.For(resttest.AccountA, ""); got.Meshes != 0 {
		t.Errorf("%d meshes are allowed, want no limit", got.Meshes)
	}
}

// Policies decide over quotas too.
func TestPoliciesDecideOverQuotas(t *testing.T) {
	t.Parallel()
	asked := map[string]string{}
	_, l := replica(t, storetest.New(t), mesh.Quotas{})
	s, err := l.Service()
	if err != nil {
		t.Fatal(err)
	}
	for name, op := range s.Operations {
		in := map[string]any{"ServiceCode": "appmesh", "QuotaCode": "L-AC861A39", "DesiredValue": json.Number("20"), "RequestId": "r"}
		c := &service.Call{Service: s, Operation: name, Principal: auth.Principal{Account: resttest.AccountA}, Input: in, Authorizer: refuser{asked}}
		if _, err := op.Run(t.Context(), c); err == nil {
			t.Errorf("%s was done", name)
		}
	}
	want := map[string]string{}
	for name := range s.Operations {
		want["servicequotas:"+name] = "*"
	}
	want["servicequotas:RequestServiceQuotaIncrease"] = "arn:aws:servicequotas:us-east-1:111111111111:appmesh/L-AC861A39"
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Error(diff)
	}
}

// refuser notes what it is asked and refuses.
type refuser struct{ asked map[string]string }

func (r refuser) Authorize(_ context.Context, q auth.Question) error {
	r.asked[q.Action] = q.Resource
	return api.Errorf(api.CodeAccessDenied, "no")
}
