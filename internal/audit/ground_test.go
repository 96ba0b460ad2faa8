package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.HoldSmallDisk()
	if dir := os.Getenv("AUDIT_TEST_WRITER"); dir != "" {
		writeUntilKilled(dir)
	}
	testenv.VerifyTestMain(storetest.WithEtcd{M: m})
}

const (
	account = "111111111111"
	other   = "222222222222"
	region  = "us-east-1"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)

// quiet is a log that nobody reads.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// opened is a log of segments on a directory; it is closed with the test.
func opened(t testing.TB, dir string) *segment.Log {
	t.Helper()
	l, err := segment.Open(segment.Config{Dir: dir, MaxBytes: audit.DefaultBytes, MaxAge: 1e5 * time.Hour, Log: quiet(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// trail is a Trail on a log, with ids that are counted.
func trail(l *segment.Log) *audit.Trail {
	var n atomic.Int64
	return (&audit.Trail{
		Log: l, Region: region, Account: account, Logger: quiet(), Now: time.Now,
		NewID: func() string { return fmt.Sprintf("id-%d", n.Add(1)) },
	}).Init()
}

// running runs something until the test ends, or stop is called.
func running(t testing.TB, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() {
		cancel()
		done.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// all are the bodies of an account's events, newest first.
func all(t testing.TB, l *segment.Log, account string) (out []map[string]any) {
	t.Helper()
	found, err := l.Scan(context.Background(), segment.Query{Account: account, Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range found.Entries {
		var body map[string]any
		if err := json.Unmarshal(e.Body, &body); err != nil {
			t.Fatal(err)
		}
		out = append(out, body)
	}
	return out
}

// root is an account's root.
func root(account string) auth.Principal {
	return auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":root", AccessKeyID: "AKIAROOT" + account, Type: auth.Root, ID: account}
}

// call is a record of a call at a time after start.
func call(after time.Duration, operation string) service.Record {
	return service.Record{
		ID: "request-" + operation, Source: "appmesh.amazonaws.com", Operation: operation, Principal: root(account),
		At: start.Add(after), SourceIP: "192.0.2.7", UserAgent: "aws-cli/2.0", Request: map[string]any{"meshName": "m"},
		Resources: []string{"arn:aws:appmesh:" + region + ":" + account + ":mesh/m"},
	}
}

// lines is a log that is kept.
func lines(out *testenv.Output) *slog.Logger { return slog.New(slog.NewTextHandler(out, nil)) }

func asAPI(err error, to **api.Error) bool { return errors.As(err, to) }
