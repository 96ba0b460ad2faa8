package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/discovery"
	"github.com/evermesh/evermesh/internal/drain"
	"github.com/evermesh/evermesh/internal/envoy"
	kept "github.com/evermesh/evermesh/internal/ledger"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/share"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

// plane is the real API over a real store and real HTTP with real signatures.
// Only what the proxies hold is said by the test: a refusal or a silent replica
// comes when it is wanted.
type plane struct {
	*httptest.Server
	ledger *ledger
	store  *store.Store
	shares *share.Shares
	dir    string // data directory, as evermeshd leaves it
}

const (
	account   = "000000000000"
	keyID     = "AKIAIOSFODNN7EXAMPLE"
	secretKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

type keys struct{}

func (keys) Credential(_ context.Context, id, _ string) (auth.Credential, bool, error) {
	root := auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":root"}
	return auth.Credential{Secret: secretKey, Principal: root}, id == keyID, nil
}

// registered has two instances of every service.
type registered struct{}

func (registered) Watch(ctx context.Context, q envoy.EndpointQuery, found func([]envoy.Endpoint)) error {
	found([]envoy.Endpoint{{Address: "10.0.0.1", Port: q.Port}, {Address: "10.0.0.2", Port: q.Port}})
	<-ctx.Done()
	return ctx.Err()
}

// newPlane starts a control plane and writes down what evermeshd writes into
// its data directory.
func newPlane(t testing.TB, dir string) *plane { return startPlane(t, dir, false) }

func startPlane(t testing.TB, dir string, secure bool) *plane {
	t.Helper()
	realm := api.Realm{Partition: "aws", Region: "us-east-1"}
	p := &plane{ledger: &ledger{realm: realm, changed: make(chan struct{}), answered: make(chan struct{})}, dir: dir}
	data := storetest.New(t)
	p.store, p.shares = data, sharing(t, data, realm)
	log := slog.New(slog.DiscardHandler)
	endpoints := discovery.New(discovery.Config{Source: registered{}, Own: true, Memory: data, Log: log, Now: time.Now})
	ctx, cancel := context.WithCancel(context.Background())
	looking := make(chan error, 1)
	go func() { looking <- endpoints.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-looking })
	drains := drain.New(drain.Config{
		Store: data, Ledger: p.ledger, Endpoints: endpoints, Snapshot: storetest.Snapshot(data),
		Instances: func(api.Key) []ads.Instance { return nil }, Wait: 4 * time.Second, Log: log, Now: time.Now,
	})
	server, err := rest.New(rest.Config{
		Drains: drains,
		Store:  data, Snapshot: storetest.Snapshot(data), Realm: realm, Log: slog.New(slog.DiscardHandler), Ledger: p.ledger, Shares: p.shares,
		Verify: auth.NewVerifier(keys{}, realm.Region, []string{"appmesh"}, time.Now).Verify,
		Now:    time.Now, NewID: uuid.NewString,
	})
	if err != nil {
		t.Fatal(err)
	}
	facts := client.Facts{Region: realm.Region, Partition: realm.Partition, Account: account, Credentials: "credentials"}
	ca := ""
	if secure {
		p.Server = httptest.NewUnstartedServer(server)
		p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // the clients' complaints
		p.StartTLS()
		facts.CABundle = "ca.pem"
		ca = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
	} else {
		p.Server = httptest.NewServer(server)
	}
	t.Cleanup(p.Close)
	facts.APIEndpoint = p.URL
	said, err := json.Marshal(facts)
	if err != nil {
		t.Fatal(err)
	}
	credentials := "[default]\naws_access_key_id = " + keyID + "\naws_secret_access_key = " + secretKey + "\n"
	for name, text := range map[string]string{client.FactsFile: string(said), "credentials": credentials, "ca.pem": ca} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// client calls the plane as its root.
func (p *plane) client(t testing.TB) *client.Client {
	t.Helper()
	cfg, err := client.Load(t.Context(), p.dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ledger answers what it was told.
type ledger struct {
	realm   api.Realm
	mu      sync.Mutex
	now     told
	asked   int
	before  int // of asked, when it was told last
	changed chan struct{}
	// answered is closed the next time that a rollout was asked for.
	answered chan struct{}
}

// told is what a test says of the proxies. Without a rollout asking for one
// fails, as with a store out of reach.
type told struct {
	Proxies  []api.Proxy   `json:"proxies"`
	Replicas []api.Replica `json:"replicas"`
	Rollout  *api.Rollout  `json:"rollout"`
	// Waiting are clients that do not acknowledge that another proxy drains, of all others.
	Waiting int64 `json:"waiting"`
}

// tell replaces what is known. Watchers are woken unless it comes from another
// replica, whose changes nobody here notices.
func (l *ledger) tell(now told, elsewhere bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now, l.before = now, l.asked
	if !elsewhere {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

func (l *ledger) Proxies(context.Context, string) ([]api.Proxy, []api.Replica, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// The caller filters in place.
	return append([]api.Proxy(nil), l.now.Proxies...), l.now.Replicas, nil
}

func (l *ledger) Rollout(_ context.Context, key api.Key) (api.Rollout, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	close(l.answered)
	l.answered = make(chan struct{})
	if l.now.Rollout == nil {
		return api.Rollout{}, errors.New("the store cannot be reached")
	}
	out := *l.now.Rollout
	out.ResourceARN = l.realm.ARN(key, account)
	return out, nil
}

// Drained counts all proxies but the one that drains.
func (l *ledger) Drained(_ context.Context, _ []api.Key, instance, _ string, _ int64) (out kept.Drained, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.now.Proxies {
		if p.Instance != instance {
			out.Clients++
		}
	}
	out.Waiting = l.now.Waiting
	return out, nil
}

// Reached answers the rollout and those of its proxies that are not waited for
// or refused as well.
func (l *ledger) Reached(ctx context.Context, key api.Key) (api.Rollout, []api.Proxy, error) {
	rollout, err := l.Rollout(ctx, key)
	l.mu.Lock()
	defer l.mu.Unlock()
	return rollout, append([]api.Proxy(nil), l.now.Proxies...), err
}

func (l *ledger) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// planeKey finds a script's plane among its values.
type planeKey struct{}

// withPlane gives scripts whose names begin with live a control plane in their
// home; it serves with TLS for those that begin with live-tls.
func withPlane(t testing.TB, env *testscript.Env) {
	name := filepath.Base(env.WorkDir)
	if strings.HasPrefix(name, "script-live") {
		p := startPlane(t, filepath.Join(env.WorkDir, ".local/state/evermesh"), strings.HasPrefix(name, "script-live-tls"))
		env.Values[planeKey{}] = p
		env.Setenv("PLANE", p.URL)
		env.Setenv("PLANE_PORT", p.URL[strings.LastIndex(p.URL, ":")+1:])
	}
}

// createCommand creates the resources of files through the API: create FILE …
func createCommand(t testing.TB) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		c := ts.Value(planeKey{}).(*plane).client(t)
		for _, name := range args {
			found, err := readFiles([]string{ts.MkAbs(name)}, nil, fileOptions{})
			ts.Check(err)
			for _, in := range found.inputs {
				ts.Check(c.Call(t.Context(), "Create"+in.row.Type, in.doc, nil))
			}
		}
	}
}

// tellCommand says what the proxies hold from now on: ledger [-elsewhere] FILE
func tellCommand(ts *testscript.TestScript, _ bool, args []string) {
	elsewhere := args[0] == "-elsewhere"
	if elsewhere {
		args = args[1:]
	}
	var now told
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &now))
	ts.Value(planeKey{}).(*plane).ledger.tell(now, elsewhere)
}

// callCommand calls an operation of the API: call DeleteRoute meshName=shop …
func callCommand(t testing.TB) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		in := map[string]any{}
		for _, arg := range args[1:] {
			name, value, _ := strings.Cut(arg, "=")
			var v any = value
			if strings.HasPrefix(value, "{") || strings.HasPrefix(value, "[") {
				ts.Check(json.Unmarshal([]byte(value), &v))
			}
			in[name] = v
		}
		ts.Check(ts.Value(planeKey{}).(*plane).client(t).Call(t.Context(), args[0], in, nil))
	}
}

// askedCommand waits until the ledger was asked, since the last ledger command,
// so often: asked 1
func askedCommand(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	l := ts.Value(planeKey{}).(*plane).ledger
	for {
		l.mu.Lock()
		asked, answered := l.asked-l.before, l.answered
		l.mu.Unlock()
		if asked >= want {
			return
		}
		<-answered
	}
}
