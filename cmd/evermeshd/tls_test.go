package main

import (
	"crypto/tls"
	"os"
	"testing"
	"time"
)

// Our own certificate is kept while it serves, and made anew, by the same CA,
// when a name is missing or a third of its life is left.
func TestOwnCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), time.Now()
	hosts := []string{"localhost", "127.0.0.1"}
	made := func(hosts []string, now time.Time) tls.Certificate {
		t.Helper()
		cert, key, err := ownCertificate(dir, hosts, now)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	serial := func(c tls.Certificate) string { return c.Leaf.SerialNumber.String() }
	first := made(hosts, now)
	ca, err := os.ReadFile(dir + "/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	if again := made(hosts, now.Add(serverLifetime/2)); serial(again) != serial(first) {
		t.Error("a certificate with half of its life left was replaced")
	}
	named := made(append(hosts, "mesh.example"), now)
	if serial(named) == serial(first) || named.Leaf.VerifyHostname("mesh.example") != nil {
		t.Error("a new name did not get a new certificate")
	}
	late := made(append(hosts, "mesh.example"), now.Add(serverLifetime*3/4))
	if serial(late) == serial(named) || !late.Leaf.NotAfter.After(now.Add(serverLifetime)) {
		t.Error("a certificate with a quarter of its life left was kept")
	}
	if after, err := os.ReadFile(dir + "/ca.pem"); err != nil || string(after) != string(ca) {
		t.Errorf("the CA is another (%v)", err)
	}
}
