package drain

import (
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/store"
)

// prefix of the rows; they are part of the ledger, and so of no backup.
const prefix = "ledger/drains/"

// record is a drain as it is stored.
type record struct {
	Instance  string   `json:"instance"`
	Key       string   `json:"key"` // of the node
	ARN       string   `json:"arn"`
	Addresses []string `json:"addresses"` // that the proxy told of itself
	Beside    []string `json:"beside"`    // other instances of the node that told one of them then
	Account   string   `json:"account"`   // that queries for the service name
	Namespace string   `json:"namespace"`
	Service   string   `json:"service"`
	Connected int64    `json:"connected"` // milliseconds since 1970: since when the proxy was
	At        int64    `json:"at"`        // milliseconds since 1970: since when it drains

	Endpoints []envoy.Endpoint `json:"endpoints"` // of the service, that are its
}

// rowKey is where the drain of an instance of a node is kept; it is also its name.
func rowKey(key api.Key, instance string) string {
	return prefix + url.PathEscape(key.String()) + "/" + url.PathEscape(instance)
}

// active is a drain that this replica knows.
type active struct {
	record
	name      string
	key       api.Key
	order     int64
	written   int64 // revision; 0 when it is not known
	prolonged time.Time
}

func activeOf(r store.Row) (*active, error) {
	a := &active{name: r.Key, order: r.Created, written: r.Written}
	if err := json.Unmarshal(r.Value, &a.record); err != nil {
		return nil, fmt.Errorf("read drain %s: %w", r.Key, err)
	}
	var err error
	if a.key, err = api.ParseKey(a.Key); err != nil {
		return nil, fmt.Errorf("read drain %s: %w", r.Key, err)
	}
	return a, nil
}

func (a *active) drain() discovery.Drain {
	return discovery.Drain{
		Name: a.name, Account: a.Account, Namespace: a.Namespace, Service: a.Service,
		Endpoints: a.Endpoints, Order: a.order,
	}
}
