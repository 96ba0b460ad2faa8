// Package cloudmaptest is a small Cloud Map for tests and measurements: the two
// operations that a control plane calls, over the real protocol, with faults at
// will. What AWS's own does with a request is checked against an independent
// copy of it in the tests of package cloudmap; this one counts and fails.
package cloudmaptest

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Operations that a Registry has.
const (
	DiscoverInstances         = "DiscoverInstances"
	DiscoverInstancesRevision = "DiscoverInstancesRevision"
)

// Instance is a registered instance.
type Instance struct {
	ID         string
	Health     string // HEALTHY, UNHEALTHY; "" is UNKNOWN, of a service without checks
	Attributes map[string]string
}

// At is an instance that listens at the address, and has these attributes beside:
// name, value, name, value.
func At(ipv4, port string, more ...string) Instance {
	attributes := map[string]string{"AWS_INSTANCE_IPV4": ipv4, "AWS_INSTANCE_PORT": port}
	for i := 0; i+1 < len(more); i += 2 {
		attributes[more[i]] = more[i+1]
	}
	return Instance{ID: ipv4 + ":" + port, Attributes: attributes}
}

// Registry is an http.Handler. Its methods may be called from any goroutine.
type Registry struct {
	// Told is called when the first byte of a list of a service's instances is
	// about to be written; nil is allowed. Set it before the first request.
	Told func(namespace, service string, revision int64)

	mu       sync.Mutex
	services map[string]*entry
	fault    http.HandlerFunc
	asked    map[string]int
	inside   int // requests that are being answered
	most     int
}

type entry struct {
	revision  int64
	instances []Instance
}

// New makes a Registry without services.
func New() *Registry { return &Registry{services: map[string]*entry{}, asked: map[string]int{}} }

// Set makes the instances those of the service, which is made if need be.
func (r *Registry) Set(namespace, service string, instances ...Instance) (revision int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.services[namespace+"/"+service]
	if e == nil {
		e = &entry{}
		r.services[namespace+"/"+service] = e
	}
	e.revision++
	e.instances = instances
	return e.revision
}

// Health sets an instance's health, which moves no revision.
func (r *Registry) Health(namespace, service, id, health string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.services[namespace+"/"+service]
	e.instances = slices.Clone(e.instances)
	for i := range e.instances {
		if e.instances[i].ID == id {
			e.instances[i].Health = health
		}
	}
}

// Fail lets the handler answer all further requests; nil ends that.
func (r *Registry) Fail(with http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = with
}

// Refusal is a handler that answers with an error of AWS's form.
func Refusal(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { refuse(w, status, code) }
}

// Silence is a handler that answers nothing for as long as it is waited for.
func Silence(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // a server notices that its client has gone once it has read the request
	<-r.Context().Done()
}

// Asked is how often an operation was called.
func (r *Registry) Asked(operation string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[operation]
}

// Most is how many requests there were at once, at most.
func (r *Registry) Most() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.most
}

func (r *Registry) enter(operation string) http.HandlerFunc {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[operation]++
	r.inside++
	r.most = max(r.most, r.inside)
	return r.fault
}

func (r *Registry) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inside--
}

// input has the members of both operations.
type input struct {
	NamespaceName, ServiceName, HealthStatus string
	QueryParameters                          map[string]string
	MaxResults                               int
}

// ServeHTTP answers a request in the protocol awsJson1.1.
func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	_, operation, _ := strings.Cut(q.Header.Get("X-Amz-Target"), ".")
	fault := r.enter(operation)
	defer r.leave()
	if fault != nil {
		fault(w, q)
		return
	}
	var in input
	if err := json.NewDecoder(q.Body).Decode(&in); err != nil {
		refuse(w, http.StatusBadRequest, "SerializationException")
		return
	}
	r.mu.Lock()
	e := entry{}
	found := r.services[in.NamespaceName+"/"+in.ServiceName]
	if found != nil {
		e = *found
	}
	r.mu.Unlock()
	switch {
	case found == nil:
		refuse(w, http.StatusBadRequest, "ServiceNotFound")
	case operation == DiscoverInstancesRevision:
		reply(w, http.StatusOK, map[string]any{"InstancesRevision": e.revision})
	case operation == DiscoverInstances:
		out := map[string]any{"InstancesRevision": e.revision, "Instances": e.selected(in)}
		if r.Told != nil {
			r.Told(in.NamespaceName, in.ServiceName, e.revision)
		}
		reply(w, http.StatusOK, out)
	default:
		refuse(w, http.StatusBadRequest, "UnknownOperationException")
	}
}

func (e entry) selected(in input) []map[string]any {
	out := []map[string]any{}
	for _, i := range e.instances {
		mine := true
		for key, value := range in.QueryParameters {
			mine = mine && i.Attributes[key] == value
		}
		if !mine || (in.HealthStatus == "HEALTHY" && i.Health == "UNHEALTHY") || len(out) == in.MaxResults {
			continue
		}
		health := i.Health
		if health == "" {
			health = "UNKNOWN"
		}
		out = append(out, map[string]any{
			"InstanceId": i.ID, "HealthStatus": health, "Attributes": maps.Clone(i.Attributes),
			"NamespaceName": in.NamespaceName, "ServiceName": in.ServiceName,
		})
	}
	return out
}

func refuse(w http.ResponseWriter, status int, code string) {
	reply(w, status, map[string]string{"__type": code, "Message": code})
}

func reply(w http.ResponseWriter, status int, out any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(out) // who has gone reads nothing
}
