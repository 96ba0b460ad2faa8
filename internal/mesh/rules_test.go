package mesh_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// The ground of the rules' tests: a mesh of account A with a node, a node of two
// listeners, routers, services and gateways likewise, each referred to or free.
const (
	ruleAccountA = "111111111111"
	ruleAccountB = "222222222222"
)

const rulesGround = `
mesh apps {}
virtualNode one {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}], "serviceDiscovery": {"dns": {"hostname": "one.local"}}}
virtualNode two {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 81, "protocol": "http"}}]}
virtualNode provides {}
virtualNode free {}
virtualRouter router {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}
virtualRouter wide {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 81, "protocol": "http"}}]}
virtualRouter provides {}
virtualRouter free {}
route router/taken {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}
virtualService by-router {"provider": {"virtualRouter": {"virtualRouterName": "provides"}}}
virtualService by-node {"provider": {"virtualNode": {"virtualNodeName": "provides"}}}
virtualService by-wide {"provider": {"virtualRouter": {"virtualRouterName": "wide"}}}
virtualService behind {}
virtualService free {}
virtualGateway door {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}
virtualGateway gate {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 81, "protocol": "http"}}]}
virtualGateway free {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}]}
gatewayRoute door/taken {"httpRoute": {"match": {"prefix": "/"}, "action": {"target": {"virtualService": {"virtualServiceName": "behind"}}}}}
`

// written reads a line: kind, [parent/]name, spec.
func written(t testing.TB, owner, line string) *api.Resource {
	t.Helper()
	kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	name, spec, _ := strings.Cut(rest, " ")
	key := api.Key{Owner: owner, Mesh: "apps", Kind: api.Kind(kind), Name: name}
	if row, ok := key.Kind.Row(); !ok {
		t.Fatalf("no kind: %s", line)
	} else if row.Nested() {
		key.Parent, key.Name, _ = strings.Cut(name, "/")
	}
	if key.Kind == api.KindMesh {
		key.Mesh = key.Name
	}
	decoded, err := api.DecodeSpec(key.Kind, []byte(spec))
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return &api.Resource{Key: key, Owner: owner, Version: 1, Document: []byte(spec), Spec: decoded}
}

func held(t testing.TB, owner, lines string) *mesh.Snapshot {
	t.Helper()
	var all []*api.Resource
	for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
		all = append(all, written(t, owner, line))
	}
	return mesh.NewSnapshot(1, all)
}

// refusedWith checks err against want, "Code: text"; empty wants no error.
func refusedWith(t testing.TB, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		var e *api.Error
		if !errors.As(err, &e) {
			t.Fatalf("got %v, which is no *api.Error", err)
		}
		got = e.Error()
	}
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestCheckCreate(t *testing.T) {
	t.Parallel()
	snapshot := held(t, ruleAccountA, rulesGround)
	route := func(match, rest string) string {
		return `route router/new {"httpRoute": {"match": ` + match + `, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}` + rest + `}}`
	}
	gatewayRoute := func(match, rewrite string) string {
		if rewrite != "" {
			rewrite = `, "rewrite": ` + rewrite
		}
		return `gatewayRoute door/new {"http2Route": {"match": ` + match + `, "action": {"target": {"virtualService": {"virtualServiceName": "behind"}}` + rewrite + `}}}`
	}
	for _, c := range []struct{ name, line, want string }{
		{"API-034 API-036 a taken name of a mesh", `mesh apps {}`, "ConflictException: Mesh with name apps already exists for account 111111111111"},
		{"API-034 API-036 a taken name of a node", `virtualNode one {}`, "ConflictException: VirtualNode with name one already exists under mesh apps for account 111111111111"},
		{"API-036 a taken name within a router", `route router/taken {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, "ConflictException: Route with name taken already exists under VirtualRouter router in mesh apps for account 111111111111"},
		{"API-036 that name in another router", `route free/taken {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, ""},
		{"API-036 that name in another gateway", `gatewayRoute free/taken {"httpRoute": {"match": {"prefix": "/"}, "action": {"target": {"virtualService": {"virtualServiceName": "behind"}}}}}`, ""},
		{"API-036 one name for node, router and service", `virtualService one {}`, ""},
		{"a mesh with an @", `mesh apps@1 {}`, `BadRequestException: The meshName "apps@1" holds an @, which separates a mesh's name from its owner: choose another name.`},
		{"a route in no router", `route none/new {}`, "NotFoundException: VirtualRouter with name none is not present under mesh apps for account 111111111111"},
		{"a gateway route in no gateway", `gatewayRoute none/new {}`, "NotFoundException: VirtualGateway with name none is not present under mesh apps for account 111111111111"},

		{"VN-003 an empty node", `virtualNode new {}`, ""},
		{"VN-003 listeners without discovery", `virtualNode new {"listeners": [{"portMapping": {"port": 80, "protocol": "tcp"}}]}`, ""},
		{"VN-004 discovery without listener", `virtualNode new {"serviceDiscovery": {"dns": {"hostname": "x"}}}`, "BadRequestException: Service Discovery can't be set without a listener."},
		{"VN-004 discovery with an empty list of listeners", `virtualNode new {"listeners": [], "serviceDiscovery": {"dns": {"hostname": "x"}}}`, "BadRequestException: Service Discovery can't be set without a listener."},
		{"VN-006 several listeners", `virtualNode new {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 81, "protocol": "grpc"}}]}`, ""},
		{"VN-006 one port twice", `virtualNode new {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 80, "protocol": "grpc"}}]}`, "BadRequestException: The listeners of a Virtual Node must have different ports: port 80 is there more than once."},
		{"VN-008 a pool of another protocol", `virtualNode new {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}, "connectionPool": {"http": {"maxConnections": 1}}}]}`, "BadRequestException: spec.listeners.1.member.connectionPool must be of the listener's protocol, http2."},
		{"VN-008 VN-009 a pool of the protocol", `virtualNode new {"listeners": [{"portMapping": {"port": 80, "protocol": "tcp"}, "connectionPool": {"tcp": {"maxConnections": 1}}}]}`, ""},
		{"backends that do not exist, by name and by ARN", `virtualNode new {"backends": [{"virtualService": {"virtualServiceName": "nobody.local"}}, {"virtualService": {"virtualServiceName": "arn:aws:appmesh:us-east-1:111111111111:mesh/apps/virtualService/nobody.local"}}]}`, ""},
		{"one backend twice", `virtualNode new {"backends": [{"virtualService": {"virtualServiceName": "free"}}, {"virtualService": {"virtualServiceName": "free"}}]}`, ""},
		{"a name to check certificates for", `virtualNode new {"backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": {"file": {"certificateChain": "/ca"}}, "subjectAlternativeNames": {"match": {"exact": ["no name"]}}}}}}}`, `BadRequestException: The subject alternative name "no name" is neither a fully qualified domain name nor a URI.`},
		{"API-022 discovery of what nobody has deployed", `virtualNode new {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}], "serviceDiscovery": {"awsCloudMap": {"namespaceName": "none", "serviceName": "none"}}}`, ""},

		{"VR-003 no listeners", `virtualRouter new {}`, ""},
		{"VR-003 an empty list of listeners", `virtualRouter new {"listeners": []}`, "BadRequestException: 1 validation error detected: Value at 'spec.listeners' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"VR-002 VR-011 several listeners before any route", `virtualRouter new {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}}, {"portMapping": {"port": 81, "protocol": "tcp"}}]}`, ""},
		{"VR-002 one port twice", `virtualRouter new {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 80, "protocol": "tcp"}}]}`, "BadRequestException: The listeners of a Virtual Router must have different ports: port 80 is there more than once."},

		{"VS-001 a service without provider", `virtualService new {}`, ""},
		{"VS-002 VS-016 a second service of a node", `virtualService new {"provider": {"virtualNode": {"virtualNodeName": "provides"}}}`, ""},
		{"VS-002 VS-016 a second service of a router", `virtualService new {"provider": {"virtualRouter": {"virtualRouterName": "provides"}}}`, ""},
		{"VS-007 any name", `virtualService My-Service.Default.svc.cluster.local {}`, ""},
		{"VS-018 a node that does not exist", `virtualService new {"provider": {"virtualNode": {"virtualNodeName": "none"}}}`, "NotFoundException: VirtualNode with name none is missing"},
		{"VS-018 a router that does not exist", `virtualService new {"provider": {"virtualRouter": {"virtualRouterName": "none"}}}`, "NotFoundException: VirtualRouter with name none is missing"},

		{"RT-002 no kind", `route router/new {"priority": 1}`, "BadRequestException: A route's spec must have exactly one of httpRoute, http2Route, grpcRoute and tcpRoute."},
		{"RT-002 two kinds", `route router/new {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}, "tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, "BadRequestException: A route's spec must have exactly one of httpRoute, http2Route, grpcRoute and tcpRoute."},
		{"RT-003 a kind unlike the listener's", `route router/new {"grpcRoute": {"match": {}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, ""},
		{"RT-007 a target without port where its node has several listeners", `route router/new {"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "two", "weight": 1}]}}}`, "BadRequestException: Route must define a port for the weighted target two because the Virtual Node has multiple listeners"},
		{"RT-007 with port", `route router/new {"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "two", "weight": 1, "port": 81}]}}}`, ""},
		{"RT-008 weights that are no hundred", `route router/new {"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "one", "weight": 8}, {"virtualNode": "free", "weight": 2}]}}}`, ""},
		{"RT-008 a weight of nothing", `route router/new {"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "one", "weight": 0}]}}}`, ""},
		{"RT-011 a node that does not exist", `route router/new {"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}, {"virtualNode": "none", "weight": 0}]}}}`, "NotFoundException: VirtualNode with name none is missing"},
		{"RT-012 RT-020 a tcp route without port where the router has several listeners", `route wide/new {"tcpRoute": {"action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, "BadRequestException: Route must define a port match criteria if the Virtual Router has multiple listeners"},
		{"RT-012 with port", `route wide/new {"tcpRoute": {"match": {"port": 81}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, ""},
		{"RT-020 VR-009 an http route without port", `route wide/new {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, "BadRequestException: Route must define a port match criteria if the Virtual Router has multiple listeners"},
		{"RT-020 an http2 route by port alone", `route wide/new {"http2Route": {"match": {"port": 81}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, ""},
		{"RT-020 a grpc route by port alone", `route wide/new {"grpcRoute": {"match": {"port": 81}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, ""},
		{"RT-013 prefix and path", route(`{"prefix": "/", "path": {"exact": "/a"}}`, ""), "BadRequestException: A match must not have both prefix and path."},
		{"RT-013 a path of two kinds", route(`{"path": {"exact": "/a", "regex": "/a"}}`, ""), "BadRequestException: A match's path must have exactly one of exact and regex."},
		{"RT-013 everything at once", route(`{"method": "GET", "path": {"regex": "/a.*"}, "queryParameters": [{"name": "q", "match": {"exact": "1"}}], "headers": [{"name": "h"}], "scheme": "https"}`, ""), ""},
		{"IMG-013 a look-ahead", route(`{"path": {"regex": "/prefix(?=suffix)"}}`, ""), `BadRequestException: The regular expression "/prefix(?=suffix)" in spec.httpRoute.match.path.regex cannot be used: (?= is a look-ahead, which Envoy's patterns (RE2) do not have.`},
		{"IMG-013 TRBL-036 a negative look-ahead in a header", route(`{"prefix": "/", "headers": [{"name": "h", "match": {"exact": "a"}}, {"name": "h", "match": {"regex": "^prefix(?!suffix)"}}]}`, ""), `BadRequestException: The regular expression "^prefix(?!suffix)" in spec.httpRoute.match.headers[1].match.regex cannot be used: (?! is a negative look-ahead, which Envoy's patterns (RE2) do not have.`},
		{"IMG-013 a look-behind in metadata", `route router/new {"grpcRoute": {"match": {"metadata": [{"name": "m", "match": {"regex": "(?<=a)b"}}]}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, `BadRequestException: The regular expression "(?<=a)b" in spec.grpcRoute.match.metadata[0].match.regex cannot be used: (?<= is a look-behind, which Envoy's patterns (RE2) do not have.`},
		{"IMG-013 a back-reference", route(`{"path": {"regex": "/(a|b)\\1"}}`, ""), `BadRequestException: The regular expression "/(a|b)\\1" in spec.httpRoute.match.path.regex cannot be used: \1 is a back-reference, which Envoy's patterns (RE2) do not have.`},
		{"IMG-013 no pattern at all", route(`{"path": {"regex": "/bad("}}`, ""), `BadRequestException: The regular expression "/bad(" in spec.httpRoute.match.path.regex cannot be used: missing closing ): /bad(.`},
		{"IMG-014 what the guide has in their place", route(`{"path": {"regex": "/(example)|/ex(amp){0}le|/prefix[^0-9]?suffix|/(a|b)(a|b)"}}`, ""), ""},
		{"TRBL-036 a group that begins with a literal", route(`{"path": {"regex": "/prefix(?:!suffix)"}}`, ""), ""},
		{"a pattern that some Envoys find too large", route(`{"path": {"regex": "/(a{100}){9}"}}`, ""), ""},
		{"RT-014 scheme on http", route(`{"prefix": "/", "scheme": "http"}`, ""), ""},
		{"RT-015 a prefix that is no path", route(`{"prefix": "metrics"}`, ""), `BadRequestException: The match's prefix "metrics" must start with '/'.`},
		{"RT-018 an exact path that is none", route(`{"path": {"exact": "metrics"}}`, ""), `BadRequestException: The match's exact path "metrics" must start with '/'.`},
		{"RT-026 a method without service", `route router/new {"grpcRoute": {"match": {"methodName": "Say"}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, "BadRequestException: A match with methodName must have serviceName too."},
		{"RT-025 a service without method", `route router/new {"grpcRoute": {"match": {"serviceName": "Greeter"}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, ""},
		{"RT-031 all HTTP retry events", route(`{"prefix": "/"}`, `, "retryPolicy": {"maxRetries": 1, "perRetryTimeout": {"unit": "s", "value": 1}, "httpRetryEvents": ["server-error", "gateway-error", "client-error", "stream-error"]}`), ""},
		{"RT-031 RT-039 a single code as HTTP retry event", route(`{"prefix": "/"}`, `, "retryPolicy": {"maxRetries": 1, "perRetryTimeout": {"unit": "s", "value": 1}, "httpRetryEvents": ["503"]}`), `BadRequestException: The HTTP retry event "503" is not one of server-error, gateway-error, client-error and stream-error.`},
		{"RT-032 the events of a grpc route", `route router/new {"priority": 100, "grpcRoute": {"match": {}, "retryPolicy": {"maxRetries": 3, "perRetryTimeout": {"unit": "s", "value": 15}, "grpcRetryEvents": ["deadline-exceeded"], "httpRetryEvents": ["server-error", "gateway-error"], "tcpRetryEvents": ["connection-error"]}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, ""},
		{"RT-032 an unknown event of a grpc route", `route router/new {"grpcRoute": {"match": {}, "retryPolicy": {"maxRetries": 3, "perRetryTimeout": {"unit": "s", "value": 15}, "httpRetryEvents": ["error"]}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, `BadRequestException: The HTTP retry event "error" is not one of server-error, gateway-error, client-error and stream-error.`},
		{"RT-037 tries that outlast the request", route(`{"prefix": "/"}`, `, "timeout": {"perRequest": {"unit": "s", "value": 1}}, "retryPolicy": {"maxRetries": 5, "perRetryTimeout": {"unit": "s", "value": 10}, "tcpRetryEvents": ["connection-error"]}`), ""},

		{"VG-002 several listeners", `virtualGateway new {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 81, "protocol": "grpc"}}]}`, ""},
		{"VG-002 one port twice", `virtualGateway new {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 80, "protocol": "grpc"}}]}`, "BadRequestException: The listeners of a Virtual Gateway must have different ports: port 80 is there more than once."},
		{"a gateway's pool of another protocol", `virtualGateway new {"listeners": [{"portMapping": {"port": 80, "protocol": "grpc"}, "connectionPool": {"http2": {"maxRequests": 1}}}]}`, "BadRequestException: spec.listeners.1.member.connectionPool must be of the listener's protocol, grpc."},
		{"a gateway's pool of the protocol", `virtualGateway new {"listeners": [{"portMapping": {"port": 80, "protocol": "http2"}, "connectionPool": {"http2": {"maxRequests": 1}}}]}`, ""},
		{"VG-010 a listener's name to check that is none", `virtualGateway new {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}, "tls": {"mode": "STRICT", "certificate": {"sds": {"secretName": "s"}}, "validation": {"trust": {"sds": {"secretName": "ca"}}, "subjectAlternativeNames": {"match": {"exact": ["a b"]}}}}}]}`, `BadRequestException: The subject alternative name "a b" is neither a fully qualified domain name nor a URI.`},
		{"VG-010 a URN", `virtualGateway new {"listeners": [], "backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": {"sds": {"secretName": "ca"}}, "subjectAlternativeNames": {"match": {"exact": ["urn:example:a"]}}}}}}}`, ""},
		{"VG-010 a URI without scheme", `virtualGateway new {"listeners": [], "backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": {"sds": {"secretName": "ca"}}, "subjectAlternativeNames": {"match": {"exact": ["//a.example/x"]}}}}}}}`, `BadRequestException: The subject alternative name "//a.example/x" is neither a fully qualified domain name nor a URI.`},
		{"VG-010 a URI that names nobody", `virtualGateway new {"listeners": [], "backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": {"sds": {"secretName": "ca"}}, "subjectAlternativeNames": {"match": {"exact": ["spiffe:///path"]}}}}}}}`, `BadRequestException: The subject alternative name "spiffe:///path" is neither a fully qualified domain name nor a URI.`},
		{"VG-010 what no URI begins with", `virtualGateway new {"listeners": [], "backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": {"sds": {"secretName": "ca"}}, "subjectAlternativeNames": {"match": {"exact": ["http://[::1"]}}}}}}}`, `BadRequestException: The subject alternative name "http://[::1" is neither a fully qualified domain name nor a URI.`},
		{"VG-010 a wildcard", `virtualGateway new {"listeners": [], "backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": {"sds": {"secretName": "ca"}}, "subjectAlternativeNames": {"match": {"exact": ["*.example.com"]}}}}}}}`, ""},
		{"VG-010 a wildcard within", `virtualGateway new {"listeners": [], "backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": {"sds": {"secretName": "ca"}}, "subjectAlternativeNames": {"match": {"exact": ["a.*.com"]}}}}}}}`, `BadRequestException: The subject alternative name "a.*.com" is neither a fully qualified domain name nor a URI.`},
		{"VG-010 a host name and a URI", `virtualGateway new {"listeners": [], "backendDefaults": {"clientPolicy": {"tls": {"validation": {"trust": {"sds": {"secretName": "ca"}}, "subjectAlternativeNames": {"match": {"exact": ["a.example.com", "spiffe://example.com/a"]}}}}}}}`, ""},

		{"GR-002 no kind", `gatewayRoute door/new {}`, "BadRequestException: A gateway route's spec must have exactly one of httpRoute, http2Route and grpcRoute."},
		{"GR-001 a service that does not exist", `gatewayRoute door/new {"grpcRoute": {"match": {}, "action": {"target": {"virtualService": {"virtualServiceName": "none"}}}}}`, "NotFoundException: VirtualService with name none is missing"},
		{"GR-005 no target port where the provider has several listeners", `gatewayRoute door/new {"httpRoute": {"match": {"prefix": "/"}, "action": {"target": {"virtualService": {"virtualServiceName": "by-wide"}}}}}`, "BadRequestException: Gateway route must define a target port because the VirtualRouter wide that provides the Virtual Service has multiple listeners"},
		{"GR-005 with target port", `gatewayRoute door/new {"httpRoute": {"match": {"prefix": "/"}, "action": {"target": {"port": 81, "virtualService": {"virtualServiceName": "by-wide"}}}}}`, ""},
		{"GR-007 no match port where the gateway has several listeners", `gatewayRoute gate/new {"httpRoute": {"match": {"prefix": "/"}, "action": {"target": {"virtualService": {"virtualServiceName": "behind"}}}}}`, "BadRequestException: Gateway route must define a match port if the parent Virtual Gateway has multiple listeners."},
		{"GR-007 by port alone", `gatewayRoute gate/new {"grpcRoute": {"match": {"port": 80}, "action": {"target": {"virtualService": {"virtualServiceName": "behind"}}}}}`, ""},
		{"GR-008 by hostname alone", gatewayRoute(`{"hostname": {"suffix": ".example.com"}}`, ""), ""},
		{"GR-008 a hostname of two kinds", gatewayRoute(`{"hostname": {"exact": "a.example.com", "suffix": ".example.com"}}`, ""), "BadRequestException: A match's hostname must have exactly one of exact and suffix."},
		{"GR-017 a hostname of no kind on grpc", `gatewayRoute door/new {"grpcRoute": {"match": {"hostname": {}}, "action": {"target": {"virtualService": {"virtualServiceName": "behind"}}}}}`, "BadRequestException: A match's hostname must have exactly one of exact and suffix."},
		{"GR-010 a reserved prefix", gatewayRoute(`{"prefix": "/aws-appmesh-x"}`, ""), `BadRequestException: The match's path "/aws-appmesh-x" cannot be used: paths that begin with /aws-appmesh are reserved.`},
		{"GR-010 the other reserved prefix, as a path", gatewayRoute(`{"path": {"exact": "/aws-app-mesh/x"}}`, ""), `BadRequestException: The match's path "/aws-app-mesh/x" cannot be used: paths that begin with /aws-app-mesh are reserved.`},
		{"GR-010 nearly that", gatewayRoute(`{"prefix": "/aws"}`, ""), ""},
		{"GR-011 a reserved service", `gatewayRoute door/new {"grpcRoute": {"match": {"serviceName": "/aws.app-mesh.x"}, "action": {"target": {"virtualService": {"virtualServiceName": "behind"}}}}}`, `BadRequestException: The match's service name "/aws.app-mesh.x" cannot be used: services that begin with aws.app-mesh are reserved.`},
		{"GR-011 the other reserved service", `gatewayRoute door/new {"grpcRoute": {"match": {"serviceName": "aws.appmesh"}, "action": {"target": {"virtualService": {"virtualServiceName": "behind"}}}}}`, `BadRequestException: The match's service name "aws.appmesh" cannot be used: services that begin with aws.appmesh are reserved.`},
		{"GR-015 the default and a value", gatewayRoute(`{"prefix": "/a"}`, `{"prefix": {"defaultPrefix": "ENABLED", "value": "/"}}`), "BadRequestException: A rewrite's prefix must not have both defaultPrefix and value."},
		{"GR-015 a prefix's rewrite without prefix match", gatewayRoute(`{"path": {"exact": "/a"}}`, `{"prefix": {"value": "/b/"}}`), "BadRequestException: A rewrite of the prefix needs a match by prefix."},
		{"GR-015 a prefix's rewrite", gatewayRoute(`{"prefix": "/a"}`, `{"prefix": {"value": "/b/"}}`), ""},
		{"GR-016 a path's rewrite without path match", gatewayRoute(`{"prefix": "/a"}`, `{"path": {"exact": "/b"}}`), "BadRequestException: A rewrite of the path needs a match by path."},
		{"GR-016 a path's rewrite of a regex", gatewayRoute(`{"path": {"regex": "/a.*"}}`, `{"path": {"exact": "/b"}}`), ""},
		{"IMG-013 a gateway route's look-ahead", gatewayRoute(`{"path": {"regex": "/a(?!b)"}}`, ""), `BadRequestException: The regular expression "/a(?!b)" in spec.http2Route.match.path.regex cannot be used: (?! is a negative look-ahead, which Envoy's patterns (RE2) do not have.`},
		{"GR-024 prefix and path", gatewayRoute(`{"prefix": "/a", "path": {"exact": "/a"}}`, ""), "BadRequestException: A match must not have both prefix and path."},
		{"GR-024 both rewrites", gatewayRoute(`{"prefix": "/a"}`, `{"prefix": {"value": "/b/"}, "path": {"exact": "/b"}}`), "BadRequestException: A rewrite must not have both prefix and path."},
		{"GR-024 a prefix that is no path", gatewayRoute(`{"prefix": "a"}`, ""), `BadRequestException: The match's prefix "a" must start with '/'.`},
		{"GR-024 a rewrite that ends within an element", gatewayRoute(`{"prefix": "/a"}`, `{"prefix": {"value": "/b"}}`), `BadRequestException: The rewrite's prefix value "/b" must start and end with '/'.`},
		{"GR-024 a path's rewrite that is no path", gatewayRoute(`{"path": {"exact": "/a"}}`, `{"path": {"exact": "b"}}`), `BadRequestException: The rewrite's exact path "b" must start with '/'.`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			refusedWith(t, mesh.Check(snapshot, nil, written(t, ruleAccountA, c.line)), c.want)
		})
	}
}

func TestCheckUpdate(t *testing.T) {
	t.Parallel()
	snapshot := held(t, ruleAccountA, rulesGround)
	for _, c := range []struct{ name, line, want string }{
		{"API-010 the same once more", `virtualNode two {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 81, "protocol": "http"}}]}`, ""},
		{"RT-004 another kind of route", `route router/taken {"http2Route": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "one", "weight": 1}]}}}`, ""},
		{"RT-011 a node that does not exist", `route router/taken {"http2Route": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "none", "weight": 1}]}}}`, "NotFoundException: VirtualNode with name none is missing"},
		{"VR-009 a second listener where routes lack the port", `virtualRouter router {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 81, "protocol": "http"}}]}`, "BadRequestException: All Routes for this Virtual Router must define a port match before adding multiple listeners to this Virtual Router. 1 Route(s) are missing port. Listing up to 5 route names: [taken]"},
		{"VR-009 another listener in its place", `virtualRouter router {"listeners": [{"portMapping": {"port": 81, "protocol": "http"}}]}`, ""},
		{"GR-007 a second listener where gateway routes lack the port", `virtualGateway door {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 81, "protocol": "http"}}]}`, "BadRequestException: All Gateway Routes for this Virtual Gateway must define a match port before adding multiple listeners to this Virtual Gateway. 1 Gateway Route(s) are missing port. Listing up to 5 gateway route names: [taken]"},
		{"VS-004 from router to node", `virtualService by-router {"provider": {"virtualNode": {"virtualNodeName": "one"}}}`, ""},
		{"VS-004 from node to router", `virtualService by-node {"provider": {"virtualRouter": {"virtualRouterName": "router"}}}`, ""},
		{"VS-004 to none", `virtualService by-node {}`, ""},
		{"another host name", `virtualNode one {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}], "serviceDiscovery": {"dns": {"hostname": "two.local"}}}`, ""},
		{"VN-004 the listener alone goes", `virtualNode one {"serviceDiscovery": {"dns": {"hostname": "one.local"}}}`, "BadRequestException: Service Discovery can't be set without a listener."},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			now := written(t, ruleAccountA, c.line)
			old := snapshot.Get(now.Key)
			if old == nil {
				t.Fatalf("%s does not exist", now.Key)
			}
			refusedWith(t, mesh.Check(snapshot, old, now), c.want)
		})
	}
	t.Run("VR-009 at most five routes are named", func(t *testing.T) {
		t.Parallel()
		lines := "mesh apps {}\nvirtualRouter r {}"
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
			lines += "\nroute r/" + name + ` {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": []}}}`
		}
		s := held(t, ruleAccountA, lines)
		now := written(t, ruleAccountA, `virtualRouter r {"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}, {"portMapping": {"port": 81, "protocol": "http"}}]}`)
		refusedWith(t, mesh.Check(s, s.Get(now.Key), now), "BadRequestException: All Routes for this Virtual Router must define a port match before adding multiple listeners to this Virtual Router. 7 Route(s) are missing port. Listing up to 5 route names: [a, b, c, d, e]")
	})
}

func TestCheckDelete(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, lines, key, want string }{
		{"MESH-008 MESH-009 a mesh with services", "mesh apps {}\nvirtualService s {}\nvirtualNode n {}", "mesh apps", "ResourceInUseException: Mesh apps for account 111111111111 has active VirtualServices, please delete VirtualServices before deleting the Mesh"},
		{"MESH-008 MESH-009 a mesh with routers", "mesh apps {}\nvirtualRouter r {}", "mesh apps", "ResourceInUseException: Mesh apps for account 111111111111 has active VirtualRouters, please delete VirtualRouters before deleting the Mesh"},
		{"MESH-008 MESH-009 a mesh with nodes", "mesh apps {}\nvirtualNode n {}", "mesh apps", "ResourceInUseException: Mesh apps for account 111111111111 has active VirtualNodes, please delete VirtualNodes before deleting the Mesh"},
		{"MESH-008 MESH-009 a mesh with gateways", "mesh apps {}\nvirtualGateway g {}", "mesh apps", "ResourceInUseException: Mesh apps for account 111111111111 has active VirtualGateways, please delete VirtualGateways before deleting the Mesh"},
		{"MESH-008 an empty mesh", "mesh apps {}", "mesh apps", ""},
		{"VN-032 a route's target", rulesGround, "virtualNode one", "ResourceInUseException: VirtualNode one is being referenced in the following: ROUTE: [router/taken]"},
		{"VN-032 a service's provider", rulesGround, "virtualNode provides", "ResourceInUseException: VirtualNode with name provides cannot be deleted because it is a VirtualService provider"},
		{"VN-032 a node that nothing refers to", rulesGround, "virtualNode free", ""},
		{"VR-007 a router with routes", rulesGround, "virtualRouter router", "ResourceInUseException: VirtualRouter you're trying to delete router has active routes"},
		{"VR-007 a service's provider", rulesGround, "virtualRouter provides", "ResourceInUseException: VirtualRouter with name provides cannot be deleted because it is a VirtualService provider"},
		{"VR-007 a router that nothing refers to", rulesGround, "virtualRouter free", ""},
		{"VS-012 a gateway route's target", rulesGround, "virtualService behind", "ResourceInUseException: VirtualService behind is being referenced in the following: GATEWAY_ROUTE: [door/taken]"},
		{"VS-013 a service that only a backend names", "mesh apps {}\nvirtualService s {}\n" + `virtualNode n {"backends": [{"virtualService": {"virtualServiceName": "s"}}]}`, "virtualService s", ""},
		{"VG-016 a gateway with routes", rulesGround, "virtualGateway door", "ResourceInUseException: VirtualGateway you're trying to delete door has active gateway routes"},
		{"VG-016 a gateway without", rulesGround, "virtualGateway free", ""},
		{"a route", rulesGround, "route router/taken", ""},
		{"a gateway route", rulesGround, "gatewayRoute door/taken", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			snapshot := held(t, ruleAccountA, c.lines)
			old := snapshot.Get(written(t, ruleAccountA, c.key+" {}").Key)
			if old == nil {
				t.Fatalf("%s does not exist", c.key)
			}
			refusedWith(t, mesh.Check(snapshot, old, nil), c.want)
		})
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	snapshot := held(t, ruleAccountA, "mesh apps {}\nvirtualRouter r {}")
	in := func(mesh string, kind api.Kind, parent, name string) api.Key {
		return api.Key{Owner: ruleAccountA, Mesh: mesh, Kind: kind, Parent: parent, Name: name}
	}
	for _, c := range []struct {
		name string
		key  api.Key
		want string
	}{
		{"API-034 a mesh", in("none", api.KindMesh, "", "none"), "NotFoundException: Mesh with name none is not present for account 111111111111"},
		{"API-034 a node", in("apps", api.KindVirtualNode, "", "n"), "NotFoundException: VirtualNode with name n is not present under mesh apps for account 111111111111"},
		{"a node of no mesh", in("none", api.KindVirtualNode, "", "n"), "NotFoundException: Mesh with name none is not present for account 111111111111"},
		{"a route", in("apps", api.KindRoute, "r", "x"), "NotFoundException: Route with name x is not present under VirtualRouter r in mesh apps for account 111111111111"},
		{"a route of no router", in("apps", api.KindRoute, "q", "x"), "NotFoundException: VirtualRouter with name q is not present under mesh apps for account 111111111111"},
		{"a route of no mesh", in("none", api.KindRoute, "r", "x"), "NotFoundException: Mesh with name none is not present for account 111111111111"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			refusedWith(t, mesh.Missing(snapshot, c.key), c.want)
		})
	}
}

// Two accounts' meshes of one name know nothing of each other (D1).
func TestCheckAccounts(t *testing.T) {
	t.Parallel()
	snapshot := held(t, ruleAccountA, rulesGround)
	refusedWith(t, mesh.Check(snapshot, nil, written(t, ruleAccountB, "mesh apps {}")), "")
	refusedWith(t, mesh.Check(snapshot, nil, written(t, ruleAccountB, "virtualNode one {}")), "NotFoundException: Mesh with name apps is not present for account 222222222222")
	both := snapshot.Apply(2, []api.Change{
		{Key: written(t, ruleAccountB, "mesh apps {}").Key, New: written(t, ruleAccountB, "mesh apps {}")},
		{Key: written(t, ruleAccountB, "virtualNode provides {}").Key, New: written(t, ruleAccountB, "virtualNode provides {}")},
	})
	refusedWith(t, mesh.Check(both, nil, written(t, ruleAccountB, "virtualNode one {}")), "")
	refusedWith(t, mesh.Check(both, written(t, ruleAccountB, "virtualNode provides {}"), nil), "")
	refusedWith(t, mesh.Check(both, nil, written(t, ruleAccountB, `virtualService s {"provider": {"virtualNode": {"virtualNodeName": "one"}}}`)), "NotFoundException: VirtualNode with name one is missing")
}
