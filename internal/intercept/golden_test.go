package intercept

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the golden files anew")

// environment is a getenv of lines "K=V".
func environment(lines ...string) func(string) string {
	m := map[string]string{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		m[name] = value
	}
	return func(name string) string { return m[name] }
}

// A case holds the variables (env) and the texts that must come out. Its first line is its name. That the tools take
// these texts, and what traffic then does, is shown in kernel_test.go.
func TestRules(t *testing.T) {
	for _, file := range goldenFiles(t) {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(string(archive.Comment), "\n")
		t.Run(name, func(t *testing.T) {
			cfg := configOf(t, archive)
			got := []txtar.File{{Name: "env", Data: archive.Files[0].Data}}
			add := func(name, text string) { got = append(got, txtar.File{Name: name, Data: []byte(text)}) }
			add("summary", cfg.Summary("nft")+"\n")
			add("nft", cfg.NFT(false))
			add("iptables", cfg.IPTables(false, ""))
			if cfg.IPv6 {
				add("ip6tables", cfg.IPTables(true, ""))
			}
			if *update {
				archive.Files = got
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(txtar.Format(archive)), string(txtar.Format(&txtar.Archive{Comment: archive.Comment, Files: got}))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func goldenFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	return files
}

func configOf(t *testing.T, archive *txtar.Archive) Config {
	t.Helper()
	if len(archive.Files) == 0 || archive.Files[0].Name != "env" {
		t.Fatal("a case begins with env")
	}
	cfg, err := Parse(environment(strings.Split(strings.TrimSpace(string(archive.Files[0].Data)), "\n")...))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// What an earlier run left is taken out, what others have stays.
func TestIPTablesAgain(t *testing.T) {
	cfg, err := Parse(environment("APPMESH_START_ENABLED=1", "APPMESH_IGNORE_UID=1337", "APPMESH_ENVOY_EGRESS_PORT=15001"))
	if err != nil {
		t.Fatal(err)
	}
	const saved = `*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:APPMESH_EGRESS - [0:0]
:APPMESH_INGRESS - [0:0]
:DOCKER - [0:0]
-A PREROUTING -p tcp -m addrtype ! --src-type LOCAL -j APPMESH_INGRESS
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j APPMESH_EGRESS
-A APPMESH_EGRESS -m owner --uid-owner 1337 -j RETURN
-A APPMESH_INGRESS -p tcp -m multiport --dports 80 -j REDIRECT --to-ports 15000
COMMIT
`
	t.Run("ICPT-022 applied again, without ports that an earlier run had", func(t *testing.T) {
		want := `*nat
:APPMESH_EGRESS - [0:0]
-D PREROUTING -p tcp -m addrtype ! --src-type LOCAL -j APPMESH_INGRESS
-D OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j APPMESH_EGRESS
-F APPMESH_INGRESS
-X APPMESH_INGRESS
-A APPMESH_EGRESS -m owner --uid-owner 1337 -j RETURN
-A APPMESH_EGRESS -p tcp -m multiport --dports 22 -j RETURN
-A APPMESH_EGRESS -p tcp -j REDIRECT --to-ports 15001
-A OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j APPMESH_EGRESS
COMMIT
`
		if diff := cmp.Diff(want, cfg.IPTables(false, saved)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
	t.Run("removed", func(t *testing.T) {
		want := `*nat
-D PREROUTING -p tcp -m addrtype ! --src-type LOCAL -j APPMESH_INGRESS
-D OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j APPMESH_EGRESS
-F APPMESH_EGRESS
-X APPMESH_EGRESS
-F APPMESH_INGRESS
-X APPMESH_INGRESS
COMMIT
`
		if diff := cmp.Diff(want, removeIPTables(saved)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if got := removeIPTables("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"); got != "" {
			t.Errorf("nothing to remove, but %q", got)
		}
	})
}

// Whatever a tool printed, no line of what follows touches a chain of others, but to delete or insert jumps to ours.
func FuzzSaved(f *testing.F) {
	f.Add("*nat\n:OUTPUT ACCEPT [0:0]\n:APPMESH_EGRESS - [0:0]\n-A OUTPUT -p tcp -j APPMESH_EGRESS\n-A OUTPUT -j OTHER\n-A APPMESH_EGRESS -j RETURN\nCOMMIT\n", ":EVERMESH_DNS - [0:0]\n")
	f.Add("*filter\n-A OUTPUT -j APPMESH_EGRESS\n*nat\n-A PREROUTING -g APPMESH_INGRESS\n", "-A X -j APPMESH_INGRESS")
	cfg, err := Parse(environment("APPMESH_START_ENABLED=1", "APPMESH_IGNORE_UID=1337", "APPMESH_ENVOY_EGRESS_PORT=15001"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, saved, other string) {
		for _, text := range []string{removeIPTables(saved), cfg.IPTables(false, saved), restoreIPTables(readSaved(saved), readSaved(other))} {
			for line := range strings.Lines(text) {
				words := strings.Fields(line)
				switch {
				case len(words) == 0 || words[0] == "*nat" || words[0] == "COMMIT":
				case strings.HasPrefix(words[0], ":") && isOurs(words[0][1:]):
				case len(words) >= 2 && isOurs(words[1]) && (words[0] == "-A" || words[0] == "-F" || words[0] == "-X"):
				case len(words) >= 4 && (words[1] == "OUTPUT" || words[1] == "PREROUTING") && isOurs(words[len(words)-1]):
				default:
					t.Errorf("%q\n%s", line, text)
				}
			}
		}
	})
}
