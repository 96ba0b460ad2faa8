package main

import (
	"time"

	"github.com/evermesh/evermesh/internal/cloudmap"
	"github.com/evermesh/evermesh/internal/service"
)

// openRegistry makes the registry of services that the mesh brings along.
func (d *daemon) openRegistry() { d.registry = cloudmap.NewRegistry(d.store, d.log) }

// cloudMap is its API.
func (d *daemon) cloudMap() (*service.Service, error) {
	return cloudmap.New(cloudmap.Config{Store: d.store, Realm: d.realm(), Now: time.Now}).Service()
}
