package relay

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/smithy-go/logging"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// container is what the endpoints of ECS and EKS answer, as recorded.
func container(key string, ends time.Time) string {
	return fmt.Sprintf(`{"RoleArn":"arn:aws:iam::111122223333:role/orders","AccessKeyId":%q,"SecretAccessKey":"s","Token":"t","Expiration":%q}`,
		key, ends.UTC().Format(time.RFC3339))
}

// metadata is an instance's metadata service that speaks version 2 only.
func metadataService(t *testing.T) *httptest.Server {
	const token = "AQAEAMetadataTokenOfTheTest=="
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" {
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
			_, _ = io.WriteString(w, token)
			return
		}
		if r.Header.Get("X-Aws-Ec2-Metadata-Token") != token {
			http.Error(w, "", http.StatusUnauthorized)
			return
		}
		switch r.URL.Path {
		case "/latest/meta-data/iam/security-credentials/":
			_, _ = io.WriteString(w, "orders")
		case "/latest/meta-data/iam/security-credentials/orders":
			_, _ = fmt.Fprintf(w, `{"Code":"Success","LastUpdated":"2026-01-02T03:04:05Z","Type":"AWS-HMAC","AccessKeyId":"ASIAMETADATA","SecretAccessKey":"s","Token":"t","Expiration":%q}`,
				time.Now().Add(6*time.Hour).UTC().Format(time.RFC3339))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// securityTokens is an STS that gives a session for one web identity token.
func securityTokens(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.Form.Get("Action") != "AssumeRoleWithWebIdentity" || r.Form.Get("WebIdentityToken") != "a.b.c" || r.Header.Get("Authorization") != "" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>`)
			return
		}
		_, _ = fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
<Credentials><AccessKeyId>ASIAWEB</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration></Credentials>
<AssumedRoleUser><Arn>arn:aws:sts::111122223333:assumed-role/orders/x</Arn><AssumedRoleId>AROA:x</AssumedRoleId></AssumedRoleUser>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(s.Close)
	return s
}

// Each source of AWS's rules, as it answers and as it refuses; and what the agent says of it.
func TestSourcesOfCredentials(t *testing.T) {
	const tokenFile = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
	pods := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "pod.identity.token" {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"code": "AccessDenied", "message": "no association"}`)
			return
		}
		_, _ = io.WriteString(w, container("ASIAPOD", time.Now().Add(time.Hour)))
	}))
	t.Cleanup(pods.Close)
	tasks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "169.254.170.2" || r.URL.Path != "/v2/credentials/0a1b" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, container("ASIATASK", time.Now().Add(time.Hour)))
	}))
	t.Cleanup(tasks.Close)
	sts, imds := securityTokens(t), metadataService(t)
	process := filepath.Join(t.TempDir(), "process")
	testenv.Script(t, process, "#!/bin/sh\necho '{\"Version\": 1, \"AccessKeyId\": \"ASIAPROCESS\", \"SecretAccessKey\": \"s\"}'\n")
	const keys = "[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = s\n[other]\naws_access_key_id = AKIAOTHER\naws_secret_access_key = s\n"
	for _, test := range []struct {
		name  string
		env   map[string]string
		key   string // "" for none
		words string // where it is said to be from
		wrong string // what the error says
	}{
		{"AGENT-044 a key in the environment", map[string]string{"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "s"}, "AKIAENV", "environment", ""},
		{"a shared file", map[string]string{"AWS_SHARED_CREDENTIALS_FILE": write(t, "c", keys)}, "AKIADEFAULT", "shared file (", ""},
		{"a profile of it", map[string]string{"AWS_SHARED_CREDENTIALS_FILE": write(t, "c", keys), "AWS_PROFILE": "other"}, "AKIAOTHER", "profile other", ""},
		{"a profile that is not there", map[string]string{"AWS_SHARED_CREDENTIALS_FILE": write(t, "c", keys), "AWS_PROFILE": "third"}, "", "profile third", "third"},
		{"a program of a profile", map[string]string{"AWS_CONFIG_FILE": write(t, "c", "[default]\ncredential_process = "+process+"\n")}, "ASIAPROCESS", "credential_process", ""},
		{"AGENT-044 the role of an ECS task", map[string]string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/0a1b"}, "ASIATASK", "http://169.254.170.2/v2/credentials/…", ""},
		{"a task that has none", map[string]string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/other"}, "", "http://169.254.170.2/v2/credentials/…", "404"},
		{"a pod identity", map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": pods.URL + "/v1/credentials", tokenFile: write(t, "t", "pod.identity.token")}, "ASIAPOD", pods.URL, ""},
		{"a task whose endpoint is gone", map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/v2/credentials/0a1b-secret"}, "", "http://127.0.0.1:1/v2/credentials/…", "connection refused"},
		{"a pod without an association", map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": pods.URL + "/v1/credentials", tokenFile: write(t, "t", "other")}, "", pods.URL, "no association"},
		{"a pod's token that is not there", map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": pods.URL + "/v1/credentials", tokenFile: "/nowhere/token"}, "", "/nowhere/token, which is not there", "/nowhere/token"},
		{"an address that is not allowed", map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://192.0.2.1/x"}, "", "http://192.0.2.1/…", "192.0.2.1"},
		{"AGENT-044 a web identity", map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": write(t, "t", "a.b.c"), "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/orders", "AWS_ENDPOINT_URL_STS": sts.URL}, "ASIAWEB", "web identity ( token ", ""},
		{"a web identity that is refused", map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": write(t, "t", "b"), "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/orders", "AWS_ENDPOINT_URL_STS": sts.URL}, "", "STS " + sts.URL, "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
		{"AGENT-048 TRBL-033 an instance's metadata, version 2 only", map[string]string{"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.URL, "AWS_MAX_ATTEMPTS": "10"}, "ASIAMETADATA", "EC2 instance metadata (IMDSv2", ""},
		{"nothing at all", nil, "", "nowhere", "disabled"},
	} {
		t.Run(test.name, func(t *testing.T) {
			agenttest.Unsigned(t)
			t.Setenv("AWS_REGION", "us-east-1")
			t.Setenv("AWS_MAX_ATTEMPTS", "1")
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			c := newChain(newDialer(0), slog.New(slog.DiscardHandler))
			c.tune = func(tr *http.Transport) { // the task's endpoint is this test's
				tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					if strings.HasPrefix(address, "169.254.170.2:") {
						address = tasks.Listener.Addr().String()
					}
					return (&net.Dialer{}).DialContext(ctx, network, address)
				}
			}
			got, err := c.Retrieve(agenttest.Within(t))
			if got.AccessKeyID != test.key || (err == nil) != (test.key != "") {
				t.Errorf("got %q, %v", got.AccessKeyID, err)
			}
			if test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)) {
				t.Errorf("%v: does not say %q", err, test.wrong)
			}
			for name, value := range test.env {
				if strings.HasSuffix(name, "_URI") && len(value) > 8 && strings.Contains(fmt.Sprint(err, c.words()), value) {
					t.Errorf("%s is told: %v, %s", name, err, c.words())
				}
			}
			if words := c.words(); !strings.Contains(words, test.words) {
				t.Errorf("said to be from %q, want %q", words, test.words)
			}
		})
	}
}

// A metadata service that gives no token is not asked without one: version 1 gives credentials to whoever asks, and so it
// does here. What the SDK has to say goes to the agent's log.
func TestMetadataVersionOneIsNotUsed_AGENT_048(t *testing.T) {
	for name, code := range map[string]int{"forbidden": http.StatusForbidden, "not found": http.StatusNotFound, "not allowed": http.StatusMethodNotAllowed, "broken": http.StatusInternalServerError} {
		t.Run(name, func(t *testing.T) {
			agenttest.Unsigned(t)
			t.Setenv("AWS_MAX_ATTEMPTS", "1")
			var tokens, others atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPut {
					tokens.Add(1)
					http.Error(w, "no", code)
					return
				}
				others.Add(1)
				if r.URL.Path == "/latest/meta-data/iam/security-credentials/" {
					_, _ = io.WriteString(w, "orders")
					return
				}
				_, _ = fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":"ASIAVERSIONONE","SecretAccessKey":"s","Token":"t","Expiration":%q}`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
			}))
			t.Cleanup(s.Close)
			t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", s.URL)
			log, _ := agenttest.Log(t)
			if got, err := newChain(newDialer(0), log).Retrieve(agenttest.Within(t)); err == nil {
				t.Errorf("got %s", got.AccessKeyID)
			}
			if tokens.Load() == 0 || others.Load() > 0 {
				t.Errorf("asked for %d tokens, and %d times for something else", tokens.Load(), others.Load())
			}
		})
	}
}

// The SDK's own words are lines of the agent's log, without what the log must not have.
func TestTheSDKLogsAsTheAgentDoes(t *testing.T) {
	agenttest.Unsigned(t)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/0a1b-secret")
	log, lines := agenttest.Log(t)
	c := newChain(newDialer(0), log)
	cache, err := c.load(t.Context())
	if err != nil || cache == nil {
		t.Fatal(err)
	}
	c.sdkLog(log).Logf(logging.Warn, "%s failed:\n%d", "http://169.254.170.2/v2/credentials/0a1b-secret", 403)
	if got := lines.String(); !strings.Contains(got, "aws sdk") || strings.Contains(got, "0a1b-secret") || strings.Count(got, "\n") != 1 {
		t.Errorf("logged %q", got)
	}
}

// What an agent of another user may not read looks like no credentials at all to the SDK; the words tell.
func TestUnreadableFilesAreNamed(t *testing.T) {
	t.Parallel()
	err := &os.PathError{Op: "open", Path: "/var/run/token", Err: os.ErrPermission}
	if got := unreadable("/var/run/token", err); !strings.Contains(got, "/var/run/token, unreadable for uid "+uid()) || !strings.Contains(got, "fsGroup") {
		t.Error(got)
	}
}

// A shared file that is replaced is read for the next stream.
func TestSharedFileIsRotated(t *testing.T) {
	agenttest.Unsigned(t)
	file := filepath.Join(t.TempDir(), "credentials")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	c := newChain(newDialer(0), slog.New(slog.DiscardHandler))
	for _, key := range []string{"AKIAFIRST", "AKIASECOND", "AKIATHIRD"} {
		next := write(t, "next", "[default]\naws_access_key_id = "+key+"\naws_secret_access_key = s\n")
		if err := os.Rename(next, file); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := c.Retrieve(t.Context()); err != nil || got.AccessKeyID != key {
				t.Errorf("got %s, %v, want %s", got.AccessKeyID, err, key)
			}
		}
	}
}

// Credentials are replaced before their end, once, and used to it when their source is silent; what was refused is
// asked for anew.
func TestCredentialsAreReplacedInTime(t *testing.T) {
	agenttest.Unsigned(t)
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	var asked atomic.Int32
	var lasts atomic.Int64
	var silent atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := asked.Add(1)
		if silent.Load() {
			http.NotFound(w, nil) // what its client does not repeat
			return
		}
		_, _ = io.WriteString(w, container(fmt.Sprint("ASIA", n), time.Now().Add(time.Duration(lasts.Load()))))
	}))
	t.Cleanup(s.Close)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", s.URL)
	c := newChain(newDialer(0), slog.New(slog.DiscardHandler))
	for _, step := range []struct {
		name   string
		lasts  time.Duration // what is given next
		silent bool
		before func(*chain)
		key    string // "" for an error
		asked  int32  // how often, in all
	}{
		{"the first", time.Hour, false, nil, "ASIA1", 1},
		{"the same again", time.Hour, false, nil, "ASIA1", 1},
		{"refused: anew, with a few minutes to live", 2 * time.Minute, false, (*chain).invalidate, "ASIA2", 2},
		{"within five minutes of its end: another", 2 * time.Minute, false, nil, "ASIA3", 3},
		{"its source is silent: the last one, as long as it lasts", 0, true, nil, "ASIA3", 4},
		{"which is not asked again at once", 0, true, nil, "ASIA3", 4},
		{"refused, and nothing else is to be had", 0, true, (*chain).invalidate, "", 5},
	} {
		lasts.Store(int64(step.lasts))
		silent.Store(step.silent)
		if step.before != nil {
			step.before(c)
		}
		if got, err := c.Retrieve(t.Context()); got.AccessKeyID != step.key || (err == nil) != (step.key != "") || asked.Load() != step.asked {
			t.Errorf("%s: got %q, %v after %d questions", step.name, got.AccessKeyID, err, asked.Load())
		}
	}
}

// A metadata service that says nothing, as on machines that are not Amazon's, holds the first stream up for
// metadataWait at most, and no stream after that for a minute; it is said once.
func TestSilentMetadataService(t *testing.T) {
	agenttest.Unsigned(t)
	silent := listen(t, "tcp", "127.0.0.1:0")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://"+silent.Addr().String())
	c := agenttest.NewControlPlane(t, "")
	relay, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+c.Addr)
	began := time.Now()
	converse(t, client)
	if took := time.Since(began); took >= credentialsWait {
		t.Errorf("the first stream took %s", took)
	}
	for range 5 {
		converse(t, client)
	}
	if r := relay.Report(); !strings.Contains(r.Proof, "EC2 instance metadata (IMDSv2 at http://"+silent.Addr().String()) || !strings.Contains(r.Proof, "none found, so not signed") {
		t.Error(r.Proof)
	}
}

// HTTP_PROXY and HTTPS_PROXY have no effect, neither on streams nor on the search for credentials. They are read once
// in the life of a process, so this is another one.
func TestForwardProxiesAreNotUsed_TRBL_016(t *testing.T) {
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(w, "no", http.StatusForbidden)
	}))
	t.Cleanup(proxy.Close)
	ctx := agenttest.Within(t)
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^(TestSourcesOfCredentials|TestRelaySignsOverTLS|TestRequest)$")
	cmd.Env = append(os.Environ(), "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL, "http_proxy="+proxy.URL, "https_proxy="+proxy.URL, "NO_PROXY=", "no_proxy=")
	if out, err := cmd.CombinedOutput(); err != nil || asked.Load() != 0 {
		t.Errorf("the proxy was asked %d times: %v\n%s", asked.Load(), err, out)
	}
}
