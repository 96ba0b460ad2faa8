package auth_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
)

// The ground that the tests of this package stand on: one account with a lasting
// key and a temporary one, and a clock that stands still.

const (
	lastingID   = "AKIAIOSFODNN7EXAMPLE"
	temporaryID = "ASIAIOSFODNN7EXAMPLE"
	secret      = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	token       = "FwoGZXIvYXdzEBYaD+/=="
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type keys map[string]auth.Credential

func (k keys) Credential(_ context.Context, id, _ string) (auth.Credential, bool, error) {
	c, found := k[id]
	return c, found, nil
}

var root = auth.Principal{Account: "111122223333", ARN: "arn:aws:iam::111122223333:root"}

func directory() keys {
	return keys{
		lastingID:   {Secret: secret, Principal: root},
		temporaryID: {Secret: secret, Principal: root, SessionToken: token, Expires: noon.Add(time.Hour)},
	}
}

func verifier(now time.Time) *auth.Verifier {
	return auth.NewVerifier(directory(), "us-east-1", []string{"appmesh", "appmesh-preview"}, func() time.Time { return now })
}

var (
	lasting   = aws.Credentials{AccessKeyID: lastingID, SecretAccessKey: secret}
	temporary = aws.Credentials{AccessKeyID: temporaryID, SecretAccessKey: secret, SessionToken: token}
)

func hash(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

// request is a request that nobody signed yet.
func request(t testing.TB, method, url, body string, header ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// sign signs as AWS's SDK for Go does.
func sign(t testing.TB, r *http.Request, c aws.Credentials, region, service, payload string, at time.Time) {
	t.Helper()
	if err := v4.NewSigner().SignHTTP(t.Context(), c, r, payload, service, region, at); err != nil {
		t.Fatal(err)
	}
}

// arrived sends the request over a wire of memory and reads it as a server does.
func arrived(t testing.TB, r *http.Request) auth.Request {
	t.Helper()
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		t.Fatal(err)
	}
	in, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(in.Body)
	if err != nil {
		t.Fatal(err)
	}
	return auth.NewRequest(in, body)
}

// refused checks that err is the refusal.
func refused(t testing.TB, err error, status int, code, message string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want %s", err, code)
	}
	if e.Status() != status || e.Code != code || e.Message != message {
		t.Errorf("got  %d %s: %s\nwant %d %s: %s", e.Status(), e.Code, e.Message, status, code, message)
	}
}
