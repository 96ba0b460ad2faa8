package compat

import (
	"context"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// endpoint is a server and a caller's key.
type endpoint struct {
	url     string
	region  string
	account string
	key     aws.Credentials
	data    string // directory of the server, where it has one
	wrong   wrong
}

// wrong is what a client is made to do wrong, without its author's help; the
// zero value leaves it as it is. All of it is signed, where anything is.
type wrong struct {
	Clock       int    `json:"clock,omitempty"` // seconds that it is ahead
	Method      string `json:"method,omitempty"`
	ContentType string `json:"contentType,omitempty"`
	Unsigned    bool   `json:"unsigned,omitempty"`
}

// client is one of the clients. call runs an operation by its name in the model
// with an input under the model's member names, and returns the output under
// those names, or a *failure. Times in outputs are texts in ISO 8601.
type client interface {
	call(ctx context.Context, operation string, input map[string]any) (map[string]any, error)
	// all runs a list operation through the client's own pagination, two items a
	// page, and returns how many items came.
	all(ctx context.Context, operation string, input map[string]any) (int, error)
}

// failure is an error answer as the client understood it.
type failure struct {
	Code    string `json:"code"`
	Status  int    `json:"status"` // 0 where the client does not tell
	Message string `json:"message"`
	// Type is the client's own type for the error, such as NotFoundException;
	// empty where it has none.
	Type string `json:"type"`
}

func (f *failure) Error() string { return fmt.Sprintf("%d %s: %s", f.Status, f.Code, f.Message) }

// clients are all three, by name, with the requirement that their story shows.
var clients = []struct {
	name, shows string
	make        func(testing.TB, endpoint) client
}{
	{"SDK for Go", "API-003 ", newGoClient},
	{"boto3", "API-003 ", newBotoClient},
	{"AWS CLI", "API-001 ", newCLIClient},
}

// environment is what a Python client runs with: nothing of the machine's own
// AWS settings.
func environment(t testing.TB, home string, e endpoint) []string {
	t.Helper()
	env := []string{
		"HOME=" + home, "PATH=/usr/local/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1",
		"AWS_ENDPOINT_URL=" + e.url, "AWS_REGION=" + e.region, "AWS_DEFAULT_REGION=" + e.region,
		"AWS_ACCESS_KEY_ID=" + e.key.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + e.key.SecretAccessKey,
		"AWS_CONFIG_FILE=" + home + "/config", "AWS_SHARED_CREDENTIALS_FILE=" + home + "/none",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=1", "AWS_PAGER=", "NO_PROXY=127.0.0.1",
	}
	if e.wrong != (wrong{}) {
		env = append(env, "WRONG="+text(t, e.wrong))
	}
	return env
}
