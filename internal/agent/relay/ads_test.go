package relay

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/lastgood"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/testenv"
)

// newTestRelay is a relay as Run makes it, from the variables' lines.
func newTestRelay(t testing.TB, lines ...string) (*Relay, discoveryv3.AggregatedDiscoveryServiceClient) {
	t.Helper()
	s, err := settings.Parse(agenttest.Environment(append([]string{"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "AWS_REGION=us-east-1"}, lines...)...), settings.Flags{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	log, _ := agenttest.Log(t)
	s.SocketPath = filepath.Join(agenttest.ShortDir(t), "xds.sock")
	found := Begin(t.Context(), s, log)
	t.Cleanup(found.Close)
	if os.Getenv("AWS_EC2_METADATA_DISABLED") != "false" { // where the search ends at once: tests change what it reads
		found.wg.Wait()
	}
	r, err := Start(s, found, "test", log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	r.upstreams.readyFor = testenv.Patience // a busy machine lets Envoy wait for its turn
	return r, dialRelay(t, s.SocketPath)
}

// dialRelay connects as Envoy does.
func dialRelay(t testing.TB, socket string) discoveryv3.AggregatedDiscoveryServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return discoveryv3.NewAggregatedDiscoveryServiceClient(conn)
}

func verify(ctx context.Context, method string, md metadata.MD) error {
	_, err := auth.NewVerifier(agenttest.Keys{}, "us-east-1", []string{"appmesh"}, time.Now).Verify(ctx, auth.StreamRequest(method, md))
	return err
}

// newKeeper keeps in memory.
func newKeeper(t *testing.T) *lastgood.Store {
	log, _ := agenttest.Log(t)
	return lastgood.New(lastgood.Options{Log: log, Now: time.Now})
}
