package rest_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/store"
)

// kind is one of the seven in this test: where it is, how it is made, changed
// and listed. before is what must exist first.
type kind struct {
	kind          api.Kind
	before        [][2]string // path, body
	path          string      // of the list and of creation
	name          string
	spec, another string
	arn           string
}

const target = `{"virtualNode": "n", "weight": 1}`

func kindsOfAPI() []kind {
	node := [2]string{meshes + "/apps/virtualNodes", `{"virtualNodeName": "n", "spec": {}}`}
	return []kind{
		{kind: api.KindMesh, path: meshes, name: "books", spec: `{}`, another: `{"egressFilter": {"type": "ALLOW_ALL"}}`, arn: "mesh/books"},
		{kind: api.KindVirtualNode, path: meshes + "/apps/virtualNodes", name: "node_1.x", spec: `{}`, another: `{"backends": []}`, arn: "mesh/apps/virtualNode/node_1.x"},
		{kind: api.KindVirtualRouter, path: meshes + "/apps/virtualRouters", name: "router-1", spec: `{}`, another: `{"listeners": [{"portMapping": {"port": 80, "protocol": "tcp"}}]}`, arn: "mesh/apps/virtualRouter/router-1"},
		{
			kind: api.KindRoute, before: [][2]string{node, {meshes + "/apps/virtualRouters", `{"virtualRouterName": "r", "spec": {}}`}},
			path: meshes + "/apps/virtualRouter/r/routes", name: "route-1",
			spec:    `{"tcpRoute": {"action": {"weightedTargets": [` + target + `]}}}`,
			another: `{"httpRoute": {"action": {"weightedTargets": [` + target + `]}, "match": {"prefix": "/"}}, "priority": 0}`,
			arn:     "mesh/apps/virtualRouter/r/route/route-1",
		},
		{
			kind: api.KindVirtualService, before: [][2]string{node},
			path: meshes + "/apps/virtualServices", name: "Service.apps.local", spec: `{}`,
			another: `{"provider": {"virtualNode": {"virtualNodeName": "n"}}}`, arn: "mesh/apps/virtualService/Service.apps.local",
		},
		{
			kind: api.KindVirtualGateway, path: meshes + "/apps/virtualGateways", name: "gateway", spec: `{"listeners": []}`,
			another: `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}`, arn: "mesh/apps/virtualGateway/gateway",
		},
		{
			kind: api.KindGatewayRoute,
			before: [][2]string{
				{meshes + "/apps/virtualServices", `{"virtualServiceName": "s", "spec": {}}`},
				{meshes + "/apps/virtualGateways", `{"virtualGatewayName": "g", "spec": {"listeners": []}}`},
			},
			path: meshes + "/apps/virtualGateway/g/gatewayRoutes", name: "chapter",
			spec:    `{"httpRoute": {"match": {"prefix": "/"}, "action": {"target": {"virtualService": {"virtualServiceName": "s"}}}}}`,
			another: `{"grpcRoute": {"match": {"serviceName": "books"}, "action": {"target": {"virtualService": {"virtualServiceName": "s"}}}}}`,
			arn:     "mesh/apps/virtualGateway/g/gatewayRoute/chapter",
		},
	}
}

// The life of a resource is the same for all kinds.
func TestKinds(t *testing.T) {
	t.Parallel()
	arns := map[api.Kind]string{
		api.KindMesh: "API-013", api.KindVirtualService: "API-014", api.KindVirtualNode: "API-015", api.KindVirtualRouter: "API-016",
		api.KindRoute: "API-017", api.KindVirtualGateway: "API-018", api.KindGatewayRoute: "API-019",
	}
	for _, k := range kindsOfAPI() {
		t.Run(string(k.kind), func(t *testing.T) {
			t.Parallel()
			s := serve(t, nil)
			s.mesh(t)
			for _, b := range k.before {
				s.do(t, "PUT", b[0], b[1]).ok(t)
			}
			row, _ := k.kind.Row()
			create := fmt.Sprintf(`{%q: %q, "spec": %s, "tags": [{"key": "a", "value": "1"}]}`, row.Name, k.name, k.spec)
			one := k.path + "/" + k.name
			var made map[string]any
			t.Run("API-006 API-007 created", func(t *testing.T) {
				made = s.do(t, "PUT", k.path, create).ok(t)
				checkMade(t, s, row, k, made)
			})
			t.Run(arns[k.kind]+" its ARN", func(t *testing.T) {
				if got, want := at(made, "metadata", "arn"), "arn:aws:appmesh:us-east-1:"+accountA+":"+k.arn; got != want {
					t.Errorf("got %v, want %s", got, want)
				}
			})
			t.Run("TAG-001 API-032 tagged with its creation, and by its ARN", func(t *testing.T) {
				query := "?resourceArn=" + url.QueryEscape(fmt.Sprint(at(made, "metadata", "arn")))
				s.do(t, "PUT", "/v20190125/tag"+query, `{"tags": [{"key": "b", "value": "2"}, {"key": "c", "value": "3"}]}`).ok(t)
				s.do(t, "PUT", "/v20190125/untag"+query, `{"tagKeys": ["b"]}`).ok(t)
				if a := s.do(t, "GET", "/v20190125/tags"+query, ""); string(a.body) != `{"tags":[{"key":"a","value":"1"},{"key":"c","value":"3"}]}` {
					t.Errorf("got %s", a.body)
				}
			})
			t.Run("API-034 its name is taken", func(t *testing.T) {
				if a := s.do(t, "PUT", k.path, create); a.status != 409 || a.header.Get("X-Amzn-ErrorType") != "ConflictException" {
					t.Errorf("got %d %s", a.status, a.body)
				}
			})
			t.Run("API-023 described at once", func(t *testing.T) {
				if diff := cmp.Diff(made, s.do(t, "GET", one, "").ok(t)); diff != "" {
					t.Error(diff)
				}
			})
			t.Run("API-010 API-044 updated, whole, also to the same", func(t *testing.T) {
				for version := 2; version < 4; version++ {
					now := s.do(t, "PUT", one, `{"spec": `+k.another+`}`).ok(t)
					checkUpdated(t, k, made, now, fmt.Sprint(version))
				}
			})
			t.Run("listed", func(t *testing.T) {
				now := s.do(t, "GET", one, "").ok(t)
				checkListed(t, s, row, k, now)
			})
			t.Run("API-008 API-009 deleted", func(t *testing.T) {
				before := s.do(t, "GET", one, "").ok(t)
				checkDeleted(t, k, before, s.do(t, "DELETE", one, "").ok(t))
			})
			t.Run("API-034 API-046 gone", func(t *testing.T) {
				for _, method := range []string{"DELETE", "GET", "PUT"} {
					body := ""
					if method == "PUT" {
						body = `{"spec": ` + k.spec + `}`
					}
					if a := s.do(t, method, one, body); a.status != 404 || a.header.Get("X-Amzn-ErrorType") != "NotFoundException" {
						t.Errorf("%s: got %d %s", method, a.status, a.body)
					}
				}
			})
			t.Run("API-011 created again it is another", func(t *testing.T) {
				again := s.do(t, "PUT", k.path, create).ok(t)
				if at(again, "metadata", "uid") == at(made, "metadata", "uid") || fmt.Sprint(at(again, "metadata", "version")) != "1" {
					t.Errorf("got %v, was %v", at(again, "metadata"), at(made, "metadata"))
				}
			})
		})
	}
}

func checkMade(t *testing.T, s *server, row api.KindRow, k kind, made map[string]any) {
	t.Helper()
	if id, _ := at(made, "metadata", "uid").(string); uuid.Validate(id) != nil {
		t.Errorf("uid %q is no UUID", id)
	}
	created := at(made, "metadata", "createdAt")
	mesh := "apps"
	if k.kind == api.KindMesh {
		mesh = k.name
	}
	want := map[string]any{
		"meshName": mesh, row.Name: k.name, "spec": decode(t, []byte(k.spec)), "status": map[string]any{"status": "ACTIVE"},
		"metadata": map[string]any{
			"arn": at(made, "metadata", "arn"), "uid": at(made, "metadata", "uid"), "createdAt": created, "lastUpdatedAt": created,
			"meshOwner": accountA, "resourceOwner": accountA, "version": decode(t, []byte(`{"v": 1}`))["v"],
		},
	}
	switch k.kind {
	case api.KindRoute:
		want["virtualRouterName"] = "r"
	case api.KindGatewayRoute:
		want["virtualGatewayName"] = "g"
	}
	if diff := cmp.Diff(want, made); diff != "" {
		t.Error(diff)
	}
}

func checkUpdated(t *testing.T, k kind, made, now map[string]any, version string) {
	t.Helper()
	was, is := at(made, "metadata").(map[string]any), at(now, "metadata").(map[string]any)
	if fmt.Sprint(is["version"]) != version || is["uid"] != was["uid"] || is["createdAt"] != was["createdAt"] || !later(is["lastUpdatedAt"], was["lastUpdatedAt"]) {
		t.Errorf("was %v\nis  %v", was, is)
	}
	if diff := cmp.Diff(decode(t, []byte(k.another)), now["spec"]); diff != "" {
		t.Error(diff)
	}
}

func checkListed(t *testing.T, s *server, row api.KindRow, k kind, now map[string]any) {
	t.Helper()
	list, _ := s.do(t, "GET", k.path, "").ok(t)[row.List].([]any)
	want := map[string]any{"meshName": now["meshName"], row.Name: k.name}
	for name, v := range at(now, "metadata").(map[string]any) {
		if name != "uid" {
			want[name] = v
		}
	}
	for _, parent := range []string{"virtualRouterName", "virtualGatewayName"} {
		if now[parent] != nil {
			want[parent] = now[parent]
		}
	}
	for _, item := range list {
		if at(item, row.Name) == k.name {
			if diff := cmp.Diff(want, item); diff != "" {
				t.Error(diff)
			}
			return
		}
	}
	t.Errorf("%s is not in %v", k.name, list)
}

func checkDeleted(t *testing.T, k kind, before, gone map[string]any) {
	t.Helper()
	version := decode(t, []byte(`{"v": 4}`))["v"]
	if k.kind == api.KindMesh {
		version = at(before, "metadata", "version")
	}
	if !later(at(gone, "metadata", "lastUpdatedAt"), at(before, "metadata", "lastUpdatedAt")) {
		t.Errorf("deleted at %v, updated at %v", at(gone, "metadata", "lastUpdatedAt"), at(before, "metadata", "lastUpdatedAt"))
	}
	before["status"] = map[string]any{"status": "DELETED"}
	metadata := at(before, "metadata").(map[string]any)
	metadata["version"], metadata["lastUpdatedAt"] = version, at(gone, "metadata", "lastUpdatedAt")
	if diff := cmp.Diff(before, gone); diff != "" {
		t.Error(diff)
	}
}

func later(a, b any) bool {
	var x, y float64
	fmt.Sscan(fmt.Sprint(a), &x)
	fmt.Sscan(fmt.Sprint(b), &y)
	return x > y
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	t.Run("API-005 a mesh without spec has an empty one", func(t *testing.T) {
		got := s.do(t, "PUT", meshes, `{"meshName": "apps"}`).ok(t)
		if diff := cmp.Diff(map[string]any{}, got["spec"]); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("API-012 times are numbers of seconds with milliseconds", func(t *testing.T) {
		got := s.do(t, "GET", meshes+"/apps", "").ok(t)
		if created, want := fmt.Sprint(at(got, "metadata", "createdAt")), fmt.Sprintf("%d.05", time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Unix()); created[len(created)-3:] != want[len(want)-3:] || len(created) != len(want) {
			t.Errorf("got %s, want something like %s", created, want)
		}
	})
	t.Run("API-047 a request id, on errors too", func(t *testing.T) {
		for _, path := range []string{"/apps", "/none", "/../none"} {
			if id := s.do(t, "GET", meshes+path, "").header.Get("X-Amzn-Requestid"); uuid.Validate(id) != nil {
				t.Errorf("%s: request id %q", path, id)
			}
		}
	})
	t.Run("API-037 API-038 what was sent comes back and nothing else", func(t *testing.T) {
		sent := `{"backends": [], "listeners": [{"portMapping": {"port": 80, "protocol": "http"}, "healthCheck": {"protocol": "http", "path": "/<a>&\u2028é", "healthyThreshold": 2, "unhealthyThreshold": 2, "intervalMillis": 5000, "timeoutMillis": 2000}}], "logging": {}, "backendDefaults": {"clientPolicy": {}}}`
		made := s.do(t, "PUT", meshes+"/apps/virtualNodes", `{"virtualNodeName": "n", "spec": `+sent+`}`).ok(t)
		for _, got := range []map[string]any{made, s.do(t, "GET", meshes+"/apps/virtualNodes/n", "").ok(t)} {
			if diff := cmp.Diff(decode(t, []byte(sent)), got["spec"]); diff != "" {
				t.Error(diff)
			}
		}
	})
	t.Run("unknown and null members are ignored", func(t *testing.T) {
		got := s.do(t, "PUT", meshes+"/apps/virtualNodes", `{"virtualNodeName": "m", "unknown": 1, "spec": {"Listeners": [{}], "backends": null, "logging": {"accessLog": {"file": {"path": "/dev/stdout", "color": true}}}}}`).ok(t)
		if diff := cmp.Diff(decode(t, []byte(`{"logging": {"accessLog": {"file": {"path": "/dev/stdout"}}}}`)), got["spec"]); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("API-029 the owner's account may be given", func(t *testing.T) {
		s.do(t, "GET", meshes+"/apps?meshOwner="+accountA, "").ok(t)
		s.do(t, "GET", meshes+"/apps/virtualNodes?meshOwner="+accountA, "").ok(t)
		s.do(t, "GET", meshes+"/apps?meshOwner=1", "").refused(t, 400, "BadRequestException", "1 validation error detected: Value '1' at 'meshOwner' failed to satisfy constraint: Member must have length greater than or equal to 12")
	})
	t.Run("API-029 another account's mesh is forbidden", func(t *testing.T) {
		s.do(t, "GET", meshes+"/apps?meshOwner="+accountB, "").refused(t, 403, "ForbiddenException", "User: arn:aws:iam::111111111111:root is not authorized to perform: appmesh:DescribeMesh on resource: arn:aws:appmesh:us-east-1:222222222222:mesh/apps")
	})
	t.Run("nobody deletes another account's mesh", func(t *testing.T) {
		s.as(t, accountB, "DELETE", meshes+"/apps?meshOwner="+accountA, "").refused(t, 404, "NotFoundException", "Mesh with name apps is not present for account 222222222222")
	})
	t.Run("VG-009 a gateway's listener does not trust ACM", func(t *testing.T) {
		s.do(t, "PUT", meshes+"/apps/virtualGateways", `{"virtualGatewayName": "g", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}, "tls": {"mode": "STRICT", "certificate": {"sds": {"secretName": "s"}}, "validation": {"trust": {"acm": {"certificateAuthorityArns": ["a"]}}}}}]}}`).
			refused(t, 400, "BadRequestException", "One type of TLS Validation Context Trust must be set.")
	})
	t.Run("a member of the wrong type, with its path", func(t *testing.T) {
		s.do(t, "PUT", meshes+"/apps/virtualNodes", `{"virtualNodeName": "x", "spec": {"listeners": [{"portMapping": {"port": "80", "protocol": "http"}}]}}`).
			refused(t, 400, "BadRequestException", "1 validation error detected: Value at 'spec.listeners.1.member.portMapping.port' failed to satisfy constraint: Member must be a number")
	})
}

// An account's resource in another account's mesh keeps both in its answers.
func TestSharedMesh(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.mesh(t)
	key := api.Key{Owner: accountA, Mesh: "apps", Kind: api.KindVirtualService, Name: "s"}
	_, err := s.store.Update(t.Context(), []store.Scope{store.MeshScope(accountA, "apps")}, func(tx *store.Tx) error {
		tx.Put(&api.Resource{Key: key, UID: uuid.NewString(), Version: 1, Created: s.clock.Now(), Updated: s.clock.Now(), Owner: accountB, Document: []byte(`{}`), Spec: &api.VirtualServiceSpec{}})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("API-020 both owners and the resource owner's ARN", func(t *testing.T) {
		metadata := at(s.do(t, "GET", meshes+"/apps/virtualServices/s", "").ok(t), "metadata")
		if at(metadata, "meshOwner") != accountA || at(metadata, "resourceOwner") != accountB || at(metadata, "arn") != "arn:aws:appmesh:us-east-1:222222222222:mesh/apps/virtualService/s" {
			t.Errorf("got %v", metadata)
		}
	})
	t.Run("the mesh's owner deletes what another account owns", func(t *testing.T) {
		gone := s.do(t, "DELETE", meshes+"/apps/virtualServices/s", "").ok(t)
		if at(gone, "status", "status") != "DELETED" || at(gone, "metadata", "resourceOwner") != accountB {
			t.Errorf("got %v", gone)
		}
	})
}

func TestRealm(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *rest.Config) { c.Realm = api.Realm{Partition: "aws-cn", Region: "cn-north-1"} })
	t.Run("API-021 another partition and region", func(t *testing.T) {
		got := s.do(t, "PUT", meshes, `{"meshName": "apps"}`).ok(t)
		if arn := at(got, "metadata", "arn"); arn != "arn:aws-cn:appmesh:cn-north-1:111111111111:mesh/apps" {
			t.Errorf("got %v", arn)
		}
		s.do(t, "GET", "/v20190125/tags?resourceArn=arn:aws:appmesh:us-east-1:111111111111:mesh/apps", "").
			refused(t, 400, "BadRequestException", `The resourceArn "arn:aws:appmesh:us-east-1:111111111111:mesh/apps" is of partition aws and region us-east-1; this control plane is aws-cn and cn-north-1.`)
	})
}

// Two accounts with equal names know nothing of each other.
func TestAccounts(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	for _, account := range []string{accountA, accountB} {
		s.as(t, account, "PUT", meshes, `{"meshName": "apps", "clientToken": "t"}`).ok(t)
		s.as(t, account, "PUT", meshes+"/apps/virtualNodes", `{"virtualNodeName": "n", "clientToken": "u", "spec": {"logging": {"accessLog": {"file": {"path": "/`+account+`"}}}}}`).ok(t)
	}
	s.as(t, accountA, "PUT", meshes+"/apps/virtualNodes", `{"virtualNodeName": "only-a", "spec": {}}`).ok(t)
	for _, account := range []string{accountA, accountB} {
		got := s.as(t, account, "GET", meshes+"/apps/virtualNodes/n", "").ok(t)
		if path := at(got, "spec", "logging", "accessLog", "file", "path"); path != "/"+account || at(got, "metadata", "meshOwner") != account {
			t.Errorf("%s sees %v", account, got)
		}
		if list := s.as(t, account, "GET", meshes, "").ok(t)["meshes"].([]any); len(list) != 1 || at(list[0], "meshOwner") != account {
			t.Errorf("%s sees the meshes %v", account, list)
		}
	}
	if list := s.as(t, accountB, "GET", meshes+"/apps/virtualNodes", "").ok(t)["virtualNodes"].([]any); len(list) != 1 {
		t.Errorf("B sees the nodes %v", list)
	}
	s.as(t, accountB, "DELETE", meshes+"/apps/virtualNodes/n", "").ok(t)
	s.as(t, accountB, "DELETE", meshes+"/apps", "").ok(t)
	s.do(t, "GET", meshes+"/apps/virtualNodes/n", "").ok(t)
	s.as(t, accountB, "PUT", "/v20190125/tag?resourceArn=arn:aws:appmesh:us-east-1:111111111111:mesh/apps", `{"tags": [{"key": "k", "value": "v"}]}`).
		refused(t, 403, "ForbiddenException", "User: arn:aws:iam::222222222222:root is not authorized to perform: appmesh:TagResource on resource: arn:aws:appmesh:us-east-1:111111111111:mesh/apps")
}
