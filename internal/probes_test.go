package internal

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// mostOfAProbe is how long a probe of readiness or health may take: what is longer leaves a proxy that has failed in use.
const mostOfAProbe = 10 * time.Second

// asksOnce says what is wrong with a command that asks an agent whether Envoy is ready.
func asksOnce(t *testing.T, where string, command []string) {
	t.Helper()
	if slices.Contains(command, "-envoyReadiness") {
		t.Errorf("%s: %q waits for an Envoy that has failed", where, command)
	}
	if i := slices.Index(command, "wait"); i > 0 && !slices.Equal(command[i:], []string{"wait", "--timeout", "0"}) {
		t.Errorf("%s: %q does not ask once", where, command)
	}
}

// TestIPv6IsRedirected has pods redirect IPv6, as App Mesh's injector had them.
func TestIPv6IsRedirected(t *testing.T) {
	t.Parallel()
	text := readFile(t, "deploy/kubernetes/shop.yaml")
	managers, six := strings.Count(text, "APPMESH_ENVOY_EGRESS_PORT"), strings.Count(text, `{name: APPMESH_ENABLE_IPV6, value: "1"}`)
	if managers == 0 || managers != six {
		t.Errorf("%d of %d redirect IPv6", six, managers)
	}
}

// TestProbes holds the probes of deploy/ to what they are for: they tell of a failed proxy within seconds.
func TestProbes(t *testing.T) {
	t.Parallel()
	t.Run("of pods", func(t *testing.T) {
		t.Parallel()
		type probe struct {
			Exec    struct{ Command []string }
			Timeout int `yaml:"timeoutSeconds"`
		}
		type container struct {
			Name      string
			Readiness *probe `yaml:"readinessProbe"`
			Liveness  *probe `yaml:"livenessProbe"`
		}
		files, err := filepath.Glob(filepath.Join(root, "deploy/kubernetes/*.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, file := range files {
			decoder := yaml.NewDecoder(strings.NewReader(readFile(t, filepath.Join("deploy/kubernetes", filepath.Base(file)))))
			for {
				var object struct {
					Spec struct {
						Template struct {
							Spec struct {
								Init       []container `yaml:"initContainers"`
								Containers []container
							}
						}
					}
				}
				var node yaml.Node
				if err := decoder.Decode(&node); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				if node.Content[0].Kind != yaml.MappingNode {
					continue // no manifest
				}
				if err := node.Decode(&object); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				for _, c := range append(object.Spec.Template.Spec.Init, object.Spec.Template.Spec.Containers...) {
					for _, p := range []*probe{c.Readiness, c.Liveness} {
						if p == nil {
							continue
						}
						seen++
						asksOnce(t, file+": "+c.Name, p.Exec.Command)
						if time.Duration(p.Timeout)*time.Second > mostOfAProbe {
							t.Errorf("%s: %s may take %d s", file, c.Name, p.Timeout)
						}
					}
				}
			}
		}
		if seen == 0 {
			t.Error("there are none")
		}
	})
	t.Run("of a Compose file, whose networks stay when an Envoy is started again", func(t *testing.T) {
		t.Parallel()
		var file struct {
			Services map[string]struct {
				Restart     string
				NetworkMode string `yaml:"network_mode"`
				Healthcheck *struct {
					Test    []string
					Timeout string
				}
			}
		}
		text := []byte(readFile(t, "deploy/compose/compose.yaml"))
		if err := yaml.NewDecoder(bytes.NewReader(text)).Decode(&file); err != nil {
			t.Fatal(err)
		}
		seen := 0
		for name, s := range file.Services {
			// Tools that are run by hand, and get the network that there is then.
			if owner, ok := strings.CutPrefix(s.NetworkMode, "service:"); ok && owner != "control" && file.Services[owner].Restart != "" {
				t.Errorf("%s has no network when %s is started again", name, owner)
			}
			if s.Healthcheck == nil {
				continue
			}
			seen++
			asksOnce(t, name, s.Healthcheck.Test)
			if d, err := time.ParseDuration(s.Healthcheck.Timeout); err != nil || d > mostOfAProbe {
				t.Errorf("%s: %q is no time for a check (%v)", name, s.Healthcheck.Timeout, err)
			}
		}
		if seen == 0 {
			t.Error("there are none")
		}
	})
}
