package properties

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// The names of what there may be. Few, so that all that refers to them often finds
// something, and often does not.
func nodeNames() []string    { return []string{"n0", "n1", "n2", "odd é%,*", strings.Repeat("n", 255)} }
func routerNames() []string  { return []string{"r0", "r1", "odd é%"} }
func gatewayNames() []string { return []string{"g0", "odd é%,*"} }
func routeNames() []string   { return []string{"x0", "x1", "odd é%,*"} }

func serviceNames() []string {
	return []string{"a.local", "A.LOCAL", "*.local", "a.local:80", "odd é%,*", "[::1]*", "b.local", strings.Repeat("s", 255)}
}

// words are what stands in texts: by member, written Shape.member, or by shape.
// What is in neither is drawn from oddities.
func words() map[string][]string {
	services := append(serviceNames(), "gone.local", "arn:aws:appmesh:us-east-1:"+account+":mesh/"+meshName+"/virtualService/a.local", "arn:aws:appmesh:us-east-1:"+account+":mesh/other/virtualService/a.local")
	arns := []string{"arn:aws:acm:us-east-1:123456789012:certificate/a", "arn:aws:acm:us-east-1:123456789012:certificate/odd é,%"}
	authorities := []string{"arn:aws:acm-pca:us-east-1:123456789012:certificate-authority/a", "arn:aws:acm-pca:us-east-1:123456789012:certificate-authority/odd é,%"}
	matches := []string{"a", "1.5", "a+", "(", `a{2}\pL`, "é \"\\%", "(?i)x|y", "x{1001}", `\1`, "*"}
	return map[string][]string{
		"VirtualServiceBackend.virtualServiceName":                            services,
		"GatewayRouteVirtualService.virtualServiceName":                       append(serviceNames(), "gone.local"),
		"VirtualNodeServiceProvider.virtualNodeName":                          append(nodeNames(), "gone"),
		"VirtualRouterServiceProvider.virtualRouterName":                      append(routerNames(), "gone"),
		"WeightedTarget.virtualNode":                                          {"n0", "n1", "n2", "n1", "n0", "odd é%,*", strings.Repeat("n", 255)},
		"TlsValidationContextAcmTrust.certificateAuthorityArns":               authorities,
		"VirtualGatewayTlsValidationContextAcmTrust.certificateAuthorityArns": authorities,
		"Arn":      arns,
		"FilePath": {"/certs/a.pem", "/odd é:%.pem", "/dev/null", "relative"},
		// Whether a file can be opened is known beside the proxy alone.
		"FileAccessLog.path": {"/dev/null", "/dev/stdout"}, "VirtualGatewayFileAccessLog.path": {"/dev/null", "/dev/stdout"},
		"SdsSecretName":                     {"spiffe://mesh.local/a", "ROOTCA", "odd é,%:", ""},
		"VirtualGatewaySdsSecretName":       {"spiffe://mesh.local/a", "ROOTCA", "file-trust:/a", ""},
		"SubjectAlternativeName":            {"a.local", "*.local", "spiffe://mesh.local/a", "a.local."},
		"Hostname":                          {"n.local", "n.local", "10.0.0.1", "::1", "odd é:80", ".", "*.local", "", "N.Local"},
		"AwsCloudMapName":                   {"svc", "svc", "svc", "ns", "odd é%"},
		"AwsCloudMapInstanceAttributeKey":   {"stage", "a=b", "%"},
		"AwsCloudMapInstanceAttributeValue": {"prod", "a=b", "%"},
		"TextFormat":                        {"%RESPONSE_CODE% [%START_TIME(%s.%3f)%]\n", "%REQ(:PATH)% %REQ(X?Y):9%", "%NONSENSE%", "50% off %", "plain", "%START_TIME(%E)%", "%DOWNSTREAM_PEER_URI_SAN% %FILTER_STATE(a:PLAIN):3%", "%REQ(", "%REQ(a b)%", "%REQ_WITHOUT_QUERY(:path)%"},
		"JsonKey":                           {"code", "a", "odd é\"%"},
		"JsonValue":                         {"%RESPONSE_CODE%", "%NONSENSE%", "%", "text é\"", "%DYNAMIC_METADATA(a:b)%", "%PROTOCOL% %DURATION%", "%RESP(:x)%"},
		// Mostly of one protocol, so that what leads somewhere fits there.
		"PortProtocol":                         {"http", "http", "http", "http", "http", "http", "http2", "grpc", "tcp"},
		"HttpRetryPolicyEvent":                 {"server-error", "gateway-error", "client-error", "stream-error"},
		"HeaderName":                           {"x-a", "X-A", "Host", ":path", ":method", "odd é/", "content-type", ":authority", "a b", "grpc-timeout"},
		"HeaderMatch":                          matches,
		"MethodName":                           {"Get", "get/x", "é(", "*"},
		"ServiceName":                          {"color.Color", "/color.Color", "odd é(", "", "*"},
		"HttpPathExact":                        {"/", "/a", "/a/b/", "/%zz?#é", "odd", "/a?b=1", `/\1`},
		"HttpPathRegex":                        {"/a.*", "/(", "(?i)/é\\pL{9}", "/[ab]+$", "/a{1000}", "a", "/x(?=y)"},
		"QueryParameterName":                   {"q", "odd é&=", ""},
		"QueryParameterMatch.exact":            {"1", "é&=", ""},
		"HttpRouteMatch.prefix":                {"/", "/", "/a", "/a/b/", "//", "/%zz?#é", "odd", ""},
		"HttpGatewayRouteMatch.prefix":         {"/", "/", "/a", "/a/b/", "//", "/%zz?#é", "odd", "/aws-appmesh"},
		"HttpGatewayRoutePrefix":               {"/", "/v/", "/a/b/", "/%zz?#é/", `/\1/`},
		"HealthCheckPolicy.path":               {"/ping", "ping", "", "/é ?#", "/a\r\nb"},
		"VirtualGatewayHealthCheckPolicy.path": {"/ping", ""},
		"ExactHostName":                        {"shop.example.com", "Shop.example.com", "shop.example.com:8080", "*", "a*b", "odd é", "[::1]:80"},
		"SuffixHostname":                       {".example.com", "*.example.com", "*", "example.com", "odd é:80", "a*b*"},
	}
}

// numbers are what stands in numbers, by member or by shape, where it is within the
// shape's bounds.
func numbers() map[string][]int64 {
	ports := []int64{80, 80, 80, 80, 80, 80, 80, 80, 81, 81, 443, 8080, 15000, 15001, 1, 65535}
	return map[string][]int64{
		"PortNumber": ports, "ListenerPort": ports,
		"DurationValue": {0, 1, 15, 1500, 10_000_000_000, math.MaxInt64},
		"RoutePriority": {0, 1, 5, 1000}, "GatewayRoutePriority": {0, 1, 5, 1000},
		"PercentInt":                      {50, 1, 100, 0},
		"MaxRetries":                      {0, 1, 3, 1 << 32, math.MaxInt64},
		"Long":                            {math.MinInt64, -1, 0, 1, 99, math.MaxInt64},
		"OutlierDetectionMaxServerErrors": {1, 5, 1 << 32, math.MaxInt64},
	}
}

// choice is a structure of which the rules want one member of several, or none.
type choice struct {
	of   []string
	must bool
}

func choices() map[string]choice {
	return map[string]choice{
		"RouteSpec":                     {[]string{"httpRoute", "httpRoute", "httpRoute", "httpRoute", "http2Route", "grpcRoute", "tcpRoute"}, true},
		"GatewayRouteSpec":              {[]string{"httpRoute", "httpRoute", "http2Route", "grpcRoute"}, true},
		"VirtualServiceProvider":        {[]string{"virtualRouter", "virtualRouter", "virtualNode"}, true},
		"HttpPathMatch":                 {[]string{"exact", "regex"}, true},
		"GatewayRouteHostnameMatch":     {[]string{"exact", "suffix"}, true},
		"HttpRouteMatch":                {[]string{"prefix", "path"}, false},
		"HttpGatewayRouteMatch":         {[]string{"prefix", "path"}, false},
		"HttpGatewayRoutePrefixRewrite": {[]string{"defaultPrefix", "value"}, false},
		"HttpGatewayRouteRewrite":       {[]string{"prefix", "path"}, false},
	}
}

// author draws documents.
type author struct {
	m       *model.Model
	words   map[string][]string
	numbers map[string][]int64
	choices map[string]choice
	likely  map[string]bool // members without which little follows from a document
}

func newAuthor(m *model.Model) *author {
	likely := map[string]bool{}
	for _, member := range []string{
		"VirtualNodeSpec.listeners", "VirtualNodeSpec.serviceDiscovery", "VirtualNodeSpec.backends",
		"VirtualServiceSpec.provider", "VirtualRouterSpec.listeners", "HttpRouteAction.weightedTargets",
	} {
		likely[member] = true
	}
	return &author{m, words(), numbers(), choices(), likely}
}

// spec draws a document that keeps the model's constraints and, but for one in
// eight, the rules within it.
func (a *author) spec(t *rapid.T, kind api.Kind) map[string]any {
	row, _ := kind.Row()
	lawful := !seldom(t, "lawless")
	doc := a.structure(t, row.Type+"Spec", lawful)
	if lawful {
		obey(doc)
	}
	return doc
}

func (a *author) draw(t *rapid.T, shape, member string, lawful bool) any {
	s := a.m.Shapes[shape]
	switch s.Type {
	case "structure":
		return a.structure(t, shape, lawful)
	case "list":
		least, most := int64(0), int64(3)
		if s.Min != nil {
			least = *s.Min
		}
		if s.Max != nil {
			most = min(most, *s.Max)
		}
		n := least
		if a.likely[member] && !seldom(t, "none of "+member) {
			n = least + 1
		}
		for n < most && rapid.Bool().Draw(t, "more of "+member) {
			n++
		}
		out := make([]any, n)
		for i := range out {
			out[i] = a.draw(t, s.Member.Shape, member, lawful)
		}
		return out
	case "string":
		if s.Enum != nil && a.words[shape] == nil {
			return rapid.SampledFrom(s.Enum).Draw(t, member)
		}
		return rapid.SampledFrom(a.of(shape, member)).Draw(t, member)
	case "boolean":
		return rapid.Bool().Draw(t, member)
	default:
		return json.Number(strconv.FormatInt(a.number(t, s, shape, member), 10))
	}
}

// of are the words of a member.
func (a *author) of(shape, member string) []string {
	if w := a.words[member]; w != nil {
		return w
	}
	if w := a.words[shape]; w != nil {
		return w
	}
	return []string{"a", "odd é\"\\%*"}
}

func (a *author) number(t *rapid.T, s *model.Shape, shape, member string) int64 {
	if n := a.numbers[shape]; n != nil {
		return rapid.SampledFrom(n).Draw(t, member)
	}
	low, high := int64(0), int64(math.MaxInt32)
	if s.Type == "long" {
		high = math.MaxInt64
	}
	if s.Min != nil {
		low = *s.Min
	}
	if s.Max != nil {
		high = *s.Max
	}
	return rapid.SampledFrom([]int64{low, high, low + (high-low)/2}).Draw(t, member)
}

// structure draws what is required, the one of a choice, and half of all else.
func (a *author) structure(t *rapid.T, shape string, lawful bool) map[string]any {
	s := a.m.Shapes[shape]
	names, must := slices.Sorted(maps.Keys(s.Members)), ""
	c, has := a.choices[shape]
	if s.Union {
		if has {
			names = c.of
		}
		must = rapid.SampledFrom(names).Draw(t, shape)
		names = []string{must}
	} else if has && lawful {
		one := rapid.SampledFrom(c.of).Draw(t, shape)
		if c.must {
			must = one
		}
		names = slices.DeleteFunc(names, func(n string) bool { return n != one && slices.Contains(c.of, n) })
	}
	out := map[string]any{}
	for _, name := range names {
		if name == must || slices.Contains(s.Required, name) || rapid.Bool().Draw(t, name) || a.likely[shape+"."+name] && !seldom(t, name) {
			out[name] = a.draw(t, s.Members[name].Shape, shape+"."+name, lawful)
		}
	}
	return out
}

// obey makes a document keep the rules within it that chance would seldom keep;
// what the rules leave open stays.
func obey(doc any) {
	switch v := doc.(type) {
	case []any:
		for _, item := range v {
			obey(item)
		}
	case map[string]any:
		obeyListeners(v)
		obeyMatch(v)
		for _, member := range v {
			obey(member)
		}
	}
}

// obeyListeners: who is found listens, ports differ, pools fit.
func obeyListeners(v map[string]any) {
	listeners, _ := v["listeners"].([]any)
	if len(listeners) == 0 {
		delete(v, "serviceDiscovery")
	}
	if _, gateway := v["logging"]; !gateway && v["listeners"] != nil && len(listeners) == 0 && len(v) == 1 {
		delete(v, "listeners") // a router
	}
	seen := map[any]bool{}
	kept := listeners[:0]
	for _, l := range listeners {
		listener := l.(map[string]any)
		mapping := listener["portMapping"].(map[string]any)
		if seen[mapping["port"]] {
			continue
		}
		seen[mapping["port"]] = true
		if pool, has := listener["connectionPool"].(map[string]any); has {
			for protocol := range pool {
				mapping["protocol"] = protocol
			}
		}
		kept = append(kept, l)
	}
	if listeners != nil {
		v["listeners"] = kept
	}
}

// obeyMatch: paths are absolute, methods have a service, rewrites have what they
// rewrite.
func obeyMatch(v map[string]any) {
	match, has := v["match"].(map[string]any)
	if !has {
		return
	}
	absolute := func(of map[string]any, member string) {
		if text, has := of[member].(string); has && !strings.HasPrefix(text, "/") {
			of[member] = "/" + text
		}
	}
	absolute(match, "prefix")
	if path, has := match["path"].(map[string]any); has {
		absolute(path, "exact")
	}
	if name, _ := match["serviceName"].(string); name == "" {
		delete(match, "methodName")
	}
	action, _ := v["action"].(map[string]any)
	rewrite, _ := action["rewrite"].(map[string]any)
	for _, member := range []string{"prefix", "path"} {
		if _, has := match[member]; !has {
			delete(rewrite, member)
		}
	}
	if path, has := rewrite["path"].(map[string]any); has {
		absolute(path, "exact")
		if _, has := path["exact"]; !has {
			delete(rewrite, "path")
		}
	}
}
