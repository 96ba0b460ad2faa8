package ecs

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/evermesh/evermesh/internal/document"
)

// Definition is a task definition as it stands in a file.
type Definition struct {
	Task
	file string
	node *document.Node // RegisterTaskDefinition's input
	// forms are numbers that stood there as texts, and the other way round.
	forms []Problem
}

// Problem is what would keep a task from working or, where Note is true, what a person should know.
type Problem struct {
	Where   string `json:"where"` // file:line:column
	Message string `json:"message"`
	Note    bool   `json:"note,omitempty"`
}

func (p Problem) String() string { return p.Where + ": " + p.Message }

// answered are the members of describe-task-definition's answer that register-task-definition does not take.
func answered() []string {
	return []string{
		"taskDefinitionArn", "revision", "status", "requiresAttributes", "compatibilities", "registeredAt", "registeredBy",
		"deregisteredAt", "deleteRequestedAt",
	}
}

// Read reads the task definitions of a file in JSON or YAML: inputs of register-task-definition or answers of
// describe-task-definition, one, several, or a list. The error names file and line.
func Read(file string, text []byte) ([]*Definition, error) {
	all, err := document.Read(text)
	if err != nil {
		at, _ := err.(*document.Error) //nolint:errorlint // Read says that it is one
		return nil, fmt.Errorf("%s:%d: not valid JSON or YAML: %w", file, at.Line, err)
	}
	var out []*Definition
	for len(all) > 0 {
		n := all[0]
		all = all[1:]
		if n.Kind == document.List {
			all = append(slices.Clone(n.Items), all...)
			continue
		}
		d, err := define(file, n)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: holds no task definition", file)
	}
	return out, nil
}

func define(file string, n *document.Node) (*Definition, error) {
	if inner := n.Get("taskDefinition"); inner != nil && inner.Kind == document.Object {
		n = withTags(inner, n.Get("tags"))
	}
	if n.Kind != document.Object || n.Get("containerDefinitions") == nil {
		return nil, fmt.Errorf("%s:%d: is no task definition: want the input of aws ecs register-task-definition, or the answer of describe-task-definition", file, n.Line)
	}
	d := &Definition{file: file, node: clone(n)}
	for _, name := range answered() {
		remove(d.node, name)
	}
	d.straighten(d.node, "")
	return d, d.decode()
}

// withTags moves the tags of an answer to where the input has them.
func withTags(n, tags *document.Node) *document.Node {
	n = clone(n)
	if tags != nil && tags.Kind == document.List && len(tags.Items) > 0 {
		set(n, "tags", tags)
	}
	return n
}

// decode reads the tree into the task.
func (d *Definition) decode() error {
	d.Task = Task{}
	err := json.Unmarshal(d.JSON(), &d.Task)
	if err == nil {
		return nil
	}
	if wrong, ok := err.(*json.UnmarshalTypeError); ok { //nolint:errorlint // Unmarshal returns it as it is
		return fmt.Errorf("%s:%d: ECS would not take it: %s is a %s, want %s", d.file, d.node.Line, wrong.Field, wrong.Value, kindOf(wrong.Type.String()))
	}
	return fmt.Errorf("%s:%d: read a task definition: %w", d.file, d.node.Line, err)
}

// kindOf is what a Go type is in JSON.
func kindOf(goType string) string {
	switch {
	case strings.HasPrefix(goType, "int"):
		return "a whole number"
	case strings.HasPrefix(goType, "["):
		return "a list"
	case strings.HasSuffix(goType, "string"):
		return "a text"
	case strings.HasSuffix(goType, "bool"):
		return "true or false"
	}
	return "an object"
}

// numbers are the members of containers, by their path below the definition, that are whole numbers in ECS's API. The guide's
// own sample for X-Ray on Fargate has texts there (ECS-009).
func numbers() []string {
	const c = "containerDefinitions."
	return []string{
		c + "cpu", c + "memory", c + "memoryReservation", c + "startTimeout", c + "stopTimeout",
		c + "portMappings.containerPort", c + "portMappings.hostPort",
		c + "healthCheck.interval", c + "healthCheck.timeout", c + "healthCheck.retries", c + "healthCheck.startPeriod",
		c + "ulimits.softLimit", c + "ulimits.hardLimit", c + "linuxParameters.sharedMemorySize", "ephemeralStorage.sizeInGiB",
	}
}

// texts are the members that are texts in ECS's API, and that people write as numbers.
func texts() []string {
	return []string{"cpu", "memory", "containerDefinitions.user", "containerDefinitions.environment.value", "proxyConfiguration.properties.value"}
}

// straighten makes numbers of texts where ECS's API has numbers, and the other way round, and notes it.
func (d *Definition) straighten(n *document.Node, path string) {
	switch n.Kind {
	case document.List:
		for _, item := range n.Items {
			d.straighten(item, path)
		}
	case document.Object:
		for i := range n.Members {
			m := &n.Members[i]
			at := strings.TrimPrefix(path+"."+m.Name, ".")
			if m.Value.Kind != document.Scalar {
				d.straighten(m.Value, at)
				continue
			}
			switch v := m.Value.Value.(type) {
			case string:
				if _, err := strconv.Atoi(strings.TrimSpace(v)); err == nil && slices.Contains(numbers(), at) {
					d.form(m, "%s is the text %q: ECS's API has a number there, and it is taken as one", at, v)
					m.Value.Value = json.Number(strings.TrimSpace(v))
				}
			case json.Number:
				if slices.Contains(texts(), at) {
					d.form(m, "%s is the number %s: ECS's API has a text there, and it is taken as one", at, v)
					m.Value.Value = v.String()
				}
			}
		}
	}
}

func (d *Definition) form(m *document.Member, format string, args ...any) {
	d.forms = append(d.forms, Problem{Where: d.where(m.Value), Message: fmt.Sprintf(format, args...), Note: true})
}

// where is the place of a part of the definition; that of the whole for parts that stand in no file.
func (d *Definition) where(n *document.Node) string {
	if n == nil || n.Line == 0 {
		n = d.node
	}
	return fmt.Sprintf("%s:%d:%d", d.file, n.Line, n.Column)
}
