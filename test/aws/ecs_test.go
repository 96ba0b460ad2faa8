package aws_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/evermesh/evermesh/internal/ecs"
)

// registered is what ecs.py says of one input.
type registered struct {
	Violations []string
	Described  json.RawMessage
}

// register has the inputs checked by botocore's model of ECS, and registers those that it allows.
func register(t *testing.T, at endpoint, inputs map[string]json.RawMessage) map[string]registered {
	t.Helper()
	where, err := json.Marshal(at)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(inputs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), tool(t, "python"), "ecs.py", string(where))
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "PYTHONDONTWRITEBYTECODE=1", "AWS_EC2_METADATA_DISABLED=true")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	var all map[string]registered
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return all
}

// readTask reads the one definition of a text.
func readTask(t *testing.T, name string, text []byte) *ecs.Definition {
	t.Helper()
	all, err := ecs.Read(name, text)
	if err != nil || len(all) != 1 {
		t.Fatalf("%s: %d definitions, %v", name, len(all), err)
	}
	return all[0]
}

// TestTaskDefinitions registers the task definitions of deploy/ecs, the user guide's samples and what is made of these, at an
// ECS that this project did not write, by boto3, after AWS's own model of ECS has allowed them.
func TestTaskDefinitions(t *testing.T) {
	t.Parallel()
	inputs, made := map[string]json.RawMessage{}, map[string]*ecs.Definition{}
	for kind, dir := range map[string]string{"ours": "../../deploy/ecs", "guide": "../../internal/ecs/testdata/guide"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil || len(files) < 4 {
			t.Fatalf("%s: %v, %v", dir, files, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name := kind + " " + strings.TrimSuffix(filepath.Base(file), ".json")
			inputs[name], made[name] = text, readTask(t, name, text)
			adapted, _, err := made[name].Adapt(ecs.Options{Endpoint: "control.internal:7071", CASecret: "arn:aws:secretsmanager:us-east-1:111122223333:secret:ca", Credentials: "arn:aws:secretsmanager:us-east-1:111122223333:secret:key"})
			if err != nil {
				t.Fatal(err)
			}
			inputs[name+" adapted"], made[name+" adapted"] = adapted.JSON(), adapted
		}
	}
	for name, got := range register(t, moto(t), inputs) {
		ids := "ECS-001 ECS-006 ECS-020 "
		switch {
		case strings.Contains(name, "xray"):
			ids = "ECS-008 ECS-009 "
		case strings.Contains(name, "gateway"):
			ids = "ECS-013 "
		}
		t.Run(ids+name, func(t *testing.T) {
			if name == "guide fargate-xray" {
				// The guide's own sample has texts where the model has numbers: AWS's tools refuse it as it stands.
				if text := strings.Join(got.Violations, "\n"); len(got.Violations) != 2 || !strings.Contains(text, "containerDefinitions[2].cpu") || !strings.Contains(text, "containerDefinitions[2].memoryReservation") {
					t.Errorf("violations: %s", text)
				}
				return
			}
			if len(got.Violations) > 0 {
				t.Fatal(strings.Join(got.Violations, "\n"))
			}
			// What ECS answers is read as what was sent.
			if diff := cmp.Diff(made[name].Task, readTask(t, name, got.Described).Task, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("described (-sent +answered):\n%s", diff)
			}
		})
	}
}
