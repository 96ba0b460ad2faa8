package bootstrap

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

var update = flag.Bool("update", false, "write the golden files anew")

// A case holds the environment (env), files of the user by name, for which $DIR stands, what the platform told (facts), and
// the bootstrap that must come out. Its first line is its name. Every bootstrap is accepted by every Envoy that is installed.
func TestBootstrap(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	binaries := agenttest.Envoys(t)
	for _, file := range cases {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(string(archive.Comment), "\n")
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			got, err := generate(t, archive, dir)
			if err != nil {
				t.Fatal(err)
			}
			written := filepath.Join(dir, "bootstrap.yaml")
			if err := os.WriteFile(written, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, envoy := range binaries {
				out, err := exec.Command(envoy, "--mode", "validate", "-l", "warn", "-c", written).CombinedOutput()
				if err != nil {
					t.Errorf("%s: %v\n%s", envoy, err, out)
				}
			}
			compare(t, file, archive, strings.ReplaceAll(got, dir, "$DIR"))
		})
	}
}

func generate(t *testing.T, archive *txtar.Archive, dir string) (string, error) {
	t.Helper()
	files, err := txtar.FS(archive)
	if err != nil {
		t.Fatal(err)
	}
	env, err := fs.ReadFile(files, "env")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := settings.Parse(agenttest.Environment(strings.Split(strings.ReplaceAll(strings.TrimSpace(string(env)), "$DIR", dir), "\n")...), settings.Flags{}, 0)
	if err != nil {
		return "", err
	}
	read, err := ReadUserFiles(s.Bootstrap)
	if err != nil {
		return "", err
	}
	facts := Facts{
		Instance: "0123456789abcdef0123456789abcdef", SocketPath: "/run/evermesh/xds.sock", Kernel: "6.1.0", Machine: "x86_64",
		IPv4: map[string][]string{"lo": {"127.0.0.1/8"}, "eth0": {"10.0.0.10/24"}}, IPv6: map[string][]string{"lo": {"::1/128"}},
	}
	if told, err := fs.ReadFile(files, "facts"); err == nil {
		if err := json.Unmarshal(told, &facts); err != nil {
			t.Fatal(err)
		}
	}
	text, _, err := File(s, facts, read)
	return string(text), err
}

// compare compares with the golden file, or writes it.
func compare(t *testing.T, file string, archive *txtar.Archive, got string) {
	t.Helper()
	const golden = "bootstrap.yaml"
	want := ""
	kept := archive.Files[:0:0]
	for _, f := range archive.Files {
		if f.Name == golden {
			want = string(f.Data)
		} else {
			kept = append(kept, f)
		}
	}
	if *update {
		archive.Files = append(kept, txtar.File{Name: golden, Data: []byte(got)})
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestUserFilesRefused(t *testing.T) {
	for _, test := range []struct{ name, variable, content, want string }{
		{"empty", "ENVOY_STATS_CONFIG_FILE", "", "is empty"},
		{"no YAML", "ENVOY_RESOURCES_CONFIG_FILE", "a: [", "did not find"},
		{"both spellings", "ENVOY_RESOURCES_CONFIG_FILE", "stats_flush_interval: 1s\nstatsFlushInterval: 2s", "both spellings"},
		{"not what it is for", "ENVOY_STATS_SINKS_CFG_FILE", "stats_flush_interval: 1s", "has no statsSinks"},
		{"twice", "ENVOY_RESOURCES_CONFIG_FILE", "stats_config: {}", "statsConfig is already there"},
		{"a static part twice, in both spellings", "ENVOY_RESOURCES_CONFIG_FILE", "static_resources: {}\nstaticResources: {}", "both spellings"},
		{"resources that are none", "ENVOY_RESOURCES_CONFIG_FILE", "static_resources: [a]", "staticResources is no mapping"},
		{"two documents", "ENVOY_RESOURCES_CONFIG_FILE", "admin: {}\n---\nnode: {}", "more than one document"},
		{"a key twice", "ENVOY_RESOURCES_CONFIG_FILE", "admin: {}\nadmin: {}", "already defined"},
		{"no mapping", "ENVOY_STATS_CONFIG_FILE", "- a", "cannot unmarshal"},
		{"AGENT-017 a tracer beside that of a file", "ENABLE_ENVOY_XRAY_TRACING=1\nENVOY_RESOURCES_CONFIG_FILE", "tracing: {}", "tracing is already there"},
		{"no list", "ENVOY_RESOURCES_CONFIG_FILE", "static_resources: {clusters: {a: b}}", "is no list"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := generate(t, &txtar.Archive{Files: []txtar.File{
				{Name: "env", Data: []byte("APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n\nAPPMESH_XDS_ENDPOINT=c:1\n" + test.variable + "=$DIR/user.yaml")},
				{Name: "user.yaml", Data: []byte(test.content)},
			}}, dir)
			var config *settings.ConfigError
			_, variable, both := strings.Cut(test.variable, "\n")
			if !both {
				variable = test.variable
			}
			if !errors.As(err, &config) || config.Variable != variable || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s: … %s …", err, test.variable, test.want)
			}
		})
	}
	t.Run("an empty resources file is ignored", func(t *testing.T) {
		_, err := generate(t, &txtar.Archive{Files: []txtar.File{
			{Name: "env", Data: []byte("APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n\nAPPMESH_XDS_ENDPOINT=c:1\nENVOY_RESOURCES_CONFIG_FILE=$DIR/user.yaml")},
			{Name: "user.yaml"},
		}}, t.TempDir())
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("AGENT-021 sampling rules of version 1", func(t *testing.T) {
		_, err := generate(t, &txtar.Archive{Files: []txtar.File{
			{Name: "env", Data: []byte("APPMESH_RESOURCE_ARN=mesh/m/virtualNode/n\nAPPMESH_XDS_ENDPOINT=c:1\nENABLE_ENVOY_XRAY_TRACING=1\nXRAY_SAMPLING_RULE_MANIFEST=$DIR/rules.json")},
			{Name: "rules.json", Data: []byte(`{"version":1}`)},
		}}, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), "XRAY_SAMPLING_RULE_MANIFEST") || !strings.Contains(err.Error(), "only 2 is supported") {
			t.Errorf("got %v", err)
		}
	})
}
