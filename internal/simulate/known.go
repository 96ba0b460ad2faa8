package simulate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// understood are the messages and, of each, the fields and values of
// enumerations that this package acts on. A value stands with the message or
// package that it is declared in.
var understood = map[string]string{
	"envoy.config.listener.v3.Listener":                                   "address filter_chains listener_filters name traffic_direction",
	"envoy.config.listener.v3.ListenerFilter":                             "filter_disabled name typed_config",
	"envoy.config.listener.v3.ListenerFilterChainMatchPredicate":          "destination_port_range not_match or_match any_match",
	"envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet": "rules",
	"envoy.config.listener.v3.FilterChain":                                "filter_chain_match filters transport_socket",
	"envoy.config.listener.v3.FilterChainMatch":                           "destination_port prefix_ranges server_names transport_protocol",
	"envoy.config.listener.v3.Filter":                                     "name typed_config",
	"envoy.extensions.filters.listener.original_dst.v3.OriginalDst":       "",
	"envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector":     "",

	"envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit":                 "max_connections",
	"envoy.extensions.filters.network.rbac.v3.RBAC":                                        "",
	"envoy.extensions.filters.network.direct_response.v3.Config":                           "",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy":                               "access_log cluster idle_timeout weighted_clusters",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster":               "clusters",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": "name weight",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager": "access_log http_filters merge_slashes " +
		"normalize_path path_with_escaped_slashes_action KEEP_UNCHANGED rds upgrade_configs",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig": "enabled upgrade_type",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter":                          "name typed_config",
	"envoy.extensions.filters.network.http_connection_manager.v3.Rds":                                 "route_config_name",
	// It passes on what it is asked for, until the proxy is to stop.
	"envoy.extensions.filters.http.health_check.v3.HealthCheck": "headers pass_through_mode",
	"envoy.extensions.filters.http.router.v3.Router":            "",
	"envoy.config.accesslog.v3.AccessLog":                       "name typed_config",
	"envoy.extensions.access_loggers.file.v3.FileAccessLog":     "path",

	"envoy.config.route.v3.RouteConfiguration":                             "ignore_port_in_host_matching name response_headers_to_remove virtual_hosts",
	"envoy.config.route.v3.VirtualHost":                                    "domains name routes",
	"envoy.config.route.v3.Route":                                          "direct_response match name request_headers_to_add request_headers_to_remove response_headers_to_remove route",
	"envoy.config.route.v3.RouteMatch":                                     "headers path prefix path_separated_prefix query_parameters safe_regex",
	"envoy.config.route.v3.HeaderMatcher":                                  "invert_match name present_match range_match string_match",
	"envoy.config.route.v3.QueryParameterMatcher":                          "name present_match string_match",
	"envoy.config.route.v3.DirectResponseAction":                           "status",
	"envoy.config.route.v3.RouteAction":                                    "cluster host_rewrite_literal idle_timeout prefix_rewrite regex_rewrite retry_policy timeout weighted_clusters",
	"envoy.config.route.v3.WeightedCluster":                                "clusters",
	"envoy.config.route.v3.WeightedCluster.ClusterWeight":                  "name weight",
	"envoy.config.route.v3.RetryPolicy":                                    "host_selection_retry_max_attempts num_retries per_try_timeout retriable_status_codes retry_host_predicate retry_on",
	"envoy.config.route.v3.RetryPolicy.RetryHostPredicate":                 "name typed_config",
	"envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate": "",
	"envoy.type.matcher.v3.RegexMatchAndSubstitute":                        "pattern substitution",
	"envoy.type.matcher.v3.RegexMatcher":                                   "regex",
	"envoy.type.matcher.v3.StringMatcher":                                  "exact prefix safe_regex suffix contains ignore_case",
	"envoy.type.v3.Int32Range":                                             "end start",
	"envoy.type.v3.Int64Range":                                             "end start",
	"envoy.type.v3":                                                        "HTTP2",
	"envoy.config.core.v3.HeaderValueOption":                               "OVERWRITE_IF_EXISTS_OR_ADD append_action header",
	"envoy.config.core.v3.HeaderValue":                                     "key value",

	"envoy.config.cluster.v3.Cluster": "CLUSTER_PROVIDED EDS LOGICAL_DNS ORIGINAL_DST STATIC STRICT_DNS V4_ONLY V4_PREFERRED V6_ONLY circuit_breakers " +
		"connect_timeout dns_lookup_family eds_cluster_config health_checks lb_policy load_assignment name outlier_detection transport_socket type typed_extension_protocol_options",
	"envoy.config.cluster.v3.Cluster.EdsClusterConfig":   "",
	"envoy.config.cluster.v3.CircuitBreakers":            "thresholds",
	"envoy.config.cluster.v3.CircuitBreakers.Thresholds": "max_connections max_pending_requests max_requests max_retries",
	"envoy.config.cluster.v3.OutlierDetection":           "base_ejection_time consecutive_5xx interval max_ejection_percent",
	"envoy.config.core.v3.HealthCheck": "alt_port grpc_health_check healthy_threshold http_health_check interval no_traffic_interval " +
		"tcp_health_check timeout tls_options unhealthy_threshold",
	"envoy.config.core.v3.HealthCheck.GrpcHealthCheck":                          "",
	"envoy.config.core.v3.HealthCheck.HttpHealthCheck":                          "codec_client_type host path",
	"envoy.config.core.v3.HealthCheck.TcpHealthCheck":                           "",
	"envoy.config.core.v3.Http2ProtocolOptions":                                 "",
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions":                    "explicit_http_config",
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig": "http2_protocol_options",
	"envoy.config.endpoint.v3.ClusterLoadAssignment":                            "cluster_name endpoints",
	"envoy.config.endpoint.v3.LocalityLbEndpoints":                              "lb_endpoints",
	"envoy.config.endpoint.v3.LbEndpoint":                                       "endpoint",
	"envoy.config.endpoint.v3.Endpoint":                                         "address health_check_config",
	"envoy.config.endpoint.v3.Endpoint.HealthCheckConfig":                       "port_value",
	"envoy.config.core.v3.Address":                                              "socket_address",
	"envoy.config.core.v3.SocketAddress":                                        "address ipv4_compat port_value",
	"envoy.config.core.v3.HealthCheck.TlsOptions":                               "alpn_protocols",
	"envoy.config.core.v3.CidrRange":                                            "address_prefix prefix_len",
	"envoy.config.core.v3":                                                      "INBOUND OUTBOUND V3",

	"envoy.config.core.v3.TransportSocket":                                                            "name typed_config",
	"envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext":                                  "common_tls_context require_client_certificate",
	"envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext":                                    "common_tls_context sni",
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext":                                      "alpn_protocols combined_validation_context tls_certificate_sds_secret_configs validation_context_sds_secret_config",
	"envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext": "default_validation_context validation_context_sds_secret_config",
	"envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext":                          "match_typed_subject_alt_names",
	"envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher":                                 "matcher san_type DNS URI IP_ADDRESS",
	"envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig":                                       "name sds_config",
	"envoy.config.core.v3.ConfigSource":                                                               "ads api_config_source initial_fetch_timeout resource_api_version",
	"envoy.config.core.v3.AggregatedConfigSource":                                                     "",
	"envoy.config.core.v3.ApiConfigSource":                                                            "api_type grpc_services transport_api_version GRPC",
	"envoy.config.core.v3.GrpcService":                                                                "envoy_grpc",
	"envoy.config.core.v3.GrpcService.EnvoyGrpc":                                                      "cluster_name",
}

// without are fields and messages that change nothing of what becomes of a
// request, with the reason. What is in them is not looked at.
var without = map[string]string{
	"envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit.stat_prefix":              "names of statistics",
	"envoy.extensions.filters.network.rbac.v3.RBAC.stat_prefix":                                     "names of statistics",
	"envoy.extensions.filters.network.rbac.v3.RBAC.shadow_rules":                                    "what is counted; such rules let everything pass",
	"envoy.extensions.access_loggers.stats.v3.Config":                                               "what is counted",
	"envoy.config.accesslog.v3.AccessLog.filter":                                                    "which requests are logged; an outcome names the file in any case",
	"envoy.config.listener.v3.Listener.listener_filters_timeout":                                    "when a connection is handed on, not to whom",
	"envoy.config.listener.v3.Listener.continue_on_listener_filters_timeout":                        "when a connection is handed on, not to whom",
	"envoy.config.listener.v3.Listener.metadata":                                                    "tags of statistics",
	"envoy.config.route.v3.Route.metadata":                                                          "tags of statistics",
	"envoy.config.cluster.v3.Cluster.metadata":                                                      "tags of statistics",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.stat_prefix": "names of statistics",
	"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.stat_prefix":                            "names of statistics",
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.tracing":     "spans beside the request",
	"envoy.extensions.filters.network.http_connection_manager.v3.Rds.config_source":                 "the bundle has the routes, wherever they come from",
	"envoy.config.cluster.v3.Cluster.EdsClusterConfig.eds_config":                                   "the bundle has the endpoints, wherever they come from",
	"envoy.config.cluster.v3.Cluster.ignore_health_on_host_removal":                                 "when endpoints go, not where requests go",
	"envoy.extensions.access_loggers.file.v3.FileAccessLog.log_format":                              "what a line looks like",
}

// UnknownError is a configuration with parts that this package does not
// understand, and so cannot say anything true about.
type UnknownError struct {
	Resource string   // listener, cluster, route configuration or load assignment
	Names    []string // full names of messages, fields and values, sorted
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("%s has what the simulation does not understand: %s", e.Resource, strings.Join(e.Names, ", "))
}

// survey walks over a message: it notes what is not understood, and compiles
// patterns.
type survey struct {
	unknown  map[string]bool
	patterns map[string]*regexp.Regexp
	errs     []error
}

func (s *survey) message(m protoreflect.Message) {
	if packed, ok := m.Interface().(*anypb.Any); ok {
		inner, err := packed.UnmarshalNew()
		if err != nil {
			s.unknown[packed.GetTypeUrl()] = true
			return
		}
		s.message(inner.ProtoReflect())
		return
	}
	name := string(m.Descriptor().FullName())
	if strings.HasPrefix(name, "google.protobuf.") {
		return // numbers and durations
	}
	if without[name] != "" {
		return
	}
	if _, ok := understood[name]; !ok {
		s.unknown[name] = true
		return
	}
	if len(m.GetUnknown()) > 0 {
		s.unknown[name+" (fields that are newer than this program)"] = true
	}
	if name == "envoy.type.matcher.v3.RegexMatcher" {
		s.pattern(m.Get(m.Descriptor().Fields().ByName("regex")).String())
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if without[string(f.FullName())] != "" {
			return true
		}
		if !isUnderstood(f.FullName()) {
			s.unknown[string(f.FullName())] = true
			return true
		}
		switch {
		case f.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				s.value(f.MapValue(), v)
				return true
			})
		case f.IsList():
			for i := range v.List().Len() {
				s.value(f, v.List().Get(i))
			}
		default:
			s.value(f, v)
		}
		return true
	})
}

func (s *survey) value(f protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch {
	case f.Message() != nil:
		s.message(v.Message())
	case f.Enum() != nil && v.Enum() != 0:
		value := f.Enum().Values().ByNumber(v.Enum())
		if value == nil {
			s.unknown[fmt.Sprintf("%s = %d", f.FullName(), v.Enum())] = true
		} else if !isUnderstood(value.FullName()) {
			s.unknown[string(value.FullName())] = true
		}
	}
}

func isUnderstood(name protoreflect.FullName) bool {
	return slices.Contains(strings.Fields(understood[string(name.Parent())]), string(name.Name()))
}

// pattern compiles a pattern twice: RE2 and Go have one syntax and one meaning
// for what texts in ASCII can be matched by.
func (s *survey) pattern(expr string) {
	for _, form := range []string{whole(expr), expr} {
		if s.patterns[form] != nil {
			continue
		}
		p, err := regexp.Compile(form)
		if err != nil {
			s.errs = append(s.errs, fmt.Errorf("pattern %q: %w", expr, err))
			return
		}
		s.patterns[form] = p
	}
}

// whole is the pattern that matches whole texts alone, as Envoy does.
func whole(expr string) string { return `\A(?:` + expr + `)\z` }

// check is the error of a resource that is not understood.
func (s *survey) check(resource string, m proto.Message) error {
	s.unknown = map[string]bool{}
	s.message(m.ProtoReflect())
	if len(s.unknown) > 0 {
		names := make([]string, 0, len(s.unknown))
		for n := range s.unknown {
			names = append(names, n)
		}
		slices.Sort(names)
		return &UnknownError{resource, names}
	}
	if len(s.errs) > 0 {
		return fmt.Errorf("%s: %w", resource, s.errs[0])
	}
	return nil
}
