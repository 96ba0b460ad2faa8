package compat

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
)

// step is one call: its input, and what must be in the output, or the error
// after an exclamation mark, "!ConflictException 409 text". $M is the client's
// mesh, $A the account, $ARN the beginning of its ARNs.
type step struct{ name, operation, in, want string }

// fortyNine are as many tags.
var fortyNine = func() string {
	tags := make([]string, 49)
	for i := range tags {
		tags[i] = fmt.Sprintf(`{"key": "k%d", "value": ""}`, i)
	}
	return strings.Join(tags, ", ")
}()

// story is the user guide's: a service is called, gets a second version, traffic
// shifts; a gateway lets outsiders in; everything is taken down again. It runs
// every operation of the API at least once.
var story = []step{
	{"API-005 API-007 a mesh without a spec", "CreateMesh", `{"meshName": "$M"}`, `{"mesh": {"meshName": "$M", "spec": {}, "status": {"status": "ACTIVE"}, "metadata": {"arn": "$ARN", "version": 1, "meshOwner": "$A", "resourceOwner": "$A"}}}`},
	{"API-034 its name is taken", "CreateMesh", `{"meshName": "$M"}`, `!ConflictException 409 Mesh with name $M already exists for account $A`},
	{"API-010 its egress filter", "UpdateMesh", `{"meshName": "$M", "spec": {"egressFilter": {"type": "ALLOW_ALL"}}}`, `{"mesh": {"spec": {"egressFilter": {"type": "ALLOW_ALL"}}, "metadata": {"version": 2}}}`},
	{"API-023 described", "DescribeMesh", `{"meshName": "$M"}`, `{"mesh": {"meshName": "$M", "spec": {"egressFilter": {"type": "ALLOW_ALL"}}, "status": {"status": "ACTIVE"}, "metadata": {"version": 2}}}`},
	{"API-044 an update leaves nothing of the spec before", "UpdateMesh", `{"meshName": "$M", "spec": {"serviceDiscovery": {"ipPreference": "IPv4_ONLY"}}}`, `{"mesh": {"spec": {"serviceDiscovery": {"ipPreference": "IPv4_ONLY"}}, "metadata": {"version": 3}}}`},
	{"API-034 another mesh does not exist", "DescribeMesh", `{"meshName": "$M-none"}`, `!NotFoundException 404 Mesh with name $M-none is not present for account $A`},
	{"API-029 the mesh of another account", "DescribeMesh", `{"meshName": "$M", "meshOwner": "999999999999"}`, `!ForbiddenException 403 User: arn:aws:iam::$A:root is not authorized to perform: appmesh:DescribeMesh on resource: arn:aws:appmesh:us-east-1:999999999999:mesh/$M`},
	{"API-045 an ARN for a name", "DescribeMesh", `{"meshName": "$ARN"}`, `!BadRequestException 400 The meshName "$ARN" holds a slash: give the resource's name, not its ARN.`},

	{"VS-001 API-014 a virtual service without provider", "CreateVirtualService", `{"meshName": "$M", "virtualServiceName": "serviceb.apps.local", "spec": {}}`, `{"virtualService": {"meshName": "$M", "virtualServiceName": "serviceb.apps.local", "spec": {}, "status": {"status": "ACTIVE"}, "metadata": {"arn": "$ARN/virtualService/serviceb.apps.local", "version": 1}}}`},
	{"VN-037 API-022 a node", "CreateVirtualNode", `{"meshName": "$M", "virtualNodeName": "serviceBv1", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}], "serviceDiscovery": {"dns": {"hostname": "serviceBv1.apps.local"}}}}`, `{"virtualNode": {"meshName": "$M", "virtualNodeName": "serviceBv1", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}], "serviceDiscovery": {"dns": {"hostname": "serviceBv1.apps.local"}}}, "metadata": {"arn": "$ARN/virtualNode/serviceBv1"}}}`},
	{"VN-004 discovery without a listener", "CreateVirtualNode", `{"meshName": "$M", "virtualNodeName": "deaf", "spec": {"serviceDiscovery": {"dns": {"hostname": "deaf.apps.local"}}}}`, `!BadRequestException 400 Service Discovery can't be set without a listener.`},
	{"API-016 VR-011 a router before its routes", "CreateVirtualRouter", `{"meshName": "$M", "virtualRouterName": "serviceB", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}]}}`, `{"virtualRouter": {"virtualRouterName": "serviceB", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}]}, "metadata": {"arn": "$ARN/virtualRouter/serviceB"}}}`},
	{"RT-011 a route to a node that does not exist", "CreateRoute", `{"meshName": "$M", "virtualRouterName": "serviceB", "routeName": "route", "spec": {"httpRoute": {"action": {"weightedTargets": [{"virtualNode": "serviceBv0", "weight": 1}]}, "match": {"prefix": "/"}}}}`, `!NotFoundException 404 VirtualNode with name serviceBv0 is missing`},
	{"API-017 API-037 a route comes back as sent", "CreateRoute", `{"meshName": "$M", "virtualRouterName": "serviceB", "routeName": "route", "spec": {"priority": 0, "httpRoute": {"action": {"weightedTargets": [{"virtualNode": "serviceBv1", "weight": 100}]}, "match": {"prefix": "/", "headers": [{"name": "clientRequestId", "invert": false, "match": {"prefix": "123"}}, {"name": "n", "match": {"range": {"start": -1, "end": 10}}}]}, "retryPolicy": {"maxRetries": 3, "perRetryTimeout": {"unit": "s", "value": 15}, "httpRetryEvents": ["server-error"], "tcpRetryEvents": ["connection-error"]}, "timeout": {"perRequest": {"unit": "ms", "value": 0}}}}}`, `{"route": {"routeName": "route", "virtualRouterName": "serviceB", "spec": {"priority": 0, "httpRoute": {"action": {"weightedTargets": [{"virtualNode": "serviceBv1", "weight": 100}]}, "match": {"prefix": "/", "headers": [{"name": "clientRequestId", "invert": false, "match": {"prefix": "123"}}, {"name": "n", "match": {"range": {"start": -1, "end": 10}}}]}, "retryPolicy": {"maxRetries": 3, "perRetryTimeout": {"unit": "s", "value": 15}, "httpRetryEvents": ["server-error"], "tcpRetryEvents": ["connection-error"]}, "timeout": {"perRequest": {"unit": "ms", "value": 0}}}}, "metadata": {"arn": "$ARN/virtualRouter/serviceB/route/route", "version": 1}}}`},
	{"VS-018 a provider that does not exist", "UpdateVirtualService", `{"meshName": "$M", "virtualServiceName": "serviceb.apps.local", "spec": {"provider": {"virtualRouter": {"virtualRouterName": "none"}}}}`, `!NotFoundException 404 VirtualRouter with name none is missing`},
	{"VS-004 a provider later", "UpdateVirtualService", `{"meshName": "$M", "virtualServiceName": "serviceb.apps.local", "spec": {"provider": {"virtualRouter": {"virtualRouterName": "serviceB"}}}}`, `{"virtualService": {"spec": {"provider": {"virtualRouter": {"virtualRouterName": "serviceB"}}}, "metadata": {"version": 2}}}`},
	{"a caller with backends, one of them by ARN and not there", "CreateVirtualNode", `{"meshName": "$M", "virtualNodeName": "serviceA", "tags": [{"key": "team", "value": "a"}, {"key": "art", "value": ""}], "spec": {"listeners": [{"portMapping": {"port": 8080, "protocol": "http"}, "timeout": {"http": {"idle": {"unit": "s", "value": 1}}}, "connectionPool": {"http": {"maxConnections": 5}}, "outlierDetection": {"maxServerErrors": 5, "interval": {"unit": "s", "value": 10}, "baseEjectionDuration": {"unit": "s", "value": 10}, "maxEjectionPercent": 50}, "healthCheck": {"protocol": "http", "path": "/ping", "healthyThreshold": 2, "unhealthyThreshold": 2, "intervalMillis": 5000, "timeoutMillis": 2000}}], "backends": [{"virtualService": {"virtualServiceName": "serviceb.apps.local"}}, {"virtualService": {"virtualServiceName": "$ARN/virtualService/later"}}], "logging": {"accessLog": {"file": {"path": "/dev/stdout"}}}, "serviceDiscovery": {"awsCloudMap": {"namespaceName": "apps", "serviceName": "serviceA"}}}}`, `{"virtualNode": {"spec": {"listeners": [{"portMapping": {"port": 8080, "protocol": "http"}, "timeout": {"http": {"idle": {"unit": "s", "value": 1}}}, "connectionPool": {"http": {"maxConnections": 5}}, "outlierDetection": {"maxServerErrors": 5, "interval": {"unit": "s", "value": 10}, "baseEjectionDuration": {"unit": "s", "value": 10}, "maxEjectionPercent": 50}, "healthCheck": {"protocol": "http", "path": "/ping", "healthyThreshold": 2, "unhealthyThreshold": 2, "intervalMillis": 5000, "timeoutMillis": 2000}}], "backends": [{"virtualService": {"virtualServiceName": "serviceb.apps.local"}}, {"virtualService": {"virtualServiceName": "$ARN/virtualService/later"}}], "logging": {"accessLog": {"file": {"path": "/dev/stdout"}}}, "serviceDiscovery": {"awsCloudMap": {"namespaceName": "apps", "serviceName": "serviceA"}}}}}`},
	{"API-032 tags in the order of insertion", "ListTagsForResource", `{"resourceArn": "$ARN/virtualNode/serviceA"}`, `{"tags": [{"key": "team", "value": "a"}, {"key": "art", "value": ""}]}`},
	{"a tag replaced, another added", "TagResource", `{"resourceArn": "$ARN/virtualNode/serviceA", "tags": [{"key": "team", "value": "b"}, {"key": "new", "value": "1"}]}`, `{}`},
	{"a tag removed", "UntagResource", `{"resourceArn": "$ARN/virtualNode/serviceA", "tagKeys": ["art"]}`, `{}`},
	{"the tags then", "ListTagsForResource", `{"resourceArn": "$ARN/virtualNode/serviceA"}`, `{"tags": [{"key": "team", "value": "b"}, {"key": "new", "value": "1"}]}`},
	{"TAG-002 too many tags", "TagResource", `{"resourceArn": "$ARN/virtualNode/serviceA", "tags": [` + fortyNine + `]}`, `!TooManyTagsException 400 The resource would have 51 tags; at most 50 are allowed.`},
	{"TAG-005 a description holds no tags", "DescribeVirtualNode", `{"meshName": "$M", "virtualNodeName": "serviceA"}`, `{"virtualNode": {"virtualNodeName": "serviceA", "metadata": {"version": 1}}}`},
	{"a second version", "CreateVirtualNode", `{"meshName": "$M", "virtualNodeName": "serviceBv2", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}], "serviceDiscovery": {"dns": {"hostname": "serviceBv2.apps.local"}}}}`, `{"virtualNode": {"metadata": {"version": 1}}}`},
	{"RT-004 another kind of route, another split", "UpdateRoute", `{"meshName": "$M", "virtualRouterName": "serviceB", "routeName": "route", "spec": {"http2Route": {"action": {"weightedTargets": [{"virtualNode": "serviceBv1", "weight": 75}, {"virtualNode": "serviceBv2", "weight": 25}]}, "match": {"prefix": "/"}}}}`, `{"route": {"spec": {"http2Route": {"action": {"weightedTargets": [{"virtualNode": "serviceBv1", "weight": 75}, {"virtualNode": "serviceBv2", "weight": 25}]}, "match": {"prefix": "/"}}}, "metadata": {"version": 2}}}`},
	{"a weight of nothing is kept", "UpdateRoute", `{"meshName": "$M", "virtualRouterName": "serviceB", "routeName": "route", "spec": {"http2Route": {"action": {"weightedTargets": [{"virtualNode": "serviceBv1", "weight": 0}, {"virtualNode": "serviceBv2", "weight": 100}]}, "match": {"prefix": "/"}}}}`, `{"route": {"spec": {"http2Route": {"action": {"weightedTargets": [{"virtualNode": "serviceBv1", "weight": 0}, {"virtualNode": "serviceBv2", "weight": 100}]}, "match": {"prefix": "/"}}}, "metadata": {"version": 3}}}`},
	{"another host name", "UpdateVirtualNode", `{"meshName": "$M", "virtualNodeName": "serviceBv2", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}], "serviceDiscovery": {"dns": {"hostname": "v2.apps.local"}}}}`, `{"virtualNode": {"spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}], "serviceDiscovery": {"dns": {"hostname": "v2.apps.local"}}}, "metadata": {"version": 2}}}`},
	{"VR-009 a second listener where the route lacks a port", "UpdateVirtualRouter", `{"meshName": "$M", "virtualRouterName": "serviceB", "spec": {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}, {"portMapping": {"port": 81, "protocol": "http2"}}]}}`, `!BadRequestException 400 All Routes for this Virtual Router must define a port match before adding multiple listeners to this Virtual Router. 1 Route(s) are missing port. Listing up to 5 route names: [route]`},
	{"another listener", "UpdateVirtualRouter", `{"meshName": "$M", "virtualRouterName": "serviceB", "spec": {"listeners": [{"portMapping": {"port": 81, "protocol": "http2"}}]}}`, `{"virtualRouter": {"spec": {"listeners": [{"portMapping": {"port": 81, "protocol": "http2"}}]}, "metadata": {"version": 2}}}`},
	{"API-023 a service described", "DescribeVirtualService", `{"meshName": "$M", "virtualServiceName": "serviceb.apps.local"}`, `{"virtualService": {"virtualServiceName": "serviceb.apps.local", "metadata": {"version": 2}}}`},
	{"API-023 a router described", "DescribeVirtualRouter", `{"meshName": "$M", "virtualRouterName": "serviceB"}`, `{"virtualRouter": {"virtualRouterName": "serviceB", "metadata": {"version": 2}}}`},
	{"API-023 a route described", "DescribeRoute", `{"meshName": "$M", "virtualRouterName": "serviceB", "routeName": "route"}`, `{"route": {"routeName": "route", "virtualRouterName": "serviceB", "metadata": {"version": 3}}}`},

	{"API-018 VG-002 a gateway", "CreateVirtualGateway", `{"meshName": "$M", "virtualGatewayName": "gateway", "spec": {"listeners": [{"portMapping": {"port": 8080, "protocol": "http"}, "connectionPool": {"http": {"maxConnections": 10, "maxPendingRequests": 20}}}]}}`, `{"virtualGateway": {"virtualGatewayName": "gateway", "spec": {"listeners": [{"portMapping": {"port": 8080, "protocol": "http"}, "connectionPool": {"http": {"maxConnections": 10, "maxPendingRequests": 20}}}]}, "metadata": {"arn": "$ARN/virtualGateway/gateway"}}}`},
	{"API-019 GR-004 a gateway route", "CreateGatewayRoute", `{"meshName": "$M", "virtualGatewayName": "gateway", "gatewayRouteName": "chapter", "spec": {"httpRoute": {"match": {"prefix": "/chapter"}, "action": {"target": {"virtualService": {"virtualServiceName": "serviceb.apps.local"}}, "rewrite": {"hostname": {"defaultTargetHostname": "DISABLED"}, "prefix": {"value": "/kept/"}}}}}}`, `{"gatewayRoute": {"gatewayRouteName": "chapter", "virtualGatewayName": "gateway", "spec": {"httpRoute": {"match": {"prefix": "/chapter"}, "action": {"target": {"virtualService": {"virtualServiceName": "serviceb.apps.local"}}, "rewrite": {"hostname": {"defaultTargetHostname": "DISABLED"}, "prefix": {"value": "/kept/"}}}}}, "metadata": {"arn": "$ARN/virtualGateway/gateway/gatewayRoute/chapter"}}}`},
	{"GR-010 a reserved prefix", "UpdateGatewayRoute", `{"meshName": "$M", "virtualGatewayName": "gateway", "gatewayRouteName": "chapter", "spec": {"httpRoute": {"match": {"prefix": "/aws-appmesh"}, "action": {"target": {"virtualService": {"virtualServiceName": "serviceb.apps.local"}}}}}}`, `!BadRequestException 400 The match's path "/aws-appmesh" cannot be used: paths that begin with /aws-appmesh are reserved.`},
	{"the gateway route changed", "UpdateGatewayRoute", `{"meshName": "$M", "virtualGatewayName": "gateway", "gatewayRouteName": "chapter", "spec": {"priority": 1000, "grpcRoute": {"match": {"serviceName": "books"}, "action": {"target": {"virtualService": {"virtualServiceName": "serviceb.apps.local"}}}}}}`, `{"gatewayRoute": {"spec": {"priority": 1000, "grpcRoute": {"match": {"serviceName": "books"}, "action": {"target": {"virtualService": {"virtualServiceName": "serviceb.apps.local"}}}}}, "metadata": {"version": 2}}}`},
	{"API-023 the gateway route described", "DescribeGatewayRoute", `{"meshName": "$M", "virtualGatewayName": "gateway", "gatewayRouteName": "chapter"}`, `{"gatewayRoute": {"metadata": {"version": 2}}}`},
	{"the gateway changed", "UpdateVirtualGateway", `{"meshName": "$M", "virtualGatewayName": "gateway", "spec": {"listeners": [{"portMapping": {"port": 8081, "protocol": "http"}}], "logging": {"accessLog": {"file": {"path": "/dev/stdout"}}}}}`, `{"virtualGateway": {"spec": {"listeners": [{"portMapping": {"port": 8081, "protocol": "http"}}], "logging": {"accessLog": {"file": {"path": "/dev/stdout"}}}}, "metadata": {"version": 2}}}`},
	{"API-023 the gateway described", "DescribeVirtualGateway", `{"meshName": "$M", "virtualGatewayName": "gateway"}`, `{"virtualGateway": {"virtualGatewayName": "gateway", "metadata": {"version": 2}}}`},

	{"meshes listed", "ListMeshes", `{}`, `{"meshes": [{"meshName": "$M", "arn": "$ARN", "meshOwner": "$A", "resourceOwner": "$A", "version": 3}]}`},
	{"services listed", "ListVirtualServices", `{"meshName": "$M"}`, `{"virtualServices": [{"virtualServiceName": "serviceb.apps.local", "meshName": "$M"}]}`},
	{"nodes listed by name", "ListVirtualNodes", `{"meshName": "$M"}`, `{"virtualNodes": [{"virtualNodeName": "serviceA"}, {"virtualNodeName": "serviceBv1"}, {"virtualNodeName": "serviceBv2"}]}`},
	{"routers listed", "ListVirtualRouters", `{"meshName": "$M"}`, `{"virtualRouters": [{"virtualRouterName": "serviceB"}]}`},
	{"routes listed", "ListRoutes", `{"meshName": "$M", "virtualRouterName": "serviceB"}`, `{"routes": [{"routeName": "route", "virtualRouterName": "serviceB", "version": 3}]}`},
	{"gateways listed", "ListVirtualGateways", `{"meshName": "$M"}`, `{"virtualGateways": [{"virtualGatewayName": "gateway"}]}`},
	{"gateway routes listed", "ListGatewayRoutes", `{"meshName": "$M", "virtualGatewayName": "gateway"}`, `{"gatewayRoutes": [{"gatewayRouteName": "chapter", "virtualGatewayName": "gateway"}]}`},

	{"MESH-009 MESH-011 the mesh is in use", "DeleteMesh", `{"meshName": "$M"}`, `!ResourceInUseException 409 Mesh $M for account $A has active VirtualServices, please delete VirtualServices before deleting the Mesh`},
	{"VS-012 the service is in use", "DeleteVirtualService", `{"meshName": "$M", "virtualServiceName": "serviceb.apps.local"}`, `!ResourceInUseException 409 VirtualService serviceb.apps.local is being referenced in the following: GATEWAY_ROUTE: [gateway/chapter]`},
	{"VG-016 the gateway is in use", "DeleteVirtualGateway", `{"meshName": "$M", "virtualGatewayName": "gateway"}`, `!ResourceInUseException 409 VirtualGateway you're trying to delete gateway has active gateway routes`},
	{"VR-007 the router is in use", "DeleteVirtualRouter", `{"meshName": "$M", "virtualRouterName": "serviceB"}`, `!ResourceInUseException 409 VirtualRouter you're trying to delete serviceB has active routes`},
	{"VN-032 the node is in use", "DeleteVirtualNode", `{"meshName": "$M", "virtualNodeName": "serviceBv1"}`, `!ResourceInUseException 409 VirtualNode serviceBv1 is being referenced in the following: ROUTE: [serviceB/route]`},
	{"API-008 API-009 the gateway route goes", "DeleteGatewayRoute", `{"meshName": "$M", "virtualGatewayName": "gateway", "gatewayRouteName": "chapter"}`, `{"gatewayRoute": {"spec": {"priority": 1000, "grpcRoute": {"match": {"serviceName": "books"}, "action": {"target": {"virtualService": {"virtualServiceName": "serviceb.apps.local"}}}}}, "status": {"status": "DELETED"}, "metadata": {"version": 3}}}`},
	{"API-046 and its gateway at once", "DeleteVirtualGateway", `{"meshName": "$M", "virtualGatewayName": "gateway"}`, `{"virtualGateway": {"status": {"status": "DELETED"}}}`},
	{"RT-041 the route goes", "DeleteRoute", `{"meshName": "$M", "virtualRouterName": "serviceB", "routeName": "route"}`, `{"route": {"status": {"status": "DELETED"}, "metadata": {"version": 4}}}`},
	{"API-046 a second delete", "DeleteRoute", `{"meshName": "$M", "virtualRouterName": "serviceB", "routeName": "route"}`, `!NotFoundException 404 Route with name route is not present under VirtualRouter serviceB in mesh $M for account $A`},
	{"VR-007 the router is a provider", "DeleteVirtualRouter", `{"meshName": "$M", "virtualRouterName": "serviceB"}`, `!ResourceInUseException 409 VirtualRouter with name serviceB cannot be deleted because it is a VirtualService provider`},
	{"VS-013 the service goes, though a backend names it", "DeleteVirtualService", `{"meshName": "$M", "virtualServiceName": "serviceb.apps.local"}`, `{"virtualService": {"status": {"status": "DELETED"}, "metadata": {"version": 3}}}`},
	{"the router goes", "DeleteVirtualRouter", `{"meshName": "$M", "virtualRouterName": "serviceB"}`, `{"virtualRouter": {"status": {"status": "DELETED"}}}`},
	{"a node goes", "DeleteVirtualNode", `{"meshName": "$M", "virtualNodeName": "serviceA"}`, `{"virtualNode": {"status": {"status": "DELETED"}}}`},
	{"another", "DeleteVirtualNode", `{"meshName": "$M", "virtualNodeName": "serviceBv1"}`, `{"virtualNode": {"status": {"status": "DELETED"}}}`},
	{"MESH-008 MESH-009 the last node holds the mesh", "DeleteMesh", `{"meshName": "$M"}`, `!ResourceInUseException 409 Mesh $M for account $A has active VirtualNodes, please delete VirtualNodes before deleting the Mesh`},
	{"the last node", "DeleteVirtualNode", `{"meshName": "$M", "virtualNodeName": "serviceBv2"}`, `{"virtualNode": {"status": {"status": "DELETED"}}}`},
	{"API-009 API-046 the mesh", "DeleteMesh", `{"meshName": "$M"}`, `{"mesh": {"status": {"status": "DELETED"}, "metadata": {"version": 3}}}`},
}

func TestStory(t *testing.T) {
	t.Parallel()
	e := evermeshd(t)
	t.Run("the story runs all 38 operations", func(t *testing.T) {
		t.Parallel()
		used := map[string]bool{}
		for _, s := range story {
			used[s.operation] = true
		}
		for _, op := range api.AppMeshOperations() {
			if !used[op.Name] {
				t.Errorf("not %s", op.Name)
			}
		}
	})
	for i, kind := range clients {
		t.Run(kind.shows+kind.name, func(t *testing.T) {
			t.Parallel()
			tell(t, kind.make(t, e), e.account, fmt.Sprintf("story-%d", i), story)
		})
	}
}

// tell runs the steps in order. A step that fails does not end the story, so
// that one run shows all that is wrong.
func tell(t *testing.T, c client, account, mesh string, steps []step) {
	replace := strings.NewReplacer("$ARN", "arn:aws:appmesh:us-east-1:"+account+":mesh/"+mesh, "$M", mesh, "$A", account)
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			output, err := c.call(t.Context(), s.operation, document(t, replace.Replace(s.in)))
			want := replace.Replace(s.want)
			if code, failed := strings.CutPrefix(want, "!"); failed {
				checkFailure(t, err, code)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.operation == "ListMeshes" {
				keepMesh(output, mesh)
			}
			contains(t, "", output, any(document(t, want)))
			checkTimes(t, output)
		})
	}
}

// keepMesh leaves the one mesh in a list that others' meshes are in too.
func keepMesh(output map[string]any, mesh string) {
	list, _ := output["meshes"].([]any)
	output["meshes"] = slices.DeleteFunc(list, func(m any) bool { return m.(map[string]any)["meshName"] != mesh })
}

func document(t testing.TB, text string) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return doc
}

// checkFailure compares with "Code status text". A client that knows the status
// or has a type for the error must have understood these too. A text that ends
// with a star may go on.
func checkFailure(t testing.TB, err error, want string) {
	t.Helper()
	code, rest, _ := strings.Cut(want, " ")
	status, text, _ := strings.Cut(rest, " ")
	var f *failure
	if !errors.As(err, &f) {
		t.Fatalf("got %v, want %s", err, want)
	}
	begin, open := strings.CutSuffix(text, "*")
	if open && strings.HasPrefix(f.Message, begin) {
		text = f.Message
	}
	if f.Code != code || f.Message != text || (f.Status != 0 && fmt.Sprint(f.Status) != status) {
		t.Errorf("got  %s %d %s\nwant %s", f.Code, f.Status, f.Message, want)
	}
	if f.Type != "" && f.Type != code {
		t.Errorf("the client took it for a %s", f.Type)
	}
}

// contains says where got lacks what want has. Members of got that want does not
// name are ignored, items of lists are not, and a spec is compared whole.
func contains(t testing.TB, path string, got, want any) {
	t.Helper()
	switch want := want.(type) {
	case map[string]any:
		members, ok := got.(map[string]any)
		if !ok {
			t.Errorf("%s is %v, want %v", path, got, want)
			return
		}
		for name := range want {
			if diff := cmp.Diff(want[name], members[name]); name == "spec" && diff != "" {
				t.Errorf("%s.spec (-want +got):\n%s", path, diff)
			} else if name != "spec" {
				contains(t, path+"."+name, members[name], want[name])
			}
		}
	case []any:
		items, ok := got.([]any)
		if !ok || len(items) != len(want) {
			t.Errorf("%s is %v, want %v", path, got, want)
			return
		}
		for i := range want {
			contains(t, fmt.Sprintf("%s[%d]", path, i), items[i], want[i])
		}
	default:
		if got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
}

// checkTimes checks the metadata of a described resource: exactly seven members
// (API-006), times that the client could read (API-012), equal when the resource
// is new (API-007).
func checkTimes(t testing.TB, output map[string]any) {
	t.Helper()
	for _, wrapped := range output {
		data, _ := wrapped.(map[string]any)
		metadata, ok := data["metadata"].(map[string]any)
		if !ok {
			continue
		}
		want := []string{"arn", "createdAt", "lastUpdatedAt", "meshOwner", "resourceOwner", "uid", "version"}
		if got := slices.Sorted(maps.Keys(metadata)); !slices.Equal(got, want) {
			t.Errorf("metadata has %v, want %v", got, want)
		}
		var times [2]time.Time
		for i, name := range []string{"createdAt", "lastUpdatedAt"} {
			text, _ := metadata[name].(string)
			at, err := time.Parse(time.RFC3339Nano, text)
			if age := time.Since(at); err != nil || age < -time.Minute || age > time.Hour {
				t.Errorf("%s is %v: %v", name, metadata[name], err)
			}
			times[i] = at
		}
		if metadata["version"] == 1.0 && !times[0].Equal(times[1]) {
			t.Errorf("a new resource was created at %v and updated at %v", times[0], times[1])
		}
	}
}
