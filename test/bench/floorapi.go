//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// floorAPIConfig is what the process of the API's floor is told.
type floorAPIConfig struct {
	Listen, Dir         string
	Region, Key, Secret string
	Read, Write         int // bytes of an event
}

// floorAPIUp starts the floor of the API, which knows the same key, and returns its URL and its process. Its store
// is filled by what is written to it: each route is written once. Its events have so many bytes.
func (r *rig) floorAPIUp(ctx context.Context, c *stage.Control, read, write int) (string, *ground.Process, error) {
	ports, err := r.ports(1)
	if err != nil {
		return "", nil, err
	}
	f := floorAPIConfig{
		Listen: fmt.Sprintf("127.0.0.1:%d", ports[0]), Dir: r.Dir() + "/" + r.name("floor-etcd"),
		Region: c.Region, Key: c.Key.AccessKeyID, Secret: c.Key.SecretAccessKey,
		Read: read, Write: write,
	}
	process, err := r.part("floorapi", f)
	if err != nil {
		return "", nil, err
	}
	base := "http://" + f.Listen
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := stage.Until(wait, "the API's floor listens", func(ctx context.Context) bool {
		return call(ctx, http.MethodGet, base+"/ready", nil, nil) == nil
	}); err != nil {
		return "", nil, err
	}
	caller := *c.Evermesh
	caller.Endpoint = base
	return base, process, each(ctx, callers, func(ctx context.Context, n int) error {
		return caller.Call(ctx, "UpdateRoute", route(apiMesh(n), "s", "a", "b", 50), nil)
	})
}

// oneKey knows one access key.
type oneKey struct {
	id         string
	credential auth.Credential
}

func (k oneKey) Credential(_ context.Context, id, _ string) (auth.Credential, bool, error) {
	return k.credential, id == k.id, nil
}

// bareAPI verifies a signature and does what Evermesh does in etcd for the same request, and nothing else: a write is
// one transaction that the mesh's lock guards and that has the write's event, a read is one linearizable get, and an event
// on the disk.
type bareAPI struct {
	verifier *auth.Verifier
	db       *clientv3.Client
	lease    clientv3.LeaseID
	events   *events // of reads and of refusals
	event    string  // of a write
	moving   moving

	mu     sync.Mutex
	meshes map[string]*bareMesh
}

// bareMesh serialises the writers of a mesh, as the store's queue does.
type bareMesh struct {
	sync.Mutex
	revision int64 // of the lock
}

func playFloorAPI(config string) error {
	var c floorAPIConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	server, err := startEmbedded(c.Dir)
	if err != nil {
		return err
	}
	defer server.Close()
	db := v3client.New(server.Server)
	lease, err := db.Grant(context.Background(), int64((8 * time.Hour).Seconds()))
	if err != nil {
		return fmt.Errorf("make a lease: %w", err)
	}
	keys := oneKey{c.Key, auth.Credential{Secret: auth.Secret(c.Secret), Principal: auth.Principal{Account: "000000000000"}}}
	events, err := openEvents(c.Dir, c.Read)
	if err != nil {
		return err
	}
	b := &bareAPI{
		events: events, event: strings.Repeat("x", c.Write),
		verifier: auth.NewVerifier(keys, c.Region, []string{"appmesh"}, time.Now),
		db:       db, lease: lease.ID, meshes: map[string]*bareMesh{},
	}
	ended := make(chan error, 2) // the first ends the process
	go func() { ended <- b.move() }()
	go func() { ended <- http.ListenAndServe(c.Listen, b) }()
	return <-ended
}

func (b *bareAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ready":
		_, _ = w.Write([]byte("{}"))
		return
	case "/debug/pprof/profile":
		pprof.Profile(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		_, err = b.verifier.Verify(r.Context(), auth.NewRequest(r, body))
	}
	var answer []byte
	if err == nil {
		if r.Method == http.MethodGet {
			answer, err = b.read(r.Context(), r.URL.Path)
			err = errors.Join(err, b.events.keep())
		} else {
			answer, err = body, b.write(r.Context(), r.URL.Path, body)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // who has gone reads nothing
}

func (b *bareAPI) read(ctx context.Context, path string) ([]byte, error) {
	got, err := b.db.Get(ctx, path)
	if err != nil {
		return nil, err
	}
	if len(got.Kvs) == 0 {
		return nil, errors.New("not found")
	}
	return got.Kvs[0].Value, nil
}

// write is the transaction of Evermesh's store: the record, the lock, the head that watchers follow, the client's token,
// which expires, and the event of the write.
func (b *bareAPI) write(ctx context.Context, path string, body []byte) error {
	var input struct {
		ClientToken string `json:"clientToken"`
	}
	if err := json.Unmarshal(body, &input); err != nil {
		return err
	}
	name := strings.Split(path, "/")[3] // /v20190125/meshes/NAME/…
	b.mu.Lock()
	mesh := b.meshes[name]
	if mesh == nil {
		mesh = &bareMesh{}
		b.meshes[name] = mesh
	}
	b.mu.Unlock()
	mesh.Lock()
	defer mesh.Unlock()
	lock, token, out := "lock/"+name, "token/"+input.ClientToken, "outbox/"+uuid.NewString()
	got, err := b.db.Txn(ctx).If(
		clientv3.Compare(clientv3.ModRevision(lock), "=", mesh.revision),
		clientv3.Compare(clientv3.CreateRevision(token), "=", 0),
	).Then(
		clientv3.OpPut(path, string(body)+metadata), clientv3.OpPut(lock, ""), clientv3.OpPut("head", ""),
		clientv3.OpPut(token, metadata, clientv3.WithLease(b.lease)),
		clientv3.OpPut(out, b.event),
	).Commit()
	if err != nil {
		return err
	}
	if !got.Succeeded {
		return errors.New("the lock has moved")
	}
	mesh.revision = got.Header.Revision
	b.moving.add(out)
	return nil
}

// metadata stands for what a record holds beside its specification, and for a token's record: some 250 bytes.
var metadata = strings.Repeat("metadata ", 28)

// startEmbedded starts an etcd as evermeshd starts its own: in the process, without a port for clients.
func startEmbedded(dir string) (*embed.Etcd, error) {
	sockets, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	peer := []url.URL{{Scheme: "unix", Path: filepath.Join(sockets, "peer")}}
	c := embed.NewConfig()
	c.Dir, c.LogLevel = dir, "panic"
	c.ListenClientUrls, c.AdvertiseClientUrls, c.ListenPeerUrls, c.AdvertisePeerUrls = nil, nil, peer, peer
	c.InitialCluster = c.Name + "=" + peer[0].String()
	c.QuotaBackendBytes = 8 << 30
	server, err := embed.StartEtcd(c)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	<-server.Server.ReadyNotify()
	return server, nil
}
