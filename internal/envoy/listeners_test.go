package envoy_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

// get asks over the connection and says at which cluster it arrived, or that
// the connection was closed, or with which status Envoy answered by itself.
func get(t *testing.T, conn net.Conn, host string) string {
	t.Helper()
	_, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nx-id: %s\r\n\r\n", host, t.Name())
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(bufio.NewReader(conn), nil)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return "closed"
	}
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var got arrival
	if json.Unmarshal(text, &got) != nil {
		return fmt.Sprint(resp.StatusCode)
	}
	return got.Cluster
}

const egressListener = "lds_egress_0.0.0.0_15001"

// elsewhere is an address that no resource names.
func elsewhere(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 2, 3}), port)
}

// TestTCPServices connects to tcp services through a node's listener.
func TestTCPServices(t *testing.T) {
	t.Parallel()
	e := intercepted(t, bundleOf(t, "EMS-035_RT-043_tcp", "virtualNode/front"))
	t.Run("EMS-035 of two tcp services on one port the first is reached", func(t *testing.T) {
		count := map[string]int{}
		const n = 150 // none of them going to the tenth has a chance of 1 in 7 million
		for range n {
			count[get(t, e.connect(t, egressListener, elsewhere(5432)), "any")]++
		}
		a, b := count["cds_egress_colors_db-a_tcp_5432"], count["cds_egress_colors_db-b_tcp_5432"]
		if a+b != n || b == 0 || a <= b {
			t.Errorf("arrived %v, want db's two nodes 90 to 10", count)
		}
	})
	e = intercepted(t, bundleOf(t, "EMS-035_two_ports", "virtualNode/front"))
	t.Run("EMS-035 a tcp service on another port is reached beside it", func(t *testing.T) {
		for port, want := range map[uint16]string{5432: "cds_egress_colors_db_tcp_5432", 5433: "cds_egress_colors_other_tcp_5432"} {
			if got := get(t, e.connect(t, egressListener, elsewhere(port)), "any"); got != want {
				t.Errorf("port %d arrived at %s, want %s", port, got, want)
			}
		}
	})
	t.Run("RT-008 a tcp service of weights 0 is closed", func(t *testing.T) {
		if got := get(t, e.connect(t, egressListener, elsewhere(5434)), "any"); got != "closed" {
			t.Errorf("arrived at %s, want it closed", got)
		}
	})
}

// TestDropAll is about what a node's listener takes and what it does not.
func TestDropAll(t *testing.T) {
	t.Parallel()
	e := intercepted(t, bundleOf(t, "EMS-033_MESH-002_drop_all", "virtualNode/front"))
	for _, test := range []struct {
		name, host string
		to         netip.AddrPort
		want       []string
	}{
		{"EMS-033 a backend's port and host", "colorapp.local", elsewhere(9080), []string{"cds_egress_colors_blue_http_9080", "cds_egress_colors_green_http_9080"}},
		{"EMS-033 a service that is no backend", "other.local", elsewhere(9080), []string{"404"}},
		{"EMS-033 MESH-002 a port of no backend", "colorapp.local", elsewhere(9081), []string{"closed"}},
		{"MESH-002 443 without an AWS name", "example.com", elsewhere(443), []string{"closed"}},
		{"the listener itself", "colorapp.local", elsewhere(15001), []string{"closed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := get(t, e.connect(t, egressListener, test.to), test.host)
			if !strings.Contains(strings.Join(test.want, " "), got) {
				t.Errorf("got %s, want one of %v", got, test.want)
			}
		})
	}
}

// TestAllowAll is about what passes a node's listener without any definition.
func TestAllowAll(t *testing.T) {
	t.Parallel()
	e := intercepted(t, bundleOf(t, "MESH-003_MESH-004_allow_all_with_backends", "virtualNode/front"))
	server := listen(t)
	t.Run("MESH-003 bytes to where they were going", func(t *testing.T) {
		if got := get(t, e.connect(t, egressListener, server), "any"); got != "server" {
			t.Errorf("arrived at %s, want the server", got)
		}
	})
	t.Run("MESH-004 and still to backends", func(t *testing.T) {
		if got := get(t, e.connect(t, egressListener, elsewhere(9080)), "blue.local"); got != "cds_egress_colors_blue_http_9080" {
			t.Errorf("arrived at %s, want the backend", got)
		}
	})
}

// listen serves what tells that it is no endpoint of the mesh.
func listen(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(arrival{Cluster: "server"})
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// TestNames looks at what Envoy itself calls its listeners, clusters and
// statistics.
func TestNames(t *testing.T) {
	t.Parallel()
	side := intercepted(t, bundleOf(t, "EMS-020_EMS-022_EMS-028_sidecar_allow_all", "virtualNode/front"))
	batch := intercepted(t, bundleOf(t, "EMS-021_VN-003_no_listeners", "virtualNode/batch"))
	many := intercepted(t, bundleOf(t, "EMS-023_EMS-029_VN-006_several_listeners", "virtualNode/front"))
	gateway := run(t, bundleOf(t, "traffic_gateway", "virtualGateway/ingress"))
	for _, test := range []struct {
		name       string
		of         *realEnvoy
		page       string
		want, none []string
	}{
		{"EMS-020 listeners", side, "/listeners", []string{"lds_ingress_0.0.0.0_15000::", "lds_egress_0.0.0.0_15001::"}, nil},
		{"EMS-021 no listener for what comes in", batch, "/listeners", []string{"lds_egress_0.0.0.0_15001::"}, []string{"lds_ingress"}},
		{"EMS-022 EMS-024 clusters", side, "/clusters", []string{"\ncds_ingress_colors_front_http_8080::", "\ncds_egress_colors_blue_http_9080::"}, nil},
		{"EMS-023 one for each target", side, "/clusters", []string{"\ncds_egress_colors_blue_http_9080::", "\ncds_egress_colors_green_http_9080::", "\ncds_egress_colors_greeter_http_9090::"}, nil},
		{"EMS-023 and for each listener", many, "/clusters", []string{"\ncds_ingress_colors_front_http_8080::", "\ncds_ingress_colors_front_grpc_8081::", "\ncds_ingress_colors_front_tcp_8082::", "\ncds_ingress_colors_front_http2_8083::"}, nil},
		{"EMS-025 EMS-028 under ALLOW_ALL", side, "/clusters", []string{"\ncds_egress_colors_mesh-allow-all::", "\ncds_egress_colors_amazonaws::"}, nil},
		{"EMS-025 EMS-028 under DROP_ALL", batch, "/clusters", []string{"\ncds_egress_colors_amazonaws::"}, []string{"mesh-allow-all"}},
		{"EMS-026 a gateway's loop", gateway, "/clusters", []string{"\ncds_ingress_colors_ingress_self_redirect_http_15001::"}, nil},
		{"EMS-029 one listener's statistics", side, "/stats", []string{"\nhttp.ingress.downstream_rq_total:"}, []string{"http.ingress.http."}},
		{"EMS-029 several listeners' statistics", many, "/stats", []string{"\nhttp.ingress.http.8080.downstream_rq_total:", "\nhttp.ingress.grpc.8081.downstream_rq_total:", "\ntcp.ingress.tcp.8082.downstream_cx_total:"}, []string{"\nhttp.ingress.downstream"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			page := "\n" + test.of.AdminPage(t, test.page)
			for _, want := range test.want {
				if !strings.Contains(page, want) {
					t.Errorf("%s does not have %q", test.page, want)
				}
			}
			for _, none := range test.none {
				if strings.Contains(page, none) {
					t.Errorf("%s has %q", test.page, none)
				}
			}
		})
	}
}

// TestMismatches asks for what routes and targets of other protocols leave.
func TestMismatches(t *testing.T) {
	t.Parallel()
	e := run(t, bundleOf(t, "RT-003_mismatches", "virtualNode/front"))
	for _, test := range []struct {
		name, path, node string
		status           int
	}{
		{"RT-003 a route of another protocol than the listener's is left out", "/http2", "", 404},
		{"RT-003 RT-020 a route of a port that is no listener's is left out", "/port", "", 404},
		{"RT-003 a target of another protocol gets nothing", "/target", "web", 0},
		{"RT-007 a target without a listener on the port gets nothing", "/target-port", "", 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			for range 10 {
				e.expect(t, webConfig, expectation{ask: ask{host: "web.local", path: test.path}, node: test.node, status: test.status})
			}
		})
	}
}

// TestFaultsStayWhereTheyAre drives what is left of resources with a fault.
func TestFaultsStayWhereTheyAre(t *testing.T) {
	t.Parallel()
	t.Run("EMS-050 a node with a format that Envoy refuses goes on", func(t *testing.T) {
		e := intercepted(t, bundleOf(t, "EMS-050_access_log_formats", "virtualNode/front"))
		if got := get(t, e.connect(t, "lds_ingress_0.0.0.0_15000", elsewhere(8080)), "any"); got != "cds_ingress_colors_front_http_8080" {
			t.Errorf("arrived at %s, want the application", got)
		}
	})
	e := run(t, bundleOf(t, "GR-005_ports_of_no_listener", "virtualGateway/ingress"))
	for _, test := range []struct {
		name, path, cluster string
		status              int
	}{
		{"GR-005 the target's port chooses the listener", "/right/1", "cds_egress_colors_two_http_9081", 200},
		{"GR-005 a target's port that is no listener", "/two/1", "", 503},
		{"GR-005 the same with the host kept", "/kept", "", 503},
		{"GR-005 a service's only port, whatever the target says", "/one/1", "cds_egress_colors_one_http_9080", 200},
		{"GR-007 a match on a port that is no listener", "/match/1", "", 404},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, got, _ := e.do(t, "rds_ingress_http_8080", ask{host: "example.com", path: test.path})
			if status != test.status || test.cluster != "" && (got == nil || got.Cluster != test.cluster) {
				t.Errorf("status %d, arrived %+v, want %d at %q", status, got, test.status, test.cluster)
			}
		})
	}
}
