package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The dashboard and the alert rules under deploy/, held against what evermeshd
// serves. PromQL's own parser is a large module, so this reads the language as
// far as these files use it, and refuses what it does not know.

func checkDeploy(t *testing.T, s *served) {
	t.Run("every panel of the dashboard", func(t *testing.T) { checkDashboard(t, s) })
	t.Run("every alert", func(t *testing.T) { checkAlerts(t, s) })
	t.Run("a wrong expression is noticed", func(t *testing.T) {
		for _, wrong := range []string{
			"evermesh_nothing", "sum(rate(evermesh_api_request_seconds[5m]))", "evermesh_proxies{node=\"a\"}", "evermesh_proxies{state=\"GONE\"}",
			"sum by (dialect) (evermesh_proxies)", "sum(evermesh_proxies", "rates(evermesh_api_requests_total[5m])", "evermesh_proxies ? 1",
			`evermesh_api_requests_total{code="NoException"}`, "rate(evermesh_api_requests_total)", "sum(evermesh_api_requests_total[5m])", "1 + 1", "evermesh_proxies{state=REFUSED}",
			"sum by (le) (evermesh_build_info)", "evermesh_proxies evermesh_problems",
		} {
			if _, err := s.expression(wrong); err == nil {
				t.Errorf("%s passes", wrong)
			}
		}
	})
}

func checkDashboard(t *testing.T, s *served) {
	text, err := os.ReadFile("../../deploy/grafana/evermesh.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		UID, Title    string
		SchemaVersion int
		Templating    struct {
			List []struct{ Name, Type, Query string }
		}
		Panels []struct {
			ID                       int
			Type, Title, Description string
			GridPos                  struct{ H, W, X, Y int }
			Targets                  []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	if board.UID == "" || board.Title == "" || board.SchemaVersion == 0 {
		t.Errorf("the dashboard has no uid, title or version: %+v", board)
	}
	for _, v := range board.Templating.List {
		m := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`).FindStringSubmatch(v.Query)
		if v.Type == "query" && (m == nil || s.has(m[1], m[2], "=~", "") != nil) {
			t.Errorf("variable %s asks for %s", v.Name, v.Query)
		}
	}
	used, ids, filled := map[string]bool{}, map[int]bool{}, map[[2]int]string{}
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, taken := filled[[2]int{x, y}]; taken || x >= 24 {
					t.Fatalf("%q lies over %q or the edge", p.Title, other)
				}
				filled[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Title == "" || p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q lacks a title, a description or a query", p.ID, p.Title)
		}
		for _, target := range p.Targets {
			names, err := s.expression(target.Expr)
			if err != nil {
				t.Errorf("panel %q: %s: %v", p.Title, target.Expr, err)
			}
			for _, n := range names {
				used[n] = true
			}
		}
	}
	for name := range s.labels {
		if strings.HasPrefix(name, "evermesh_") && !strings.HasSuffix(name, "_sum") && !strings.HasSuffix(name, "_count") && !used[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
}

func checkAlerts(t *testing.T, s *served) {
	text, err := os.ReadFile("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	anchors := sections(t, "../../docs/troubleshooting.md")
	seen := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			t.Run(r.Alert, func(t *testing.T) {
				if !regexp.MustCompile(`^Evermesh[A-Za-z]+$`).MatchString(r.Alert) || seen[r.Alert] {
					t.Errorf("the name %q is not of Evermesh or there twice", r.Alert)
				}
				seen[r.Alert] = true
				names, err := s.expression(r.Expr)
				if err != nil {
					t.Errorf("%s: %v", r.Expr, err)
				}
				if r.For == "" || !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
					t.Errorf("it lacks a time, a severity, a summary or a description: %+v", r)
				}
				for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(r.Annotations["description"], -1) {
					if !slices.ContainsFunc(names, func(n string) bool { return s.labels[n][m[1]] != nil }) {
						t.Errorf("the description names the label %s, which no metric of it has", m[1])
					}
				}
				page, anchor, _ := strings.Cut(r.Annotations["runbook_url"], "#")
				if !strings.HasSuffix(page, "/docs/troubleshooting.md") || !anchors[anchor] {
					t.Errorf("%s leads nowhere", r.Annotations["runbook_url"])
				}
			})
		}
	}
	if len(seen) == 0 {
		t.Error("no alert")
	}
	for anchor := range anchors {
		if strings.HasPrefix(anchor, "evermesh") && !seenFold(seen, anchor) {
			t.Errorf("docs/troubleshooting.md has a section for %s, which is no alert", anchor)
		}
	}
}

func seenFold(seen map[string]bool, anchor string) bool {
	for name := range seen {
		if strings.EqualFold(name, anchor) {
			return true
		}
	}
	return false
}

// sections are the anchors of a document's headings, as GitHub makes them.
func sections(t *testing.T, file string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(text), -1) {
		out[strings.ReplaceAll(strings.ToLower(m[1]), " ", "-")] = true
	}
	return out
}

var (
	promToken = regexp.MustCompile(`^(?:\s+|"(?:[^"\\]|\\.)*"|\[[0-9]+[smhd]\]|[0-9]+[smhd]\b|[0-9]+(?:\.[0-9]+)?|[a-zA-Z_:][a-zA-Z0-9_:]*|=~|!~|==|!=|<=|>=|[-+*/<>=(){},])`)

	promAggregations = []string{"sum", "max", "min", "avg", "count"}
	promOnRanges     = []string{"rate", "increase"}
	promFunctions    = []string{"histogram_quantile", "absent", "time"}
	promWords        = []string{"and", "or", "unless", "on", "ignoring", "group_left", "group_right", "offset", "by", "without"}
)

// expression checks a PromQL expression and returns the metrics in it.
func (s *served) expression(text string) (names []string, err error) {
	text = strings.ReplaceAll(text, "[$__rate_interval]", "[5m]")
	var tokens []string
	for rest := text; rest != ""; {
		token := promToken.FindString(rest)
		if token == "" {
			return nil, fmt.Errorf("cannot be read at %.20q", rest)
		}
		if rest = rest[len(token):]; strings.TrimSpace(token) != "" {
			tokens = append(tokens, token)
		}
	}
	e := &promReader{served: s, tokens: tokens}
	if err := e.binary(); err != nil {
		return e.names, err
	}
	switch {
	case len(e.tokens) > 0:
		return e.names, fmt.Errorf("%s is too much", strings.Join(e.tokens, " "))
	case len(e.names) == 0:
		return nil, fmt.Errorf("it uses no metric")
	}
	return e.names, e.groupings()
}

// promReader reads an expression from the front.
type promReader struct {
	*served
	tokens []string
	names  []string
	groups []string // labels that something is grouped by
}

func (e *promReader) peek() string {
	if len(e.tokens) == 0 {
		return ""
	}
	return e.tokens[0]
}

func (e *promReader) next() string {
	token := e.peek()
	if token != "" {
		e.tokens = e.tokens[1:]
	}
	return token
}

func (e *promReader) want(token string) error {
	if got := e.next(); got != token {
		return fmt.Errorf("%q where %q belongs", got, token)
	}
	return nil
}

// binary reads operands with operators between them.
func (e *promReader) binary() error {
	for {
		if err := e.operand(); err != nil {
			return err
		}
		if !slices.Contains([]string{"+", "-", "*", "/", "<", ">", "<=", ">=", "==", "!=", "and", "or", "unless"}, e.peek()) {
			return nil
		}
		e.next()
		for slices.Contains([]string{"on", "ignoring", "group_left", "group_right"}, e.peek()) {
			e.next()
			if err := e.labelList(); err != nil {
				return err
			}
		}
	}
}

func (e *promReader) operand() error {
	token := e.next()
	switch {
	case token == "(":
		if err := e.binary(); err != nil {
			return err
		}
		return e.want(")")
	case token == "":
		return fmt.Errorf("it ends too early")
	case token[0] >= '0' && token[0] <= '9':
		return nil
	case slices.Contains(promAggregations, token):
		if e.peek() == "by" || e.peek() == "without" {
			e.next()
			if err := e.labelList(); err != nil {
				return err
			}
		}
		return e.arguments()
	case slices.Contains(promOnRanges, token):
		if err := e.want("("); err != nil {
			return err
		}
		if err := e.selector(e.next(), true); err != nil {
			return err
		}
		return e.want(")")
	case slices.Contains(promFunctions, token):
		return e.arguments()
	case slices.Contains(promWords, token):
		return fmt.Errorf("%s does not begin an operand", token)
	}
	return e.selector(token, false)
}

func (e *promReader) arguments() error {
	if err := e.want("("); err != nil {
		return err
	}
	for e.peek() != ")" {
		if err := e.binary(); err != nil {
			return err
		}
		if e.peek() != "," {
			break
		}
		e.next()
	}
	return e.want(")")
}

func (e *promReader) labelList() error {
	if err := e.want("("); err != nil {
		return err
	}
	for e.peek() != ")" {
		e.groups = append(e.groups, e.next())
		if e.peek() == "," {
			e.next()
		}
		if e.peek() == "" {
			return fmt.Errorf("a list of labels does not end")
		}
	}
	return e.want(")")
}

// selector reads a metric with its matchers, and a range where one belongs.
func (e *promReader) selector(name string, ranged bool) error {
	if e.labels[name] == nil {
		return fmt.Errorf("no metric %q", name)
	}
	e.names = append(e.names, name)
	if e.peek() == "{" {
		for e.next(); e.peek() != "}"; {
			label, operator, value := e.next(), e.next(), e.next()
			if !slices.Contains([]string{"=", "!=", "=~", "!~"}, operator) || !strings.HasPrefix(value, `"`) {
				return fmt.Errorf("%s %s %s is no matcher", label, operator, value)
			}
			if err := e.has(name, label, operator, strings.Trim(value, `"`)); err != nil {
				return err
			}
			if e.peek() == "," {
				e.next()
			}
		}
		e.next()
	}
	if strings.HasPrefix(e.peek(), "[") != ranged {
		return fmt.Errorf("%s has a range where none belongs, or none where one does", name)
	}
	if ranged {
		e.next()
	}
	if e.peek() == "offset" {
		e.next()
		if d := e.next(); !regexp.MustCompile(`^[0-9]+[smhd]$`).MatchString(d) {
			return fmt.Errorf("%q is no offset", d)
		}
	}
	return nil
}

// groupings checks that some metric of the expression has each label that is
// grouped by.
func (e *promReader) groupings() error {
	for _, label := range e.groups {
		if !slices.ContainsFunc(e.names, func(n string) bool { return e.labels[n][label] != nil }) {
			return fmt.Errorf("it is grouped by %s, which none of its metrics has", label)
		}
	}
	return nil
}
