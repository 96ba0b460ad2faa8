//go:build linux

package fields

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/secrets"
	"github.com/evermesh/evermesh/internal/secrets/secretstest"
	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/ground"
)

var update = flag.Bool("update", false, "rewrite the goldens, and docs/fields.md when every case has passed")

// world is what all scenes share.
type world struct {
	*ground.Ground
	envoy   string // the program
	version string
	plane   *plane
	missing *ground.Missing // why there is no ground; everything else is unset then
}

var shared world // set by TestMain

func TestMain(m *testing.M) {
	os.Exit(ground.Main(m, &shared.missing, func(g *ground.Ground) error {
		// Scenes wait together, however few processors there are.
		flag.Parse()
		return errors.Join(flag.Set("test.parallel", "12"), shared.begin(g))
	}, func() error {
		if shared.plane != nil {
			shared.plane.stop()
		}
		return nil
	}))
}

func (w *world) begin(g *ground.Ground) error {
	path, err := testenv.FindEnvoy()
	if err != nil {
		return err
	}
	out, err := exec.Command(path, "--version").Output()
	version := regexp.MustCompile(`/(\d+\.\d+\.\d+)`).FindSubmatch(out)
	if err != nil || version == nil {
		return fmt.Errorf("ask %s for its version: %w: %s", path, err, out)
	}
	w.Ground, w.version = g, string(version[1])
	if w.envoy, err = g.Tool(path); err != nil {
		return err
	}
	w.plane, err = startPlane(filepath.Join(g.Dir(), "xds.sock"))
	return err
}

// plane is a control plane without a store: it gives every Envoy the bundle that
// it was last told for it.
type plane struct {
	server *ads.Server
	issuer *secretstest.Issuer
	socket string
	wanted chan mesh.Client // a first proxy came
	stop   func()

	mu       sync.Mutex
	builder  envoy.Builder
	bundles  map[mesh.Client]*envoy.Bundle
	revision int64
}

func startPlane(socket string) (*plane, error) {
	p := &plane{socket: socket, issuer: secretstest.New(), wanted: make(chan mesh.Client, 256), bundles: map[mesh.Client]*envoy.Bundle{}}
	source := &secrets.Source{Issuer: p.issuer, Log: slog.New(slog.DiscardHandler)}
	p.server = ads.New(ads.Config{
		Secrets: source,
		Clients: p, Realm: api.Realm{Partition: "aws", Region: "us-east-1"}, Replica: "r", PublishWait: patience,
		Authenticate: func(context.Context, string, metadata.MD) (auth.Principal, error) {
			return auth.Principal{Account: account}, nil
		},
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	source.Renew = p.server.Renew
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = p.server.Serve(ctx, l, nil) })
	running.Go(func() {
		for {
			select {
			case c := <-p.wanted:
				p.mu.Lock()
				if b := p.bundles[c]; b != nil {
					p.server.Set(c, p.revision, b)
				}
				p.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	})
	p.stop = func() { cancel(); running.Wait() }
	return p, nil
}

// Resolve takes mesh/MESH/KIND/NAME.
func (p *plane) Resolve(_ context.Context, nodeID, _ string) (mesh.Client, string, error) {
	parts := strings.Split(nodeID, "/")
	if len(parts) != 4 {
		return mesh.Client{}, "", api.Errorf(api.CodeBadRequest, "node id %q", nodeID)
	}
	return client(parts[1], parts[2]+"/"+parts[3]), account, nil
}

// Want is called while the server holds its lock.
func (p *plane) Want(c mesh.Client) { p.wanted <- c }

// Unwant has nothing to take back.
func (p *plane) Unwant(mesh.Client) {}

// client is the one of "virtualNode/front" in a mesh.
func client(meshName, name string) mesh.Client {
	kind, name, _ := strings.Cut(name, "/")
	return mesh.Client{Key: api.Key{Owner: account, Mesh: meshName, Kind: api.Kind(kind), Name: name}}
}

// publish makes the snapshot what the clients are to have.
func (p *plane) publish(s *mesh.Snapshot, clients []mesh.Client, endpoints func(envoy.EndpointQuery) ([]envoy.Endpoint, bool)) (revision int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revision++
	for _, c := range clients {
		view, _, _ := s.View(c)
		if view == nil {
			return 0, fmt.Errorf("%s does not exist", c.Key)
		}
		b, _ := p.builder.Build(view, p.bundles[c])
		b = b.WithEndpoints(endpoints)
		p.bundles[c] = b
		p.server.Set(c, p.revision, b)
	}
	return p.revision, nil
}

// await waits until the client's Envoy has accepted what it is to have at the
// revision, and says what it refused.
func (p *plane) await(t *testing.T, c mesh.Client, revision int64) {
	t.Helper()
	var refusal string
	testenv.Eventually(t, c.Key.Name+" has its configuration", func() bool {
		row, ok := p.server.Row(c)
		if !ok || row.Revision < revision {
			return false
		}
		for _, m := range row.Members {
			if m.State == api.ProxyStateRefused {
				i := slices.IndexFunc(m.Types, func(s api.TypeStatus) bool { return s.Refusal != nil })
				if i >= 0 {
					refusal = m.Types[i].Refusal.Message
				}
				return true
			}
			if m.State != api.ProxyStateCurrent {
				return false
			}
		}
		return len(row.Members) > 0
	})
	if refusal != "" {
		t.Fatalf("%s refuses its configuration: %s", c.Key.Name, refusal)
	}
}
