package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/api"
)

// settingFlag is a flag of the settings command and the member that it sets.
type settingFlag struct {
	name, member, usage string
	choices             []string
}

func settingFlags() []settingFlag {
	return []settingFlag{
		{"default-retry", "defaultRetry", "on: routes without a retry policy get App Mesh's hidden one; off: they get none", []string{"on", "off"}},
		{"quotas", "quotas", "none or aws: quotas of this mesh, whatever evermeshd's --quotas says", []string{"none", "aws"}},
		{"identity", "identity", "strict: every node and gateway has an identity, and listeners that say nothing of TLS take mutual TLS alone; permissive: plaintext as well; off", []string{"off", "permissive", "strict"}},
	}
}

func settingsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "settings MESH",
		Short: "Show or change what a mesh has beside its spec",
		Long: `Show the settings of a mesh, which App Mesh has no field for, or change those whose
flags are given; "" unsets one. The mesh's spec and version stay as they are.

Without a setting, the default retry policy is on, the quotas are those that
evermeshd has, and no identities are given.

Of a mesh that another account shares with you, MESH is mesh/NAME@OWNER; only its
owner changes settings.

Of two who change settings at once the last wins. Settings go with the mesh when
it is deleted, and are no part of the files of apply and export.`,
		Example: `  evermesh settings shop
  evermesh settings shop --default-retry off
  evermesh settings shop --quotas ""
  evermesh settings shop --identity strict`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s takes the name of one mesh, but got %d arguments: see %s --help", c.CommandPath(), len(args), c.CommandPath())
			}
			return nil
		},
		RunE: settings,
		ValidArgsFunction: func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeMesh(c, args, typed)
		},
	}
	for _, f := range settingFlags() {
		c.Flags().String(f.name, "", f.usage)
		_ = c.RegisterFlagCompletionFunc(f.name, cobra.FixedCompletions(f.choices, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that does not exist
	}
	c.Flags().StringSlice(authoritiesFlag, nil, "`ARNs` of certificate authorities, or built-in: the first issues identities, all are trusted")
	outputFlag(c)
	dataDirFlag(c)
	return c
}

const authoritiesFlag = "identity-authorities"

func settings(c *cobra.Command, args []string) error {
	mesh := map[string]any{"meshName": args[0]}
	if at, err := api.ParseResourcePath(args[0]); err == nil && at.Kind == api.KindMesh {
		mesh["meshName"] = at.Mesh
		if at.MeshOwner != "" {
			mesh["meshOwner"] = at.MeshOwner
		}
	}
	given := map[string]string{}
	for _, f := range settingFlags() {
		if !c.Flags().Changed(f.name) {
			continue
		}
		value, _ := c.Flags().GetString(f.name)
		if value != "" && !slices.Contains(f.choices, value) {
			return usagef("--%s is %s, got %q: see %s --help", f.name, strings.Join(f.choices, " or "), value, c.CommandPath())
		}
		given[f.member] = strings.ToUpper(value)
	}
	var authorities []string // nil when nothing is said of them
	if c.Flags().Changed(authoritiesFlag) {
		authorities = []string{}
		list, _ := c.Flags().GetStringSlice(authoritiesFlag)
		for _, a := range list {
			if a != "" {
				authorities = append(authorities, a)
			}
		}
	}
	caller, err := connect(c)
	if err != nil {
		return err
	}
	var out api.DescribeMeshSettingsOutput
	if err := caller.Call(c.Context(), "DescribeMeshSettings", mesh, &out); err != nil {
		return explained(caller, err)
	}
	now := &out.Settings
	if len(given) > 0 || authorities != nil {
		if v, ok := given["defaultRetry"]; ok {
			now.DefaultRetry = api.DefaultRetry(v)
		}
		if v, ok := given["quotas"]; ok {
			now.Quotas = api.QuotaSet(v)
		}
		if v, ok := given["identity"]; ok {
			now.Identity = api.Identity(v)
		}
		if authorities != nil {
			now.IdentityAuthorities = authorities
		}
		if now.DefaultRetry != "" {
			mesh["defaultRetry"] = now.DefaultRetry
		}
		if now.Quotas != "" {
			mesh["quotas"] = now.Quotas
		}
		if now.Identity != "" {
			mesh["identity"] = now.Identity
		}
		if len(now.IdentityAuthorities) > 0 {
			mesh["identityAuthorities"] = now.IdentityAuthorities
		}
		if err := caller.Call(c.Context(), "UpdateMeshSettings", mesh, nil); err != nil {
			return explained(caller, err)
		}
	}
	if wantsJSON(c) {
		return printJSON(c.OutOrStdout(), now)
	}
	return printTable(c.OutOrStdout(), []string{"SETTING", "VALUE"}, [][]string{
		{"default-retry", shown(string(now.DefaultRetry), "on (not set)")},
		{"quotas", shown(string(now.Quotas), "the control plane's (not set)")},
		{"identity", shown(string(now.Identity), "off (not set)")},
		{authoritiesFlag, cmp.Or(strings.Join(now.IdentityAuthorities, ", "), "built-in (not set)")},
	})
}

func shown(value, unset string) string {
	if value == "" {
		return unset
	}
	return strings.ToLower(value)
}
