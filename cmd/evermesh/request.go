package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/simulate"
)

// Values of --direction.
const (
	outbound = "outbound"
	inbound  = "inbound"
)

// requestFlags adds the flags of a pretend request.
func requestFlags(c *cobra.Command) {
	c.Flags().String("request", "", "in place of the configuration, tell what the proxy would do with a `request`: 'GET http://orders.shop.local:8080/1'")
	c.Flags().StringArray("header", nil, "a `header` of the request, as 'name: value'; repeat it for more")
	c.Flags().String("direction", "", "`side` of the proxy at which the request comes in: outbound, from its application; or inbound, to it. Without it, inbound for a gateway and outbound for a node")
	_ = c.RegisterFlagCompletionFunc("direction", cobra.FixedCompletions([]string{outbound, inbound}, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that does not exist
	_ = c.RegisterFlagCompletionFunc("request", cobra.FixedCompletions([]string{"GET http://"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace))
}

// requestOf is the request of the flags, but for its direction; ok is false
// without one.
func requestOf(c *cobra.Command) (r simulate.Request, ok bool, err error) {
	line, _ := c.Flags().GetString("request")
	if !c.Flags().Changed("request") {
		for _, other := range []string{"header", "direction"} {
			if c.Flags().Changed(other) {
				return r, false, usagef("--%s says more of a request: add --request", other)
			}
		}
		return r, false, nil
	}
	for _, other := range []string{"out", "certificate-files"} {
		if c.Flags().Changed(other) {
			return r, false, usagef("--%s is for the configuration, and --request prints none: leave one of them out", other)
		}
	}
	if r, err = simulate.Parse(line); err != nil {
		return r, false, usagef("--request: %s", strings.TrimPrefix(err.Error(), "parse request "))
	}
	headers, _ := c.Flags().GetStringArray("header")
	for _, h := range headers {
		name, value, found := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !found || name == "" {
			return r, false, usagef("--header %q: want 'name: value'", h)
		}
		r.Headers = append(r.Headers, simulate.Header{Name: strings.ToLower(name), Value: strings.TrimSpace(value)})
	}
	direction, _ := c.Flags().GetString("direction")
	if !slices.Contains([]string{"", outbound, inbound}, direction) {
		return r, false, usagef("--direction %q: want %s or %s", direction, outbound, inbound)
	}
	return r, true, nil
}

// oneOf says that a request needs one proxy, as it takes one way.
func oneOf(clients []mesh.Client, account string) error {
	if len(clients) > 1 {
		return usagef("--request needs the proxy that gets it: add --proxy with one of %s", pathsOf(clients, account))
	}
	return nil
}

// sendRequest prints what becomes of the request at a proxy of the resources.
func sendRequest(c *cobra.Command, r simulate.Request, of mesh.Client, at configuration, resources []*api.Resource) error {
	direction, _ := c.Flags().GetString("direction")
	if direction == inbound || direction == "" && of.Key.Kind == api.KindVirtualGateway {
		r.Direction = simulate.Inbound
	} else if of.Traits.Direct != "" {
		if err := called(&r, resources); err != nil {
			return err
		}
	}
	proxy, err := simulate.New(at.bundle)
	if err != nil {
		return fmt.Errorf("%s: %w", at.path, err)
	}
	outcome, err := proxy.Send(r)
	if err != nil {
		return usagef("--request: %s", strings.TrimPrefix(err.Error(), "simulate request: "))
	}
	form := ""
	if c.Flags().Changed("output") {
		form, _ = c.Flags().GetString("output")
	}
	return printOutcome(c.OutOrStdout(), form, outcome)
}

// printOutcome writes an outcome, in words unless a form is asked for.
func printOutcome(w io.Writer, form string, o *simulate.Outcome) error {
	text := o.String()
	switch form {
	case outputJSON:
		return printJSON(w, o)
	case outputYAML:
		packed, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		plain, err := yaml.JSONToYAML(packed)
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		text = string(plain)
	}
	_, err := io.WriteString(w, text)
	return err
}
