package envoy_test

import (
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/envoy"
	"github.com/evermesh/evermesh/internal/mesh"
)

// toldOf are the messages that a client finds of a resource which is what the text says, in a mesh where front calls web.
func toldOf(t *testing.T, client, kind, spec string) (told []string) {
	t.Helper()
	w := newWorld()
	for _, r := range []struct {
		kind       api.Kind
		name, spec string
	}{
		{api.KindMesh, "", `{}`},
		{api.KindVirtualNode, "web", spec},
		{api.KindVirtualService, "web.local", `{"provider": {"virtualNode": {"virtualNodeName": "web"}}}`},
		{api.KindVirtualNode, "front", `{"backends": [{"virtualService": {"virtualServiceName": "web.local"}}]}`},
		{api.KindVirtualGateway, "gate", spec},
	} {
		if r.spec == spec && string(r.kind) != kind {
			continue
		}
		decoded, err := api.DecodeSpec(r.kind, []byte(r.spec))
		if err != nil {
			t.Fatal(err)
		}
		w.put(keyOf(r.kind, "", r.name), decoded)
	}
	key := keyOf(api.KindVirtualNode, "", client)
	if kind == string(api.KindVirtualGateway) {
		key.Kind = api.KindVirtualGateway
	}
	view, _, _ := w.snapshot.View(mesh.Client{Key: key})
	_, problems := new(envoy.Builder).Build(view, nil)
	for _, p := range problems {
		told = append(told, p.Reason+" "+p.Message)
	}
	return told
}

// TestNamesOfDNS tells callers and the node itself of a host name that nobody finds, and of no other.
func TestNamesOfDNS(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 63)
	for _, c := range []struct {
		name string
		can  bool
	}{
		{"web.local", true},
		{"web", true},
		{"web.local.", true},
		{"_grpc._tcp.web_1.local", true},
		{"xn--bcher-kva.example", true},
		{"127.0.0.1", true},
		{"::1", true},
		{"fd00::1", true},
		{"app.1", true},
		{"1", true},
		{"1.example", true},
		{label + "." + label, true},
		{"127.0.0.1 ", false},
		{" web", false},
		{"a b", false},
		{`a\n`, false},
		{"http://a", false},
		{"a:80", false},
		{"a/b", false},
		{"127.0.0.1:80", false},
		{"[::1]", false},
		{"999.1.1.1", false},
		{"10.1", false},
		{"1.2.3.4.5", false},
		{"a..b", false},
		{".a", false},
		{".", false},
		{"bücher.example", false},
		{"*.local", false},
		{label + "a.local", false},
		{strings.Repeat("a.", 126) + "aa", false},
	} {
		for _, client := range []string{"front", "web"} {
			t.Run("DISC-002 "+c.name+" to "+client, func(t *testing.T) {
				t.Parallel()
				told := toldOf(t, client, "virtualNode", `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}}], "serviceDiscovery": {"dns": {"hostname": "`+c.name+`"}}}`)
				switch {
				case c.can && len(told) > 0:
					t.Errorf("told %q of what can be a name", told)
				case !c.can && (len(told) != 1 || !strings.HasPrefix(told[0], "Invalid spec.serviceDiscovery.dns.hostname ")):
					t.Errorf("told %q, want the host name's problem alone", told)
				}
			})
		}
	}
}

// TestUnenforcedValidation remarks on what of a listener's TLS validation its mode leaves out.
func TestUnenforcedValidation(t *testing.T) {
	t.Parallel()
	const (
		trust = `"trust": {"file": {"certificateChain": "/ca.pem"}}`
		names = `, "subjectAlternativeNames": {"match": {"exact": ["a.example"]}}`
		none  = "Unenforced spec.listeners[0].tls.validation has no effect while the mode is DISABLED"
		loose = "Unenforced spec.listeners[0].tls.validation.subjectAlternativeNames has no effect while the mode is PERMISSIVE"
	)
	for _, c := range []struct{ name, mode, validation, want string }{
		{"STRICT", "STRICT", trust + names, ""},
		{"PERMISSIVE", "PERMISSIVE", trust + names, loose},
		{"PERMISSIVE without names", "PERMISSIVE", trust, ""},
		{"DISABLED", "DISABLED", trust + names, none},
		{"DISABLED without names", "DISABLED", trust, none},
		{"DISABLED without validation", "DISABLED", "", ""},
	} {
		for _, of := range []string{"virtualNode", "virtualGateway"} {
			t.Run("MTLS-009 "+c.name+" of "+of, func(t *testing.T) {
				t.Parallel()
				validation := ""
				if c.validation != "" {
					validation = `, "validation": {` + c.validation + `}`
				}
				client := map[string]string{"virtualNode": "web", "virtualGateway": "gate"}[of]
				told := toldOf(t, client, of, `{"listeners": [{"portMapping": {"port": 80, "protocol": "http"}, "tls": {"mode": "`+c.mode+
					`", "certificate": {"file": {"certificateChain": "/a.pem", "privateKey": "/a.key"}}`+validation+`}}]}`)
				switch {
				case c.want == "" && len(told) > 0 || c.want != "" && (len(told) != 1 || !strings.HasPrefix(told[0], c.want)):
					t.Errorf("told %q, want %q", told, c.want)
				}
			})
		}
	}
	for _, reason := range []string{mesh.ReasonUnenforced, mesh.ReasonUnmatched} {
		if !(mesh.Problem{Reason: reason}).Remark() {
			t.Errorf("%s is no remark: nothing is without effect that could act", reason)
		}
	}
}
