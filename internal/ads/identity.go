package ads

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

const (
	// maxIdentity bounds a proxy's instance, maxNodeID its node id, in bytes.
	maxIdentity = 255
	maxNodeID   = 2048
)

// acceptable says whether a node id can mean something on this control plane
// (EMS-015, EMS-017); its error is the stream's status.
func (s *Server) acceptable(id string) error {
	switch {
	case id == "":
		return status.Error(codes.InvalidArgument, "The first request has no node id: set APPMESH_RESOURCE_ARN.")
	case len(id) > maxNodeID:
		return status.Errorf(codes.InvalidArgument, "The node id has %d bytes, at most %d are allowed: correct APPMESH_RESOURCE_ARN.", len(id), maxNodeID)
	case !strings.HasPrefix(id, "arn:"):
		return nil
	}
	arn, err := api.ParseARN(id)
	switch {
	case err != nil:
		return nil // Resolve says what is wrong with it
	case arn.Partition != s.Realm.Partition:
		return status.Error(codes.InvalidArgument, oneLine(fmt.Sprintf("The node id names partition %q, but this control plane is %q: correct APPMESH_RESOURCE_ARN.", arn.Partition, s.Realm.Partition)))
	case arn.Region != s.Realm.Region:
		return status.Error(codes.InvalidArgument, oneLine(fmt.Sprintf("The node id names region %q, but this control plane is %q: correct APPMESH_RESOURCE_ARN.", arn.Region, s.Realm.Region)))
	}
	return nil
}

// asked is what a node id names for a principal of an account, whether there is such a
// thing or not; ok is false for what is no node id.
func (s *Server) asked(id, account string) (key api.Key, arn string, ok bool) {
	of, err := api.ParseNodeID(id)
	if err != nil {
		return api.Key{}, "", false
	}
	key = of.Key(account)
	return key, s.Realm.ARN(key, cmp.Or(of.Account, key.Owner)), true
}

// instanceOf tells which proxy of its client this is (D8): the random id that
// the agent keeps over reconnects, else ECS's task or Kubernetes' pod, else the
// peer's address.
func instanceOf(n *corev3.Node, peer string) string {
	for _, path := range [][]string{
		{"evermesh.instance"},
		{"aws.appmesh.platformInfo", "ecsPlatformInfo", "ecsTaskArn"},
		{"aws.appmesh.platformInfo", "k8sPlatformInfo", "podUid"},
	} {
		if s := lookup(n.GetMetadata(), path); s != "" {
			return clipped(s)
		}
	}
	return clipped(peer)
}

// What the metrics extension's families are made with: two extensions of Envoy, and
// a field that the first of them has since 1.39. Older supported versions lack it.
var (
	metricsNeed  = [2]string{"envoy.access_loggers.stats", "envoy.access_loggers.extension_filters.cel"}
	metricsSince = [2]uint32{1, 39}
)

// traitsOf is what the node says of its proxy that its configuration depends on, and
// notes on that for the person who looks at the proxy.
func traitsOf(n *corev3.Node) (t mesh.Traits, notes []string) {
	// App Mesh's agent says nothing of it, and may have a server.
	t.NoSDS = lookup(n.GetMetadata(), []string{"evermesh.sds"}) == "none"
	var lacks string
	if t.Metrics, lacks = metricsOf(n); lacks != "" {
		notes = append(notes, lacks)
	}
	if of, err := api.ParseNodeID(n.GetId()); err == nil && of.Kind == api.KindVirtualGateway {
		return t, notes // it has no interception anyway (ICPT-026)
	}
	switch said := lookup(n.GetMetadata(), []string{"evermesh.interception"}); said {
	case "", "redirect":
	case "none":
		direct, err := mesh.NewDirect(lookup(n.GetMetadata(), []string{"evermesh.ingress", "address"}), lookup(n.GetMetadata(), []string{"evermesh.ingress", "ports"}))
		if err != nil {
			notes = append(notes, fmt.Sprintf("It runs without interception, but what it says of its ingress is wrong: %s. It gets the configuration of proxies without any.", oneLine(err.Error())))
			direct, _ = mesh.NewDirect("", "")
		}
		t.Direct = direct
		notes = append(notes, "It runs without interception: only connections to the loopback addresses of virtual services and to its own listeners pass it, and an egress filter DROP_ALL keeps its application from nothing else.")
	default:
		notes = append(notes, fmt.Sprintf("It asks for an interception %q that is not known here: its listeners are those of redirected traffic.", clipped(said)))
	}
	return t, notes
}

// metricsOf says whether the proxy counts for the metrics extension; lacks is a note when
// it asks for what its Envoy cannot do: an Envoy refuses a configuration that names what
// it does not have, and everything else with it.
func metricsOf(n *corev3.Node) (yes bool, lacks string) {
	if lookup(n.GetMetadata(), []string{"aws.appmesh.metric_filter", "level"}) != "1" {
		return false, ""
	}
	for _, need := range metricsNeed {
		if !slices.ContainsFunc(n.GetExtensions(), func(e *corev3.Extension) bool { return e.GetName() == need && !e.GetDisabled() }) {
			return false, "It asks for the metrics extension, but its Envoy has no " + need + ": it gets none of the extension's metrics."
		}
	}
	v := n.GetUserAgentBuildVersion().GetVersion()
	if slices.Compare([]uint32{v.GetMajorNumber(), v.GetMinorNumber()}, metricsSince[:]) < 0 {
		return false, fmt.Sprintf("It asks for the metrics extension, but its Envoy is older than %d.%d: it gets none of the extension's metrics.", metricsSince[0], metricsSince[1])
	}
	return true, ""
}

func lookup(s *structpb.Struct, path []string) string {
	v := s.GetFields()[path[0]]
	for _, name := range path[1:] {
		v = v.GetStructValue().GetFields()[name]
	}
	return v.GetStringValue()
}

// clipped is the text without what cannot be printed, of bounded length.
func clipped(s string) string {
	if len(s) > maxIdentity {
		s = s[:maxIdentity]
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// versionOf is Envoy's version as its node tells it, such as 1.40.0; nil when
// it does not.
func versionOf(n *corev3.Node) *string {
	v := n.GetUserAgentBuildVersion().GetVersion()
	if v == nil {
		return nil
	}
	s := fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	return &s
}

// statusOf turns an error into what the proxy is told (EMS-009 to EMS-013).
func statusOf(err error) error {
	var known *api.Error
	if !errors.As(err, &known) {
		if s, ok := status.FromError(err); ok {
			return s.Err()
		}
		return status.Error(codes.Internal, "The management service failed: see its log.")
	}
	code := codes.Internal
	switch known.Code {
	case api.CodeMissingAuthenticationToken, api.CodeIncompleteSignature, api.CodeUnrecognizedClient,
		api.CodeInvalidSignature, api.CodeExpiredToken:
		code = codes.Unauthenticated
	case api.CodeAccessDenied, api.CodeForbidden:
		code = codes.PermissionDenied
	case api.CodeNotFound, api.CodeBadRequest:
		code = codes.InvalidArgument
	case api.CodeServiceUnavailable:
		code = codes.Unavailable
	case api.CodeLimitExceeded, api.CodeTooManyRequests:
		code = codes.ResourceExhausted
	}
	return status.Error(code, oneLine(known.Message))
}

func unauthorized(arn string) error {
	return status.Errorf(codes.PermissionDenied, "Unauthorized to perform appmesh:StreamAggregatedResources for %s.", oneLine(arn))
}

func missing(arn string) error {
	return status.Errorf(codes.InvalidArgument, "%s does not exist: create it, or correct APPMESH_RESOURCE_ARN.", oneLine(arn))
}
