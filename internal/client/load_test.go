package client_test

import (
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/client"
)

// clean takes every setting of AWS's tools away and gives a home of its own.
func clean(t *testing.T) (home string) {
	t.Helper()
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "EVERMESH_") {
			t.Setenv(name, "") // restored at the end
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	home = t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_STATE_HOME", "")
	// The SDK looks for its home once, when the program starts.
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(home, ".aws/config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(home, ".aws/credentials"))
	return home
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const localCredentials = "[default]\naws_access_key_id = LOCALKEY\naws_secret_access_key = local\n"

func TestLoad(t *testing.T) {
	type want struct{ endpoint, region, key string }
	tests := []struct {
		name string
		set  func(t *testing.T, home string)
		want want
	}{
		{"nothing is set: the local control plane with its defaults", func(t *testing.T, home string) {
			write(t, filepath.Join(home, ".local/state/evermesh/credentials"), localCredentials)
		}, want{"http://127.0.0.1:7070", "us-east-1", "LOCALKEY"}},
		{"the local control plane says where it is", func(t *testing.T, home string) {
			write(t, filepath.Join(home, ".local/state/evermesh/evermesh.json"), `{"apiEndpoint":"http://127.0.0.1:9","region":"eu-west-1","credentials":"keys"}`)
			write(t, filepath.Join(home, ".local/state/evermesh/keys"), localCredentials)
		}, want{"http://127.0.0.1:9", "eu-west-1", "LOCALKEY"}},
		{"keys and regions meant for AWS are not taken to it", func(t *testing.T, home string) {
			write(t, filepath.Join(home, ".local/state/evermesh/credentials"), localCredentials)
			write(t, filepath.Join(home, ".aws/credentials"), "[default]\naws_access_key_id = AWSKEY\naws_secret_access_key = x\n")
			t.Setenv("AWS_REGION", "ap-south-1")
			t.Setenv("AWS_ACCESS_KEY_ID", "AWSKEY2")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
		}, want{"http://127.0.0.1:7070", "us-east-1", "LOCALKEY"}},
		{"AWS_ENDPOINT_URL makes the rules those of AWS's tools", func(t *testing.T, home string) {
			write(t, filepath.Join(home, ".local/state/evermesh/credentials"), localCredentials)
			t.Setenv("AWS_ENDPOINT_URL", "http://10.0.0.1:7070")
			t.Setenv("AWS_DEFAULT_REGION", "ap-south-1")
			t.Setenv("AWS_ACCESS_KEY_ID", "AWSKEY2")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
		}, want{"http://10.0.0.1:7070", "ap-south-1", "AWSKEY2"}},
		{"the endpoint of App Mesh outranks that of all services", func(t *testing.T, home string) {
			t.Setenv("AWS_ENDPOINT_URL", "http://10.0.0.1:7070")
			t.Setenv("AWS_ENDPOINT_URL_APP_MESH", "http://10.0.0.2:7070")
			t.Setenv("AWS_REGION", "us-west-2")
			t.Setenv("AWS_SHARED_CREDENTIALS_FILE", write(t, filepath.Join(home, "shared"), "[other]\naws_access_key_id = OTHERKEY\naws_secret_access_key = x\n"))
			t.Setenv("AWS_PROFILE", "other")
		}, want{"http://10.0.0.2:7070", "us-west-2", "OTHERKEY"}},
		{"a profile may name endpoint and region", func(t *testing.T, home string) {
			write(t, filepath.Join(home, ".aws/config"), "[profile mesh]\nregion = eu-central-1\nservices = here\n[services here]\napp_mesh =\n  endpoint_url = http://10.0.0.3:7070\n")
			write(t, filepath.Join(home, ".aws/credentials"), "[mesh]\naws_access_key_id = MESHKEY\naws_secret_access_key = x\n")
			t.Setenv("AWS_PROFILE", "mesh")
		}, want{"http://10.0.0.3:7070", "eu-central-1", "MESHKEY"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			home := clean(t)
			tt.set(t, home)
			c, err := client.Load(t.Context(), client.DefaultDataDir())
			if err != nil {
				t.Fatal(err)
			}
			who, err := c.Credentials.Retrieve(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := (want{c.Endpoint, c.Region, who.AccessKeyID}); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestLoadNothing(t *testing.T) {
	home := clean(t)
	if _, err := client.Load(t.Context(), filepath.Join(home, "none")); !errors.Is(err, client.ErrNoControlPlane) {
		t.Errorf("got %v, want ErrNoControlPlane", err)
	}
	t.Setenv("AWS_ENDPOINT_URL", "http://10.0.0.1:7070")
	if _, err := client.Load(t.Context(), home); err == nil || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("got %v, want one that names AWS_REGION", err)
	}
}

// A control plane with TLS is trusted by its own CA, whichever way the CA is
// named, and not without.
func TestLoadCA(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) }))
	defer server.Close()
	call := func(t *testing.T, dir string) error {
		t.Helper()
		cfg, err := client.Load(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer cfg.HTTP.(interface{ CloseIdleConnections() }).CloseIdleConnections()
		return c.Call(t.Context(), "ListMeshes", nil, nil)
	}
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	t.Run("in the data directory", func(t *testing.T) {
		home := clean(t)
		write(t, filepath.Join(home, "credentials"), localCredentials)
		write(t, filepath.Join(home, "tls/ca.pem"), ca)
		write(t, filepath.Join(home, "evermesh.json"), `{"apiEndpoint":"`+server.URL+`","caBundle":"tls/ca.pem"}`)
		if err := call(t, home); err != nil {
			t.Error(err)
		}
	})
	t.Run("in AWS_CA_BUNDLE", func(t *testing.T) {
		home := clean(t)
		t.Setenv("AWS_ENDPOINT_URL", server.URL)
		t.Setenv("AWS_REGION", "us-east-1")
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", write(t, filepath.Join(home, "credentials"), localCredentials))
		if err := call(t, home); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("without the CA: got %v, want a refused certificate", err)
		}
		t.Setenv("AWS_CA_BUNDLE", write(t, filepath.Join(home, "ca.pem"), ca))
		if err := call(t, home); err != nil {
			t.Error(err)
		}
	})
}
