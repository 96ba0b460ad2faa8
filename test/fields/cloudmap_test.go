//go:build linux

package fields

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/evermesh/evermesh/internal/discovery/cloudmap"
	"github.com/evermesh/evermesh/internal/discovery/cloudmap/cloudmaptest"
	"github.com/evermesh/evermesh/internal/envoy"
)

// instance is registered in a scene's Cloud Map: the host of a node, under both
// of its addresses.
type instance struct {
	namespace, service string
	node               string
	attributes         []string // name, value, name, value
}

// cloudMap is a Cloud Map and the source that the control plane asks it with.
type cloudMap struct{ source *cloudmap.Source }

func (s scene) startCloudMap(t *testing.T, addresses func(node string) (v4, v6 netip.Addr)) *cloudMap {
	t.Helper()
	registry := cloudmaptest.New()
	services := map[[2]string][]cloudmaptest.Instance{}
	for _, i := range s.instances {
		v4, v6 := addresses(i.node)
		at := cloudmaptest.At(v4.String(), "", i.attributes...)
		delete(at.Attributes, "AWS_INSTANCE_PORT")
		if v6.IsValid() {
			at.Attributes["AWS_INSTANCE_IPV6"] = v6.String()
		}
		key := [2]string{i.namespace, i.service}
		services[key] = append(services[key], at)
	}
	for key, all := range services {
		registry.Set(key[0], key[1], all...)
	}
	server := httptest.NewServer(registry)
	t.Cleanup(server.Close)
	return &cloudMap{cloudmap.New(cloudmap.Config{
		AWS:      aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", "")},
		Endpoint: server.URL, Log: slog.New(slog.DiscardHandler),
	})}
}

// endpoints asks once. What Cloud Map does not know has none.
func (c *cloudMap) endpoints(q envoy.EndpointQuery) (out []envoy.Endpoint, known bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = c.source.Watch(ctx, q, func(found []envoy.Endpoint) {
		out = found
		cancel()
	})
	return out, true
}
