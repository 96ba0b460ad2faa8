//go:build linux

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/appmesh"

	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/testenv"
)

// account is the first account of every control plane here.
const account = "111122223333"

// masterKey is a key of 32 bytes in base64, as evermeshd reads it.
const masterKey = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n"

// replica is one evermeshd: a process that comes and goes, on one data directory and with one set of addresses.
type replica struct {
	t               testing.TB
	name, dir       string
	api, xds, admin string
	program         string
	args            []string
	// wrap makes another command of the one that starts evermeshd; nil leaves it.
	wrap func(*exec.Cmd)

	log   string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process is gone
}

// newReplica prepares an evermeshd without starting it. Its etcd is embedded unless args say otherwise.
func newReplica(t testing.TB, name string, args ...string) *replica {
	t.Helper()
	r := &replica{
		t: t, name: name, dir: filepath.Join(t.TempDir(), "data"), log: filepath.Join(keep(t), name+".log"),
		api: testenv.FreeAddress(t), xds: testenv.FreeAddress(t), admin: testenv.FreeAddress(t), program: evermeshd(t), args: args,
	}
	t.Cleanup(r.kill)
	return r
}

// on are the arguments that put a replica on an external etcd.
func on(t testing.TB, endpoints ...string) []string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "master-key")
	must(t, os.WriteFile(key, []byte(masterKey), 0o600))
	return []string{"--etcd-endpoints", strings.Join(endpoints, ","), "--master-key-file", key}
}

// launch starts the process.
func (r *replica) launch() {
	r.t.Helper()
	r.run(append([]string{
		"serve", "--data-dir", r.dir, "--account", account, "--drain-seconds", "1", "--api-rate", "0",
		"--api-listen", r.api, "--xds-listen", r.xds, "--admin-listen", r.admin,
	}, r.args...)...)
}

func (r *replica) run(args ...string) {
	r.t.Helper()
	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(r.t, err)
	defer log.Close()
	r.cmd = exec.Command(r.program, args...)
	r.cmd.Stderr = log
	if r.wrap != nil {
		r.wrap(r.cmd)
	}
	must(r.t, r.cmd.Start())
	r.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // the exit code is looked at where it matters
		close(ended)
	}(r.cmd, r.ended)
}

// start starts the process and waits until it is ready.
func (r *replica) start() *replica {
	r.t.Helper()
	r.launch()
	r.awaitReady()
	return r
}

func (r *replica) awaitReady() {
	r.t.Helper()
	ok := within(patience, func() bool {
		if r.isGone() {
			r.t.Fatalf("%s ended before it was ready:\n%s", r.name, r.tail())
		}
		code, _ := r.ready()
		return code == http.StatusOK
	})
	if !ok {
		_, why := r.ready()
		r.t.Fatalf("%s is not ready: %s\n%s", r.name, why, r.tail())
	}
}

// ready is what /readyz answers; code 0 when nobody answers.
func (r *replica) ready() (code int, body string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.admin+"/readyz", nil)
	must(r.t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

// reason is what /readyz gives as reason.
func (r *replica) reason() (code int, reason string) {
	code, body := r.ready()
	var answer struct{ Reason string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return code, body
	}
	return code, answer.Reason
}

func (r *replica) isGone() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

func (r *replica) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		r.t.Error(err)
	}
}

// kill ends the process at once, by SIGKILL, if it runs.
func (r *replica) kill() {
	if r.cmd == nil || r.isGone() {
		return
	}
	r.signal(syscall.SIGKILL)
	<-r.ended
}

// stop ends the process by SIGTERM; it must end cleanly.
func (r *replica) stop() {
	r.t.Helper()
	r.signal(syscall.SIGTERM)
	if code := r.exit(); code != 0 {
		r.t.Errorf("%s ended with %d after SIGTERM:\n%s", r.name, code, r.tail())
	}
}

// exit waits for the end of the process and returns its exit code.
func (r *replica) exit() int {
	r.t.Helper()
	select {
	case <-r.ended:
		return r.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		r.t.Fatalf("%s has not ended:\n%s", r.name, r.tail())
		return 0
	}
}

// said is all that it wrote on stderr, over all its lives.
func (r *replica) said() string {
	r.t.Helper()
	text, err := os.ReadFile(r.log)
	must(r.t, err)
	return string(text)
}

func (r *replica) tail() string {
	text := r.said()
	return text[max(0, len(text)-3000):]
}

// verb runs another command of evermeshd on the replica's data directory and returns its exit code and output.
func (r *replica) verb(args ...string) (code int, output string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.program, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// key is the root key that the replica left for its users.
func (r *replica) key() aws.Credentials {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	facts, err := client.ReadFacts(r.dir)
	must(r.t, err)
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(facts.Region), config.WithSharedConfigFiles([]string{}),
		config.WithSharedCredentialsFiles([]string{facts.Credentials}), config.WithSharedConfigProfile("default"))
	must(r.t, err)
	key, err := cfg.Credentials.Retrieve(ctx)
	must(r.t, err)
	return key
}

// user is AWS's SDK, which asks once: what becomes of a call is what the tests are about.
func (r *replica) user() *appmesh.Client { return userOf("http://"+r.api, r.key()) }

// patient is AWS's SDK, which asks again, as it does in production: for what is only to be there. An etcd of several
// members on a busy machine may be without a leader for a moment.
func (r *replica) patient() *appmesh.Client { return userWith("http://"+r.api, r.key(), 20) }

func userOf(endpoint string, key aws.Credentials) *appmesh.Client {
	return userWith(endpoint, key, 1)
}

func userWith(endpoint string, key aws.Credentials, attempts int) *appmesh.Client {
	return appmesh.New(appmesh.Options{
		BaseEndpoint: &endpoint, Region: "us-east-1", RetryMaxAttempts: attempts,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return key, nil }),
		HTTPClient:  &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}},
	})
}
