package tagging_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/tagging"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// serve serves App Mesh and the Tagging API on a store.
func serve(t testing.TB, data *store.Store, o resttest.Options) *resttest.Server {
	t.Helper()
	var api0 atomic.Pointer[rest.Server] // a script's calls are ordered after it by another process, which the race detector cannot see
	tags := &tagging.Server{
		Realm: api.Realm{Partition: "aws", Region: resttest.Region}, Snapshot: storetest.Snapshot(data),
		Shared: func(account string, mesh api.Key) bool {
			return o.Shares != nil && o.Shares.Shared(account, mesh, "appmesh:ListTagsForResource")
		},
		Do: func(ctx context.Context, asked *service.Call, operation string, input map[string]any) (any, error) {
			return api0.Load().Do(ctx, asked, operation, input)
		},
	}
	s, err := tags.Service()
	if err != nil {
		t.Fatal(err)
	}
	o.Store, o.Services = data, []*service.Service{s}
	out := resttest.Serve(t, o)
	api0.Store(out.Config.Handler.(*rest.Server))
	return out
}

// same compares what a script printed, line by line.
func same(t *testing.T, got, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(strings.TrimSpace(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Error(diff)
	}
}

// ground makes one resource of each of the seven kinds, with tags, in account A, and a
// mesh in account B.
const ground = `
m, tagging = client("appmesh"), client("resourcegroupstaggingapi")
T = lambda **tags: [dict(key=k, value=v) for k, v in tags.items()]
listener = [dict(portMapping=dict(port=8080, protocol="http"))]
m.create_mesh(meshName="apps", tags=T(team="blue", stage="test"))
m.create_virtual_node(meshName="apps", virtualNodeName="n", spec={}, tags=T(team="blue", stage="prod"))
m.create_virtual_router(meshName="apps", virtualRouterName="r", spec=dict(listeners=listener), tags=T(team="green"))
m.create_route(meshName="apps", virtualRouterName="r", routeName="x", spec=dict(httpRoute=dict(match=dict(prefix="/"), action=dict(weightedTargets=[dict(virtualNode="n", weight=1)]))), tags=T(team="blue"))
m.create_virtual_service(meshName="apps", virtualServiceName="s.local", spec={}, tags=T(owner=""))
m.create_virtual_gateway(meshName="apps", virtualGatewayName="g", spec=dict(listeners=listener), tags=T(team="red"))
m.create_gateway_route(meshName="apps", virtualGatewayName="g", gatewayRouteName="y", spec=dict(httpRoute=dict(match=dict(prefix="/"), action=dict(target=dict(virtualService=dict(virtualServiceName="s.local"))))), tags=T(team="red"))
m.create_virtual_node(meshName="apps", virtualNodeName="untagged", spec={})
`

func TestResourcesByTheirTags(t *testing.T) {
	t.Parallel()
	s := serve(t, storetest.New(t), resttest.Options{})
	got := s.Python(t, resttest.Root(resttest.AccountA), ground+`
client("appmesh", `+resttest.Root(resttest.AccountB).Text()+`).create_mesh(meshName="foreign", tags=T(team="blue"))
def found(**how):
    out = tagging.get_resources(**how)
    return [(r["ResourceARN"].split(":", 5)[5]) for r in out["ResourceTagMappingList"]], out["PaginationToken"] != ""
print(found())
print(found(TagFilters=[dict(Key="team", Values=["blue"])]))
print(found(TagFilters=[dict(Key="team", Values=["blue", "green"]), dict(Key="stage")]))
print(found(TagFilters=[dict(Key="team", Values=["Blue"])]))
print(found(TagFilters=[dict(Key="owner", Values=[""])]))
print(found(ResourceTypeFilters=["appmesh:mesh", "appmesh:virtualNode"]))
print(found(ResourceTypeFilters=["appmesh"], TagFilters=[dict(Key="team", Values=["red"])]))
print(found(ResourceTypeFilters=["appmesh:mesh/route"]))
print(found(ResourceTypeFilters=["ec2:instance"]))
arn = "arn:aws:appmesh:us-east-1:111111111111:mesh/apps"
print(found(ResourceARNList=[arn, arn + "/virtualNode/untagged", arn.replace("111111111111", "222222222222").replace("apps", "foreign")]))
show(tagging.get_resources(ResourceARNList=[arn])["ResourceTagMappingList"][0])
print([len(p["ResourceTagMappingList"]) for p in tagging.get_paginator("get_resources").paginate(PaginationConfig={"PageSize": 3})])
print(tagging.get_tag_keys()["TagKeys"], tagging.get_tag_values(Key="team")["TagValues"], tagging.get_tag_values(Key="owner")["TagValues"], tagging.get_tag_values(Key="none")["TagValues"])
# What was written is there at once.
m.tag_resource(resourceArn=arn, tags=T(late="yes"))
print(found(TagFilters=[dict(Key="late")]))
for how in (dict(ResourceARNList=[arn], TagFilters=[dict(Key="team")]), dict(ResourcesPerPage=3, TagsPerPage=100), dict(TagsPerPage=150), dict(ResourceTypeFilters=["appmesh:subnet"]), dict(PaginationToken="bm8")):
    print(refusal(tagging.get_resources, **how))
`)
	t.Run("TAG-001 TAG-004 all seven kinds are found, by tags, types and ARNs", func(t *testing.T) {
		same(t, got, `
(['mesh/apps', 'mesh/apps/virtualGateway/g', 'mesh/apps/virtualGateway/g/gatewayRoute/y', 'mesh/apps/virtualNode/n', 'mesh/apps/virtualRouter/r', 'mesh/apps/virtualRouter/r/route/x', 'mesh/apps/virtualService/s.local'], False)
(['mesh/apps', 'mesh/apps/virtualNode/n', 'mesh/apps/virtualRouter/r/route/x'], False)
(['mesh/apps', 'mesh/apps/virtualNode/n'], False)
([], False)
(['mesh/apps/virtualService/s.local'], False)
(['mesh/apps', 'mesh/apps/virtualNode/n'], False)
(['mesh/apps/virtualGateway/g', 'mesh/apps/virtualGateway/g/gatewayRoute/y'], False)
(['mesh/apps/virtualRouter/r/route/x'], False)
([], False)
(['mesh/apps'], False)
{"ResourceARN": "arn:aws:appmesh:us-east-1:111111111111:mesh/apps", "Tags": [{"Key": "team", "Value": "blue"}, {"Key": "stage", "Value": "test"}]}
[3, 3, 1]
['owner', 'stage', 'team'] ['blue', 'green', 'red'] [''] []
(['mesh/apps'], False)
400 InvalidParameterException: ResourceARNList cannot be used together with filters or pages.
400 InvalidParameterException: ResourcesPerPage and TagsPerPage cannot be used together.
400 InvalidParameterException: TagsPerPage must be from 100 to 500, in steps of 100.
400 InvalidParameterException: appmesh:subnet is no type of resources of App Mesh: use appmesh:mesh, appmesh:virtualNode and so on.
400 InvalidParameterException: The PaginationToken is not one that an answer had.`)
	})
	t.Run("TAG-001 the AWS CLI finds a mesh", func(t *testing.T) {
		got, ok := s.CLI(t, resttest.Root(resttest.AccountA), "resourcegroupstaggingapi", "get-resources", "--tag-filters", "Key=stage,Values=test", "--resource-type-filters", "appmesh:mesh", "--query", "ResourceTagMappingList[].ResourceARN", "--output", "text")
		if !ok || got != "arn:aws:appmesh:us-east-1:111111111111:mesh/apps" {
			t.Error(got)
		}
	})
}

func TestTagsOfManyResources(t *testing.T) {
	t.Parallel()
	data := storetest.New(t)
	kept := &records{}
	s := serve(t, data, resttest.Options{Authorizer: guarded{}, Audit: kept})
	got := s.Python(t, resttest.Root(resttest.AccountA), ground+`
client("appmesh", `+resttest.Root(resttest.AccountB).Text()+`).create_mesh(meshName="foreign")
arn = "arn:aws:appmesh:us-east-1:111111111111:mesh/apps"
def failed(out):
    return sorted((a.split(":", 5)[5], f["StatusCode"], f["ErrorCode"], f["ErrorMessage"]) for a, f in out["FailedResourcesMap"].items())
print(failed(tagging.tag_resources(ResourceARNList=[arn, arn + "/virtualNode/untagged"], Tags=dict(cost="7", team="yellow"))))
print([(t["key"], t["value"]) for t in m.list_tags_for_resource(resourceArn=arn)["tags"]])
print([(t["key"], t["value"]) for t in m.list_tags_for_resource(resourceArn=arn + "/virtualNode/untagged")["tags"]])
for line in failed(tagging.tag_resources(ResourceARNList=[arn, arn + "/virtualNode/none", "arn:aws:ec2:us-east-1:111111111111:instance/i", "arn:aws:appmesh:us-east-1:222222222222:mesh/foreign", arn + "/virtualNode/n"], Tags=dict(late="yes"))):
    print(line)
print([t["key"] for t in m.list_tags_for_resource(resourceArn=arn)["tags"]])
# The rules of App Mesh's own TagResource.
print(failed(tagging.tag_resources(ResourceARNList=[arn], Tags={"t%d" % n: "" for n in range(48)})))
print(failed(tagging.tag_resources(ResourceARNList=[arn], Tags={"aws:x": ""})))
print(failed(tagging.untag_resources(ResourceARNList=[arn, arn + "/virtualNode/n"], TagKeys=["cost", "late", "none"])))
print([t["key"] for t in m.list_tags_for_resource(resourceArn=arn)["tags"]])
print(refusal(tagging.tag_resources, ResourceARNList=[arn], Tags=dict(forbidden="x")))
`)
	t.Run("TAG-001 TAG-002 TAG-003 each resource is tagged by App Mesh's rules, and told of when it is not", func(t *testing.T) {
		same(t, got, `
[]
[('team', 'yellow'), ('stage', 'test'), ('cost', '7')]
[('cost', '7'), ('team', 'yellow')]
('instance/i', 400, 'InvalidParameterException', 'The resourceArn is not valid: "arn:aws:ec2:us-east-1:111111111111:instance/i" is an ARN of service "ec2": want appmesh.')
('mesh/apps/virtualNode/n', 403, 'InvalidParameterException', 'User: arn:aws:iam::111111111111:root is not authorized to perform: appmesh:TagResource on resource: arn:aws:appmesh:us-east-1:111111111111:mesh/apps/virtualNode/n because no identity-based policy allows the appmesh:TagResource action')
('mesh/apps/virtualNode/none', 404, 'InvalidParameterException', 'VirtualNode with name none is not present under mesh apps for account 111111111111')
('mesh/foreign', 403, 'InvalidParameterException', 'User: arn:aws:iam::111111111111:root is not authorized to perform: appmesh:TagResource on resource: arn:aws:appmesh:us-east-1:222222222222:mesh/foreign')
['team', 'stage', 'cost', 'late']
[('mesh/apps', 400, 'InvalidParameterException', 'The resource would have 52 tags; at most 50 are allowed.')]
[('mesh/apps', 400, 'InvalidParameterException', 'The tag key "aws:x" cannot be used: keys that begin with aws: are reserved.')]
[]
['team', 'stage']
400 AccessDeniedException: User: arn:aws:iam::111111111111:root is not authorized to perform: tag:TagResources on resource: * because no identity-based policy allows the tag:TagResources action`)
	})
	t.Run("AUDIT-001 each of them is an event, and so is the whole", func(t *testing.T) {
		want := map[string]int{
			"TagResource": 3, "TagResource BadRequestException": 2, "TagResource TooManyTagsException": 1, "TagResource AccessDeniedException": 1, "TagResource NotFoundException": 1, "TagResource ForbiddenException": 1,
			"UntagResource": 2, "TagResources": 4, "TagResources AccessDeniedException": 1, "UntagResources": 1,
		}
		got := map[string]int{}
		for operation, n := range kept.all {
			if strings.Contains(operation, "agResource") {
				got[operation] = n
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// records counts what is kept of calls.
type records struct {
	mu  sync.Mutex
	all map[string]int
}

func (r *records) note(x service.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[string]int{}
	}
	r.all[strings.TrimSpace(x.Operation+" "+x.Code)]++
}

// Event satisfies service.Auditor.
func (r *records) Event(x service.Record) []byte { r.note(x); return []byte("{}") }

// Append satisfies service.Auditor.
func (r *records) Append(_ context.Context, x service.Record) error { r.note(x); return nil }

// guarded is what roots may do, but for one node, and one tag.
type guarded struct{ auth.Roots }

// Authorize satisfies auth.Authorizer.
func (g guarded) Authorize(ctx context.Context, q auth.Question) error {
	if q.Keys["aws:requesttag/late"] != nil && strings.HasSuffix(q.Resource, "virtualNode/n") || q.Keys["aws:requesttag/forbidden"] != nil {
		return api.Errorf(api.CodeAccessDenied, "User: %s is not authorized to perform: %s on resource: %s because no identity-based policy allows the %s action", q.Principal.ARN, q.Action, q.Resource, q.Action)
	}
	return g.Roots.Authorize(ctx, q)
}

// shared lets accounts into meshes until it ends.
type shared struct{ ended atomic.Bool }

// Shared satisfies rest.Shares.
func (s *shared) Shared(string, api.Key, string) bool { return !s.ended.Load() }

// Meshes satisfies rest.Shares.
func (s *shared) Meshes(string) []api.Key { return nil }

// When a share has ended, what an account left in the mesh is the owner's to read, tags
// as well (SHARE-019).
func TestTagsInASharedMesh(t *testing.T) {
	t.Parallel()
	shares := &shared{}
	s := serve(t, storetest.New(t), resttest.Options{Shares: shares})
	s.Python(t, resttest.Root(resttest.AccountA), `client("appmesh").create_mesh(meshName="apps")`)
	const list = `print([r["ResourceARN"].split(":", 5)[5] for r in client("resourcegroupstaggingapi").get_resources()["ResourceTagMappingList"]])`
	same(t, s.Python(t, resttest.Root(resttest.AccountB), `
client("appmesh").create_virtual_node(meshName="apps", meshOwner="`+resttest.AccountA+`", virtualNodeName="n", spec={}, tags=[dict(key="team", value="blue")])
`+list), "['mesh/apps/virtualNode/n']")
	shares.ended.Store(true)
	same(t, s.Python(t, resttest.Root(resttest.AccountB), list), "[]")
}
