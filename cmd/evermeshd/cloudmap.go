package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/discovery/cloudmap"
)

// leastPoll keeps a slip of the pen from becoming a flood.
const leastPoll = 50 * time.Millisecond

func (c config) checkCloudMap() error {
	if c.CloudMapEndpoint != "" {
		at, err := url.Parse(c.CloudMapEndpoint)
		if err != nil || at.Host == "" || (at.Scheme != "http" && at.Scheme != "https") {
			return usagef("--cloudmap-endpoint %q: want a URL such as https://cloudmap.example.com", c.CloudMapEndpoint)
		}
	}
	if c.CloudMapPoll < leastPoll || c.CloudMapPoll > cloudmap.MaxPoll {
		return usagef("--cloudmap-poll %v: want %v to %v", c.CloudMapPoll, leastPoll, cloudmap.MaxPoll)
	}
	return nil
}

// endpointSource is where instances are looked up: the registry here, which is our
// own, unless the settings name another place. Credentials come from where every AWS
// tool has them: the environment, the shared files, the platform.
func (d *daemon) endpointSource(ctx context.Context) (source discovery.Source, own bool, err error) {
	c := d.config
	if c.CloudMapRegion == "" {
		return d.registry, true, nil
	}
	aws, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(c.CloudMapRegion))
	if err != nil {
		return nil, false, fmt.Errorf("read the settings of AWS for Cloud Map: %w", err)
	}
	return cloudmap.New(cloudmap.Config{AWS: aws, Endpoint: c.CloudMapEndpoint, Poll: c.CloudMapPoll, Log: d.log}), false, nil
}
