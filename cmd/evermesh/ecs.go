package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/ecs"
)

// Values of --to.
const (
	toTaskDefinition = "task-definition"
	toCompose        = "compose"
	toEnv            = "env"
)

func ecsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ecs FILE…",
		Short: "Make task definitions of Amazon ECS for App Mesh run here",
		Long: `Read task definitions of Amazon ECS that were made for App Mesh, and print what
runs with this control plane. Files hold the input of "aws ecs
register-task-definition" or the answer of describe-task-definition, as JSON or
YAML: one, several, or a list. "-" is standard input. No AWS is asked.

  --to task-definition  the same definition with the smallest change that makes it
                        work: the image of Envoy, the control plane's endpoint,
                        its region, CA and a key where they are given, a stopTimeout that
                        is longer than the drain time, and port 2049 left alone
                        where there are EFS volumes
  --to compose          a Compose file for a Docker host: one network namespace for
                        all containers, the route manager first, then the
                        containers as they depend on each other
  --to env              the variables of "evermesh-agent intercept" and of the agent
                        for a plain host

What was changed, what would keep the task from working, and what to do goes to
stderr, a line each; with -o json all of it is one document on stdout. Numbers that
stand in texts are taken as numbers, and told. With --against, the ports that go
through Envoy are compared with the listeners of the virtual node in the control
plane.

Exit codes: 0 done; 1 there is a problem that has to be corrected; 2 wrong usage, or
a file that is no task definition.`,
		Example: `  evermesh ecs task.json --endpoint control.internal:7071 > new.json
  aws ecs register-task-definition --cli-input-json file://new.json
  aws ecs describe-task-definition --task-definition orders | evermesh ecs - --to compose > compose.yaml`,
		Args:              takesFiles,
		RunE:              convertTasks,
		ValidArgsFunction: completeFiles,
	}
	formFlag(c, "`form` of the output; text is what --to says", outputText, outputJSON)
	f := c.Flags()
	choices := []string{toTaskDefinition, toCompose, toEnv}
	f.String("to", toTaskDefinition, "`kind` of the output: "+strings.Join(choices, ", "))
	_ = c.RegisterFlagCompletionFunc("to", cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that does not exist
	f.String("image", "", "`image` of Envoy with its agent; without it App Mesh's becomes "+ecs.DefaultImage)
	f.String("route-manager-image", ecs.DefaultRouteManagerImage, "`image` of the route manager, for compose")
	f.String("endpoint", "", "the control plane for the proxy, as `HOST:PORT` or https://HOST:PORT")
	f.String("region", "", "the control plane's `region`, which the proxy signs for")
	f.String("ca-secret", "", "`ARN` of the secret or parameter that holds the control plane's CA, as PEM")
	f.String("credentials-secret", "", "`ARN` of the secret that holds a key of the control plane: AccessKeyId and SecretAccessKey")
	f.Bool("against", false, "compare the ports with the virtual node's listeners in the control plane")
	dataDirFlag(c)
	return c
}

const outputText = "text"

// converted is what -o json prints.
type converted struct {
	TaskDefinitions []json.RawMessage `json:"taskDefinitions,omitempty"`
	Compose         map[string]any    `json:"compose,omitempty"`
	Env             *ecs.Env          `json:"env,omitempty"`
	Changes         []ecs.Change      `json:"changes"`
	Problems        []ecs.Problem     `json:"problems"`
}

func convertTasks(c *cobra.Command, args []string) error {
	f := c.Flags()
	to, _ := f.GetString("to")
	if !slices.Contains([]string{toTaskDefinition, toCompose, toEnv}, to) {
		return usagef("--to %q is not a kind of output: want %s, %s or %s", to, toTaskDefinition, toCompose, toEnv)
	}
	options, err := taskOptions(c)
	if err != nil {
		return err
	}
	all, err := readTasks(args, c.InOrStdin())
	if err != nil {
		return err
	}
	if to != toTaskDefinition && len(all) != 1 {
		return usagef("--to %s takes one task definition, but the files hold %d: give one at a time", to, len(all))
	}
	out := converted{Changes: []ecs.Change{}, Problems: []ecs.Problem{}}
	for _, d := range all {
		adapted, changes, err := d.Adapt(options)
		if err != nil {
			return usagef("%v", err)
		}
		out.Changes = append(out.Changes, changes...)
		out.Problems = append(out.Problems, adapted.Check()...)
		if against, _ := f.GetBool("against"); against {
			found, err := againstNode(c, adapted)
			if err != nil {
				return err
			}
			out.Problems = append(out.Problems, found...)
		}
		if to != toTaskDefinition {
			out.Problems = append(out.Problems, adapted.CheckOutside()...)
		}
		switch to {
		case toCompose:
			manager, _ := f.GetString("route-manager-image")
			var notes []ecs.Problem
			out.Compose, notes = adapted.Compose(manager)
			out.Problems = append(out.Problems, notes...)
		case toEnv:
			env := adapted.Env()
			out.Env = &env
		default:
			out.TaskDefinitions = append(out.TaskDefinitions, adapted.JSON())
		}
	}
	return out.print(c)
}

func taskOptions(c *cobra.Command) (o ecs.Options, err error) {
	f := c.Flags()
	o.Image, _ = f.GetString("image")
	o.Endpoint, _ = f.GetString("endpoint")
	o.Region, _ = f.GetString("region")
	o.CASecret, _ = f.GetString("ca-secret")
	o.Credentials, _ = f.GetString("credentials-secret")
	for name, value := range map[string]string{"image": o.Image, "endpoint": o.Endpoint, "region": o.Region, "ca-secret": o.CASecret, "credentials-secret": o.Credentials} {
		if f.Changed(name) && strings.TrimSpace(value) == "" || strings.ContainsAny(value, " \t\n") {
			return o, usagef("--%s %q: want a value without spaces", name, value)
		}
	}
	return o, nil
}

// readTasks reads the definitions of all files.
func readTasks(names []string, stdin io.Reader) ([]*ecs.Definition, error) {
	var all []*ecs.Definition
	for _, name := range names {
		text, err := readFile(name, stdin)
		if err != nil {
			return nil, usagef("%s: %v", name, err)
		}
		if name == "-" {
			name = "standard input"
		}
		found, err := ecs.Read(name, text)
		if err != nil {
			return nil, usagef("%v", err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// againstNode compares a definition with the virtual node of its proxy.
func againstNode(c *cobra.Command, d *ecs.Definition) ([]ecs.Problem, error) {
	envoy := d.Envoy()
	if envoy == nil || envoy.Gateway() || envoy.Resource() == "" {
		return nil, nil // what is wrong with it is told already
	}
	of, err := parseTarget(envoy.Resource())
	if err != nil {
		return nil, err
	}
	if of.path.Kind != api.KindVirtualNode {
		return nil, usagef("%s is a %s: want a virtual node", envoy.Resource(), of.path.Kind)
	}
	caller, err := connect(c)
	if err != nil {
		return nil, err
	}
	ports, err := listenerPorts(c.Context(), caller, of.path)
	if err != nil {
		return nil, explained(caller, err)
	}
	return d.CheckListeners(ports), nil
}

func listenerPorts(ctx context.Context, caller *client.Client, of api.ARN) ([]int, error) {
	in := map[string]any{"meshName": of.Mesh, "virtualNodeName": of.Name}
	if of.MeshOwner != "" {
		in["meshOwner"] = of.MeshOwner
	}
	var out struct {
		VirtualNode struct {
			Spec struct {
				Listeners []struct {
					PortMapping struct {
						Port int `json:"port"`
					} `json:"portMapping"`
				} `json:"listeners"`
			} `json:"spec"`
		} `json:"virtualNode"`
	}
	if err := caller.Call(ctx, "DescribeVirtualNode", in, &out); err != nil {
		return nil, err
	}
	var ports []int
	for _, l := range out.VirtualNode.Spec.Listeners {
		ports = append(ports, l.PortMapping.Port)
	}
	return ports, nil
}

// print writes what was made, and ends with 1 when there is a problem in it.
func (o converted) print(c *cobra.Command) error {
	if wantsJSON(c) {
		if err := printJSON(c.OutOrStdout(), o); err != nil {
			return err
		}
		return o.verdict()
	}
	text, err := o.text()
	if err != nil {
		return err
	}
	if _, err := c.OutOrStdout().Write(text); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	for _, change := range o.Changes {
		if _, err := fmt.Fprintf(c.ErrOrStderr(), "changed: %s\n", oneLine(change.String())); err != nil {
			return err
		}
	}
	for _, p := range o.Problems {
		word := "evermesh"
		if p.Note {
			word = "note"
		}
		if _, err := fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", word, oneLine(p.String())); err != nil {
			return err
		}
	}
	return o.verdict()
}

func (o converted) verdict() error {
	n := 0
	for _, p := range o.Problems {
		if !p.Note {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return &exitError{exitFailure, count(int64(n), "problem has", "problems have") + " to be corrected"}
}

// text is what --to asks for, by itself.
func (o converted) text() ([]byte, error) {
	var out bytes.Buffer
	switch {
	case o.Compose != nil:
		text, err := json.Marshal(o.Compose)
		if err != nil {
			return nil, fmt.Errorf("write compose: %w", err)
		}
		return yaml.JSONToYAML(text)
	case o.Env != nil:
		section(&out, "Of evermesh-agent intercept, as root", o.Env.Intercept)
		section(&out, "Of evermesh-agent, as the user above", o.Env.Agent)
		for _, s := range o.Env.Secrets {
			fmt.Fprintf(&out, "# %s is a secret: %s\n", s.Name, s.Value)
		}
	case len(o.TaskDefinitions) == 1:
		out.Write(o.TaskDefinitions[0])
		out.WriteByte('\n')
	default:
		if err := printJSON(&out, o.TaskDefinitions); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

func section(w *bytes.Buffer, title string, all []ecs.Pair) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(w, "# %s\n", title)
	for _, p := range all {
		fmt.Fprintf(w, "%s=%s\n", p.Name, quote(p.Value))
	}
}
