package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evermesh/evermesh/internal/client"
)

func envCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "env",
		Short: "Print the settings that point AWS's tools to the control plane",
		Long: `Print the settings that point AWS's tools to the control plane of a data
directory, as commands of a POSIX shell. Whatever is set in the present
environment and would outrank them is unset, and named on stderr.`,
		Example: `  eval "$(evermesh env)"
  aws appmesh list-meshes

  evermesh env --data-dir /var/lib/evermesh --endpoint https://mesh.internal:7070
  evermesh env -o json`,
		Args: noArguments,
		RunE: env,
	}
	outputFlag(c)
	dataDirFlag(c)
	c.Flags().Lookup("data-dir").Usage = "data `directory` of the control plane"
	c.Flags().String("endpoint", "", "`URL` under which the API is reached, when it is not the control plane's own address")
	return c
}

// setting is one variable of the environment.
type setting struct{ name, value string }

// outranking are the variables that AWS's tools obey before those that env
// sets.
func outranking() []string {
	return []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN",
		"AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"AWS_ENDPOINT_URL_APP_MESH", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
	}
}

func env(c *cobra.Command, _ []string) error {
	dir, _ := c.Flags().GetString("data-dir")
	facts, err := client.ReadFacts(dir)
	if err != nil {
		if errors.Is(err, client.ErrNoControlPlane) {
			return fmt.Errorf("%w: start one with 'evermeshd serve', or name its directory with --data-dir", err)
		}
		return err
	}
	if endpoint, _ := c.Flags().GetString("endpoint"); endpoint != "" {
		if !strings.HasPrefix(endpoint, "http://") && !strings.HasPrefix(endpoint, "https://") {
			return usagef("--endpoint %q is not a URL: want http://host:port or https://host:port", endpoint)
		}
		facts.APIEndpoint = endpoint
	}
	if err := sayNoCA(c, facts); err != nil {
		return err
	}
	settings := settingsOf(facts)
	if wantsJSON(c) {
		out := map[string]string{}
		for _, s := range settings {
			out[s.name] = s.value
		}
		return printJSON(c.OutOrStdout(), out)
	}
	var text strings.Builder
	for _, name := range outranking() {
		if _, set := os.LookupEnv(name); set {
			fmt.Fprintf(&text, "unset %s\n", name)
			if _, err := fmt.Fprintf(c.ErrOrStderr(), "evermesh: %s is set and would outrank these settings: it is unset in this shell\n", name); err != nil {
				return err
			}
		}
	}
	for _, s := range settings {
		fmt.Fprintf(&text, "export %s=%s\n", s.name, quote(s.value))
	}
	_, err = fmt.Fprint(c.OutOrStdout(), text.String())
	return err
}

// sayNoCA says what AWS's tools need when the control plane serves TLS with a
// certificate whose root it does not know. AWS_CA_BUNDLE replaces what those
// tools trust by themselves, so it is not set to anything less than a root.
func sayNoCA(c *cobra.Command, f client.Facts) error {
	if os.Getenv("AWS_CA_BUNDLE") != "" || f.APICertificate == "" || f.CABundle != "" || !strings.HasPrefix(f.APIEndpoint, "https:") {
		return nil
	}
	_, err := fmt.Fprintf(c.ErrOrStderr(), "evermesh: AWS_CA_BUNDLE is not set, as %s does not end with a root: unless a public authority signed it, export AWS_CA_BUNDLE=FILE with the certificate of its CA\n", f.APICertificate)
	return err
}

func settingsOf(f client.Facts) []setting {
	out := []setting{
		{"AWS_ENDPOINT_URL", f.APIEndpoint},
		{"AWS_REGION", f.Region},
		{"AWS_DEFAULT_REGION", f.Region}, // what version 1 of the AWS CLI reads
		{"AWS_SHARED_CREDENTIALS_FILE", f.Credentials},
		// discover-instances gets a prefix before its host, which an address
		// cannot have.
		{"AWS_DISABLE_HOST_PREFIX_INJECTION", "true"},
	}
	if f.CABundle != "" && strings.HasPrefix(f.APIEndpoint, "https:") {
		out = append(out, setting{"AWS_CA_BUNDLE", f.CABundle})
	}
	return out
}

// quote writes a value so that a shell takes it as it is.
func quote(value string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:@%+,=", r)
	}
	if value != "" && strings.IndexFunc(value, func(r rune) bool { return !plain(r) }) < 0 {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}
