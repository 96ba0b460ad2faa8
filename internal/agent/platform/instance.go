package platform

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"

	"github.com/evermesh/evermesh/internal/agent/settings"
)

// place is where an instance is. "" is what is not known.
type place struct{ region, zone, zoneID string }

// tokenSeconds is how long the token lives: longer than this search, and no longer than it must.
const tokenSeconds = "2"

var (
	aName  = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
	aToken = regexp.MustCompile(`^[!-~]+$`) // of mostToken at most: counted by the pattern it would take 2 ms of each start
)

const mostToken = 1000

// instance asks the instance metadata service, by its version 2 only: without a token nothing is asked (AGENT-048). The
// zone's name is wanted by Kubernetes' platform alone.
func (c client) instance(ctx context.Context, p settings.PlatformSettings) (place, error) {
	token, err := c.fetch(ctx, http.MethodPut, p.InstanceMetadata+"/latest/api/token", http.Header{"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": {tokenSeconds}})
	if err == nil && (len(token) > mostToken || !aToken.Match(token)) {
		err = errors.New("answered what is no token")
	}
	if err != nil {
		return place{}, fmt.Errorf("ask the instance metadata service for a token: %w (AWS_EC2_METADATA_DISABLED=true asks it nothing; in a container the instance's hop limit must be 2 or more)", err)
	}
	var found place
	wanted := []struct {
		path string
		into *string
	}{{"placement/region", &found.region}, {"placement/availability-zone-id", &found.zoneID}, {"placement/availability-zone", &found.zone}}
	if p.Kubernetes == nil {
		wanted = wanted[:2]
	}
	var wg sync.WaitGroup
	failed := make([]error, len(wanted))
	for i, w := range wanted {
		wg.Go(func() {
			text, err := c.fetch(ctx, http.MethodGet, p.InstanceMetadata+"/latest/meta-data/"+w.path, http.Header{"X-Aws-Ec2-Metadata-Token": {string(token)}})
			name := strings.TrimSpace(string(text))
			if err == nil && !aName.MatchString(name) {
				err = errors.New("answered what is no name")
			}
			if err != nil {
				failed[i] = fmt.Errorf("ask the instance metadata service for %s: %w", w.path, err)
				return
			}
			*w.into = name
		})
	}
	wg.Wait()
	return found, errors.Join(failed...)
}
