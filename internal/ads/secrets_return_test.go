package ads

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// What a real Envoy knows of secrets from the stream before, and the management
// service does not.

func TestRealEnvoyComesBackWithoutItsSecret(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newSecretRig(t)
		files := t.TempDir()
		chain, key := filepath.Join(files, "later.pem"), filepath.Join(files, "later.key")
		r.ca.Issue(t, "server.local").Write(t, files, "here")
		good, bad := arnOf+"good", arnOf+"bad"
		c := r.issuer.Issue(t, good, r.ca, "server.local")
		// Envoy refuses a key of another certificate.
		r.issuer.Put(bad, sdstest.Certificate{Chain: r.ca.Issue(t, "server.local").Chain, Key: c.Key}, r.ca)
		arn := func(arn string) string {
			return envoy.SecretName{Kind: envoy.ACMCertificate, ARNs: []string{arn}}.String()
		}
		healthy := []string{"here", "good"}
		r.give("a", spec{envoy.Listener: {
			answering(t, "bad", r.at("bad"), arn(bad), ""),
			answering(t, "good", r.at("good"), arn(good), ""),
			answering(t, "here", r.at("here"), certificateAt(filepath.Join(files, "here.pem"), filepath.Join(files, "here.key")), ""),
			answering(t, "later", r.at("later"), certificateAt(chain, key), ""),
		}})
		e := r.envoy(t, delta)
		secure := &tls.Config{RootCAs: r.ca.Pool(), MinVersion: tls.VersionTLS12}
		for _, name := range healthy {
			e.Wait(t, "TLS of "+name, func() bool { _, err := get(r.at(name), secure); return err == nil })
		}
		want := strings.Join([]string{
			ReasonSecretRefused + ": Secret " + arn(bad) + " was refused by Envoy: Failed to load private key from <inline>, Cause: error:0b000074:X.509 certificate routines:OPENSSL_internal:KEY_VALUES_MISMATCH",
			ReasonSecretRefused + ": Secret " + certificateAt(chain, key) + " was refused by Envoy: Invalid path: " + chain,
		}, "\n")
		lacking := []string{arn(bad), certificateAt(chain, key)}
		says := func() bool {
			row, _ := r.Row(client("a"))
			return r.problems("a") == want && slices.Equal(row.Lacking, lacking)
		}
		testenv.Eventually(t, "the ledger says what is refused", says)

		// Twice: from then on a delta proxy claims versions of what it refused.
		for range 2 {
			updates := map[string]int{}
			for _, name := range healthy {
				updates[name] = e.Stat(t, readings(r.at(name)))
			}
			before := r.since("a")
			r.stopSocket()
			r.listen(t)
			e.Wait(t, "another stream", func() bool { return r.since("a").After(before) })
			testenv.Eventually(t, "the ledger says again what is refused, and of nothing else that it lacks", says)
			for _, name := range healthy {
				if _, err := get(r.at(name), secure); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				read := e.Stat(t, readings(r.at(name))) - updates[name]
				t.Logf("%s was read %d times", name, read)
				if read < 1 || read > 2 {
					t.Errorf("%s, which Envoy had, was read %d times, want once or twice", name, read)
				}
			}
		}
		r.ca.Issue(t, "server.local").Write(t, files, "later")
		servedNext(t, e, chain, func() bool { _, err := get(r.at("later"), secure); return err == nil })
		r.issuer.Issue(t, bad, r.ca, "server.local")
		e.Wait(t, "TLS with what the issuer gives now", func() bool { _, err := get(r.at("bad"), secure); return err == nil })
		testenv.Eventually(t, "nothing is wrong any more", func() bool { return r.problems("a") == "" })
	})
}

// readings is the statistic that counts how often Envoy made TLS contexts anew for
// the listener on a socket file.
func readings(path string) string {
	return "listener." + path + ".server_ssl_socket_factory.ssl_context_update_by_sds"
}

func TestRealEnvoyDrainsWithItsSecret(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		r := newSecretRig(t)
		files := t.TempDir()
		at := func(name string) string {
			r.ca.Issue(t, "server.local").Write(t, files, name)
			return certificateAt(filepath.Join(files, name+".pem"), filepath.Join(files, name+".key"))
		}
		one, two := at("one"), at("two")
		r.give("a", spec{envoy.Listener: {answering(t, "file", r.at("file"), one, "")}})
		// Long enough to be seen by a test that a busy machine has stand still.
		e := adstest.StartEnvoy(t, adstest.Options{Node: nodeID("a"), Instance: "i-1", Delta: delta, NodeAlways: !delta, Drain: 5 * time.Second}, r.socket)
		secure := &tls.Config{RootCAs: r.ca.Pool(), MinVersion: tls.VersionTLS12, ServerName: "server.local"}
		e.Wait(t, "TLS", func() bool { _, err := get(r.at("file"), secure); return err == nil })
		c, err := net.Dial("unix", r.at("file"))
		adstest.Must(t, err)
		defer c.Close()
		adstest.Must(t, tls.Client(c, secure).Handshake())

		r.give("a", spec{envoy.Listener: {answering(t, "file", r.at("file"), two, "")}})
		drained := func() (asked, named bool) {
			for _, p := range r.members("a") {
				p.mu.Lock()
				asked, named = p.m.of[envoy.Secret].has(one), p.m.names(one)
				p.mu.Unlock()
			}
			return asked, named
		}
		seen := false
		testenv.Eventually(t, "the chain has drained", func() bool {
			asked, named := drained()
			seen = seen || (asked && !named)
			if problems := r.problems("a"); problems != "" {
				t.Fatalf("a chain that drains is a problem: %s", problems)
			}
			return seen && !asked
		})
	})
}
