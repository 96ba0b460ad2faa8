package cloudmap

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/servicediscovery/types"

	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
)

// wholeEvery is how often a service is listed although its revision stayed.
const wholeEvery = time.Minute

// errNoList is an answer without instances that does not say that there are none.
var errNoList = errors.New("the answer has no list of instances")

// watch is one query over time.
type watch struct {
	source *Source
	query  envoy.EndpointQuery

	set      []envoy.Endpoint // of the last list
	revision int64            // of it; 0 where none was told
	listed   time.Time
	// checked says that Cloud Map checks the instances' health, which moves no
	// revision. Nobody can say so of a list without instances.
	checked bool
	unfit   int // instances that were left out of it
}

// look returns the query's set as it is now. A service whose revision has not
// moved is not listed again.
func (w *watch) look(ctx context.Context) ([]envoy.Endpoint, error) {
	s := w.source
	if w.revision != 0 && !w.checked && !s.wholeOnly.Load() && time.Since(w.listed) < wholeEvery {
		revision, err := s.revision(ctx, w.query)
		switch {
		case err == nil && revision == w.revision:
			return w.set, nil
		case notOffered(err) && !s.wholeOnly.Swap(true):
			s.log.Info("cloud map does not tell revisions: services are listed at every look", "err", err)
		case err != nil && !notOffered(err):
			return nil, err
		}
	}
	out, err := s.instances(ctx, w.query)
	if err != nil {
		return nil, err
	}
	if out.Instances == nil {
		return nil, errNoList
	}
	w.listed, w.revision, w.checked = time.Now(), 0, len(out.Instances) == 0
	if out.InstancesRevision != nil {
		w.revision = *out.InstancesRevision
	}
	instances := make([]discovery.Instance, len(out.Instances))
	for n, i := range out.Instances {
		w.checked = w.checked || (i.HealthStatus != "" && i.HealthStatus != types.HealthStatusUnknown)
		// A registry that does not know the filter tells unhealthy ones too.
		instances[n] = discovery.Instance{Attributes: i.Attributes, Unhealthy: i.HealthStatus == types.HealthStatusUnhealthy}
	}
	var unfit int
	w.set, unfit = discovery.Endpoints(w.query, instances)
	if unfit != w.unfit && unfit > 0 {
		s.log.Warn("instances in cloud map have no address that a proxy can use, and are left out",
			"namespace", w.query.Namespace, "service", w.query.Service, "instances", unfit)
	}
	w.unfit = unfit
	if len(out.Instances) == most {
		s.log.Warn("cloud map may have more instances of a service than it tells",
			"namespace", w.query.Namespace, "service", w.query.Service, "instances", most)
	}
	return w.set, nil
}
