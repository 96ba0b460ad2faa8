package properties

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/envoy/envoytest"
	"github.com/evermesh/evermesh/internal/envoy/sdstest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// validator gives Envoys what proxies are to have.
type validator struct {
	newest, oldest string
	dir            string
	one            sdstest.Certificate
	root           []byte
}

func newValidator(t *testing.T) *validator {
	t.Helper()
	top, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	tools := filepath.Join(top, "build", "tools")
	older, err := filepath.Glob(filepath.Join(tools, "envoy-*", "envoy"))
	if err != nil || len(older) == 0 {
		t.Fatalf("there is no older Envoy in %s: run make tools", tools)
	}
	root := sdstest.NewAuthority(t, "root")
	v := &validator{newest: filepath.Join(tools, "bin", "envoy"), oldest: older[0], dir: t.TempDir(), one: root.Issue(t, "one"), root: root.PEM}
	for _, binary := range []string{v.newest, v.oldest} {
		t.Logf("validated by envoy %s", envoytest.Version(t, binary))
	}
	return v
}

// validate gives one Envoy all that clients were given, at once: a start takes longer
// than to read ten configurations. When it refuses, each is tried alone.
func (v *validator) validate(t *rapid.T, w *world, all []sent, old bool) {
	binary := v.newest
	if old {
		binary = v.oldest
		// The filter of the metrics extension is given to Envoys that say that they
		// have it.
		all = slices.DeleteFunc(all, func(s sent) bool { return s.Traits.Metrics })
	}
	if len(all) == 0 || v.says(t, binary, all) == "" {
		return
	}
	for _, one := range all {
		if says := v.says(t, binary, []sent{one}); says != "" {
			t.Fatalf("what %s gets: %s\nin the end there is\n%s", one.Key, says, w)
		}
	}
	t.Fatalf("together: %s\n%s", v.says(t, binary, all), w)
}

// says is what `envoy --mode validate` finds wrong with what clients were given.
func (v *validator) says(t *rapid.T, binary string, all []sent) string {
	joint := &bootstrapv3.Bootstrap{}
	for i, s := range all {
		one, err := v.static(i, s.Bundle)
		if err != nil {
			t.Fatalf("%s: %v", s.Key, err)
		}
		join(joint, one)
	}
	config, err := envoy.JSON(joint)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(v.dir, "envoy.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, "--mode", "validate", "--log-level", "warn", "-c", path).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s: %v\n%s", binary, err, out)
	}
	for line := range strings.Lines(string(out)) {
		// Every configuration without an overload manager gets this one.
		if strings.Contains(line, "no configured limit to the number of allowed active downstream connections") {
			continue
		}
		if strings.Contains(line, "[warning]") || strings.Contains(line, "[error]") {
			return binary + " says: " + line
		}
	}
	return ""
}

// static is a bundle as a bootstrap, with certificates in place of files, names of
// clusters that no other bundle has, and addresses that no other has.
func (v *validator) static(i int, b *envoy.Bundle) (*bootstrapv3.Bootstrap, error) {
	text, err := b.Static("test", "test")
	if err != nil {
		return nil, err
	}
	out := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(bytes.ReplaceAll(text, []byte(`"cds_`), fmt.Appendf(nil, `"%d.cds_`, i)), out); err != nil {
		return nil, err
	}
	hosts := map[string]int{} // without interception there are many
	for _, l := range out.GetStaticResources().GetListeners() {
		l.Name = fmt.Sprint(i, ".", l.GetName())
		a := l.GetAddress().GetSocketAddress()
		if a == nil {
			continue
		}
		host, known := hosts[a.GetAddress()]
		if !known {
			host = len(hosts) + 1
			hosts[a.GetAddress()] = host
		}
		switch {
		case a.GetIpv4Compat():
			a.Address = fmt.Sprintf("::ffff:127.%d.%d.1", host, i)
		case strings.Contains(a.GetAddress(), ":"):
			a.Address = fmt.Sprintf("fd00::%x:%x", host, i+1)
		default:
			a.Address = fmt.Sprintf("127.%d.%d.1", host, i)
		}
	}
	for _, s := range out.GetStaticResources().GetSecrets() {
		for source, text := range map[*corev3.DataSource][]byte{
			s.GetTlsCertificate().GetCertificateChain(): v.one.Chain, s.GetTlsCertificate().GetPrivateKey(): v.one.Key, s.GetValidationContext().GetTrustedCa(): v.root,
		} {
			if source != nil {
				source.Specifier = &corev3.DataSource_InlineBytes{InlineBytes: text}
			}
		}
	}
	return out, nil
}

// join puts what one proxy has beside what others have. What has the same name is
// the same: secrets, and the servers of secrets.
func join(all, one *bootstrapv3.Bootstrap) {
	if all.StaticResources == nil {
		proto.Merge(all, one)
		return
	}
	to, from := all.StaticResources, one.GetStaticResources()
	names := map[string]bool{}
	for _, c := range to.GetClusters() {
		names[c.GetName()] = true
	}
	for _, s := range to.GetSecrets() {
		names["secret "+s.GetName()] = true
	}
	to.Listeners = append(to.Listeners, from.GetListeners()...)
	for _, c := range from.GetClusters() {
		if !names[c.GetName()] {
			to.Clusters = append(to.Clusters, c)
		}
	}
	for _, s := range from.GetSecrets() {
		if !names["secret "+s.GetName()] {
			to.Secrets = append(to.Secrets, s)
		}
	}
}
