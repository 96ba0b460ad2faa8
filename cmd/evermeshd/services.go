package main

import (
	"fmt"

	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/service"
)

// around is what the services around the mesh are to the rest of the control plane.
// A part that is nil is not there: roots only, nothing shared, nothing recorded.
type around struct {
	authorizer auth.Authorizer
	shares     rest.Shares
	audit      service.Auditor
}

// services makes the services around the mesh that this replica serves; each has a
// file of its own, which makes what it stands on first.
func (d *daemon) services() ([]*service.Service, error) {
	var out []*service.Service
	for _, one := range []struct {
		name string
		made func() (*service.Service, error)
	}{
		{"servicediscovery", d.cloudMap},
		{"cloudtrail", func() (*service.Service, error) { return d.trail.lookups.Service() }},
		{"iam", d.iam},
		{"sts", func() (*service.Service, error) { return d.roles.Service() }},
		{"eks", func() (*service.Service, error) { return d.pods.Service() }},
		{"eks-auth", func() (*service.Service, error) { return d.pods.Auth() }},
		{"acm", d.acm},
		{"acm-pca", d.acmPCA},
		{"resourcegroupstaggingapi", d.tagging},
		{"servicequotas", func() (*service.Service, error) { return d.quotas.Service() }},
		{"ram", func() (*service.Service, error) { return d.shares.Service() }},
	} {
		s, err := one.made()
		if err != nil {
			return nil, fmt.Errorf("make service %s: %w", one.name, err)
		}
		out = append(out, s)
	}
	return out, nil
}
