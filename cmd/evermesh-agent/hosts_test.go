package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestHosts(t *testing.T) {
	t.Run("names are sorted, each once, and nothing is asked", func(t *testing.T) {
		t.Setenv("ENVOY_ADMIN_ACCESS_PORT", "1")
		code, stdout, stderr := call(t, "hosts", "db.shop.local", "colors.shop.local", "db.shop.local")
		if want := "127.142.72.194\tcolors.shop.local\n127.99.13.30\tdb.shop.local\n"; code != 0 || stdout != want || stderr != "" {
			t.Errorf("%d %q %q, want %q", code, stdout, stderr, want)
		}
	})
	for _, name := range []string{"a b", "", "*.local", "10.0.0.1", "a\nb", "é"} {
		t.Run("no host name: "+name, func(t *testing.T) {
			if code, stdout, stderr := call(t, "hosts", "a.local", name); code != 2 || stdout != "" || !strings.Contains(stderr, "is no host name") {
				t.Errorf("%d %q %q", code, stdout, stderr)
			}
		})
	}
	t.Run("an Envoy that is not there", func(t *testing.T) {
		t.Setenv("ENVOY_ADMIN_ACCESS_PORT", "1")
		if code, stdout, stderr := call(t, "hosts"); code != 1 || stdout != "" || !strings.Contains(stderr, "ask envoy for") {
			t.Errorf("%d %q %q", code, stdout, stderr)
		}
	})
	t.Run("of an Envoy's listeners those that are for services", func(t *testing.T) {
		envoy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"configs": [
				{"name": "lds_egress_127.99.13.30_5432", "active_state": {"listener": {"metadata": {"filter_metadata": {"evermesh": {"services": ["db.shop.local", "*.local"]}}}}}},
				{"name": "lds_egress_127.99.13.30_5433", "active_state": {"listener": {"metadata": {"filter_metadata": {"evermesh": {"services": ["db.shop.local"]}}}}}},
				{"name": "lds_ingress_0.0.0.0_8080", "active_state": {"listener": {"metadata": {"filter_metadata": {"aws.appmesh.aggregate_stats": {"config": "x"}}}}}},
				{"name": "being warmed", "warming_state": {}}]}`))
		}))
		defer envoy.Close()
		_, port, err := net.SplitHostPort(envoy.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("ENVOY_ADMIN_ACCESS_PORT", port)
		if code, stdout, stderr := call(t, "hosts"); code != 0 || stdout != "127.99.13.30\tdb.shop.local\n" || stderr != "" {
			t.Errorf("%d %q %q", code, stdout, stderr)
		}
	})
}
