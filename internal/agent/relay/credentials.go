package relay

import (
	"context"
	"fmt"
	"net"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
)

// loadCredentials follows the rules of AWS's tools: environment, shared files, web identity, the endpoints of ECS
// and EKS, the instance's metadata (AGENT-044). Nothing is asked before the first signature.
func loadCredentials(ctx context.Context, dialer *net.Dialer) (aws.CredentialsProvider, error) {
	client := awshttp.NewBuildableClient().WithDialerOptions(func(d *net.Dialer) {
		d.Control, d.Resolver = dialer.Control, dialer.Resolver
	})
	c, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(client))
	if err != nil {
		return nil, fmt.Errorf("read AWS settings: %w", err)
	}
	return c.Credentials, nil
}
