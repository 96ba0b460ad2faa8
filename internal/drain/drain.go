package drain

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
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

// Drain takes the endpoints of a proxy, which Find returned, out of what the clients are
// sent, and returns when each of them has acknowledged that (DRAINED), or after Wait
// (TIMED_OUT). Where nothing is sent of them, as with a node that is found by DNS or an
// address that clients do not have, it says so at once, with the count of clients
// (NOTHING_TO_DO). A drain that is ended while it waits is none (RESUMED). A proxy that
// drains already goes on to.
func (d *Drains) Drain(ctx context.Context, p api.Proxy, key api.Key) (api.Drain, error) {
	out := api.Drain{Instance: p.Instance, ResourceARN: p.ResourceARN, Addresses: []string{}, Status: api.DrainStatusNothingToDo}
	if key.Kind != api.KindVirtualNode {
		out.Message = "Clients of a virtual gateway are outside the mesh: nothing is sent to anybody of where it is."
		return out, nil
	}
	snapshot, err := d.Snapshot(ctx)
	if err != nil {
		return out, err
	}
	node := snapshot.Get(key)
	if node == nil || node.VirtualNodeSpec() == nil {
		return out, api.Errorf(api.CodeNotFound, "%s does not exist.", p.ResourceARN)
	}
	why, c := unsent(node.VirtualNodeSpec(), p.Addresses), (*claim)(nil)
	if why == "" {
		if c, err = d.claim(ctx, snapshot, p, node); err != nil {
			return out, err
		}
		why = c.why
	}
	if why != "" {
		clients, err := d.Ledger.Drained(ctx, []api.Key{key}, p.Instance, rowKey(key, p.Instance), 0)
		out.Clients, out.Message = clients.Clients, why
		return out, err
	}
	for _, e := range c.endpoints {
		if !slices.Contains(out.Addresses, e.Address) {
			out.Addresses = append(out.Addresses, e.Address)
		}
	}
	a := d.active(p, key, c)
	if err := d.mark(ctx, a); err != nil {
		return out, err
	}
	return d.await(ctx, a, c.nodes, out)
}

// active is the drain of the proxy as it is to be stored. One that drains already does so
// since when it did, and who was beside it then stays that.
func (d *Drains) active(p api.Proxy, key api.Key, c *claim) *active {
	a := &active{name: rowKey(key, p.Instance), key: key, record: record{
		Instance: p.Instance, Key: key.String(), ARN: p.ResourceARN, Addresses: p.Addresses, Beside: c.beside,
		Account: c.account, Namespace: c.namespace, Service: c.service, Endpoints: c.endpoints,
		Connected: p.ConnectedAt.UnixMilli(), At: d.Now().UnixMilli(),
	}}
	d.mu.Lock()
	defer d.mu.Unlock()
	if before := d.all[a.name]; before != nil {
		a.At, a.Beside, a.written = before.At, before.Beside, before.written
	}
	return a
}

// mark stores the drain, or prolongs the same one that is there, and notes the revision
// at which it was written.
func (d *Drains) mark(ctx context.Context, a *active) (err error) {
	value, err := json.Marshal(a.record)
	if err != nil {
		return fmt.Errorf("encode drain: %w", err)
	}
	if a.written > 0 {
		there, err := d.Store.Read(ctx, a.name)
		if err != nil {
			return err
		}
		if bytes.Equal(there[a.name], value) {
			return d.Store.Prolong(ctx, a.name)
		}
	}
	a.written, err = d.Store.WriteExpiring(ctx, a.name, value, d.Lasts)
	return err
}

// unsent is why nothing that clients are sent has an endpoint of the proxy; empty when
// something may have.
func unsent(spec *api.VirtualNodeSpec, addresses []string) string {
	found := spec.ServiceDiscovery
	switch {
	case len(spec.Listeners) == 0:
		return "The node has no listener: nobody is sent endpoints of it."
	case found != nil && found.DNS != nil:
		return named(spec)
	case found == nil || found.AWSCloudMap == nil:
		return "The node has no service discovery: nobody is sent endpoints of it."
	case len(addresses) == 0:
		return "The proxy told no address of its own (aws.appmesh.task.interfaces): which endpoints are its is not known."
	}
	return ""
}

// named says until when clients choose a proxy of a node that they find by DNS, and what
// keeps requests from being lost.
func named(spec *api.VirtualNodeSpec) string {
	out := "Clients find the node by DNS, as " + spec.ServiceDiscovery.DNS.Hostname + ": they may choose the proxy until the name is answered without it"
	if ports := mesh.Unchecked(spec, nil); len(ports) > 0 {
		return out + ". No health check by HTTP or gRPC at port " + strings.Join(ports, ", ") + " tells them that it ends: requests that come to it after its end are lost unless routes repeat them " +
			"(connection-error). Take it out of the name's answers first, and end it when the record's time to live and 5 s more are over."
	}
	return out + ", or until their health checks fail, which its agent sees to when it is told to end: no request is lost if it goes on for longer than a check's interval and the longest request."
}

// await returns when the clients of the nodes have followed, or cannot be waited for any
// longer.
func (d *Drains) await(ctx context.Context, a *active, nodes []api.Key, out api.Drain) (api.Drain, error) {
	late := time.NewTimer(d.Wait)
	defer late.Stop()
	for {
		changed := d.Ledger.Changed()
		now, err := d.Ledger.Drained(ctx, nodes, a.Instance, a.name, a.written)
		if err != nil {
			return out, err
		}
		out.Clients, out.ClientsWaiting, out.Unknown = now.Clients, now.Waiting, now.Unknown
		if now.Done() {
			return d.drained(ctx, a, out)
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

// drained is the answer when the clients have followed, if the drain is there yet: else
// they may have been sent the endpoints again meanwhile.
func (d *Drains) drained(ctx context.Context, a *active, out api.Drain) (api.Drain, error) {
	there, err := d.Store.Read(ctx, a.name)
	if err != nil {
		return out, err
	}
	if there[a.name] == nil {
		out.Status, out.Addresses = api.DrainStatusResumed, []string{}
		out.Message = "The drain was ended while clients were waited for, by somebody or by another process in the proxy's place: clients are sent its endpoints."
		return out, nil
	}
	out.Status = api.DrainStatusDrained
	out.Message = fmt.Sprintf("No client is sent its endpoints any more: %d have acknowledged that.", out.Clients)
	return out, nil
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
