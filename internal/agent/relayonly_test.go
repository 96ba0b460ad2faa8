package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/httpapi"
	"github.com/evermesh/evermesh/internal/agent/settings"
	"github.com/evermesh/evermesh/internal/testenv"
)

// An agent in relay mode signs the stream of an Envoy that another agent runs, as ECS Service Connect has it. The parts
// follow each other.
func TestRelayMode(t *testing.T) {
	agenttest.Signed(t)
	envoy := agenttest.Envoys(t)[0]
	port, admin, dir := testenv.FreePort(t), testenv.FreePort(t), agenttest.ShortDir(t)
	hello := helloListener(t, port)
	var accepted atomic.Int32
	c := agenttest.NewControlPlane(t, "", agenttest.Verifying())
	// An Envoy that goes its own way asks for the state of the world.
	c.ServeWhole(func(s discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
		for {
			r, err := s.Recv()
			if err != nil {
				return nil
			}
			if r.ResponseNonce != "" {
				if r.TypeUrl == listenerType && r.ErrorDetail == nil {
					accepted.Add(1)
				}
				continue
			}
			answer := &discoveryv3.DiscoveryResponse{TypeUrl: r.TypeUrl, VersionInfo: "1", Nonce: "1"}
			if r.TypeUrl == listenerType {
				answer.Resources = []*anypb.Any{hello}
			}
			if err := s.Send(answer); err != nil {
				return err
			}
		}
	})
	relaySocket := filepath.Join(dir, "relay.sock")
	start := func(env ...string) (settings.Settings, func() error) {
		for _, line := range env {
			name, value, _ := strings.Cut(line, "=")
			t.Setenv(name, value)
		}
		s, err := settings.Parse(os.Getenv, settings.Flags{}, os.Getuid())
		if err != nil {
			t.Fatal(err)
		}
		log, _ := agenttest.Log(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- Run(ctx, s, Program{Version: "test", Stdout: os.Stdout, Stderr: os.Stderr, Log: log})
		}()
		stop := func() error { cancel(); err := <-ended; ended <- err; return err }
		t.Cleanup(func() { _ = stop() })
		return s, stop
	}
	state := func(s settings.Settings) (out httpapi.Status) {
		if _, text := askHTTP(t, patient(s.Server), http.MethodGet, "http://agent/status"); json.Unmarshal([]byte(text), &out) != nil {
			return httpapi.Status{}
		}
		return out
	}
	// Its region is the machine's.
	machine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/latest/api/token":
			_, _ = w.Write([]byte("token"))
		case "/latest/meta-data/placement/region":
			_, _ = w.Write([]byte("us-east-1"))
		default:
			http.NotFound(w, r)
		}
	}))
	defer machine.Close()
	relaying, stopRelaying := start("AWS_EC2_METADATA_DISABLED=", "AWS_EC2_METADATA_SERVICE_ENDPOINT="+machine.URL, "APPNET_ENABLE_RELAY_MODE_FOR_XDS=true", "APPMESH_XDS_ENDPOINT=http://"+c.Addr, "AWS_REGION=",
		"APPNET_RELAY_LISTENER_UDS_PATH="+relaySocket, "APPNET_AGENT_ADMIN_MODE=uds", "APPNET_AGENT_ADMIN_UDS_PATH="+filepath.Join(dir, "r.sock"),
		"ENVOY_PATH=/does/not/exist")
	t.Run("healthy without an Envoy and before a stream", func(t *testing.T) {
		once := relaying
		testenv.Eventually(t, "it serves", func() bool { return state(relaying).Health == "HEALTHY" })
		once.ReadinessInterval = 0
		if err := httpapi.Readiness(agenttest.Within(t), once); err != nil {
			t.Error(err)
		}
		if got := state(relaying); got.Pid != "0" || got.State != "LIVE" || got.ManagementServer != "NOT_CONNECTED" {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("an Envoy that another agent runs gets its configuration through it", func(t *testing.T) {
		proxy, stop := start("APPNET_ENABLE_RELAY_MODE_FOR_XDS=", "APPMESH_XDS_ENDPOINT=unix://"+relaySocket, "APPNET_RELAY_LISTENER_UDS_PATH=",
			"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n", "APPNET_AGENT_ADMIN_UDS_PATH="+filepath.Join(dir, "p.sock"), "ENVOY_PATH="+envoy,
			"ENVOY_LOG_LEVEL=warning", "ENVOY_CONCURRENCY=1", "ENVOY_ADMIN_ACCESS_PORT="+strconv.Itoa(admin), "ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null",
			"ENVOY_OUTLIER_DETECTION_EVENT_LOG_PATH=/dev/null", "LISTENER_DRAIN_WAIT_TIME_S=5", "TMPDIR="+dir, "AWS_EC2_METADATA_DISABLED=true")
		testenv.Eventually(t, "Envoy takes its listener", func() bool { return accepted.Load() > 0 })
		if got := state(relaying); got.ManagementServer != "CONNECTED" {
			t.Errorf("the relay's agent says %+v", got)
		}
		testenv.Eventually(t, "Envoy's agent says so, too", func() bool {
			got := state(proxy)
			return got.Health == "HEALTHY" && got.ManagementServer == "CONNECTED" && got.InitialUpdate == "UPDATE_SUCCESSFUL"
		})
		c.Stop()
		testenv.Eventually(t, "the relay's agent says why there is no control plane", func() bool {
			got := state(relaying)
			return got.Health == "HEALTHY" && got.ManagementServer == "NOT_CONNECTED" && strings.Contains(got.Failures, "TCP failed: ")
		})
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("it ends when it is told to", func(t *testing.T) {
		if err := stopRelaying(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(relaySocket); err == nil {
			t.Error("its socket is left")
		}
	})
}
