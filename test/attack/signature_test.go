package attack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/evermesh/evermesh/internal/testenv"
)

// wire is a request as bytes: its first line, its headers in order, its body.
type wire struct {
	first   string
	headers []string // Name: value
	body    string
}

// at is the place of a header; -1 for none.
func (w *wire) at(name string) int {
	for i, h := range w.headers {
		if strings.HasPrefix(strings.ToLower(h), strings.ToLower(name)+":") {
			return i
		}
	}
	return -1
}

// edit replaces a part of a header, which must be there.
func (w *wire) edit(name, old, new string) {
	i := w.at(name)
	if i < 0 || !strings.Contains(w.headers[i], old) {
		panic(fmt.Sprintf("header %s has no %q", name, old))
	}
	w.headers[i] = strings.Replace(w.headers[i], old, new, 1)
}

func (w *wire) drop(name string) {
	i := w.at(name)
	w.headers = append(w.headers[:i:i], w.headers[i+1:]...)
}
func (w *wire) add(header string) { w.headers = append(w.headers, header) }
func (w *wire) value(name string) string {
	_, v, _ := strings.Cut(w.headers[w.at(name)], ": ")
	return v
}

// become replaces the body, and its length.
func (w *wire) become(body string) {
	w.body = body
	w.headers[w.at("Content-Length")] = fmt.Sprintf("Content-Length: %d", len(body))
}

func (w wire) bytes() string {
	return w.first + "\r\n" + strings.Join(w.headers, "\r\n") + "\r\n\r\n" + w.body
}

// signedAt signs a call for a time, and returns it as it is sent.
func (p *plane) signedAt(t testing.TB, key aws.Credentials, c call, at time.Time) wire {
	t.Helper()
	r, err := p.request(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Amz-Content-Sha256", hash(c.body))
	if err := v4.NewSigner().SignHTTP(t.Context(), key, r, hash(c.body), c.service, region, at); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := r.Write(&text); err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(text.String(), "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	return wire{lines[0], lines[1:], body}
}

// raw sends bytes and reads the answers until the other end closes, or says nothing more;
// of some there is none.
func (p *plane) raw(t testing.TB, text string) (answers []answer) {
	t.Helper()
	return p.rawWithin(t, text, 5*time.Second)
}

// rawWithin is raw with a time for the first answer.
func (p *plane) rawWithin(t testing.TB, text string, wait time.Duration) (answers []answer) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(p.api, "http://"))
	if err != nil {
		t.Error(err)
		return nil
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Error(err)
		return nil
	}
	// Who closes its side has given up what it asked for; so silence is the end.
	for r := bufio.NewReader(conn); ; wait = 250 * time.Millisecond {
		_ = conn.SetReadDeadline(time.Now().Add(wait))
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return answers
		}
		if resp.StatusCode == http.StatusContinue {
			continue
		}
		a, err := read(resp)
		if err != nil {
			t.Error(err)
			return answers
		}
		answers = append(answers, a)
	}
}

// session is credentials of a session of a role that may do all, and of another session of it.
func (p *plane) sessions(t testing.TB, name string) (one, other aws.Credentials) {
	t.Helper()
	user := p.user(t, p.root, name, allow("*", "*"))
	role := p.role(t, p.root, name, trust("sts:AssumeRole", `{"AWS":"`+ours+`"}`), allow("*", "*"))
	one, other = keyIn(t, p.assume(t, user, role)), keyIn(t, p.assume(t, user, role))
	for _, key := range []aws.Credentials{one, other} {
		p.planted.plant("the secret of a session", key.SecretAccessKey)
		p.planted.plant("the token of a session", key.SessionToken)
	}
	return one, other
}

// meshes are the names of all meshes of our account that begin so.
func (p *plane) meshes(t testing.TB, prefix string) (names []string) {
	t.Helper()
	for token := ""; ; {
		path := "/v20190125/meshes?limit=100"
		if token != "" {
			path += "&nextToken=" + token
		}
		var page struct {
			Meshes    []struct{ MeshName string }
			NextToken string
		}
		if err := json.Unmarshal([]byte(p.mesh(t, p.root, "GET", path, "").ok(t).body), &page); err != nil {
			t.Fatal(err)
		}
		for _, m := range page.Meshes {
			if strings.HasPrefix(m.MeshName, prefix) {
				names = append(names, m.MeshName)
			}
		}
		if token = page.NextToken; token == "" {
			return names
		}
	}
}

// An attacker has a request of somebody who may do all, as it was sent, and changes it on
// the wire, part by part.
func TestAlteredOnTheWire(t *testing.T) {
	t.Parallel()
	p := target(t)
	one, other := p.sessions(t, "altered")
	const body = `{"meshName":"altered-signed"}`
	signed := p.signedAt(t, one, call{"appmesh", "PUT", "/v20190125/meshes?tags=a", body, nil}, time.Now())
	date, _, _ := strings.Cut(signed.value("X-Amz-Date"), "T")
	later := time.Now().Add(time.Minute).UTC().Format("20060102T150405Z")
	presign := func(r *wire, amount string) { // as a presigned request has it
		query := "&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=" + one.AccessKeyID + "%2F" + date + "%2Fus-east-1%2Fappmesh%2Faws4_request&X-Amz-Date=" +
			signed.value("X-Amz-Date") + "&X-Amz-Expires=" + amount + "&X-Amz-SignedHeaders=host&X-Amz-Signature=" + strings.Repeat("0", 64)
		r.first = strings.Replace(r.first, "tags=a", "tags=a"+query, 1)
	}
	const evil = `{"meshName":"altered-evil"}`
	chunks := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(evil), evil)
	attempt := func(t *testing.T, name string, n int, a answer) {
		if a.status < http.StatusBadRequest || a.status >= http.StatusInternalServerError && a.status != http.StatusNotImplemented {
			t.Errorf("%s: answer %d is %d %s", name, n, a.status, a.body)
		}
		for _, secret := range []string{one.SecretAccessKey, one.SessionToken, other.SessionToken} {
			if strings.Contains(a.body, secret) {
				t.Errorf("%s: the refusal tells a secret: %s", name, a.body)
			}
		}
	}
	alter := map[string]func(r *wire){
		"method":                    func(r *wire) { r.first = strings.Replace(r.first, "PUT", "POST", 1) },
		"method in small letters":   func(r *wire) { r.first = strings.Replace(r.first, "PUT", "put", 1) },
		"path":                      func(r *wire) { r.first = strings.Replace(r.first, "meshes", "meshes/altered-evil/virtualNodes", 1) },
		"path, encoded":             func(r *wire) { r.first = strings.Replace(r.first, "meshes", "%6deshes", 1) },
		"path, doubled slash":       func(r *wire) { r.first = strings.Replace(r.first, "/meshes", "//meshes", 1) },
		"path, dot segment":         func(r *wire) { r.first = strings.Replace(r.first, "/meshes", "/./meshes", 1) },
		"path, in capitals":         func(r *wire) { r.first = strings.Replace(r.first, "/meshes", "/MESHES", 1) },
		"query":                     func(r *wire) { r.first = strings.Replace(r.first, "tags=a", "tags=b", 1) },
		"query, more":               func(r *wire) { r.first = strings.Replace(r.first, "tags=a", "tags=a&meshOwner="+theirs, 1) },
		"query, none":               func(r *wire) { r.first = strings.Replace(r.first, "?tags=a", "", 1) },
		"query, twice":              func(r *wire) { r.first = strings.Replace(r.first, "tags=a", "tags=a&tags=a", 1) },
		"query with semicolons":     func(r *wire) { r.first = strings.Replace(r.first, "tags=a", "tags=a;x=y", 1) },
		"host":                      func(r *wire) { r.headers[r.at("Host")] = "Host: other.example" },
		"two hosts":                 func(r *wire) { r.add("Host: other.example") },
		"the host of absolute form": func(r *wire) { r.first = strings.Replace(r.first, "PUT /", "PUT http://other.example/", 1) },
		"body":                      func(r *wire) { r.become(evil) },
		"body and its hash":         func(r *wire) { r.become(evil); r.edit("X-Amz-Content-Sha256", hash(body), hash(evil)) },
		"body and no hash":          func(r *wire) { r.become(evil); r.drop("X-Amz-Content-Sha256") },
		"unsigned payload":          func(r *wire) { r.become(evil); r.edit("X-Amz-Content-Sha256", hash(body), "UNSIGNED-PAYLOAD") },
		"streaming payload": func(r *wire) {
			r.become(evil)
			r.edit("X-Amz-Content-Sha256", hash(body), "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
		},
		"body, shorter":   func(r *wire) { r.become(body[:len(body)-1]) },
		"a second body":   func(r *wire) { r.become(body + evil) },
		"chunked instead": func(r *wire) { r.headers[r.at("Content-Length")] = "Transfer-Encoding: chunked"; r.body = chunks },
		"chunked besides": func(r *wire) { r.add("Transfer-Encoding: chunked"); r.body = chunks },
		"two lengths":     func(r *wire) { r.add("Content-Length: 1") },
		"length and a plus": func(r *wire) {
			r.headers[r.at("Content-Length")] = fmt.Sprintf("Content-Length: +%d", len(body))
		},
		"another encoding":     func(r *wire) { r.add("Transfer-Encoding: gzip, chunked"); r.body = chunks },
		"encoding obfuscated":  func(r *wire) { r.add("Transfer-Encoding : chunked"); r.body = chunks },
		"date":                 func(r *wire) { r.headers[r.at("X-Amz-Date")] = "X-Amz-Date: " + later },
		"two dates":            func(r *wire) { r.add("X-Amz-Date: " + later) },
		"the same date twice":  func(r *wire) { r.add("x-amz-date: " + r.value("X-Amz-Date")) },
		"a plain date instead": func(r *wire) { r.headers[r.at("X-Amz-Date")] = "Date: " + time.Now().UTC().Format(http.TimeFormat) },
		"scope's date":         func(r *wire) { r.edit("Authorization", "/"+date+"/", "/20200101/") },
		"scope's region":       func(r *wire) { r.edit("Authorization", "/us-east-1/", "/eu-west-1/") },
		"scope's service":      func(r *wire) { r.edit("Authorization", "/appmesh/", "/iam/") },
		"scope's end":          func(r *wire) { r.edit("Authorization", "/aws4_request", "/aws5_request") },
		"algorithm":            func(r *wire) { r.edit("Authorization", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1") },
		"algorithm none":       func(r *wire) { r.edit("Authorization", "AWS4-HMAC-SHA256", "AWS4-NONE") },
		"key":                  func(r *wire) { r.edit("Authorization", one.AccessKeyID, other.AccessKeyID) },
		"key of another account": func(r *wire) {
			r.edit("Authorization", one.AccessKeyID, p.foreign.AccessKeyID)
			r.drop("X-Amz-Security-Token")
		},
		"token of another session": func(r *wire) { r.headers[r.at("X-Amz-Security-Token")] = "X-Amz-Security-Token: " + other.SessionToken },
		"both of another session": func(r *wire) {
			r.edit("Authorization", one.AccessKeyID, other.AccessKeyID)
			r.headers[r.at("X-Amz-Security-Token")] = "X-Amz-Security-Token: " + other.SessionToken
		},
		"no token":   func(r *wire) { r.drop("X-Amz-Security-Token") },
		"two tokens": func(r *wire) { r.add("X-Amz-Security-Token: " + other.SessionToken) },
		"token in the query": func(r *wire) {
			r.drop("X-Amz-Security-Token")
			r.first = strings.Replace(r.first, "tags=a", "tags=a&X-Amz-Security-Token="+one.SessionToken, 1)
		},
		"no authorization":    func(r *wire) { r.drop("Authorization") },
		"two authorizations":  func(r *wire) { r.add("Authorization: " + r.value("Authorization")) },
		"another first":       func(r *wire) { r.headers = append([]string{"Authorization: Bearer x"}, r.headers...) },
		"a basic one besides": func(r *wire) { r.add("Authorization: Basic cm9vdDpyb290") },
		"in header and query": func(r *wire) { presign(r, "300") },
		"in the query":        func(r *wire) { r.drop("Authorization"); presign(r, "604800") },
		"no signed headers": func(r *wire) {
			i := r.at("Authorization")
			before, rest, _ := strings.Cut(r.headers[i], "SignedHeaders=")
			_, after, _ := strings.Cut(rest, ",")
			r.headers[i] = before + "SignedHeaders=," + after
		},
		"host not signed":      func(r *wire) { r.edit("Authorization", "host;", "") },
		"token not signed":     func(r *wire) { r.edit("Authorization", ";x-amz-security-token", "") },
		"target of another":    func(r *wire) { r.add("X-Amz-Target: Route53AutoNaming_v20170314.ListServices") },
		"another content type": func(r *wire) { r.headers[r.at("Content-Type")] = "Content-Type: application/x-www-form-urlencoded" },
		"a NUL in a header":    func(r *wire) { r.edit("Authorization", "Signature=", "Signature=\x00") },
		"a method that overrides": func(r *wire) {
			r.add("X-HTTP-Method-Override: DELETE")
			r.first = strings.Replace(r.first, "PUT", "GET", 1)
		},
		"an upgrade":               func(r *wire) { r.add("Connection: Upgrade"); r.add("Upgrade: h2c"); r.become(evil) },
		"an expectation":           func(r *wire) { r.add("Expect: 100-continue"); r.become(evil) },
		"a hop that takes away":    func(r *wire) { r.add("Connection: X-Amz-Content-Sha256, X-Amz-Security-Token"); r.become(evil) },
		"HTTP/1.0 without a host":  func(r *wire) { r.first = strings.Replace(r.first, "HTTP/1.1", "HTTP/1.0", 1); r.drop("Host") },
		"a line feed in the first": func(r *wire) { r.first = strings.Replace(r.first, " HTTP/1.1", " HTTP/1.1\nX-Amz-Date: "+later, 1) },
	}
	signedHeaders := element2(signed.value("Authorization"), "SignedHeaders=")
	for _, name := range strings.Split(signedHeaders, ";") {
		alter["signed header "+name+" altered"] = func(r *wire) { i := r.at(name); r.headers[i] += "0" }
		alter["signed header "+name+" not there"] = func(r *wire) { r.drop(name) }
	}
	var sending sync.WaitGroup
	for name, change := range alter {
		r := wire{signed.first, append([]string(nil), signed.headers...), signed.body}
		change(&r)
		sending.Go(func() {
			for n, a := range p.raw(t, r.bytes()) {
				attempt(t, name, n, a)
			}
		})
	}
	sending.Wait()
	if got := p.meshes(t, "altered-"); got != nil {
		t.Fatalf("altered requests made %q", got)
	}

	// What is the same request in other bytes, is the same request.
	same := map[string]func(r *wire){
		"as it is":              func(*wire) {},
		"sent again":            func(*wire) {},
		"headers in capitals":   func(r *wire) { r.edit("X-Amz-Date", "X-Amz-Date", "X-AMZ-DATE") },
		"spaces around a value": func(r *wire) { r.edit("X-Amz-Date", ": ", ":   ") },
		"chunked": func(r *wire) {
			r.add("Transfer-Encoding: chunked")
			r.body = fmt.Sprintf("%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", 3, body[:3], len(body)-3, body[3:])
		},
		"absolute form":     func(r *wire) { r.first = strings.Replace(r.first, "PUT /", "PUT "+p.api+"/", 1) },
		"an expectation":    func(r *wire) { r.add("Expect: 100-continue") },
		"a folded line":     func(r *wire) { r.edit("Authorization", ", SignedHeaders", ",\r\n SignedHeaders") },
		"unknown headers":   func(r *wire) { r.add("X-Forwarded-For: 10.0.0.1"); r.add("X-Amzn-Trace-Id: Root=1") },
		"two in one stream": func(r *wire) { r.body += r.bytes() },
	}
	for name, change := range same {
		r := wire{signed.first, append([]string(nil), signed.headers...), signed.body}
		change(&r)
		answers := p.rawWithin(t, r.bytes(), testenv.Patience)
		if len(answers) == 0 {
			t.Errorf("%s: no answer", name)
		}
		for _, a := range answers {
			// Made by the first, there for the others; and chunks have no length, which is signed.
			unsigned := name == "chunked" && a.code == "InvalidSignatureException"
			if a.status != http.StatusOK && a.code != "ConflictException" && !unsigned {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
	}
	if got := p.meshes(t, "altered-"); len(got) != 1 || got[0] != "altered-signed" {
		t.Errorf("there are %q", got)
	}
}

// element2 is what follows a name until a comma.
func element2(text, name string) string {
	_, rest, _ := strings.Cut(text, name)
	value, _, _ := strings.Cut(rest, ",")
	return value
}

// Clocks differ by five minutes at most, in both directions; what is presigned holds for
// the time that it says, a week at most.
func TestClocksOnTheWire(t *testing.T) {
	t.Parallel()
	p := target(t)
	list := call{"appmesh", "GET", "/v20190125/meshes", "", nil}
	for _, c := range []struct {
		by time.Duration
		ok bool
	}{{0, true}, {-4*time.Minute - 45*time.Second, true}, {-5*time.Minute - 2*time.Second, false}, {-24 * time.Hour, false}, {4*time.Minute + 45*time.Second, true}, {5*time.Minute + 15*time.Second, false}, {24 * time.Hour, false}} {
		answers := p.rawWithin(t, p.signedAt(t, p.root, list, time.Now().Add(c.by)).bytes(), testenv.Patience)
		if len(answers) == 0 {
			t.Fatalf("a clock that is wrong by %v: no answer", c.by)
		}
		if a := answers[0]; c.ok {
			a.ok(t)
		} else {
			a.refused(t, "a clock that is wrong by "+c.by.String(), "InvalidSignatureException")
		}
	}
	for _, c := range []struct {
		name, expires string
		by            time.Duration
		alter         func(string) string
		ok            bool
	}{
		{"within its time", "3600", -59 * time.Minute, nil, true},
		{"after its time", "3600", -61 * time.Minute, nil, false},
		{"a week", "604800", -6 * 24 * time.Hour, nil, true},
		{"more than a week", "604801", 0, nil, false},
		{"years", "999999999999", 0, nil, false},
		{"no time", "0", -time.Second, nil, false},
		{"a negative time", "-1", 0, nil, false},
		{"ahead", "3600", 10 * time.Minute, nil, false},
		{"stretched", "60", -5 * time.Minute, func(u string) string { return strings.Replace(u, "X-Amz-Expires=60", "X-Amz-Expires=604800", 1) }, false},
		{"two times", "60", -5 * time.Minute, func(u string) string { return u + "&X-Amz-Expires=604800" }, false},
		{"another region", "60", 0, func(u string) string { return strings.Replace(u, "us-east-1", "eu-west-1", 1) }, false},
		{"another path", "60", 0, func(u string) string { return strings.Replace(u, "meshes", "meshes/x", 1) }, false},
		{"another parameter", "60", 0, func(u string) string { return u + "&limit=1" }, false},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.api+list.path+"?X-Amz-Expires="+c.expires, nil)
		if err != nil {
			t.Fatal(err)
		}
		u, _, err := v4.NewSigner().PresignHTTP(context.Background(), p.root, r, hash(""), "appmesh", region, time.Now().Add(c.by))
		if err != nil {
			t.Fatal(err)
		}
		if c.alter != nil {
			u = c.alter(u)
		}
		got, err := http.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		a, err := read(got)
		if err != nil {
			t.Fatal(err)
		}
		if (a.status == http.StatusOK) != c.ok {
			t.Errorf("presigned, %s: %d %s", c.name, a.status, a.body)
		}
	}
}

// A session's token is one piece, and belongs to one key.
func TestTokensOfSessions(t *testing.T) {
	t.Parallel()
	p := target(t)
	one, other := p.sessions(t, "tokens")
	list := call{"appmesh", "GET", "/v20190125/meshes", "", nil}
	p.do(t, one, list).ok(t)
	refused := func(name string, key aws.Credentials) {
		t.Helper()
		p.do(t, key, list).refused(t, name, "UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignatureException")
	}
	with := func(token string) aws.Credentials { k := one; k.SessionToken = token; return k }
	refused("the token of another session", with(other.SessionToken))
	refused("no token", with(""))
	refused("a token twice", with(one.SessionToken+one.SessionToken))
	refused("two tokens", with(one.SessionToken+","+other.SessionToken))
	refused("half of each", with(one.SessionToken[:len(one.SessionToken)/2]+other.SessionToken[len(one.SessionToken)/2:]))
	refused("a made-up token", with("FwoGZXIvYXdzEBYaD"))
	refused("a token for the root's key", aws.Credentials{AccessKeyID: p.root.AccessKeyID, SecretAccessKey: p.root.SecretAccessKey, SessionToken: one.SessionToken})
	refused("a key that is nobody's", aws.Credentials{AccessKeyID: "ASIA" + strings.Repeat("A", 16), SecretAccessKey: one.SecretAccessKey, SessionToken: one.SessionToken})
	refused("the key in small letters", aws.Credentials{AccessKeyID: strings.ToLower(one.AccessKeyID), SecretAccessKey: one.SecretAccessKey, SessionToken: one.SessionToken})
	refused("the secret of another session", aws.Credentials{AccessKeyID: one.AccessKeyID, SecretAccessKey: other.SecretAccessKey, SessionToken: one.SessionToken})
	step := max(1, len(one.SessionToken)/100)
	for i := 0; i < len(one.SessionToken); i += step {
		refused(fmt.Sprintf("a token cut at %d of %d", i, len(one.SessionToken)), with(one.SessionToken[:i]))
	}
	for i := len(one.SessionToken) - 1; i >= 0; i -= step {
		letter := "A"
		if one.SessionToken[i] == 'A' {
			letter = "B"
		}
		refused(fmt.Sprintf("a token altered at %d of %d", i, len(one.SessionToken)), with(one.SessionToken[:i]+letter+one.SessionToken[i+1:]))
	}
}
