package main

import (
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/document"
)

// fileOptions are what the command line says about files.
type fileOptions struct {
	mesh                       string // of manifests
	stack                      string // of templates
	parameters, imports        map[string]string
	partition, region, account string
}

// The flags of templates.
const (
	flagParameter  = "parameter"
	flagParameters = "parameters"
	flagImports    = "imports"
	flagStackName  = "stack-name"
)

// aboutFiles is what commands that take files say about them.
const aboutFiles = `Files hold the input of "aws appmesh create-…" calls as JSON or YAML: one, a list
of them, or one after another, as "evermesh export" writes them; or a
CloudFormation template; or Kubernetes manifests of appmesh.k8s.aws/v1beta2. "-"
is standard input. Of templates and manifests, what is not App Mesh's is skipped,
and named on stderr.`

// fileFlags adds the flags of commands that take files.
func fileFlags(c *cobra.Command) {
	c.Flags().StringArray(flagParameter, nil, "a parameter of CloudFormation templates, as `NAME=VALUE`; repeat it for more")
	c.Flags().String(flagParameters, "", "`file` of parameters of CloudFormation templates, as JSON or YAML")
	c.Flags().String(flagImports, "", "`file` of what CloudFormation templates import, as JSON or YAML; what the files export need not be in it")
	c.Flags().String(flagStackName, "", "`name` of the stack that CloudFormation templates would make")
	c.Flags().String("mesh", "", "`name` of the mesh that Kubernetes manifests are in; without it, their selectors say it")
	if c.Flags().Lookup("data-dir") != nil { // there is a control plane to ask
		_ = c.RegisterFlagCompletionFunc("mesh", completeMesh) // fails only for a flag that does not exist
	}
	for _, name := range []string{flagParameters, flagImports} {
		_ = c.MarkFlagFilename(name, "json", "yaml", "yml") // fails only for a flag that does not exist
	}
}

// fileOptionsOf reads the flags of fileFlags. The realm is the caller's to add.
func fileOptionsOf(c *cobra.Command) (fileOptions, error) {
	var o fileOptions
	o.mesh, _ = c.Flags().GetString("mesh")
	o.stack, _ = c.Flags().GetString(flagStackName)
	name, _ := c.Flags().GetString(flagParameters)
	var err error
	if o.parameters, err = readPairs("--"+flagParameters, name, "ParameterKey", "ParameterValue", "Parameters"); err != nil {
		return o, err
	}
	name, _ = c.Flags().GetString(flagImports)
	if o.imports, err = readPairs("--"+flagImports, name, "Name", "Value", "Exports"); err != nil {
		return o, err
	}
	given, _ := c.Flags().GetStringArray(flagParameter)
	for _, pair := range given {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return o, usagef("--%s %q is no parameter: want NAME=VALUE", flagParameter, pair)
		}
		o.parameters[name] = value
	}
	return o, nil
}

// unusedTemplateFlag refuses flags that say something about templates when there
// are none.
func (o fileOptions) unusedTemplateFlag() error {
	if len(o.parameters)+len(o.imports) > 0 || o.stack != "" {
		return usagef("--%s, --%s, --%s and --%s are for CloudFormation templates, and no file is one", flagParameter, flagParameters, flagImports, flagStackName)
	}
	return nil
}

// liveRealm sets the realm to that of the control plane, as far as it is known
// without asking it.
func (o *fileOptions) liveRealm(c *cobra.Command) {
	dir, _ := c.Flags().GetString("data-dir")
	cfg, err := client.Load(c.Context(), dir)
	if err != nil {
		return // told when it is asked
	}
	o.partition, o.region = "aws", cfg.Region
	if facts, err := client.ReadFacts(dir); err == nil && facts.APIEndpoint == cfg.Endpoint {
		o.partition, o.account = facts.Partition, facts.Account
	}
}

// readPairs reads names and values: an object of them, or a list of objects in
// AWS's form with the members key and value; either may be the member wrapper of
// an object. Without a file there are none.
func readPairs(flag, name, key, value, wrapper string) (map[string]string, error) {
	out := map[string]string{}
	if name == "" {
		return out, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, usagef("%s: %s: %v", flag, name, bareOpen(err))
	}
	all, err := document.Read(text)
	if err != nil {
		return nil, usagef("%s: %s: not valid YAML: %v", flag, lineIn(name, err), err)
	}
	wrong := usagef("%s: %s: want an object of texts, or a list of objects with %s and %s", flag, name, key, value)
	if len(all) != 1 {
		return nil, wrong
	}
	root := all[0]
	if inner := root.Get(wrapper); inner != nil && inner.Kind != document.Scalar {
		root = inner
	}
	switch root.Kind {
	case document.Object:
		for _, m := range root.Members {
			text, ok := pairText(m.Value)
			if !ok {
				return nil, wrong
			}
			out[m.Name] = text
		}
	case document.List:
		for _, item := range root.Items {
			k, named := item.Get(key).Text()
			text, ok := pairText(item.Get(value))
			if !named || !ok {
				return nil, wrong
			}
			out[k] = text
		}
	default:
		return nil, wrong
	}
	return out, nil
}

// pairText is a value as CloudFormation takes it: a text, a number or a truth
// value; a list of them is joined with commas.
func pairText(n *document.Node) (text string, ok bool) {
	if n == nil {
		return "", false
	}
	if n.Kind == document.List {
		parts := make([]string, len(n.Items))
		for i, item := range n.Items {
			if parts[i], ok = pairText(item); !ok || item.Kind == document.List {
				return "", false
			}
		}
		return strings.Join(parts, ","), true
	}
	return n.Plain()
}

// bareOpen is why a file could not be opened, without its name.
func bareOpen(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err
	}
	return err
}
