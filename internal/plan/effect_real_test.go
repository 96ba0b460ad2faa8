package plan_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What a plan says is what Envoy does: one Envoy gets the listeners of all cases,
// then each case's change, and its own counts tell what it drains.
func TestEffectsInEnvoy(t *testing.T) {
	t.Parallel()
	cases := effectCases()
	dir, err := os.MkdirTemp("", "plan") // short: sockets have at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	now := make([][]*listenerv3.Listener, len(cases))
	after := make([][]*listenerv3.Listener, len(cases))
	secrets := map[string]*tlsv3.Secret{}
	for i, c := range cases {
		s, _ := c.on(t)
		changed := made(t, c.kind, "", "x", c.after)
		now[i] = listenersOf(t, dir, i, s, secrets)
		after[i] = listenersOf(t, dir, i, s.Apart().Apply(2, []api.Change{{Key: changed.Key, New: changed}}), secrets)
	}
	e := &listening{dir: dir}
	e.put(t, now)
	e.start(t, secrets)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			before := e.counts(t)
			now[i] = after[i]
			e.put(t, now)
			e.taken(t)
			is := e.counts(t)
			whole := is["total_listeners_draining"] - before["total_listeners_draining"]
			chains := is["total_filter_chains_draining"] - before["total_filter_chains_draining"]
			told := strings.Join(c.want, "\n")
			switch {
			case is["lds.update_rejected"] > 0:
				t.Error("Envoy refuses the listeners")
			case strings.Contains(told, "all its connections") && whole != 1,
				strings.Contains(told, "connections to port") && (whole != 0 || chains == 0),
				!c.drains && whole+chains != 0:
				t.Errorf("Envoy drains %d listeners and %d filter chains; the plan says %v: %s", whole, chains, c.drains, told)
			}
		})
	}
}

// listenersOf are the listeners of a case's node or gateway, at socket files and
// with all that they refer to inside. The secrets that they name are added.
func listenersOf(t testing.TB, dir string, i int, s *mesh.Snapshot, secrets map[string]*tlsv3.Secret) []*listenerv3.Listener {
	t.Helper()
	var out []*listenerv3.Listener
	for _, kind := range []api.Kind{api.KindVirtualNode, api.KindVirtualGateway} {
		for _, r := range s.List(kind, api.Key{Owner: account, Mesh: "m", Kind: api.KindMesh, Name: "m"}) {
			view, _, _ := s.View(mesh.Client{Key: r.Key})
			var builder envoy.Builder
			bundle, _ := builder.Build(view, nil)
			text, err := bundle.Static("test", "test")
			if err != nil {
				t.Fatal(err)
			}
			static := &bootstrapv3.Bootstrap{}
			if err := protojson.Unmarshal(text, static); err != nil {
				t.Fatal(err)
			}
			for _, l := range static.GetStaticResources().GetListeners() {
				l.Name = fmt.Sprintf("%d-%s", i, l.GetName())
				l.Address = envoytest.Pipe(filepath.Join(dir, l.GetName()))
				withoutRoutes(t, l)
				out = append(out, l)
			}
			for _, secret := range static.GetStaticResources().GetSecrets() {
				secrets[secret.GetName()] = secret
			}
		}
	}
	return out
}

// withoutRoutes leaves of the route configurations the names: a listener has no
// more of them.
func withoutRoutes(t testing.TB, l *listenerv3.Listener) {
	t.Helper()
	for _, chain := range l.GetFilterChains() {
		for _, f := range chain.GetFilters() {
			hcm := &hcmv3.HttpConnectionManager{}
			if f.GetTypedConfig().UnmarshalTo(hcm) != nil {
				continue
			}
			hcm.GetRouteConfig().VirtualHosts = nil
			packed, err := anypb.New(hcm)
			if err != nil {
				t.Fatal(err)
			}
			f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
		}
	}
}

// listening is an Envoy that takes its listeners from a file.
type listening struct {
	dir     string
	version int
	admin   *envoytest.Envoy
}

// put makes the listeners those that the Envoy is to have.
func (e *listening) put(t testing.TB, all [][]*listenerv3.Listener) {
	t.Helper()
	e.version++
	answer := &discoveryv3.DiscoveryResponse{VersionInfo: strconv.Itoa(e.version)}
	for _, of := range all {
		for _, l := range of {
			packed, err := anypb.New(l)
			if err != nil {
				t.Fatal(err)
			}
			answer.Resources = append(answer.Resources, packed)
		}
	}
	text, err := envoy.JSON(answer)
	if err != nil {
		t.Fatal(err)
	}
	// Envoy looks at the file when it is moved there.
	next := filepath.Join(e.dir, "next")
	if err := os.WriteFile(next, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(e.dir, "listeners.json")); err != nil {
		t.Fatal(err)
	}
}

func (e *listening) start(t *testing.T, secrets map[string]*tlsv3.Secret) {
	t.Helper()
	binary := testenv.Envoy(t)
	envoytest.LogVersion(t, binary)
	e.admin = &envoytest.Envoy{Dir: e.dir}
	root := sdstest.NewAuthority(t, "root")
	one := root.Issue(t, "one")
	config := &bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: "test", Cluster: "test"},
		Admin:           &bootstrapv3.Admin{Address: envoytest.Pipe(filepath.Join(e.dir, "admin"))},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{LdsConfig: &corev3.ConfigSource{
			ResourceApiVersion: corev3.ApiVersion_V3,
			ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{
				Path: filepath.Join(e.dir, "listeners.json"),
			}},
		}},
	}
	for _, s := range secrets {
		for source, text := range map[*corev3.DataSource][]byte{
			s.GetTlsCertificate().GetCertificateChain(): one.Chain, s.GetTlsCertificate().GetPrivateKey(): one.Key, s.GetValidationContext().GetTrustedCa(): root.PEM,
		} {
			if source != nil {
				source.Specifier = &corev3.DataSource_InlineBytes{InlineBytes: text}
			}
		}
		config.StaticResources.Secrets = append(config.StaticResources.Secrets, s)
	}
	text, err := envoy.JSON(config)
	if err != nil {
		t.Fatal(err)
	}
	path, log := filepath.Join(e.dir, "envoy.json"), filepath.Join(e.dir, "log")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	// What drains goes on draining until the test has counted it.
	cmd := exec.Command(binary, "-c", path, "--concurrency", "1", "--disable-hot-restart", "--drain-time-s", "600", "--log-level", "warn", "--log-path", log)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if said, err := os.ReadFile(log); t.Failed() && err == nil {
			t.Logf("Envoy said:\n%s", said)
		}
	})
	testenv.Eventually(t, "Envoy answers", func() bool {
		conn, err := net.Dial("unix", filepath.Join(e.dir, "admin"))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	e.taken(t)
}

// taken waits until the Envoy has what was put last, and all listeners stand.
func (e *listening) taken(t testing.TB) {
	t.Helper()
	testenv.Eventually(t, "Envoy has the listeners", func() bool {
		is := e.counts(t)
		return is["lds.update_success"]+is["lds.update_rejected"] == e.version && is["total_listeners_warming"] == 0
	})
}

// counts are the statistics of the Envoy's listener manager.
func (e *listening) counts(t testing.TB) map[string]int {
	t.Helper()
	out := map[string]int{}
	for line := range strings.Lines(e.admin.AdminPage(t, "/stats?filter=^listener_manager")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.Atoi(value); err == nil {
			out[strings.TrimPrefix(name, "listener_manager.")] = n
		}
	}
	return out
}
