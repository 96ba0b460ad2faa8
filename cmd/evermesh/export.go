package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/apply"
)

func exportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "export MESH",
		Short: "Write a mesh as files that apply takes back",
		Long: `Write a mesh and all that is in it as the inputs of the calls that would create
them, tags included: what "evermesh apply" takes back, and "aws appmesh
create-… --cli-input-json" too.

Without --out they go to stdout, in the order in which they can be created, older
routes before younger ones (of routes that are alike the older counts). With
--out each has a file of its own, KIND-NAME.json; files of a mesh that was there
before are overwritten, and others are named, as apply would take them, too.

Of a mesh that another account shares with you, MESH is mesh/NAME@OWNER. What is the
owner's is left out then: only the owner can create it.

An export is no snapshot: what changes while it is made may be in it or not.`,
		Example: `  evermesh export shop > shop.json
  evermesh export shop --out shop/
  evermesh apply shop/*.json`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s takes the name of one mesh, but got %d arguments: see %s --help", c.CommandPath(), len(args), c.CommandPath())
			}
			return nil
		},
		RunE: export,
		ValidArgsFunction: func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeMesh(c, args, typed)
		},
	}
	dataDirFlag(c)
	c.Flags().String("out", "", "`directory` for one file a resource, KIND-NAME.json; without it, stdout")
	_ = c.MarkFlagDirname("out") // fails only for a flag that does not exist
	return c
}

func export(c *cobra.Command, args []string) error {
	name := args[0]
	key := api.Key{Mesh: name, Kind: api.KindMesh, Name: name}
	if at, err := api.ParseResourcePath(name); err == nil && at.Kind == api.KindMesh {
		key = api.Key{Owner: at.MeshOwner, Mesh: at.Mesh, Kind: api.KindMesh, Name: at.Mesh} // mesh/shop says as much as shop
	}
	caller, err := connect(c)
	if err != nil {
		return err
	}
	a := &apply.Applier{Client: caller}
	all, ok, err := a.Export(c.Context(), key)
	if err != nil {
		return explained(caller, err)
	}
	if !ok {
		return &exitError{exitFailure, fmt.Sprintf("there is no mesh %q at %s: see aws appmesh list-meshes", name, caller.Endpoint)}
	}
	texts := make([][]byte, len(all))
	for i, x := range all {
		var text bytes.Buffer
		if err := json.Indent(&text, x.Text, "", "  "); err != nil {
			return fmt.Errorf("%s: %w", x.Path(), err)
		}
		text.WriteByte('\n')
		texts[i] = text.Bytes()
	}
	if dir, _ := c.Flags().GetString("out"); dir != "" {
		return writeExport(c, dir, all, texts)
	}
	_, err = c.OutOrStdout().Write(bytes.Join(texts, nil))
	return err
}

// writeExport writes a file for each resource, lists them, and names what else is
// there.
func writeExport(c *cobra.Command, dir string, all []apply.Exported, texts [][]byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	written := map[string]string{}
	var rows [][]string
	for i, x := range all {
		name := filepath.Join(dir, exportFile(x.Key)+".json")
		if other, taken := written[name]; taken {
			return fmt.Errorf("--out: %s and %s would both be %s: export to stdout", other, x.Path(), name)
		}
		written[name] = x.Path()
		if err := os.WriteFile(name, texts[i], 0o644); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		rows = append(rows, []string{x.Path(), name})
	}
	present, err := filepath.Glob(filepath.Join(dir, "*.json*"))
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	var others []string
	for _, name := range slices.Sorted(slices.Values(present)) {
		if written[name] == "" {
			others = append(others, name+" is not of this export: remove it, or apply would take it, too")
		}
	}
	if err := complain(c.ErrOrStderr(), others); err != nil {
		return err
	}
	return printTable(c.OutOrStdout(), []string{"RESOURCE", "FILE"}, rows)
}

// exportFile is the name of a resource's file without its end: mesh,
// virtualNode-web, route-orders-main.
func exportFile(k api.Key) string {
	switch {
	case k.Kind == api.KindMesh:
		return "mesh"
	case k.Parent != "":
		return fileOf(string(k.Kind) + "/" + k.Parent + "/" + k.Name)
	}
	return fileOf(string(k.Kind) + "/" + k.Name)
}
