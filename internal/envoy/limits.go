package envoy

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/evermesh/evermesh/internal/api"
)

// longestDuration is what longer durations are cut to: a hundred years. Envoy refuses
// what does not fit 64 bits of nanoseconds, which is 292 years.
const longestDuration = 100 * 365 * 24 * time.Hour

// duration is nil when the API's is absent; 0 means off, as in Envoy.
func duration(d *api.Duration) *durationpb.Duration {
	if d == nil || d.Value == nil {
		return nil
	}
	return durationpb.New(time.Duration(min(*d.Value, most(d))) * unit(d))
}

func unit(d *api.Duration) time.Duration {
	if d.Unit == api.DurationUnitMs {
		return time.Millisecond
	}
	return time.Second
}

// most is the largest value of a duration in its unit.
func most(d *api.Duration) int64 { return int64(longestDuration / unit(d)) }

// cut tells of a resource's durations that are cut.
func (f *faults) cut(r *api.Resource) {
	check := func(path string, d *api.Duration) {
		if d != nil && d.Value != nil && *d.Value > most(d) {
			f.add(r.Key, ReasonInvalid, "spec.%s is longer than Envoy takes; it is cut to 100 years", path)
		}
	}
	timeout := func(path string, t *api.HTTPTimeout) {
		if t != nil {
			check(path+".perRequest", t.PerRequest)
			check(path+".idle", t.Idle)
		}
	}
	tcp := func(path string, t *api.TCPTimeout) {
		if t != nil {
			check(path+".idle", t.Idle)
		}
	}
	if r == nil {
		return
	}
	if spec := r.RouteSpec(); spec != nil {
		http := func(path string, h *api.HTTPRoute) {
			if h != nil {
				timeout(path+".timeout", h.Timeout)
				if h.RetryPolicy != nil {
					check(path+".retryPolicy.perRetryTimeout", &h.RetryPolicy.PerRetryTimeout)
				}
			}
		}
		http("httpRoute", spec.HTTPRoute)
		http("http2Route", spec.HTTP2Route)
		if grpc := spec.GRPCRoute; grpc != nil {
			timeout("grpcRoute.timeout", (*api.HTTPTimeout)(grpc.Timeout))
			if grpc.RetryPolicy != nil {
				check("grpcRoute.retryPolicy.perRetryTimeout", &grpc.RetryPolicy.PerRetryTimeout)
			}
		}
		if spec.TCPRoute != nil {
			tcp("tcpRoute.timeout", spec.TCPRoute.Timeout)
		}
	}
	if spec := r.VirtualNodeSpec(); spec != nil {
		for i := range spec.Listeners {
			l := &spec.Listeners[i]
			if l.Timeout == nil && l.OutlierDetection == nil {
				continue
			}
			path := fmt.Sprintf("listeners[%d]", i)
			if t := l.Timeout; t != nil {
				timeout(path+".timeout.http", t.HTTP)
				timeout(path+".timeout.http2", t.HTTP2)
				timeout(path+".timeout.grpc", (*api.HTTPTimeout)(t.GRPC))
				tcp(path+".timeout.tcp", t.TCP)
			}
			if o := l.OutlierDetection; o != nil {
				check(path+".outlierDetection.interval", &o.Interval)
				check(path+".outlierDetection.baseEjectionDuration", &o.BaseEjectionDuration)
			}
		}
	}
}

// count is a number of the API, which may have 64 bits, as one of Envoy's. The
// largest stands for no limit.
func count(n int64) *wrapperspb.UInt32Value {
	return wrapperspb.UInt32(uint32(min(n, unlimited)))
}
