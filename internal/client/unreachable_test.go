package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/testenv"
)

// Each reason for no answer is told apart, in one line that says what to do.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	secure := httptest.NewUnstartedServer(hello)
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	plain := httptest.NewServer(hello)
	t.Cleanup(plain.Close)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connections are made, and nobody takes them
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })

	trusted := x509.NewCertPool()
	trusted.AddCert(secure.Certificate())
	trusting := func(at time.Time) *http.Client {
		return &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: trusted, Time: func() time.Time { return at }},
		}}
	}
	now, strange := time.Now(), &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	port := func(address string) string { return address[len("https://127.0.0.1"):] }
	for _, c := range []struct {
		name, endpoint string
		http           *http.Client
		want           string
	}{
		{"nothing listens", "http://" + testenv.FreeAddress(t), strange, `^nothing answers at http://127.0.0.1:\d+: start the control plane`},
		{"an authority that is not trusted", secure.URL, strange, `is signed by an authority that is not trusted here: name its CA in AWS_CA_BUNDLE`},
		{"a certificate for another name", "https://localhost" + port(secure.URL), trusting(now), `is for another name \(x509: .*\): call it by a name`},
		{"a certificate that has expired", secure.URL, trusting(now.AddDate(200, 0, 0)), `is not valid \(x509: certificate has expired .*\): renew it, or correct this host's clock`},
		{"TLS where none is", "https" + plain.URL[len("http"):], strange, `does not speak TLS: write http:// in AWS_ENDPOINT_URL`},
		{"no TLS where some is", "http" + secure.URL[len("https"):], strange, `speaks TLS: write https:// in AWS_ENDPOINT_URL`},
		{"a host that is not there", "http://no-such-host.invalid", strange, `^the host of http://no-such-host.invalid is not found \(.*\): correct AWS_ENDPOINT_URL`},
		{"no answer", "http://" + silent.Addr().String(), &http.Client{Timeout: 50 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}, `does not answer in time: see whether the control plane is well`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			caller, err := client.New(client.Config{
				Endpoint: c.endpoint, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider(keyID, secret, ""), HTTP: c.http,
			})
			if err != nil {
				t.Fatal(err)
			}
			err = caller.Call(t.Context(), "ListMeshes", nil, nil)
			var unreachable *client.UnreachableError
			if !errors.As(err, &unreachable) || !regexp.MustCompile(c.want).MatchString(unreachable.Error()) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	t.Run("whoever gives up is told of nothing else", func(t *testing.T) {
		t.Parallel()
		caller, err := client.New(client.Config{
			Endpoint: "http://" + silent.Addr().String(), Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider(keyID, secret, ""),
			HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err = caller.Call(ctx, "ListMeshes", nil, nil)
		var unreachable *client.UnreachableError
		if !errors.Is(err, context.Canceled) || errors.As(err, &unreachable) {
			t.Errorf("got %v", err)
		}
	})
}
