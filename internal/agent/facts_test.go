package agent

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/platform"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// metadata is an instance's, which has a place or nothing to say.
func metadata(t *testing.T, place string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := map[string]string{"/latest/api/token": "token", "/latest/meta-data/placement/region": place, "/latest/meta-data/placement/availability-zone-id": "usw2-az2"}[r.URL.Path]
		if answer == "" || place == "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(answer))
	}))
	t.Cleanup(s.Close)
	return "AWS_EC2_METADATA_SERVICE_ENDPOINT=" + s.URL
}

func TestFacts(t *testing.T) {
	ask := func(t *testing.T, lines ...string) (zone string, s settings.Settings, log string, err error) {
		t.Helper()
		s, err = settings.Parse(agenttest.Environment(append([]string{"APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n"}, lines...)...), settings.Flags{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		logger, written := agenttest.Log(t)
		f, s, err := factsOf(agenttest.Within(t), platform.Machine{Envoy: "/bin/true", Slow: 20}, s, logger)
		if len(f.Instance) != 32 {
			t.Errorf("the instance is %q", f.Instance)
		}
		return f.ZoneID, s, written.String(), err
	}
	t.Run("AGENT-036 AGENT-048 the instance tells the region that signs", func(t *testing.T) {
		zone, s, log, err := ask(t, "APPMESH_XDS_ENDPOINT=control.example:7071", metadata(t, "us-west-2"))
		if err != nil || zone != "usw2-az2" || s.Region != "us-west-2" || log != "" {
			t.Errorf("got %s in %s, %v, %q", zone, s.Region, err, log)
		}
	})
	t.Run("App Mesh's own endpoint, by the instance's region, is said", func(t *testing.T) {
		_, s, log, err := ask(t, metadata(t, "us-west-2"))
		if err != nil || !strings.Contains(log, "App Mesh's own is taken") || len(s.Endpoints) != 1 || s.Endpoints[0].Address != "appmesh-envoy-management.us-west-2.amazonaws.com:443" {
			t.Errorf("got %v, %v, %q", s.Endpoints, err, log)
		}
	})
	t.Run("what is not to be had is said in one warning", func(t *testing.T) {
		_, s, log, err := ask(t, "APPMESH_XDS_ENDPOINT=control.example:7071", "AWS_REGION=eu-west-1", metadata(t, ""))
		if err != nil || s.Region != "eu-west-1" || strings.Count(log, "\n") != 1 || !strings.Contains(log, "answered 403") {
			t.Errorf("got %s, %v, %q", s.Region, err, log)
		}
	})
	t.Run("neither an endpoint nor a region to be had", func(t *testing.T) {
		if _, _, _, err := ask(t, metadata(t, "")); err == nil || !strings.Contains(err.Error(), "APPMESH_XDS_ENDPOINT: must name") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a user's own bootstrap needs no facts", func(t *testing.T) {
		own := filepath.Join(t.TempDir(), "own.yaml")
		if err := os.WriteFile(own, []byte("static_resources: {}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		zone, _, log, err := ask(t, "APPMESH_XDS_ENDPOINT=control.example:7071", "AWS_REGION=eu-west-1", "ENVOY_CONFIG_FILE="+own, metadata(t, ""))
		if err != nil || zone != "" || log != "" {
			t.Errorf("got %s, %v, %q", zone, err, log)
		}
	})
}
