package aws_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/model"
)

var update = flag.Bool("update", false, "write docs/aws-services.md")

// services are those that are offered, in the order of the document, with the names
// of their models, which are those of their scenarios too.
var services = []struct{ title, model string }{
	{"IAM", "iam"},
	{"STS", "sts"},
	{"EKS (Pod Identity)", "eks"},
	{"EKS Auth", "eks-auth"},
	{"RAM", "ram"},
	{"Service Quotas", "servicequotas"},
	{"CloudTrail", "cloudtrail"},
	{"Cloud Map", "servicediscovery"},
	{"ACM", "acm"},
	{"ACM PCA", "acm-pca"},
	{"Resource Groups Tagging API", "tagging"},
}

// step is one call of a scenario at one endpoint.
type step struct {
	Operation string
	Answer    any
	Code      string
	Message   string
	Status    int
	Broken    string
	Left      bool // what it needs, an earlier one was to answer
}

// outcome is a scenario at both endpoints.
type outcome struct {
	Service      string
	Ours, Theirs []step
	Failed       []string
}

// absent says that moto does not have the operation.
func (s step) absent() bool {
	return s.Status >= 500 || s.Status == 404 && s.Code == "404" || s.Code == "NotYetImplemented"
}

// row is what the document says of an operation.
type row struct {
	calls, beside int
	refusals      map[string]bool
	differs       map[string]string // path: what
	absent        bool
}

// TestBesideAnotherAWS runs each service's scenario with boto3 here and at moto, and
// compares all that they answer; then a few commands of the AWS CLI.
func TestBesideAnotherAWS(t *testing.T) {
	ours, theirs := evermeshd(t), moto(t)
	reasons, files := readReasons(t), certificates(t)
	tables := make([]string, len(services))
	for i, s := range services {
		// One after another: what a list has depends on those before.
		t.Run(s.model, func(t *testing.T) {
			scenario := filepath.Join("testdata", s.model+".py")
			rows := compare(t, s.model, play(t, scenario, files, ours, theirs))
			m, err := model.Named(s.model)
			if err != nil {
				t.Fatal(err)
			}
			for name := range m.Operations {
				if rows[name] == nil {
					t.Errorf("no scenario calls %s", name)
				}
			}
			tables[i] = table(t, s.title, s.model, rows, reasons)
			commands(t, scenario, ours)
		})
	}
	for key := range reasons {
		if !reasons[key].used {
			t.Errorf("testdata/differs.txt: nothing differs at %q any more", key)
		}
	}
	check(t, tables)
}

// play runs a scenario at both endpoints.
func play(t *testing.T, scenario, files string, ours, theirs endpoint) outcome {
	t.Helper()
	arguments := []string{"beside.py", scenario, files}
	for _, e := range []endpoint{ours, theirs} {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		arguments = append(arguments, string(text))
	}
	cmd := exec.CommandContext(t.Context(), tool(t, "python"), arguments...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "PYTHONDONTWRITEBYTECODE=1", "AWS_EC2_METADATA_DISABLED=true")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	var o outcome
	if err := json.Unmarshal(out, &o); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if o.Failed[0] != "" {
		t.Fatalf("the scenario ended here: %s", o.Failed[0])
	}
	return o
}

// compare makes the rows of a scenario.
func compare(t *testing.T, service string, o outcome) map[string]*row {
	t.Helper()
	rows := map[string]*row{}
	for i, s := range o.Ours {
		r := rows[s.Operation]
		if r == nil {
			r = &row{refusals: map[string]bool{}, differs: map[string]string{}}
			rows[s.Operation] = r
		}
		r.calls++
		switch {
		case s.Left:
			t.Errorf("%s %s (call %d) was not made: an earlier one was to answer what it needs", service, s.Operation, i+1)
		case s.Broken != "":
			t.Errorf("%s %s (call %d): boto3 does not understand the answer: %s", service, s.Operation, i+1, s.Broken)
		case s.Status >= 500:
			t.Errorf("%s %s (call %d): %d %s: %s", service, s.Operation, i+1, s.Status, s.Code, s.Message)
		case s.Code != "":
			r.refusals[s.Code] = true
		}
		if i >= len(o.Theirs) || o.Theirs[i].Left {
			continue
		}
		x := o.Theirs[i]
		if x.absent() || x.Broken != "" {
			r.absent = true
			continue
		}
		r.beside++
		switch {
		case s.Code != x.Code:
			r.differs["code"] = fmt.Sprintf("%s here, %s there", or(s.Code, "answered"), or(x.Code, "answered"))
			t.Logf("%s %s: here %s %s, there %s %s", service, s.Operation, s.Code, s.Message, x.Code, x.Message)
		case s.Code == "":
			differ(r.differs, "", s.Answer, x.Answer)
		}
	}
	return rows
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// differ notes the paths at which two answers differ.
func differ(into map[string]string, at string, here, there any) {
	a, isA := here.(map[string]any)
	b, isB := there.(map[string]any)
	if isA && isB {
		for _, k := range slices.Sorted(maps.Keys(merged(a, b))) {
			differ(into, strings.TrimPrefix(at+"."+k, "."), a[k], b[k])
		}
		return
	}
	x, isX := here.([]any)
	y, isY := there.([]any)
	if isX && isY && len(x) == len(y) {
		for i := range x {
			differ(into, at+"[]", x[i], y[i])
		}
		return
	}
	p, q := encoded(here), encoded(there)
	if p != q && !empty(here, there) {
		into[or(at, "answer")] = p + " here, " + q + " there"
	}
}

// empty says that both are nothing: absent, an empty list or text, zero.
func empty(values ...any) bool {
	for _, v := range values {
		switch v := v.(type) {
		case nil:
		case []any:
			if len(v) > 0 {
				return false
			}
		case map[string]any:
			if len(v) > 0 {
				return false
			}
		case string:
			if v != "" {
				return false
			}
		case bool:
			if v {
				return false
			}
		case float64:
			if v != 0 {
				return false
			}
		default:
			return false
		}
	}
	return true
}

func merged(a, b map[string]any) map[string]any {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

func encoded(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	if len(text) > 160 {
		text = append(text[:160], "…"...)
	}
	return string(text)
}

// commands runs the lines of a scenario that begin with "# aws ", or with "# refused: aws ",
// with the AWS CLI.
func commands(t *testing.T, scenario string, e endpoint) {
	t.Helper()
	text, err := os.ReadFile(scenario)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for line := range strings.Lines(string(text)) {
		before, command, ok := strings.Cut(strings.TrimSpace(line), "aws ")
		refused := before == "# refused: "
		if !ok || !refused && before != "# " {
			continue
		}
		ran++
		if err := cli(t, e, command); (err != nil) != refused {
			t.Errorf("aws %s: %v, want a refusal: %v", command, err, refused)
		}
	}
	if ran == 0 {
		t.Errorf("%s has no command for the AWS CLI", scenario)
	}
}
