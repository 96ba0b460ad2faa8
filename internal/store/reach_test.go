package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// A start waits for an etcd that comes later, and says so meanwhile.
func TestAStartWaitsForEtcd(t *testing.T) {
	t.Parallel()
	e := prepare(t, nil)
	log := &testenv.Output{}
	opened := make(chan error, 1)
	go func() {
		s, err := store.Open(context.Background(), store.Options{Endpoints: []string{e.endpoint}, Patience: time.Hour, Log: slog.New(slog.NewTextHandler(log, nil))})
		if err == nil {
			err = s.Close()
		}
		opened <- err
	}()
	deadline := time.After(patience)
	for strings.Count(log.String(), "etcd does not answer and is waited for") < 2 {
		select {
		case err := <-opened:
			t.Fatalf("it opened, or gave up: %v", err)
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatalf("it says:\n%s", log)
		}
	}
	if text := log.String(); !strings.Contains(text, e.endpoint) || !strings.Contains(text, "connection refused") {
		t.Errorf("neither the address nor the reason is said:\n%s", text)
	}
	e.start()
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// What is wrong with the address is said, as far as a connection tells it.
func TestWhyAnExternalEtcdDoesNotAnswer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pair(t, dir)
	e := newExternal(t, func(c *embed.Config) {
		c.ListenClientUrls[0].Scheme = "https"
		c.AdvertiseClientUrls = c.ListenClientUrls
		c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, c := range map[string]struct{ endpoint, says string }{
		"nobody":           {"http://" + testenv.FreeAddress(t), "connection refused"},
		"no such host":     {"http://etcd.invalid:2379", "etcd.invalid"},
		"somebody else":    {"http://" + silent.Addr().String(), "nothing there answers as etcd does"},
		"an unknown CA":    {e.endpoint, "x509: certificate signed by unknown authority"},
		"http, not https":  {"http://" + strings.TrimPrefix(e.endpoint, "https://"), "is http or https right?"},
		"without a scheme": {testenv.FreeAddress(t), "connection refused"},
	} {
		// Each look may last a second, in which a busy machine may not come to an
		// answer: that is said then, and those who wait for etcd look again.
		testenv.Eventually(t, fmt.Sprintf("%s: %q", name, c.says), func() bool {
			_, err := store.Open(context.Background(), store.Options{Endpoints: []string{c.endpoint}})
			if !isAPI(err, api.CodeServiceUnavailable) {
				t.Fatalf("%s: got %v, want %q", name, err, c.says)
			}
			t.Logf("%s: %v", name, err)
			return strings.Contains(err.Error(), c.says)
		})
	}
}

// What waits ends when it is told to.
func TestAStartThatWaitsCanBeStopped(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer stop()
	start := time.Now()
	_, err := store.Open(ctx, store.Options{Endpoints: []string{"http://" + testenv.FreeAddress(t)}, Patience: time.Hour})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > testenv.Patience {
		t.Errorf("it took %v", took)
	}
}

// old is an etcd's answer for its version, as an old one gives it.
type old struct {
	pb.UnimplementedMaintenanceServer
	version string
}

func (o old) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Header: &pb.ResponseHeader{}, Version: o.version}, nil
}

// Settings that no patience makes right are named at once.
func TestSettingsOfAnExternalEtcdThatCannotBeRight(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	pb.RegisterMaintenanceServer(g, old{version: "3.4.27"})
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) })
	defer serving.Wait()
	defer g.Stop()
	dir := t.TempDir()
	pair(t, dir)
	file := func(name string) string { return filepath.Join(dir, name) }
	at := "http://" + l.Addr().String()
	for name, c := range map[string]struct {
		o             store.Options
		setting, says string
	}{
		"too old":               {store.Options{Endpoints: []string{at}}, "--etcd-endpoints " + at, "this is etcd 3.4.27: evermeshd needs 3.5 or newer"},
		"no URL":                {store.Options{Endpoints: []string{"http://[etcd"}}, "--etcd-endpoints http://[etcd", "not a URL"},
		"no port":               {store.Options{Endpoints: []string{"etcd"}}, "--etcd-endpoints etcd", "want a host and a port"},
		"another scheme":        {store.Options{Endpoints: []string{"grpc://etcd:1"}}, "--etcd-endpoints grpc://etcd:1", "want http, https or unix"},
		"no CA":                 {store.Options{Endpoints: []string{at}, CACert: file("absent")}, "--etcd-cacert", "no such file"},
		"a CA that is none":     {store.Options{Endpoints: []string{at}, CACert: file("key.pem")}, "--etcd-cacert", ""},
		"no key":                {store.Options{Endpoints: []string{at}, Cert: file("cert.pem"), Key: file("absent")}, "--etcd-key", "no such file"},
		"a key for another use": {store.Options{Endpoints: []string{at}, Cert: file("cert.pem"), Key: file("cert.pem")}, "--etcd-cert", ""},
	} {
		c.o.Patience = time.Hour
		_, err := store.Open(context.Background(), c.o)
		var wrong *store.Misconfigured
		if !errors.As(err, &wrong) || !strings.Contains(wrong.Setting, c.setting) || !strings.Contains(wrong.Reason, c.says) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// The version that is there is new enough.
	e := newExternal(t, nil)
	storetest.Open(t, store.Options{Endpoints: []string{e.endpoint}})
}
