package agent

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// The agent gives Envoy the headers that a collector wants, and nobody else: neither its log nor the bootstrap has them.
func TestHeadersOfACollector(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var got atomic.Value
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		md, _ := grpcmetadata.FromIncomingContext(s.Context())
		got.Store(strings.Join(md.Get("api-key"), ","))
		return s.SendMsg(&emptypb.Empty{})
	}))
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	defer func() { server.Stop(); <-done }()
	own := filepath.Join(agenttest.ShortDir(t), "bootstrap.yaml")
	p := play(t, newStub(t, "run", "ENVOY_PATH="+agenttest.Envoys(t)[0], "ENVOY_CONFIG_FILE="+own, "ENVOY_ADMIN_ACCESS_LOG_FILE=/dev/null", "ENVOY_INITIAL_FETCH_TIMEOUT=1",
		"ENABLE_ENVOY_OTEL_METRICS=1", "ENVOY_STATS_FLUSH_INTERVAL=200ms", "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+l.Addr().String(), "OTEL_EXPORTER_OTLP_HEADERS=api-key=s3cr%65t", "ENVOY_LOG_LEVEL=debug"))
	testenv.Eventually(t, "the header has come", func() bool { return got.Load() == "s3cret" })
	text, err := os.ReadFile(own)
	if err != nil || !strings.Contains(string(text), "api-key") {
		t.Errorf("the bootstrap: %v %s", err, text)
	}
	for _, secret := range []string{"s3cret", "s3cr%65t"} {
		if strings.Contains(string(text), secret) {
			t.Error("the bootstrap has it")
		}
		for line := range strings.Lines(p.out.String()) {
			if strings.Contains(line, secret) {
				t.Errorf("the log has it: %s", line)
			}
		}
	}
	p.tell(t, syscall.SIGTERM)
	p.tell(t, syscall.SIGTERM)
	p.ends(t, 0)
}
