// Package resttest serves services in this process, on a real store and behind real
// signatures, and runs the AWS CLI and boto3 against them: what a service's own
// tests call is then what its users do.
//
// Start with Serve, then Server.Python for many calls in one script and Server.CLI
// for a few.
package resttest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// The accounts whose roots have a key from the start.
const (
	AccountA = "111111111111"
	AccountB = "222222222222"
	AccountC = "333333333333"
)

// Region is that of the server.
const Region = "us-east-1"

// Options are what Serve needs; all may be left out.
type Options struct {
	// Store is where the services keep what they keep; a new one by default.
	Store *store.Store
	// Services are served beside App Mesh.
	Services []*service.Service
	// Keys are asked for access keys that are not a root's of the three accounts.
	Keys auth.Keys
	// Authorizer is auth.Roots by default.
	Authorizer auth.Authorizer
	Audit      service.Auditor
	Shares     rest.Shares
	// Edit has the last word.
	Edit func(*rest.Config)
}

// Server is a server that runs until its test ends.
type Server struct {
	*httptest.Server
	Store *store.Store
	Realm api.Realm
	Log   *testenv.Output

	home string // of clients
}

// Key is what a client signs with.
type Key struct{ ID, Secret, Token string }

// Root is the key of an account's root.
func Root(account string) Key {
	return Key{ID: "AKIAROOT" + account, Secret: "secret-of-" + account}
}

// Serve serves until the test ends.
func Serve(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{Store: o.Store, Realm: api.Realm{Partition: "aws", Region: Region}, Log: &testenv.Output{}, home: t.TempDir()}
	if s.Store == nil {
		s.Store = storetest.New(t)
	}
	c := rest.Config{
		Store: s.Store, Snapshot: storetest.Snapshot(s.Store), Realm: s.Realm, Log: slog.New(slog.NewTextHandler(s.Log, nil)),
		Now: time.Now, NewID: uuid.NewString, Services: o.Services, Authorizer: o.Authorizer, Audit: o.Audit, Shares: o.Shares,
	}
	c.Verify = auth.NewVerifier(keys{o.Keys}, Region, rest.SigningNames(o.Services), time.Now).Verify
	if o.Edit != nil {
		o.Edit(&c)
	}
	handler, err := rest.New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

// Keys are the keys of the three accounts' roots, and those of more.
func Keys(more auth.Keys) auth.Keys { return keys{more} }

// keys are the roots' keys, and those of more.
type keys struct{ more auth.Keys }

// Credential satisfies auth.Keys.
func (k keys) Credential(ctx context.Context, id, token string) (auth.Credential, bool, error) {
	for _, account := range []string{AccountA, AccountB, AccountC} {
		if root := Root(account); root.ID == id {
			return auth.Credential{
				Secret:    auth.Secret(root.Secret),
				Principal: auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":root", Type: auth.Root, ID: account},
			}, true, nil
		}
	}
	if k.more == nil {
		return auth.Credential{}, false, nil
	}
	return k.more.Credential(ctx, id, token)
}

// CLI runs the AWS CLI, as the owner of the key, and returns what it printed: on
// its output when it succeeded, else on its error output. It takes 0.7 s of CPU.
func (s *Server) CLI(t testing.TB, key Key, arguments ...string) (printed string, ok bool) {
	t.Helper()
	out, errors, err := s.client(t, "aws", key, arguments)
	if err != nil {
		return errors, false
	}
	return out, true
}

// Python runs a script with boto3, as the owner of the key, and returns what it
// printed; a script that fails ends the test. It finds client(service, key=(id,
// secret, token)) for a boto3 client, and refusal(function, **arguments), which
// returns a refusal as "status Code: message".
func (s *Server) Python(t testing.TB, key Key, script string, arguments ...string) string {
	t.Helper()
	out, errors, err := s.client(t, "python", key, append([]string{"-c", prelude + script}, arguments...))
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, errors)
	}
	return out
}

func (s *Server) client(t testing.TB, name string, key Key, arguments []string) (out, errors string, err error) {
	t.Helper()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	tool := filepath.Join(root, "build", "tools", "bin", name)
	if _, err := os.Stat(tool); err != nil {
		t.Fatalf("%v: run make tools", err)
	}
	cmd := exec.CommandContext(t.Context(), tool, arguments...)
	cmd.Env = s.Environment(key)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return strings.TrimSpace(stdout.String()), strings.TrimSpace(stderr.String()), err
}

// Environment is all that a client gets to know.
func (s *Server) Environment(key Key) []string {
	out := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.home, "AWS_CONFIG_FILE=" + filepath.Join(s.home, "config"),
		"AWS_SHARED_CREDENTIALS_FILE=" + filepath.Join(s.home, "credentials"), "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ENDPOINT_URL=" + s.URL, "AWS_REGION=" + Region, "AWS_DEFAULT_REGION=" + Region, "AWS_PAGER=",
		"AWS_ACCESS_KEY_ID=" + key.ID, "AWS_SECRET_ACCESS_KEY=" + key.Secret, "AWS_RETRY_MODE=standard", "AWS_MAX_ATTEMPTS=1",
		"PYTHONDONTWRITEBYTECODE=1", "AWS_DISABLE_HOST_PREFIX_INJECTION=true",
	}
	if key.Token != "" {
		out = append(out, "AWS_SESSION_TOKEN="+key.Token)
	}
	return out
}

// Text is the key as a script takes it.
func (k Key) Text() string { return fmt.Sprintf("(%q, %q, %q)", k.ID, k.Secret, k.Token) }

// prelude is what every script begins with. Cloud Map's DiscoverInstances has its
// host's name begin with data-, which an address has not; what is wrong with an
// input is for the server to say.
const prelude = `
import base64, datetime, json, os, sys, time
import boto3
from botocore import UNSIGNED, config, exceptions

def client(service, key=None, **more):
    credentials = {}
    if key:
        credentials = dict(aws_access_key_id=key[0], aws_secret_access_key=key[1], aws_session_token=key[2] or None)
    return boto3.client(service, config=config.Config(inject_host_prefix=False, parameter_validation=False, **more), **credentials)

def refusal(function, **arguments):
    try:
        function(**arguments)
    except exceptions.ClientError as e:
        return "%d %s: %s" % (e.response["ResponseMetadata"]["HTTPStatusCode"], e.response["Error"]["Code"], e.response["Error"]["Message"])
    raise AssertionError("not refused: %s" % arguments)

def plain(value):
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).isoformat()
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(type(value))

def show(value):
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if k != "ResponseMetadata"}
    print(json.dumps(value, default=plain, sort_keys=True))

`
