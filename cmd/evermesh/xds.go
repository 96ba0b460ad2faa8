package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

const outputYAML = "yaml"

func xdsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "xds FILE…",
		Short: "Show, offline, the Envoy configuration that resources in files would give",
		Long: `Show, offline, the Envoy configuration that resources in files would give to each
virtual node and virtual gateway.

` + aboutFiles + `

A mesh that is in no file is taken with default settings. Where the age of routes
decides which comes first, they are as old as if they had been created in the
order of the files.

The configuration is in static form, complete in itself: "envoy --mode validate
-c" takes it. Endpoints that would come by EDS are none in it. Certificates in
files are placeholders, as the files are on another machine; --certificate-files
names them instead, for an Envoy that has them. Of certificates from an issuer
there are only the names.

It is what proxies with interception get. With --interception none it is that of
proxies without, whose agents have EVERMESH_INTERCEPTION=none: each service has
a listener of its own, at its loopback address.

With --request, it tells where a request goes at one proxy, and why, instead: which
listener, virtual host and route take it, within what time and with how many tries,
to which endpoints, and how it is rewritten. No Envoy and no traffic are needed;
endpoints of Cloud Map are not looked up. The request is "METHOD URL". The URL's
scheme is http, https (TLS of the client), http2 or grpc (without TLS), or tcp; its
port is the one that the connection goes to, and so is a host that is an IP
address. For a mesh that a control plane has, let "evermesh export" write the
files; settings of "evermesh settings" are not in them.

Problems go to stderr, one in a line: what, where, what to do. Members that App
Mesh does not know are named, although the API ignores them.

Exit codes: 0 done, perhaps with problems that leave a part of the mesh without
effect; 1 something in the files must be corrected; 2 wrong usage, or a file that
cannot be read.`,
		Example: `  evermesh xds mesh.json nodes.json routes.jsonl
  evermesh xds *.json --proxy web
  evermesh xds *.json --out envoy/
  envoy --mode validate -c envoy/shop-virtualNode-web.yaml
  evermesh xds *.json --proxy web --request 'GET http://orders.shop.local:8080/1'
  evermesh xds *.json --proxy web --interception none --app-ports 8080:18080
  evermesh export shop | evermesh xds - --proxy front --request 'http://shop.example.com/'`,
		Args:              takesFiles,
		RunE:              xds,
		ValidArgsFunction: completeFiles,
	}
	formFlag(c, "`form` of the configuration; with --request words are the default", outputYAML, outputJSON)
	fileFlags(c)
	requestFlags(c)
	interceptionFlags(c)
	c.Flags().Bool("certificate-files", false, "name the files of certificates, in place of placeholders")
	c.Flags().String("out", "", "`directory` for one file a proxy, MESH-KIND-NAME.yaml or .json; without it, stdout")
	c.Flags().String("proxy", "", "`name` of one virtual node or gateway, or its short form or ARN; without it, all")
	c.Flags().String("account", "000000000000", "the `account` that makes the resources, 12 digits")
	c.Flags().String("region", "us-east-1", "the `region` that CloudFormation templates are for")
	_ = c.MarkFlagDirname("out") // fails only for a flag that does not exist
	return c
}

func xds(c *cobra.Command, args []string) error {
	account, _ := c.Flags().GetString("account")
	if !regexp.MustCompile(`^[0-9]{12}$`).MatchString(account) {
		return usagef("--account %q is not an account: want 12 digits", account)
	}
	request, asked, err := requestOf(c)
	if err != nil {
		return err
	}
	direct, err := directOf(c)
	if err != nil {
		return err
	}
	options, err := fileOptionsOf(c)
	if err != nil {
		return err
	}
	options.partition, options.account = "aws", account
	options.region, _ = c.Flags().GetString("region")
	found, err := readFiles(args, c.InOrStdin(), options)
	if err != nil {
		return err
	}
	read, err := resourcesOf(found, account)
	if err != nil {
		return err
	}
	if err := complain(c.ErrOrStderr(), append(read.notes, read.faults...)); err != nil {
		return err
	}
	if n := int64(len(read.faults)); n > 0 {
		return &exitError{exitFailure, fmt.Sprintf("%s above: correct the files; nothing was made", count(n, "fault", "faults"))}
	}
	proxy, _ := c.Flags().GetString("proxy")
	clients, err := choose(clientsOf(read.resources), proxy, account)
	if err != nil {
		return err
	}
	if asked {
		if err := oneOf(clients, account); err != nil {
			return err
		}
	}
	clients = withDirect(clients, direct)
	out, problems, err := configurations(mesh.NewSnapshot(1, read.resources), clients, account)
	if err != nil {
		return err
	}
	if asked {
		if err := complain(c.ErrOrStderr(), problems); err != nil {
			return err
		}
		return sendRequest(c, request, clients[0], out[0], read.resources)
	}
	if keep, _ := c.Flags().GetBool("certificate-files"); !keep {
		for i := range out {
			if out[i].static, err = withPlaceholders(out[i].static); err != nil {
				return fmt.Errorf("%s: %w", out[i].path, err)
			}
		}
	}
	if err := complain(c.ErrOrStderr(), problems); err != nil {
		return err
	}
	form, _ := c.Flags().GetString("output")
	if dir, _ := c.Flags().GetString("out"); dir != "" {
		return writeConfigurations(c.OutOrStdout(), dir, form, out)
	}
	return printConfigurations(c.OutOrStdout(), form, out)
}

// clientsOf are the nodes and gateways among the resources, sorted.
func clientsOf(resources []*api.Resource) []mesh.Client {
	var out []mesh.Client
	for _, r := range resources {
		if r.Key.Kind == api.KindVirtualNode || r.Key.Kind == api.KindVirtualGateway {
			out = append(out, mesh.Client{Key: r.Key})
		}
	}
	slices.SortFunc(out, func(a, b mesh.Client) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return out
}

// choose keeps the one client that --proxy names; an empty name keeps all.
func choose(clients []mesh.Client, name, account string) ([]mesh.Client, error) {
	if name == "" {
		if len(clients) == 0 {
			return nil, usagef("the files hold neither a virtual node nor a virtual gateway: only these have a proxy")
		}
		return clients, nil
	}
	var found []mesh.Client
	for _, c := range clients {
		path := pathOf(c.Key, account)
		if name == c.Key.Name || name == path || strings.HasSuffix(name, ":"+path) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return nil, usagef("--proxy %q is no virtual node or gateway of the files: they hold %s", name, pathsOf(clients, account))
	case 1:
		return found, nil
	}
	return nil, usagef("--proxy %q could be %s: give its short form", name, pathsOf(found, account))
}

func pathsOf(clients []mesh.Client, account string) string {
	if len(clients) == 0 {
		return "none"
	}
	paths := make([]string, len(clients))
	for i, c := range clients {
		paths[i] = pathOf(c.Key, account)
	}
	return strings.Join(paths, ", ")
}

// pathOf is the short form of a key's ARN. The mesh's owner is named when it is
// another than account.
func pathOf(k api.Key, account string) string {
	path := shortForm(api.Realm{}.ARN(k, ""))
	if k.Owner != account {
		path = strings.Replace(path, "mesh/"+k.Mesh, "mesh/"+k.Mesh+"@"+k.Owner, 1)
	}
	return path
}

// configuration is what one proxy gets.
type configuration struct {
	path   string // short form
	static json.RawMessage
	bundle *envoy.Bundle
}

// configurations builds what each client gets, and tells what the files leave
// without effect, each problem once.
func configurations(snapshot *mesh.Snapshot, clients []mesh.Client, account string) ([]configuration, []string, error) {
	var out []configuration
	var lines []string
	seen := map[mesh.Problem]bool{}
	var builder envoy.Builder
	for _, c := range clients {
		view, problems, _ := snapshot.View(c)
		bundle, unbuilt := builder.Build(view, nil)
		for _, p := range append(problems, unbuilt...) {
			if !seen[p] {
				seen[p] = true
				lines = append(lines, fmt.Sprintf("%s: %s: %s", pathOf(p.Key, account), p.Reason, p.Message))
			}
		}
		// The agent takes the resource for Envoy's cluster, too.
		path := pathOf(c.Key, account)
		static, err := bundle.Static(path, path)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, configuration{path, static, bundle})
	}
	return out, lines, nil
}

func printConfigurations(w io.Writer, form string, all []configuration) error {
	if form == outputJSON {
		out := map[string]json.RawMessage{}
		for _, c := range all {
			out[c.path] = c.static
		}
		return printJSON(w, out)
	}
	for i, c := range all {
		text, err := render(c, form)
		if err != nil {
			return err
		}
		separator := "---\n"
		if i == 0 {
			separator = ""
		}
		if _, err := fmt.Fprintf(w, "%s# %s\n%s", separator, c.path, text); err != nil {
			return err
		}
	}
	return nil
}

// render writes a configuration down.
func render(c configuration, form string) ([]byte, error) {
	if form == outputJSON {
		var out bytes.Buffer
		if err := json.Indent(&out, c.static, "", "  "); err != nil {
			return nil, fmt.Errorf("%s: %w", c.path, err)
		}
		out.WriteByte('\n')
		return out.Bytes(), nil
	}
	text, err := yaml.JSONToYAML(c.static)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.path, err)
	}
	return text, nil
}

// writeConfigurations writes a file for each proxy and lists them.
func writeConfigurations(w io.Writer, dir, form string, all []configuration) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	var rows [][]string
	written := map[string]string{}
	for _, c := range all {
		text, err := render(c, form)
		if err != nil {
			return err
		}
		name := filepath.Join(dir, fileOf(c.path)) + "." + form
		if other, taken := written[name]; taken {
			return fmt.Errorf("--out: %s and %s would both be %s: write one of them elsewhere, with --proxy", other, c.path, name)
		}
		written[name] = c.path
		if err := os.WriteFile(name, text, 0o644); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
		row := []string{c.path, name}
		for _, t := range []envoy.Type{envoy.Listener, envoy.Route, envoy.Cluster} {
			row = append(row, fmt.Sprint(len(c.bundle.List(t).Resources)))
		}
		rows = append(rows, row)
	}
	return printTable(w, []string{"PROXY", "FILE", "LISTENERS", "ROUTES", "CLUSTERS"}, rows)
}

// fileOf is the name of a proxy's file: shop-virtualNode-web.
func fileOf(path string) string {
	parts := strings.Split(strings.TrimPrefix(path, "mesh/"), "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "-")
}
