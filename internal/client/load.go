package client

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

// serviceID is how AWS's tools name App Mesh in AWS_ENDPOINT_URL_APP_MESH and
// in services sections of the shared config file.
const serviceID = "App Mesh"

// Load finds out which control plane to call and as whom.
//
// When AWS's tools are told an endpoint (AWS_ENDPOINT_URL_APP_MESH,
// AWS_ENDPOINT_URL, or endpoint_url of the profile), everything follows the
// rules of those tools: region, profile, credentials, AWS_CA_BUNDLE; but the
// instance metadata service is not asked. Without an endpoint it is the control
// plane whose data directory is dataDir, with the key that it made there:
// credentials meant for AWS are of no use to it.
func Load(ctx context.Context, dataDir string) (Config, error) {
	c, err := config.LoadDefaultConfig(ctx, config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	if err != nil {
		return Config{}, fmt.Errorf("read AWS settings: %w", err)
	}
	endpoint, err := configured(ctx, c)
	if err != nil {
		return Config{}, fmt.Errorf("read AWS settings: %w", err)
	}
	if endpoint == "" {
		return loadLocal(ctx, dataDir)
	}
	if c.Region == "" {
		return Config{}, fmt.Errorf("no region is set for %s: set AWS_REGION to that of the control plane", endpoint)
	}
	return made(endpoint, c), nil
}

// loadLocal is the control plane of a data directory.
func loadLocal(ctx context.Context, dataDir string) (Config, error) {
	facts, err := ReadFacts(dataDir)
	if err != nil {
		return Config{}, err
	}
	options := []func(*config.LoadOptions) error{
		config.WithRegion(facts.Region),
		config.WithSharedConfigFiles([]string{}),
		config.WithSharedCredentialsFiles([]string{facts.Credentials}),
		// Said here, a profile outranks keys in the environment.
		config.WithSharedConfigProfile("default"),
		config.WithEC2IMDSClientEnableState(imds.ClientDisabled),
	}
	if trusted := cmp.Or(facts.CABundle, facts.APICertificate); trusted != "" {
		pem, err := os.ReadFile(trusted)
		if err != nil {
			return Config{}, fmt.Errorf("read the API's CA: %w", err)
		}
		options = append(options, config.WithCustomCABundle(bytes.NewReader(pem)))
	}
	c, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return Config{}, fmt.Errorf("read %s: %w", facts.Credentials, err)
	}
	return made(facts.APIEndpoint, c), nil
}

// made is the Config of what AWS's settings came to. Redirects are not followed:
// a request is signed for one host.
func made(endpoint string, c aws.Config) Config {
	built, ok := c.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		built = awshttp.NewBuildableClient()
	}
	return Config{Endpoint: endpoint, Region: c.Region, Credentials: c.Credentials, HTTP: &http.Client{
		Transport:     built.GetTransport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// configured is the endpoint that AWS's tools are told; empty when none.
func configured(ctx context.Context, c aws.Config) (string, error) {
	if ignore, found, err := config.GetIgnoreConfiguredEndpoints(ctx, c.ConfigSources); err != nil {
		return "", err
	} else if found && ignore {
		return "", nil
	}
	for _, source := range c.ConfigSources {
		s, ok := source.(interface {
			GetServiceBaseEndpoint(ctx context.Context, sdkID string) (value string, found bool, err error)
		})
		if !ok {
			continue
		}
		if endpoint, found, err := s.GetServiceBaseEndpoint(ctx, serviceID); err != nil {
			return "", err
		} else if found && endpoint != "" {
			return endpoint, nil
		}
	}
	return aws.ToString(c.BaseEndpoint), nil
}
