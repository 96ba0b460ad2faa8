package drain

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
)

const (
	// waitMost is how long an answer waits for clients.
	waitMost = 10 * time.Second
	// askEvery is how often it is looked whether they have followed, beside when this
	// replica's rows change.
	askEvery = 100 * time.Millisecond
	// mostNamed is how many replicas of which nothing is known a message names.
	mostNamed = 3
)

// Drain takes the endpoints of a proxy, which Find returned, out of what the node's
// clients are sent, and returns when each of them has acknowledged that (DRAINED), or
// after Wait (TIMED_OUT). Where nothing is sent of them, as with a node that is found by
// DNS, it says so at once, with the count of clients (NOTHING_TO_DO). A proxy that drains
// already goes on to.
func (d *Drains) Drain(ctx context.Context, p api.Proxy, key api.Key) (api.Drain, error) {
	out := api.Drain{Instance: p.Instance, ResourceARN: p.ResourceARN, Addresses: []string{}, Status: api.DrainStatusNothingToDo}
	if key.Kind != api.KindVirtualNode {
		out.Message = "Clients of a virtual gateway are outside the mesh: nothing is sent to anybody of where it is."
		return out, nil
	}
	node, err := d.Store.Get(ctx, key)
	if err != nil {
		return out, err
	}
	if node == nil || node.VirtualNodeSpec() == nil {
		return out, api.Errorf(api.CodeNotFound, "%s does not exist.", p.ResourceARN)
	}
	a := d.active(p, key, node)
	if why := unsent(node.VirtualNodeSpec(), &a.record); why != "" {
		clients, err := d.Ledger.Drained(ctx, key, p.Instance, a.name, 0)
		out.Clients, out.Message = clients.Clients, why
		return out, err
	}
	out.Addresses = a.Addresses
	value, err := json.Marshal(a.record)
	if err != nil {
		return out, fmt.Errorf("encode drain: %w", err)
	}
	revision, err := d.Store.WriteExpiring(ctx, a.name, value, d.Lasts)
	if err != nil {
		return out, err
	}
	return d.await(ctx, a, revision, out)
}

// active is the drain of the proxy as it is to be stored.
func (d *Drains) active(p api.Proxy, key api.Key, node *api.Resource) *active {
	spec := node.VirtualNodeSpec()
	a := &active{name: rowKey(key, p.Instance), key: key, record: record{
		Instance: p.Instance, Key: key.String(), ARN: p.ResourceARN, Addresses: p.Addresses, Account: node.Owner,
		Connected: p.ConnectedAt.UnixMilli(), At: d.Now().UnixMilli(),
	}}
	if since, ok := d.Since(p); ok {
		a.At = since.UnixMilli()
	}
	if spec.ServiceDiscovery != nil && spec.ServiceDiscovery.AWSCloudMap != nil {
		a.Namespace, a.Service = spec.ServiceDiscovery.AWSCloudMap.NamespaceName, spec.ServiceDiscovery.AWSCloudMap.ServiceName
	}
	return a
}

// unsent is why nothing that clients are sent has an endpoint of the proxy; empty when
// something may have.
func unsent(spec *api.VirtualNodeSpec, r *record) string {
	found := spec.ServiceDiscovery
	switch {
	case len(spec.Listeners) == 0:
		return "The node has no listener: nobody is sent endpoints of it."
	case found != nil && found.DNS != nil:
		return "Clients find the node by DNS, as " + found.DNS.Hostname + ": they may choose the proxy until the name is answered without it."
	case found == nil || found.AWSCloudMap == nil:
		return "The node has no service discovery: nobody is sent endpoints of it."
	case len(r.Addresses) == 0:
		return "The proxy told no address of its own (aws.appmesh.task.interfaces): which endpoints are its is not known."
	}
	return ""
}

// await returns when the clients have followed, or cannot be waited for any longer.
func (d *Drains) await(ctx context.Context, a *active, revision int64, out api.Drain) (api.Drain, error) {
	late := time.NewTimer(d.Wait)
	defer late.Stop()
	for {
		changed := d.Ledger.Changed()
		now, err := d.Ledger.Drained(ctx, a.key, a.Instance, a.name, revision)
		if err != nil {
			return out, err
		}
		out.Clients, out.ClientsWaiting, out.Unknown = now.Clients, now.Waiting, now.Unknown
		if now.Done() {
			out.Status = api.DrainStatusDrained
			out.Message = fmt.Sprintf("No client is sent its endpoints any more: %d have acknowledged that.", now.Clients)
			return out, nil
		}
		select {
		case <-changed:
		case <-time.After(askEvery):
		case <-late.C:
			out.Status = api.DrainStatusTimedOut
			out.Message = waited(d.Wait, now.Kept, out)
			return out, nil
		case <-ctx.Done():
			return out, ctx.Err()
		}
	}
}

// waited says for whom it was waited in vain.
func waited(most time.Duration, kept bool, out api.Drain) string {
	var why []string
	if kept {
		why = append(why, "its endpoints are the last ones of the node, which clients keep rather than have none")
	}
	if out.ClientsWaiting > 0 {
		why = append(why, fmt.Sprintf("%d of %d clients have not acknowledged endpoints without it", out.ClientsWaiting, out.Clients))
	}
	unknown := out.Unknown
	if len(unknown) > mostNamed {
		unknown = append(slices.Clone(unknown[:mostNamed]), fmt.Sprintf("%d more", len(unknown)-mostNamed))
	}
	return fmt.Sprintf("After %v: %s. The drain goes on.", most, strings.Join(append(why, unknown...), "; "))
}

// Resume ends a drain: clients are sent the proxy's endpoints again. It does not wait
// for them.
func (d *Drains) Resume(ctx context.Context, p api.Proxy, key api.Key) (api.Drain, error) {
	out := api.Drain{Instance: p.Instance, ResourceARN: p.ResourceARN, Addresses: []string{}, Status: api.DrainStatusNothingToDo, Message: "The proxy does not drain."}
	name := rowKey(key, p.Instance)
	there, err := d.Store.Read(ctx, name) // this replica may not know of it yet
	if err != nil || there[name] == nil {
		return out, err
	}
	if err := d.Store.Write(ctx, false, []store.Op{{Key: name}}); err != nil {
		return out, err
	}
	out.Status, out.Message = api.DrainStatusResumed, "Clients are sent its endpoints again."
	return out, nil
}
