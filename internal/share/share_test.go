package share_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/share"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyTestMain(storetest.WithEtcd{M: m}) }

const (
	owner    = resttest.AccountA
	consumer = resttest.AccountB
	stranger = resttest.AccountC
	nobody   = "999999999999" // is no account
)

var realm = api.Realm{Partition: "aws", Region: resttest.Region}

// ground is a replica that serves sharing.
type ground struct {
	*resttest.Server
	shares *share.Shares
	clock  *clock
}

// clock is a clock that tests move.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// serve makes a replica before a store that others may have too; nil makes one.
func serve(t *testing.T, data *store.Store) *ground {
	t.Helper()
	return serveWith(t, data, func(*resttest.Options) {})
}

func serveWith(t *testing.T, data *store.Store, edit func(*resttest.Options)) *ground {
	t.Helper()
	if data == nil {
		data = storetest.New(t)
	}
	g := &ground{clock: &clock{}}
	var err error
	g.shares, err = share.Open(t.Context(), share.Config{
		Store: data, Realm: realm, Management: owner, Log: slog.New(slog.NewTextHandler(&testenv.Output{}, nil)), Now: g.clock.Now, NewID: uuid.NewString,
		Account: func(_ context.Context, id string) (bool, error) { return id != nobody, nil },
		Mesh: func(key api.Key) string {
			r, err := data.Get(context.Background(), key)
			if err != nil || r == nil {
				return ""
			}
			return r.UID
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.shares.Run(ctx) // it ends with ctx
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	ram, err := g.shares.Service()
	if err != nil {
		t.Fatal(err)
	}
	o := resttest.Options{Store: data, Services: []*service.Service{ram}, Shares: g.shares}
	edit(&o)
	g.Server = resttest.Serve(t, o)
	return g
}

// keys is what scripts begin with: a client of RAM and of App Mesh for each account.
func keys() string {
	var b strings.Builder
	for name, account := range map[string]string{"a": owner, "b": consumer, "c": stranger} {
		k := resttest.Root(account).Text()
		b.WriteString(name + " = client('ram', key=" + k + ")\n" + name + "m = client('appmesh', key=" + k + ")\n")
	}
	return b.String() + `
A, B, C = "` + owner + `", "` + consumer + `", "` + stranger + `"
def mesh(name="apps", of=A):
    return "arn:aws:appmesh:us-east-1:%s:mesh/%s" % (of, name)
`
}

// python runs a script and compares what it prints.
func (g *ground) python(t *testing.T, script, want string) {
	t.Helper()
	got := g.Python(t, resttest.Root(owner), keys()+script)
	if got, want := strings.TrimSpace(got), strings.TrimSpace(want); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
