package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/evermesh/evermesh/internal/forward"
	"github.com/evermesh/evermesh/internal/service"
)

// switchable are the services that --aws-service names.
var switchable = []string{
	"acm", "acm-pca", "cloudtrail", "eks", "eks-auth", "iam", "ram", "servicediscovery", "servicequotas", "sts", "tagging",
}

// deciding are those by which the control plane itself goes: what is said of them at
// another place counts there, and nothing here goes by it.
var deciding = map[string]string{
	"iam":      "users, roles and keys that are made there are unknown here: what was made here before still decides, and cannot be changed",
	"sts":      "credentials that it answers are refused here",
	"eks":      "associations that are made there give pods nothing here",
	"eks-auth": "credentials that it answers are refused here",
	"ram":      "shares that are made there open no mesh here",
}

// parseElsewhere reads the values of --aws-service: NAME=URL or NAME=aws.
func parseElsewhere(values []string) (map[string]string, error) {
	out := map[string]string{}
	for _, v := range values {
		name, endpoint, ok := strings.Cut(v, "=")
		if !ok || !slices.Contains(switchable, name) {
			return nil, usagef("--aws-service %q: want NAME=URL or NAME=aws, where NAME is one of %s", v, strings.Join(switchable, ", "))
		}
		if out[name] != "" {
			return nil, usagef("--aws-service names %s twice", name)
		}
		if err := forward.Check(endpoint); err != nil {
			return nil, usagef("--aws-service %s=%v", name, err)
		}
		out[name] = endpoint
	}
	return out, nil
}

// elsewhereServices makes the services that are switched to another place. The
// credentials come from where every AWS tool has them.
func (d *daemon) elsewhereServices(ctx context.Context, services []*service.Service) (map[string]*forward.Service, error) {
	c := d.config
	if len(c.Elsewhere) == 0 {
		return nil, nil
	}
	aws, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(c.Region))
	if err != nil {
		return nil, fmt.Errorf("read the settings of AWS for --aws-service: %w", err)
	}
	out := map[string]*forward.Service{}
	for _, name := range slices.Sorted(maps.Keys(c.Elsewhere)) {
		if !slices.ContainsFunc(services, func(s *service.Service) bool { return s.SigningName() == name }) {
			return nil, usagef("--aws-service %s: this release does not serve it", name)
		}
		out[name], err = forward.New(forward.Config{
			Name: name, Endpoint: c.Elsewhere[name], Region: c.Region, Partition: c.Partition, Credentials: aws.Credentials, Now: time.Now,
		})
		if err != nil {
			return nil, err
		}
		d.log.Info("service is elsewhere", "service", name, "endpoint", c.Elsewhere[name])
		if meaning, ok := deciding[name]; ok {
			d.log.Warn("the control plane does not go by a service that is elsewhere", "service", name, "meaning", meaning)
		}
	}
	return out, nil
}
