package ads

import (
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/envoy"
)

const (
	// maxNames bounds the resources that a proxy may name in one type, maxName the
	// length of each, and maxNamesBytes that of all: what a stream costs is bounded.
	maxNames      = 10_000
	maxName       = 1024
	maxNamesBytes = 1 << 20
	// maxReason bounds the text of a refusal (D8).
	maxReason = 1024
	// maxRequest bounds a request.
	maxRequest = 4 << 20
)

// receive waits for the next request of a type that is served.
func (v service) receive(stream grpc.ServerStream, in *incoming) error {
	for {
		*in = incoming{delta: in.delta, anonymous: in.anonymous}
		if err := stream.RecvMsg(in); err != nil {
			return err
		}
		if in.typ != noType {
			return nil
		}
		err := refuseType(in.url)
		if err != nil || in.node != nil {
			return err // whose stream it is counts, whatever it asks for
		}
		v.s.Log.Debug("proxy asked for a type that is not served", "type", shortened(in.url))
	}
}

// noType is a type that this server never answers; a proxy may ask for it beside
// the others.
const noType envoy.Type = -1

// typeNamed is envoy.TypeOf for what is not a string yet.
func typeNamed(url []byte) (envoy.Type, bool) {
	for t := envoy.Cluster; t <= envoy.Secret; t++ {
		if string(url) == t.URL() {
			return t, true
		}
	}
	return noType, false
}

// refuseType is the error of a stream that asks for such a type, if it has to
// end for that.
func refuseType(url string) error {
	if strings.Contains(url, "/envoy.api.v2.") {
		return status.Errorf(codes.InvalidArgument, "%s is of the xDS v2 API, which is not supported: use Envoy 1.17 or newer with v3.", oneLine(url))
	}
	return nil
}

// bounded refuses what would cost too much memory; known are the names of the type
// that the stream has already.
func bounded(r request, known []string) error {
	had, weight := 0, r.weight
	if len(r.subscribe) > 0 && len(r.versions) == 0 {
		had = len(known)
		for _, n := range known {
			weight += len(n)
		}
	}
	if n := max(had+len(r.subscribe), len(r.names), len(r.versions), len(r.unsubscribe)); n > maxNames {
		return status.Errorf(codes.ResourceExhausted, "The proxy names %d resources of %s: at most %d are served.", max(n, r.count), r.typ.URL(), maxNames)
	}
	if weight > maxNamesBytes {
		return status.Errorf(codes.ResourceExhausted, "The names of the proxy's resources of %s have %d bytes: at most %d are served.", r.typ.URL(), weight, maxNamesBytes)
	}
	for _, names := range [][]string{r.names, r.subscribe} {
		for _, n := range names {
			if len(n) > maxName {
				return status.Errorf(codes.InvalidArgument, "A resource name has %d bytes: at most %d are served.", len(n), maxName)
			}
		}
	}
	for n, v := range r.versions {
		if len(n) > maxName || len(v) > maxName {
			return status.Errorf(codes.InvalidArgument, "A resource name or version has more than %d bytes.", maxName)
		}
	}
	return nil
}

func shortened(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason]
	}
	return strings.ToValidUTF8(s, "?")
}

// oneLine makes text fit for a gRPC message, which Envoy prints in one line of
// its log (EMS-013).
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, shortened(s))
}
