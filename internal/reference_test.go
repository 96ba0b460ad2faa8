package internal

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the references that are made from code anew")

// compare checks a reference against what the code says now.
func compare(t *testing.T, name, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(filepath.Join(root, name), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got := readFile(t, name)
	if got == want {
		return
	}
	was, is := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(was), len(is)) {
		if i >= len(was) || i >= len(is) || was[i] != is[i] {
			t.Fatalf("%s, line %d, is not what the code says: run `make generate` and read the difference", name, i+1)
		}
	}
}

// commands are the ones whose help is the flag reference.
var commands = [][]string{
	{"evermeshd"},
	{"evermeshd", "serve"},
	{"evermeshd", "check-config"},
	{"evermeshd", "backup"},
	{"evermeshd", "restore"},
	{"evermeshd", "account", "add"},
	{"evermeshd", "account", "list"},
	{"evermeshd", "account", "guard"},
	{"evermeshd", "credentials", "reset"},
	{"evermeshd", "rotate-master-key"},
	{"evermeshd", "quota", "list"},
	{"evermeshd", "quota", "set"},
	{"evermeshd", "audit", "replicas"},
	{"evermeshd", "audit", "forget"},
	{"evermeshd", "organization", "set"},
	{"evermeshd", "organization", "show"},
	{"evermesh"},
	{"evermesh", "env"},
	{"evermesh", "apply"},
	{"evermesh", "export"},
	{"evermesh", "drain"},
	{"evermesh", "explain"},
	{"evermesh", "plan"},
	{"evermesh", "proxies"},
	{"evermesh", "rollout"},
	{"evermesh", "settings"},
	{"evermesh", "shift"},
	{"evermesh", "xds"},
}

const flagsHead = `# Commands and flags

What each program prints with ` + "`--help`" + `. Made by ` + "`make generate`" + `; a test fails when it is out of date.
Every flag of ` + "`evermeshd serve`" + ` may also be given in the environment (` + "`--api-listen`" + ` as
` + "`EVERMESH_API_LISTEN`" + `) or in the YAML file that ` + "`--config`" + ` names, under the flag's name. The agent is set
by environment variables: see [agent.md](agent.md).
`

func TestFlagReference(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir, "./cmd/evermeshd", "./cmd/evermesh")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	text := bytes.NewBufferString(flagsHead)
	for _, c := range commands {
		cmd := exec.Command(filepath.Join(dir, c[0]), append(slices.Clone(c[1:]), "--help")...)
		cmd.Env = []string{"HOME=/home/you"}
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%s --help: %v", strings.Join(c, " "), err)
		}
		fmt.Fprintf(text, "\n## %s\n\n```\n%s\n```\n", strings.Join(c, " "), bytes.TrimSpace(out))
	}
	compare(t, "docs/flags.md", text.String())
}

// metric is what a call of the Prometheus library makes.
type metric struct{ name, kind, labels, help string }

// metricMakers are the calls that make metrics, and the kind of each.
var metricMakers = map[string]string{
	"NewCounterVec": "counter", "NewCounter": "counter", "NewCounterFunc": "counter",
	"NewGaugeVec": "gauge", "NewGauge": "gauge", "NewGaugeFunc": "gauge", "NewDesc": "gauge",
	"NewHistogramVec": "histogram", "NewHistogram": "histogram",
}

// metricsIn finds the metrics that a file makes.
func metricsIn(f *ast.File) []metric {
	var out []metric
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		maker, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || metricMakers[maker.Sel.Name] == "" {
			return true
		}
		m := metric{kind: metricMakers[maker.Sel.Name]}
		var labels []string
		if maker.Sel.Name == "NewDesc" {
			m.name, m.help = literal(call.Args[0]), literal(call.Args[1])
		}
		for _, arg := range call.Args {
			opts, ok := arg.(*ast.CompositeLit)
			if !ok {
				continue
			}
			for _, e := range opts.Elts {
				switch e := e.(type) {
				case *ast.BasicLit:
					labels = append(labels, literal(e))
				case *ast.KeyValueExpr:
					switch fmt.Sprint(e.Key) {
					case "Name":
						m.name = literal(e.Value)
					case "Help":
						m.help = literal(e.Value)
					case "ConstLabels":
						if c, ok := e.Value.(*ast.CompositeLit); ok {
							for _, l := range c.Elts {
								labels = append(labels, literal(l.(*ast.KeyValueExpr).Key))
							}
						}
					}
				}
			}
		}
		m.labels = strings.Join(labels, ", ")
		if strings.HasPrefix(m.name, "evermesh_") {
			out = append(out, m)
		}
		return true
	})
	return out
}

func literal(e ast.Expr) string {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return ""
	}
	text, _ := strconv.Unquote(l.Value)
	return text
}

const metricsHead = `# Metrics

` + "`evermeshd`" + ` serves these on the admin address under ` + "`/metrics`" + `, beside Go's and the process's own. No label
is per proxy or per resource. Made by ` + "`make generate`" + `; a test fails when it is out of date.

| metric | type | labels | meaning |
|---|---|---|---|
`

func TestMetricsReference(t *testing.T) {
	var all []metric
	for _, name := range repositoryFiles(t, func(name string) bool {
		return isGo(name) && !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "test/")
	}) {
		_, f := parse(t, name)
		all = append(all, metricsIn(f)...)
	}
	if len(all) == 0 {
		t.Fatal("found no metric")
	}
	slices.SortFunc(all, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	text := bytes.NewBufferString(metricsHead)
	for _, m := range all {
		fmt.Fprintf(text, "| `%s` | %s | %s | %s |\n", m.name, m.kind, m.labels, m.help)
	}
	compare(t, "docs/metrics.md", text.String())
}

var (
	variable    = regexp.MustCompile(`^(AWS|APPMESH|APPNET|ENVOY|EVERMESH|ENABLE|DISABLE|DATADOG|DD|ECS|HC|JAEGER|LISTENER|MAX|NAMESPACE|OTEL|PID|RELAY|STATSD|TLS|XRAY)(_[A-Z0-9]+)+$`)
	variableRow = regexp.MustCompile("(?m)^\\| (`[A-Z0-9_]+`(?:, `[A-Z0-9_]+`)*) \\|")
)

// agentVariables are the variables that the agent and the interception read, and a file that does.
func agentVariables(t *testing.T) map[string]string {
	t.Helper()
	read := map[string]string{}
	for _, name := range repositoryFiles(t, func(name string) bool {
		dir := filepath.Dir(name)
		return isGo(name) && !strings.HasSuffix(name, "_test.go") && (strings.HasPrefix(dir, "internal/agent") && dir != "internal/agent/agenttest" || slices.Contains([]string{"internal/intercept", "cmd/evermesh-agent"}, dir))
	}) {
		_, f := parse(t, name)
		ast.Inspect(f, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok {
				text := literal(l)
				if variable.MatchString(text) && !slices.Contains([]string{"APPMESH_EGRESS", "APPMESH_INGRESS", "EVERMESH_DNS"}, text) { // those three are chains
					read[text] = name
				}
			}
			return true
		})
	}
	return read
}

// TestAgentReference holds docs/agent.md against the variables that the agent
// and the interception read: none is missing, and none is there that they do
// not read.
func TestAgentReference(t *testing.T) {
	read := agentVariables(t)
	text := readFile(t, "docs/agent.md")
	listed := map[string]bool{}
	for _, row := range variableRow.FindAllStringSubmatch(text, -1) {
		for _, name := range strings.Split(row[1], ", ") {
			listed[strings.Trim(name, "`")] = true
		}
	}
	for name, file := range read {
		if !listed[name] {
			t.Errorf("%s reads %s, which docs/agent.md does not list", file, name)
		}
	}
	for name := range listed {
		if read[name] == "" {
			t.Errorf("docs/agent.md lists %s, which nothing reads", name)
		}
	}
}
