package main

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
)

// With Go's FIPS 140-3 module all works as usual, and what the module does not
// approve is not spoken.
func TestFIPS(t *testing.T) {
	t.Parallel()
	cert, key := rsaLeaf(t, t.TempDir())
	for mode, approved := range map[string]bool{"fips140=on": true, "fips140=off": false} {
		t.Run("SEC-016 "+mode, func(t *testing.T) {
			t.Parallel()
			p := startWith(t, t.TempDir(), []string{"GODEBUG=" + mode}, "--xds-tls-cert", cert, "--xds-tls-key", key)
			if said := strings.Contains(p.said(t), "fips=true"); said != approved {
				t.Errorf("it says that it is in FIPS mode: %t", said)
			}
			if err := p.call(t.Context(), "CreateMesh", api.CreateMeshInput{MeshName: "apps"}, nil); err != nil {
				t.Error(err)
			}
			for suite, want := range map[uint16]bool{
				tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: true, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256: !approved,
			} {
				_, err := shake(t, factsOf(t, p).XDSEndpoint, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
				if (err == nil) != want {
					t.Errorf("%s is taken: %t (%v), want %t", tls.CipherSuiteName(suite), err == nil, err, want)
				}
			}
		})
	}
}
