package cloudmap_test

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/evermesh/evermesh/internal/api/cloudmapapi"
	elsewhere "github.com/evermesh/evermesh/internal/discovery/cloudmap"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// One control plane may be the Cloud Map of another: it is polled as AWS's, by
// revision, and a full list is asked for only when that has moved.
func TestCloudMapOfAnother(t *testing.T) {
	t.Parallel()
	data := storetest.New(t)
	var mu sync.Mutex
	calls := map[string]int{}
	server := resttest.Serve(t, resttest.Options{Store: data, Services: []*service.Service{serviceOn(t, data)}, Edit: func(c *rest.Config) {
		c.Observe = func(operation, _ string, _ time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			calls[operation]++
		}
	}})
	count := func(operation string) int {
		mu.Lock()
		defer mu.Unlock()
		return calls["servicediscovery:"+operation]
	}
	d := desk{t, serviceOn(t, data), account}
	d.do("CreateHttpNamespace", map[string]any{"Name": "web"})
	ns := d.do("ListNamespaces", map[string]any{}).(*cloudmapapi.ListNamespacesResponse).Namespaces[0]
	made := d.do("CreateService", map[string]any{"Name": "cart", "NamespaceId": *ns.ID}).(*cloudmapapi.CreateServiceResponse)
	d.register(*made.Service.ID, "one", "AWS_INSTANCE_IPV4", "10.0.0.1", "color", "blue")

	root := resttest.Root(account)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	source := elsewhere.New(elsewhere.Config{
		AWS: aws.Config{
			Region: resttest.Region, Credentials: credentials.NewStaticCredentialsProvider(root.ID, root.Secret, ""), HTTPClient: &http.Client{Transport: transport},
		},
		Endpoint: server.URL, Poll: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	ctx, stop := context.WithCancel(context.Background())
	e := &ear{}
	var running sync.WaitGroup
	running.Go(func() {
		err := source.Watch(ctx, envoy.EndpointQuery{Source: "cloudmap", Namespace: "web", Service: "cart", Attributes: "color=blue", Port: 80}, func(set []envoy.Endpoint) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.sets = append(e.sets, slices.Clone(set))
		})
		if ctx.Err() == nil {
			t.Errorf("the watch has ended: %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	t.Run("DISC-007 DISC-008 revisions are polled, and lists are asked for when they move", func(t *testing.T) {
		e.hears(t, "10.0.0.1:80")
		before := count("DiscoverInstancesRevision")
		testenv.Eventually(t, "revisions are polled", func() bool { return count("DiscoverInstancesRevision") >= before+5 })
		if n := count("DiscoverInstances"); n != 1 {
			t.Errorf("the list was asked for %d times while nothing changed, want once", n)
		}
		d.register(*made.Service.ID, "two", "AWS_INSTANCE_IPV4", "10.0.0.2", "color", "blue")
		e.hears(t, "10.0.0.1:80 10.0.0.2:80")
		d.do("DeregisterInstance", map[string]any{"ServiceId": *made.Service.ID, "InstanceId": "one"})
		e.hears(t, "10.0.0.2:80")
		d.do("DeregisterInstance", map[string]any{"ServiceId": *made.Service.ID, "InstanceId": "two"})
		e.hears(t, "")
	})
}
