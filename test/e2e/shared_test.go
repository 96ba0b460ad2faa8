//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// party is an account that has a part in a mesh which another one owns.
type party struct {
	*mesh
	id  string
	key aws.Credentials
	api *client.Client
}

// guest makes an account. The mesh is not shared with it yet.
func (m *mesh) guest(id string) *party {
	m.t.Helper()
	p := &party{mesh: m, id: id}
	p.key, p.api = newAccount(m.t, m.control, id)
	return p
}

// env are the variables that make an agent this account's.
func (p *party) env() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + p.key.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + p.key.SecretAccessKey}
}

// make creates something of the account's in the mesh and returns its ARN.
func (p *party) make(kind, input string) string {
	p.t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(input), &doc); err != nil {
		p.t.Fatal(err)
	}
	doc["meshName"], doc["meshOwner"] = p.name, p.control.Account
	ctx, cancel := p.context()
	defer cancel()
	var out map[string]struct {
		Metadata api.ResourceMetadata `json:"metadata"`
	}
	if err := p.api.Call(ctx, "Create"+kind, doc, &out); err != nil {
		p.t.Fatal(err)
	}
	for _, r := range out {
		return r.Metadata.ARN
	}
	return ""
}

// ram asks RAM on the endpoint of the API, as whoever has the key.
func (m *mesh) ram(key aws.Credentials, path string, input, out any) {
	m.t.Helper()
	m.ask(key, "ram", path, "", input, out)
}

// registry asks Cloud Map.
func (m *mesh) registry(key aws.Credentials, operation string, input, out any) {
	m.t.Helper()
	m.ask(key, "servicediscovery", "/", "Route53AutoNaming_v20170314."+operation, input, out)
}

// register makes a service in a namespace of the account's Cloud Map, with one instance.
func (m *mesh) register(key aws.Credentials, namespace, service, address string) {
	m.t.Helper()
	m.registry(key, "CreateHttpNamespace", map[string]any{"Name": namespace}, &struct{}{})
	var list struct {
		Namespaces []struct {
			ID   string `json:"Id"`
			Name string
		}
	}
	m.registry(key, "ListNamespaces", map[string]any{}, &list)
	for _, n := range list.Namespaces {
		if n.Name != namespace {
			continue
		}
		var made struct {
			Service struct {
				ID string `json:"Id"`
			}
		}
		m.registry(key, "CreateService", map[string]any{"Name": service, "NamespaceId": n.ID}, &made)
		m.registry(key, "RegisterInstance", map[string]any{
			"ServiceId": made.Service.ID, "InstanceId": "one", "Attributes": map[string]string{"AWS_INSTANCE_IPV4": address},
		}, &struct{}{})
		return
	}
	m.t.Fatalf("there is no namespace %s", namespace)
}

// ask sends a signed request to a service around the mesh.
func (m *mesh) ask(key aws.Credentials, service, path, target string, input, out any) {
	m.t.Helper()
	facts, err := client.ReadFacts(m.control.DataDir)
	if err != nil {
		m.t.Fatal(err)
	}
	body, err := json.Marshal(input)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := m.context()
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, facts.APIEndpoint+path, bytes.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if target != "" {
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
		r.Header.Set("X-Amz-Target", target)
	}
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, key, r, hex.EncodeToString(sum[:]), service, facts.Region, time.Now()); err != nil {
		m.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		m.t.Fatalf("%s%s: %s %s", path, target, resp.Status, text)
	}
	if err := json.Unmarshal(text, out); err != nil {
		m.t.Fatalf("%s%s: %v in %s", path, target, err, text)
	}
}

// share shares the mesh with the account, which accepts, and returns the share's ARN.
func (p *party) share() string {
	p.t.Helper()
	arn := fmt.Sprintf("arn:aws:appmesh:%s:%s:mesh/%s", p.control.Region, p.control.Account, p.name)
	var made struct {
		ResourceShare struct {
			ResourceShareARN string `json:"resourceShareArn"`
		} `json:"resourceShare"`
	}
	p.ram(p.control.Key, "/createresourceshare", map[string]any{"name": p.name, "resourceArns": []string{arn}, "principals": []string{p.id}}, &made)
	var sent struct {
		Invitations []struct {
			ARN string `json:"resourceShareInvitationArn"`
		} `json:"resourceShareInvitations"`
	}
	p.ram(p.key, "/getresourceshareinvitations", map[string]any{}, &sent)
	if len(sent.Invitations) != 1 {
		p.t.Fatalf("%d invitations, want 1", len(sent.Invitations))
	}
	p.ram(p.key, "/acceptresourceshareinvitation", map[string]any{"resourceShareInvitationArn": sent.Invitations[0].ARN}, &struct{}{})
	return made.ResourceShare.ResourceShareARN
}

// TestSharedMesh has two accounts in one mesh, with real Envoys of both that call each
// other, until the owner ends the share.
func TestSharedMesh(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "shared", "DROP_ALL")
	g := m.guest("999900002222")
	share := g.share()
	at := "mesh/" + m.name + "@" + m.control.Account + "/virtualNode/"

	// The owner has a shop, the guest what takes the payments; each calls the other.
	shop, pay := m.program("shop"), m.program("pay")
	services := map[string]string{"shop": "shop-service.shared.local", "pay": "pay-service.shared.local"}
	for _, name := range services {
		m.DNS().Set(name, nobody)
	}
	node := func(name, backend string) string {
		return strings.Replace(m.nodeSpec(name), "{", fmt.Sprintf(`{"backends": [{"virtualService": {"virtualServiceName": %q}}], `, services[backend]), 1)
	}
	router := fmt.Sprintf(`{"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}]}`, appPort)
	m.create("VirtualNode", "shop", node("shop", "pay"))
	m.create("VirtualRouter", "shop", router)
	m.route("shop", "all", weighted("", "shop", 1))
	m.create("VirtualService", services["shop"], `{"provider": {"virtualRouter": {"virtualRouterName": "shop"}}}`)
	payARN := g.make("VirtualNode", `{"virtualNodeName": "pay", "spec": `+node("pay", "shop")+`}`)
	g.make("VirtualRouter", `{"virtualRouterName": "pay", "spec": `+router+`}`)
	routeARN := g.make("Route", `{"virtualRouterName": "pay", "routeName": "all", "spec": `+weighted("", "pay", 1)+`}`)
	g.make("VirtualService", fmt.Sprintf(`{"virtualServiceName": %q, "spec": {"provider": {"virtualRouter": {"virtualRouterName": "pay"}}}}`, services["pay"]))

	port := fmt.Sprint(appPort)
	m.sidecar(shop, stage.SidecarOptions{Resource: "shop", AppPorts: port})
	guests := m.sidecar(pay, stage.SidecarOptions{Resource: at + "pay", AppPorts: port, Env: g.env()})
	calls := func(t *testing.T) {
		t.Helper()
		for _, c := range []struct {
			from *ground.Host
			to   string
		}{{shop, "pay"}, {pay, "shop"}} {
			a := ask(t, c.from, request{URL: fmt.Sprintf("http://%s:%d/", services[c.to], appPort)})
			if a.Status != http.StatusOK || a.App != c.to {
				t.Errorf("%s: %d from %q", services[c.to], a.Status, a.App)
			}
		}
	}
	t.Run("SHARE-002 SHARE-008 SHARE-017 nodes of two accounts talk to each other", calls)
	t.Run("SHARE-002 a rollout of the guest's reaches the owner's proxies", func(t *testing.T) {
		ctx, cancel := m.context()
		defer cancel()
		if err := stage.Until(ctx, "the route is everywhere", func(ctx context.Context) bool {
			var out api.DescribeRolloutOutput
			arn := strings.Replace(routeARN, "mesh/"+m.name, "mesh/"+m.name+"@"+m.control.Account, 1)
			if err := g.api.Call(ctx, "DescribeRollout", map[string]any{"resourceArn": arn}, &out); err != nil {
				t.Error(err)
				return true
			}
			return out.Rollout.State == api.RolloutStateDone && out.Rollout.ProxiesAffected > 0
		}); err != nil {
			t.Error(err)
		}
	})
	for name, c := range map[string]struct{ operation, input string }{
		"RT-040 a guest makes no route in the owner's router": {"CreateRoute", `{"virtualRouterName": "shop", "routeName": "mine", "spec": ` + when("pay", `{"prefix": "/"}`) + `}`},
		"SHARE-006 a guest changes no route of the owner's":   {"UpdateRoute", `{"virtualRouterName": "shop", "routeName": "all", "spec": ` + weighted("", "pay", 1) + `}`},
		"SHARE-007 a guest ends nothing of the owner's":       {"DeleteVirtualService", fmt.Sprintf(`{"virtualServiceName": %q}`, services["shop"])},
		"SHARE-010 GR-019 a guest makes no gateway":           {"CreateVirtualGateway", `{"virtualGatewayName": "mine", "spec": ` + router + `}`},
	} {
		t.Run(name, func(t *testing.T) {
			var doc map[string]any
			if err := json.Unmarshal([]byte(c.input), &doc); err != nil {
				t.Fatal(err)
			}
			doc["meshName"], doc["meshOwner"] = m.name, m.control.Account
			ctx, cancel := m.context()
			defer cancel()
			err := g.api.Call(ctx, c.operation, doc, nil)
			if refusal, ok := errors.AsType[*api.Error](err); !ok || refusal.Code != api.CodeForbidden {
				t.Errorf("%s: %v, want %s", c.operation, err, api.CodeForbidden)
			}
			calls(t)
		})
	}
	t.Run("SHARE-009 EMS-016 the ARN of the guest's node is enough", func(t *testing.T) {
		s := m.sidecar(m.host("by-arn"), stage.SidecarOptions{Resource: payARN, Alone: true, Env: g.env()})
		if n := m.stat(s, "control_plane.connected_state"); n != 1 {
			t.Error("the proxy is not connected")
		}
	})
	t.Run("SHARE-009 nobody connects an Envoy as another account's node", func(t *testing.T) {
		for name, o := range map[string]stage.SidecarOptions{
			"owner-as-guest": {Resource: at + "pay", Alone: true, Early: true},
			"guest-as-owner": {Resource: at + "shop", Alone: true, Early: true, Env: g.env()},
		} {
			m.logs(m.sidecar(m.host(name), o), "gRPC config stream", "closed", ": 7, ", "Unauthorized to perform appmesh:StreamAggregatedResources for ")
		}
	})
	t.Run("SHARE-008 DISC-009 a guest's node is found in the guest's own Cloud Map", func(t *testing.T) {
		const service = "stock-service.shared.local"
		m.DNS().Set(service, nobody)
		m.register(m.control.Key, "shared", "stock", shop.Addr().String()) // of the same names, and not meant
		g.make("VirtualNode", fmt.Sprintf(`{"virtualNodeName": "stock", "spec": {"listeners": [{"portMapping": {"port": %d, "protocol": "http"}}],
			"serviceDiscovery": {"awsCloudMap": {"namespaceName": "shared", "serviceName": "stock"}}}}`, appPort))
		g.make("VirtualService", fmt.Sprintf(`{"virtualServiceName": %q, "spec": {"provider": {"virtualNode": {"virtualNodeName": "stock"}}}}`, service))
		m.update("VirtualNode", "shop", strings.Replace(node("shop", "pay"), `"backends": [`, fmt.Sprintf(`"backends": [{"virtualService": {"virtualServiceName": %q}}, `, service), 1))
		get := request{URL: fmt.Sprintf("http://%s:%d/", service, appPort)}
		m.until("the service is in the mesh, without an endpoint", func(ctx context.Context) bool {
			a, err := send(ctx, shop, get)
			return err == nil && a.Status == http.StatusServiceUnavailable
		})
		m.register(g.key, "shared", "stock", pay.Addr().String())
		m.until("the guest's instance answers", func(ctx context.Context) bool {
			a, err := send(ctx, shop, get)
			if err == nil && a.App == "shop" {
				t.Error("the owner's instance answered for the guest's node")
				return true
			}
			return err == nil && a.App == "pay"
		})
	})
	t.Run("SHARE-019 EMS-053 the end of the share ends the guest's streams, and no traffic", func(t *testing.T) {
		mesh := fmt.Sprintf("arn:aws:appmesh:%s:%s:mesh/%s", m.control.Region, m.control.Account, m.name)
		began := time.Now()
		m.ram(m.control.Key, "/disassociateresourceshare", map[string]any{"resourceShareArn": share, "resourceArns": []string{mesh}}, &struct{}{})
		m.logs(guests, "gRPC config stream", "closed", ": 7, ", "Unauthorized to perform appmesh:StreamAggregatedResources for ")
		t.Logf("the guest's stream ended %v after the share", time.Since(began).Round(10*time.Millisecond))
		calls(t)
		// What comes later is refused.
		m.logs(m.sidecar(m.host("late"), stage.SidecarOptions{Resource: at + "pay", Alone: true, Early: true, Env: g.env()}), "closed", ": 7, ")
	})
	t.Run("SHARE-019 what the guest made acts until the owner deletes it", func(t *testing.T) {
		m.update("VirtualNode", "shop", node("shop", "pay")) // the owner goes on
		calls(t)
		m.call("DeleteVirtualService", fmt.Sprintf(`{"virtualServiceName": %q}`, services["pay"]))
		m.until("the owner's proxy forgets the service", func(ctx context.Context) bool {
			a, err := send(ctx, shop, request{URL: fmt.Sprintf("http://%s:%d/", services["pay"], appPort)})
			return err != nil || a.Status != http.StatusOK
		})
	})
}
