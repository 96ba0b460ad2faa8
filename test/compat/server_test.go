package compat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"

	local "github.com/evermesh/evermesh/internal/client"
)

// shared is the one evermeshd that most tests of this package share, each with a
// mesh of its own, and the program that all run.
var shared struct {
	build   sync.Once
	program string
	unbuilt error

	once sync.Once
	endpoint
	stop func() error
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	var err error
	if shared.stop != nil {
		err = shared.stop()
	}
	if shared.program != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Dir(shared.program)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// evermeshd returns the shared server, and starts it when it is the first to ask.
func evermeshd(t testing.TB) endpoint {
	t.Helper()
	shared.once.Do(func() { shared.endpoint, shared.stop, shared.err = start() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.endpoint
}

// another starts a server of the test's own.
func another(t testing.TB, arguments ...string) endpoint {
	t.Helper()
	e, stop, err := start(arguments...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// program builds evermeshd, once.
func program() (string, error) {
	shared.build.Do(func() {
		dir, err := os.MkdirTemp("", "evermesh-compat")
		if err != nil {
			shared.unbuilt = err
			return
		}
		shared.program = filepath.Join(dir, "evermeshd")
		if out, err := exec.Command("go", "build", "-o", shared.program, "../../cmd/evermeshd").CombinedOutput(); err != nil {
			shared.unbuilt = fmt.Errorf("build evermeshd: %w\n%s", err, out)
		}
	})
	return shared.program, shared.unbuilt
}

// start runs evermeshd with embedded etcd and signatures verified. arguments are
// added to those of `evermeshd serve`. What it left for its users, its facts and
// credentials, is how the tests reach it.
func start(arguments ...string) (e endpoint, stop func() error, err error) {
	path, err := program()
	if err != nil {
		return e, nil, err
	}
	data, err := os.MkdirTemp("", "evermesh-compat")
	if err != nil {
		return e, nil, err
	}
	cmd := exec.Command(path, append([]string{
		"serve", "--data-dir", data, "--account", "111122223333", "--drain-seconds", "0",
		"--api-listen", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
	}, arguments...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return e, nil, errors.Join(err, os.RemoveAll(data))
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := <-ended
		if err != nil {
			err = fmt.Errorf("evermeshd: %w\n%s", err, stderr.Bytes())
		}
		return errors.Join(err, os.RemoveAll(data))
	}
	e, err = reach(data, ended)
	if err != nil {
		_ = cmd.Process.Kill()
		<-ended
		return e, nil, fmt.Errorf("%w\n%s", errors.Join(err, os.RemoveAll(data)), stderr.Bytes())
	}
	return e, stop, nil
}

// reach waits until the server answers a signed request.
func reach(data string, ended chan error) (endpoint, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for last := error(nil); ; {
		e, err := known(ctx, data)
		if err == nil {
			_, err = newGoClient(nil, e).call(ctx, "ListMeshes", map[string]any{})
		}
		var f *failure
		if err == nil || errors.As(err, &f) && f.Code == "TooManyRequestsException" {
			return e, nil
		}
		last = err
		select {
		case err := <-ended:
			ended <- err
			return endpoint{}, fmt.Errorf("evermeshd ended: %w", errors.Join(err, last))
		case <-ctx.Done():
			return endpoint{}, fmt.Errorf("evermeshd does not answer: %w", last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// known reads what evermeshd left in its data directory.
func known(ctx context.Context, data string) (endpoint, error) {
	facts, err := local.ReadFacts(data)
	if err != nil {
		return endpoint{}, err
	}
	if _, err := os.Stat(filepath.Join(data, local.FactsFile)); err != nil {
		return endpoint{}, err // it does not listen yet
	}
	key, err := readKey(ctx, facts.Region, facts.Credentials)
	return endpoint{url: facts.APIEndpoint, region: facts.Region, account: facts.Account, key: key, data: data}, err
}

// readKey reads a credentials file as AWS's SDK does.
func readKey(ctx context.Context, region, file string) (aws.Credentials, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region),
		config.WithSharedConfigFiles([]string{}), config.WithSharedCredentialsFiles([]string{file}), config.WithSharedConfigProfile("default"))
	if err != nil {
		return aws.Credentials{}, err
	}
	return cfg.Credentials.Retrieve(ctx)
}
