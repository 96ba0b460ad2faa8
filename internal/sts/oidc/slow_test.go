package oidc_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/testenv"
)

// Issuers that do not answer hold up the account that registered them, and no other;
// and of that one only a few at once.
func TestIssuersThatHang(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	ctx, stop := context.WithCancel(t.Context())
	var asked atomic.Int64
	var waiting sync.WaitGroup
	plain := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	var hanging []net.Listener
	for range 12 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		hanging = append(hanging, l)
		waiting.Go(func() {
			var open []net.Conn
			defer func() {
				for _, c := range open {
					c.Close()
				}
			}()
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				asked.Add(1)
				open = append(open, c)
			}
		})
		raw := plain(`{"alg":"RS256","kid":"x"}`) + "." + plain(fmt.Sprintf(`{"iss":"https://%s","sub":"s"}`, l.Addr())) + "." + plain("sig")
		waiting.Go(func() {
			_, _ = g.verifier.Verify(ctx, "444455556666", raw, func(string) ([]string, bool) { return []string{audience}, true })
		})
	}
	testenv.Eventually(t, "issuers are asked", func() bool { return asked.Load() == 4 })
	if _, err := g.verify(g.token(t, nil)); err != nil {
		t.Errorf("the issuer of another account: %v", err)
	}
	if n := asked.Load(); n != 4 {
		t.Errorf("%d issuers that hang were asked until the other account had its answer, want 4 at once", n)
	}
	stop()
	for _, l := range hanging {
		l.Close()
	}
	waiting.Wait()
}

// An issuer that fails is asked at growing intervals, a minute at most.
func TestIssuersThatFail(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	var asked atomic.Int64
	g.Answer(func(w http.ResponseWriter, _ *http.Request) bool {
		asked.Add(1)
		http.Error(w, "away", http.StatusBadGateway)
		return true
	})
	for n, pause := range []time.Duration{0, 5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute, time.Minute} {
		if g.pass(pause - time.Second); pause > 0 {
			_, _ = g.verify(g.token(t, nil))
		}
		if got := asked.Load(); got != int64(n) {
			t.Fatalf("asked %d times before the pause of %v was over, want %d", got, pause, n)
		}
		g.pass(time.Second)
		if _, err := g.verify(g.token(t, nil)); err == nil {
			t.Fatal("a token is good without a key")
		}
		if got := asked.Load(); got != int64(n+1) {
			t.Fatalf("asked %d times after a pause of %v, want %d", got, pause, n+1)
		}
	}
	g.Answer(nil)
	g.pass(time.Minute)
	if _, err := g.verify(g.token(t, nil)); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}
