package adstest

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"google.golang.org/grpc/credentials"
)

// Signing signs streams with a key as the agent does; it is a
// credentials.PerRPCCredentials for connections in plaintext too.
type Signing struct {
	Key aws.Credentials
	// Host is the connection's authority, when that is not evermesh.
	Host string
}

// GetRequestMetadata signs the call that ctx is about.
func (s Signing) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	const unsigned = "UNSIGNED-PAYLOAD"
	info, _ := credentials.RequestInfoFromContext(ctx)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+cmp.Or(s.Host, "evermesh")+info.Method, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("X-Amz-Content-Sha256", unsigned)
	if err := v4.NewSigner().SignHTTP(ctx, s.Key, r, unsigned, "appmesh", "us-east-1", time.Now()); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name := range r.Header {
		out[strings.ToLower(name)] = r.Header.Get(name)
	}
	return out, nil
}

// RequireTransportSecurity says that plaintext will do.
func (Signing) RequireTransportSecurity() bool { return false }
