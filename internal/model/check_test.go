package model_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/model/modeltest"
)

func appMesh(t testing.TB) *model.Model {
	t.Helper()
	m, err := model.AppMesh()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// document decodes JSON as requests are decoded.
func document(t testing.TB, text string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return doc
}

// One row a constraint: what the model says, what breaks it, what is answered.
func TestCheck(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 256)
	eleven := "[" + strings.Repeat(`{"name": "h"}, `, 10) + `{"name": "h"}]`
	m := appMesh(t)
	for _, c := range []struct{ name, shape, doc, want string }{
		{"all well", "PortMapping", `{"port": 80, "protocol": "http"}`, ""},
		{"required", "PortMapping", `{"protocol": "http"}`, "Value at 'port' failed to satisfy constraint: Member must not be null"},
		{"required and null", "PortMapping", `{"port": null, "protocol": "http"}`, "Value at 'port' failed to satisfy constraint: Member must not be null"},
		{"two at once, in a fixed order", "PortMapping", `{"port": 0, "protocol": "udp"}`, "Value '0' at 'port' failed to satisfy constraint: Member must have value greater than or equal to 1; Value 'udp' at 'protocol' failed to satisfy constraint: Member must satisfy enum value set: [http, tcp, http2, grpc]"},
		{"VN-005 https is no protocol of a node", "PortMapping", `{"port": 80, "protocol": "https"}`, "Value 'https' at 'protocol' failed to satisfy constraint: Member must satisfy enum value set: [http, tcp, http2, grpc]"},
		{"VG-002 tcp is no protocol of a gateway", "VirtualGatewayPortMapping", `{"port": 80, "protocol": "tcp"}`, "Value 'tcp' at 'protocol' failed to satisfy constraint: Member must satisfy enum value set: [http, http2, grpc]"},
		{"a number too large", "PortMapping", `{"port": 65536, "protocol": "http"}`, "Value '65536' at 'port' failed to satisfy constraint: Member must have value less than or equal to 65535"},
		{"a number with a fraction", "PortMapping", `{"port": 80.5, "protocol": "http"}`, "Value '80.5' at 'port' failed to satisfy constraint: Member must be a whole number"},
		{"a number as text", "PortMapping", `{"port": "80", "protocol": "http"}`, "Value at 'port' failed to satisfy constraint: Member must be a number"},
		{"a text as number", "PortMapping", `{"port": 80, "protocol": 1}`, "Value at 'protocol' failed to satisfy constraint: Member must be a string"},
		{"a structure as list", "Listener", `{"portMapping": []}`, "Value at 'portMapping' failed to satisfy constraint: Member must be a structure"},
		{"a list as structure", "VirtualNodeSpec", `{"listeners": {}}`, "Value at 'listeners' failed to satisfy constraint: Member must be a list"},
		{"a boolean as text", "ClientPolicyTls", `{"enforce": "true", "validation": {"trust": {"sds": {"secretName": "s"}}}}`, "Value at 'enforce' failed to satisfy constraint: Member must be a boolean"},
		{"a null in a list", "VirtualNodeSpec", `{"backends": [null]}`, "Value at 'backends.1.member' failed to satisfy constraint: Member must not be null"},
		{"too short a text", "WeightedTarget", `{"virtualNode": "", "weight": 1}`, "Value '' at 'virtualNode' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"API-035 too long a name", "WeightedTarget", `{"virtualNode": "` + long + `", "weight": 1}`, "Value '" + long[:64] + "...' at 'virtualNode' failed to satisfy constraint: Member must have length less than or equal to 255"},
		{"API-035 the longest name", "WeightedTarget", `{"virtualNode": "` + long[1:] + `", "weight": 1}`, ""},
		{"API-035 letters are counted, not bytes", "WeightedTarget", `{"virtualNode": "` + strings.Repeat("é", 255) + `", "weight": 1}`, ""},
		{"a pattern", "AwsCloudMapInstanceAttribute", `{"key": "a b", "value": "x"}`, "Value 'a b' at 'key' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9!-~]+$"},
		{"RT-010 no target", "TcpRouteAction", `{"weightedTargets": []}`, "Value at 'weightedTargets' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"RT-010 eleven targets", "TcpRouteAction", `{"weightedTargets": [` + strings.Repeat(`{"virtualNode": "n", "weight": 1}, `, 10) + `{"virtualNode": "n", "weight": 1}]}`, "Value at 'weightedTargets' failed to satisfy constraint: Member must have length less than or equal to 10"},
		{"RT-008 a weight over a hundred, with its path", "RouteSpec", `{"httpRoute": {"match": {}, "action": {"weightedTargets": [{"virtualNode": "n", "weight": 101}]}}}`, "Value '101' at 'httpRoute.action.weightedTargets.1.member.weight' failed to satisfy constraint: Member must have value less than or equal to 100"},
		{"RT-005 a priority over a thousand", "RouteSpec", `{"priority": 1001}`, "Value '1001' at 'priority' failed to satisfy constraint: Member must have value less than or equal to 1000"},
		{"RT-005 the bounds of a priority", "RouteSpec", `{"priority": 1000}`, ""},
		{"RT-021 an eleventh header", "HttpRouteMatch", `{"headers": ` + eleven + `}`, "Value at 'headers' failed to satisfy constraint: Member must have length less than or equal to 10"},
		{"RT-022 a header matched in two ways", "HttpRouteHeader", `{"name": "h", "match": {"exact": "a", "prefix": "a"}}`, "Value at 'match' failed to satisfy constraint: Member must have exactly one of exact, prefix, range, regex, suffix set"},
		{"RT-022 a header that is there", "HttpRouteHeader", `{"name": "h", "invert": true}`, ""},
		{"RT-027 metadata matched in no way", "GrpcRouteMetadata", `{"name": "h", "match": {}}`, "Value at 'match' failed to satisfy constraint: Member must have exactly one of exact, prefix, range, regex, suffix set"},
		{"RT-029 a retry policy without bounds", "HttpRetryPolicy", `{"httpRetryEvents": ["server-error"]}`, "Value at 'maxRetries' failed to satisfy constraint: Member must not be null; Value at 'perRetryTimeout' failed to satisfy constraint: Member must not be null"},
		{"RT-031 an unknown TCP retry event", "HttpRetryPolicy", `{"maxRetries": 1, "perRetryTimeout": {}, "tcpRetryEvents": ["refused"]}`, "Value 'refused' at 'tcpRetryEvents.1.member' failed to satisfy constraint: Member must satisfy enum value set: [connection-error]"},
		{"RT-031 an unknown gRPC retry event", "GrpcRetryPolicy", `{"maxRetries": 1, "perRetryTimeout": {}, "grpcRetryEvents": ["unknown"]}`, "Value 'unknown' at 'grpcRetryEvents.1.member' failed to satisfy constraint: Member must satisfy enum value set: [cancelled, deadline-exceeded, internal, resource-exhausted, unavailable]"},
		{"VS-002 two providers", "VirtualServiceSpec", `{"provider": {"virtualNode": {"virtualNodeName": "n"}, "virtualRouter": {"virtualRouterName": "r"}}}`, "Value at 'provider' failed to satisfy constraint: Member must have exactly one of virtualNode, virtualRouter set"},
		{"VN-003 two ways of discovery", "VirtualNodeSpec", `{"serviceDiscovery": {"dns": {"hostname": "h"}, "awsCloudMap": {"namespaceName": "n", "serviceName": "s"}}}`, "Value at 'serviceDiscovery' failed to satisfy constraint: Member must have exactly one of awsCloudMap, dns set"},
		{"VN-030 all of Cloud Map's discovery", "ServiceDiscovery", `{"awsCloudMap": {"namespaceName": "n", "serviceName": "s", "attributes": [{"key": "k", "value": "v"}], "ipPreference": "IPv6_ONLY"}}`, ""},
		{"VN-030 Cloud Map's discovery without attributes", "ServiceDiscovery", `{"awsCloudMap": {"namespaceName": "n", "serviceName": "s"}}`, ""},
		{"VN-030 Cloud Map's discovery in part", "ServiceDiscovery", `{"awsCloudMap": {"attributes": [{"key": "k"}]}}`, "Value at 'awsCloudMap.namespaceName' failed to satisfy constraint: Member must not be null; Value at 'awsCloudMap.serviceName' failed to satisfy constraint: Member must not be null; Value at 'awsCloudMap.attributes.1.member.value' failed to satisfy constraint: Member must not be null"},
		{"VG-008 TLS of ACM, without validation", "VirtualGatewayListenerTls", `{"mode": "DISABLED", "certificate": {"acm": {"certificateArn": "a"}}}`, ""},
		{"VG-008 TLS of files, with validation", "VirtualGatewayListenerTls", `{"mode": "PERMISSIVE", "certificate": {"file": {"certificateChain": "/c", "privateKey": "/k"}}, "validation": {"trust": {"file": {"certificateChain": "/ca"}}}}`, ""},
		{"VG-008 TLS of SDS, with names", "VirtualGatewayListenerTls", `{"mode": "STRICT", "certificate": {"sds": {"secretName": "s"}}, "validation": {"trust": {"sds": {"secretName": "ca"}}, "subjectAlternativeNames": {"match": {"exact": ["a.example.com"]}}}}`, ""},
		{"VG-008 another mode, no certificate", "VirtualGatewayListenerTls", `{"mode": "ON"}`, "Value at 'certificate' failed to satisfy constraint: Member must not be null; Value 'ON' at 'mode' failed to satisfy constraint: Member must satisfy enum value set: [STRICT, PERMISSIVE, DISABLED]"},
		{"VN-008 two pools", "Listener", `{"portMapping": {"port": 80, "protocol": "http"}, "connectionPool": {"http": {"maxConnections": 1}, "tcp": {"maxConnections": 1}}}`, "Value at 'connectionPool' failed to satisfy constraint: Member must have exactly one of grpc, http, http2, tcp set"},
		{"outlier detection in part", "OutlierDetection", `{"maxServerErrors": 5, "interval": {"unit": "s", "value": 1}}`, "Value at 'baseEjectionDuration' failed to satisfy constraint: Member must not be null; Value at 'maxEjectionPercent' failed to satisfy constraint: Member must not be null"},
		{"VN-015 a health check in part", "HealthCheckPolicy", `{"protocol": "http", "path": "/"}`, "Value at 'healthyThreshold' failed to satisfy constraint: Member must not be null; Value at 'intervalMillis' failed to satisfy constraint: Member must not be null; Value at 'timeoutMillis' failed to satisfy constraint: Member must not be null; Value at 'unhealthyThreshold' failed to satisfy constraint: Member must not be null"},
		{"VN-018 the bounds of a health check", "HealthCheckPolicy", `{"protocol": "http", "healthyThreshold": 11, "intervalMillis": 4999, "timeoutMillis": 60001, "unhealthyThreshold": 1}`, "Value '11' at 'healthyThreshold' failed to satisfy constraint: Member must have value less than or equal to 10; Value '4999' at 'intervalMillis' failed to satisfy constraint: Member must have value greater than or equal to 5000; Value '60001' at 'timeoutMillis' failed to satisfy constraint: Member must have value less than or equal to 60000; Value '1' at 'unhealthyThreshold' failed to satisfy constraint: Member must have value greater than or equal to 2"},
		{"a gateway's tcp health check", "VirtualGatewayHealthCheckPolicy", `{"protocol": "tcp", "healthyThreshold": 2, "intervalMillis": 5000, "timeoutMillis": 2000, "unhealthyThreshold": 2}`, "Value 'tcp' at 'protocol' failed to satisfy constraint: Member must satisfy enum value set: [http, http2, grpc]"},
		{"VN-022 a negative duration of an odd unit", "Duration", `{"unit": "h", "value": -1}`, "Value 'h' at 'unit' failed to satisfy constraint: Member must satisfy enum value set: [s, ms]; Value '-1' at 'value' failed to satisfy constraint: Member must have value greater than or equal to 0"},
		{"IPP-001 an unknown preference", "MeshServiceDiscovery", `{"ipPreference": "IPv5"}`, "Value 'IPv5' at 'ipPreference' failed to satisfy constraint: Member must satisfy enum value set: [IPv6_PREFERRED, IPv4_PREFERRED, IPv4_ONLY, IPv6_ONLY]"},
		{"IPP-001 IPv6_PREFERRED", "MeshServiceDiscovery", `{"ipPreference": "IPv6_PREFERRED"}`, ""},
		{"IPP-001 IPv4_PREFERRED", "MeshServiceDiscovery", `{"ipPreference": "IPv4_PREFERRED"}`, ""},
		{"IPP-001 IPv4_ONLY", "MeshServiceDiscovery", `{"ipPreference": "IPv4_ONLY"}`, ""},
		{"IPP-001 IPv6_ONLY", "MeshServiceDiscovery", `{"ipPreference": "IPv6_ONLY"}`, ""},
		{"IPP-001 no preference", "MeshServiceDiscovery", `{}`, ""},
		{"an unknown egress filter", "EgressFilter", `{"type": "ALLOW"}`, "Value 'ALLOW' at 'type' failed to satisfy constraint: Member must satisfy enum value set: [ALLOW_ALL, DROP_ALL]"},
		{"VG-009 a listener does not trust ACM", "VirtualGatewayListenerTlsValidationContext", `{"trust": {"acm": {"certificateAuthorityArns": ["a"]}}}`, "Value at 'trust' failed to satisfy constraint: Member must have exactly one of file, sds set"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var texts []string
			for _, v := range m.Check(c.shape, document(t, c.doc)) {
				texts = append(texts, v.String())
			}
			if got := strings.Join(texts, "; "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// What is decoded afterwards is what was checked: encoding/json would take
// LISTENERS for listeners.
func TestCheckRemovesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	doc := document(t, `{"LISTENERS": [{"portMapping": {"port": 99999}}], "backends": [{"virtualService": {"virtualServiceName": "s", "unknown": {}}}], "logging": null}`)
	if found := appMesh(t).Check("VirtualNodeSpec", doc); len(found) > 0 {
		t.Fatal(found)
	}
	want := document(t, `{"backends": [{"virtualService": {"virtualServiceName": "s"}}]}`)
	if diff := cmp.Diff(want, doc); diff != "" {
		t.Error(diff)
	}
}

func TestMessage(t *testing.T) {
	t.Parallel()
	one := []model.Violation{{Path: "spec", Constraint: "Member must not be null"}}
	if got, want := model.Message(one), "1 validation error detected: Value at 'spec' failed to satisfy constraint: Member must not be null"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	two := append(one, model.Violation{Path: "a.1.member", Value: "'x' ", Constraint: "Member must be a number"})
	if got, want := model.Message(two), "2 validation errors detected: Value at 'spec' failed to satisfy constraint: Member must not be null; Value 'x' at 'a.1.member' failed to satisfy constraint: Member must be a number"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Any valid document passes the checker untouched and comes back from the types
// of package api as it was, but for empty lists, which mean the same as none.
func TestCheckTakesWhatTheModelAllows(t *testing.T) {
	t.Parallel()
	m := appMesh(t)
	rapid.Check(t, func(rt *rapid.T) {
		row := rapid.SampledFrom(api.Kinds()).Draw(rt, "kind")
		doc := modeltest.Draw(rt, m, row.Type+"Spec")
		sent, err := json.Marshal(doc)
		if err != nil {
			rt.Fatal(err)
		}
		if found := m.Check(row.Type+"Spec", doc); len(found) > 0 {
			rt.Fatalf("%s: %s", sent, model.Message(found))
		}
		if checked, _ := json.Marshal(doc); string(checked) != string(sent) {
			rt.Fatalf("sent %s\nleft %s", sent, checked)
		}
		spec, err := api.DecodeSpec(row.Kind, sent)
		if err != nil {
			rt.Fatal(err)
		}
		back, err := json.Marshal(spec)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(withoutEmptyLists(document(t, string(sent))), withoutEmptyLists(document(t, string(back)))); diff != "" {
			rt.Fatal(diff)
		}
	})
}

func withoutEmptyLists(doc any) any {
	switch v := doc.(type) {
	case map[string]any:
		for name, member := range v {
			if list, ok := member.([]any); ok && len(list) == 0 {
				delete(v, name)
				continue
			}
			v[name] = withoutEmptyLists(member)
		}
	case []any:
		for i := range v {
			v[i] = withoutEmptyLists(v[i])
		}
	}
	return doc
}

// Every constraint, wherever it stands, is noticed and its path is named.
func TestCheckRefusesOneBrokenConstraint(t *testing.T) {
	t.Parallel()
	m := appMesh(t)
	property := func(rt *rapid.T) {
		row := rapid.SampledFrom(api.Kinds()).Draw(rt, "kind")
		shape := row.Type + "Spec"
		doc := modeltest.Draw(rt, m, shape)
		path, what, ok := modeltest.Break(rt, m, shape, doc)
		if !ok {
			rt.Skip("an empty document has no constraint")
		}
		found := m.Check(shape, doc)
		if !slices.ContainsFunc(found, func(v model.Violation) bool { return v.Path == path }) {
			rt.Fatalf("%s at %s is not among %v", what, path, found)
		}
	}
	for range 10 {
		rapid.Check(t, property)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, doc, want string }{
		{"no JSON", `{`, "unexpected end of JSON input"},
		{"a member of an unknown shape", `{"shapes": {"A": {"type": "structure", "members": {"b": {"shape": "B"}}}}}`, `A.b refers to unknown shape "B"`},
		{"a list of an unknown shape", `{"shapes": {"A": {"type": "list", "member": {"shape": "B"}}}}`, `A refers to unknown shape "B"`},
		{"a pattern that is none", `{"shapes": {"A": {"type": "string", "pattern": "("}}}`, "pattern of A: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := model.Parse([]byte(c.doc)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// The operations are reached as the model says: this is what SDKs are made of.
func TestOperations(t *testing.T) {
	t.Parallel()
	m := appMesh(t)
	t.Run("API-003 version, signing name and methods", func(t *testing.T) {
		t.Parallel()
		if m.Metadata.APIVersion != "2019-01-25" || m.Metadata.SigningName != "appmesh" || m.Metadata.Protocol != "rest-json" {
			t.Errorf("got %+v", m.Metadata)
		}
		methods := map[string]string{"Create": "PUT", "Update": "PUT", "Describe": "GET", "List": "GET", "Delete": "DELETE", "Tag": "PUT", "Untag": "PUT"}
		for name, op := range m.Operations {
			for verb, method := range methods {
				if strings.HasPrefix(name, verb) && op.HTTP.Method != method {
					t.Errorf("%s is a %s, want %s", name, op.HTTP.Method, method)
				}
			}
			if !strings.HasPrefix(op.HTTP.RequestURI, "/v20190125/") {
				t.Errorf("%s is at %s", name, op.HTTP.RequestURI)
			}
		}
		if len(m.Operations) != 38 {
			t.Errorf("%d operations, want 38", len(m.Operations))
		}
	})
}

// Every constraint of the model has its document, and Check finds that one fault
// in it and no other.
func TestCheckRefusesEveryConstraint(t *testing.T) {
	t.Parallel()
	m := appMesh(t)
	done := map[string]int{}
	for _, row := range api.Kinds() {
		for _, b := range modeltest.Every(m, row.Type+"Spec") {
			text, err := json.Marshal(b.Doc)
			if err != nil {
				t.Fatal(err)
			}
			done[b.What]++
			found := m.Check(row.Type+"Spec", document(t, string(text)))
			if !slices.ContainsFunc(found, func(v model.Violation) bool { return v.Path == b.Path }) {
				t.Errorf("%s: %s at %s: found %v in %s", row.Type, b.What, b.Path, found, text)
			}
			for _, v := range found {
				if v.Path != b.Path {
					t.Errorf("%s: %s at %s broke %s too", row.Type, b.What, b.Path, v.Path)
				}
			}
		}
	}
	for _, what := range []string{
		"wrong type", "required", "null", "no member of a union", "two members of a union", "too few", "too many", "null item",
		"too short", "too long", "enum", "pattern", "too small", "too large", "no whole number", "beyond all numbers",
	} {
		if done[what] == 0 {
			t.Errorf("no document breaks a constraint of the kind %q", what)
		}
	}
}

// A document of faults is refused without naming each.
func TestCheckStopsAtAHundredViolations(t *testing.T) {
	t.Parallel()
	doc := document(t, `{"backends": [`+strings.Repeat("1, ", 100_000)+`1]}`)
	if found := appMesh(t).Check("VirtualNodeSpec", doc); len(found) != 100 {
		t.Errorf("%d violations, want 100", len(found))
	}
}
