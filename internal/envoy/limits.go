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

// duration is nil when the API's is absent, or has no value; 0 means off, as in Envoy.
func duration(d *api.Duration) *durationpb.Duration {
	if d == nil || d.Value == nil {
		return nil
	}
	return durationpb.New(time.Duration(min(*d.Value, most(d))) * unit(d))
}

// unit is that of a duration. The model lets it be absent, and App Mesh's reference says no default: seconds are taken.
func unit(d *api.Duration) time.Duration {
	if d.Unit == api.DurationUnitMs {
		return time.Millisecond
	}
	return time.Second
}

// most is the largest value of a duration in its unit.
func most(d *api.Duration) int64 { return int64(longestDuration / unit(d)) }

// cut tells of a resource's durations and numbers that are cut, and of durations that are none.
func (f *faults) cut(r *api.Resource) {
	check := func(path string, d *api.Duration) {
		switch {
		case d == nil:
		case d.Value == nil:
			f.add(r.Key, ReasonNotTranslated, "spec.%s has no effect: it has no value; set one, or leave it out", path)
		case *d.Value > most(d):
			f.add(r.Key, ReasonInvalid, "spec.%s is longer than Envoy takes; it is cut to 100 years", path)
		}
	}
	number := func(path string, n int64) {
		if n > unlimited {
			f.add(r.Key, ReasonInvalid, "spec.%s is more than Envoy is given; it is cut to %d", path, unlimited)
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
	if spec := r.RouteSpec(); spec != nil {
		http := func(path string, h *api.HTTPRoute) {
			if h != nil {
				timeout(path+".timeout", h.Timeout)
				if h.RetryPolicy != nil {
					check(path+".retryPolicy.perRetryTimeout", &h.RetryPolicy.PerRetryTimeout)
					number(path+".retryPolicy.maxRetries", h.RetryPolicy.MaxRetries)
				}
			}
		}
		http("httpRoute", spec.HTTPRoute)
		http("http2Route", spec.HTTP2Route)
		if grpc := spec.GRPCRoute; grpc != nil {
			timeout("grpcRoute.timeout", (*api.HTTPTimeout)(grpc.Timeout))
			if grpc.RetryPolicy != nil {
				check("grpcRoute.retryPolicy.perRetryTimeout", &grpc.RetryPolicy.PerRetryTimeout)
				number("grpcRoute.retryPolicy.maxRetries", grpc.RetryPolicy.MaxRetries)
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
				number(path+".outlierDetection.maxServerErrors", o.MaxServerErrors)
			}
		}
	}
}

// count is a number of the API, which may have 64 bits, as one of Envoy's. The
// largest stands for no limit.
func count(n int64) *wrapperspb.UInt32Value {
	return wrapperspb.UInt32(uint32(min(n, unlimited)))
}
