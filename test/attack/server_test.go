package attack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/testenv"
)

// The two accounts of the control plane, and where it is.
const (
	ours   = "111122223333"
	theirs = "444455556666"
	region = "us-east-1"
)

// plane is a running evermeshd, as it comes, and the root keys of its accounts.
type plane struct {
	program, data   string
	api, xds, admin string // http://127.0.0.1:41234, but for xds, which has no scheme
	root, foreign   aws.Credentials
	log             testenv.Output
	planted         secrets
	cmd             *exec.Cmd
	ended           chan error
}

// shared is the one that all tests of this package attack, each with things of its own.
var shared struct {
	once sync.Once
	*plane
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if p := shared.plane; p != nil {
		// Of all tests, not only of the one about secrets.
		err := errors.Join(p.leaks(), p.stop())
		if text := p.log.String(); code == 0 && err == nil && strings.Contains(text, "panic") {
			err = fmt.Errorf("evermeshd has panicked:\n%s", text)
		}
		if err := errors.Join(err, os.RemoveAll(filepath.Dir(p.data))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// target is the shared control plane, started by the first that asks.
func target(t testing.TB) *plane {
	t.Helper()
	shared.once.Do(func() { shared.plane, shared.err = start() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.plane
}

// start builds and starts evermeshd with two accounts.
func start() (*plane, error) {
	dir, err := os.MkdirTemp("", "evermesh-attack")
	if err != nil {
		return nil, err
	}
	p := &plane{program: filepath.Join(dir, "evermeshd"), data: filepath.Join(dir, "data"), ended: make(chan error, 1)}
	if out, err := exec.Command("go", "build", "-o", p.program, "../../cmd/evermeshd").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build evermeshd: %w\n%s", err, out)
	}
	p.cmd = exec.Command(p.program, "serve", "--data-dir", p.data, "--account", ours, "--region", region, "--drain-seconds", "0",
		"--api-listen", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
		"--log-level", "debug", "--access-log", "on", "--audit-file", p.events(), "--oidc-ca-file", filepath.Join(dir, "ca.pem"))
	// All servers of httptest have one certificate: providers of identity here, too.
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	s.Close()
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600); err != nil {
		return nil, err
	}
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.ended <- p.cmd.Wait() }()
	if err := p.reach(dir); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

// events is the file that events are delivered to.
func (p *plane) events() string { return filepath.Join(filepath.Dir(p.data), "events.json") }

// up is the line that tells where it is.
var up = regexp.MustCompile(`msg="control plane is up".* admin=(\S+)`)

// reach waits until it answers the roots of both accounts.
func (p *plane) reach(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	until := func(ok func() bool) error {
		for !ok() {
			select {
			case err := <-p.ended:
				p.ended <- err
				return fmt.Errorf("evermeshd has ended: %w\n%s", err, p.log.String())
			case <-ctx.Done():
				return fmt.Errorf("evermeshd does not answer:\n%s", p.log.String())
			case <-time.After(20 * time.Millisecond):
			}
		}
		return nil
	}
	var said []string
	if err := until(func() bool { said = up.FindStringSubmatch(p.log.String()); return said != nil }); err != nil {
		return err
	}
	facts, err := client.ReadFacts(p.data)
	if err != nil {
		return err
	}
	p.api, p.admin, p.xds = facts.APIEndpoint, "http://"+said[1], strings.TrimPrefix(facts.XDSEndpoint, "http://")
	if p.root, err = readKey(ctx, facts.Credentials); err != nil {
		return err
	}
	file := filepath.Join(dir, "theirs")
	if out, err := exec.CommandContext(ctx, p.program, "account", "add", theirs, "--data-dir", p.data, "--credentials-file", file).CombinedOutput(); err != nil {
		return fmt.Errorf("account add: %w\n%s", err, out)
	}
	if p.foreign, err = readKey(ctx, file); err != nil {
		return err
	}
	return until(func() bool {
		a, err := p.send(ctx, p.foreign, call{service: "appmesh", method: "GET", path: "/v20190125/meshes"})
		return err == nil && a.status == http.StatusOK
	})
}

func (p *plane) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if err := <-p.ended; err != nil {
		return fmt.Errorf("evermeshd: %w\n%s", err, p.log.String())
	}
	return nil
}

// readKey reads a credentials file as AWS's SDK does.
func readKey(ctx context.Context, file string) (aws.Credentials, error) {
	c, err := config.LoadDefaultConfig(ctx, config.WithRegion(region),
		config.WithSharedConfigFiles([]string{}), config.WithSharedCredentialsFiles([]string{file}), config.WithSharedConfigProfile("default"))
	if err != nil {
		return aws.Credentials{}, err
	}
	return c.Credentials.Retrieve(ctx)
}

// call is a request of the API; headers alternate names and values.
type call struct {
	service, method, path, body string
	headers                     []string
}

// request makes it, unsigned.
func (p *plane) request(ctx context.Context, c call) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, c.method, p.api+c.path, strings.NewReader(c.body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(c.headers); i += 2 {
		r.Header.Set(c.headers[i], c.headers[i+1])
	}
	return r, nil
}

func hash(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

// send signs and sends a call; nobody's key leaves it unsigned.
func (p *plane) send(ctx context.Context, key aws.Credentials, c call) (answer, error) {
	r, err := p.request(ctx, c)
	if err != nil {
		return answer{}, err
	}
	if key.AccessKeyID != "" {
		if err := v4.NewSigner().SignHTTP(ctx, key, r, hash(c.body), c.service, region, time.Now()); err != nil {
			return answer{}, err
		}
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	return read(resp)
}

// nobody signs nothing.
var nobody aws.Credentials

// answer is what came back. code and text are empty but for refusals.
type answer struct {
	status     int
	code, text string
	body       string
}

func read(resp *http.Response) (answer, error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: resp.StatusCode, body: string(body)}
	if resp.StatusCode < http.StatusBadRequest {
		return a, nil
	}
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("<")) {
		a.code, a.text = element(a.body, "Code"), element(a.body, "Message")
		return a, nil
	}
	var said struct {
		Type    string `json:"__type"`
		Message string
	}
	_ = json.Unmarshal(body, &said) // a plain text has no code
	a.code, a.text = resp.Header.Get("X-Amzn-ErrorType"), said.Message
	if a.code == "" {
		a.code = said.Type
	}
	return a, nil
}

// do is send for tests.
func (p *plane) do(t testing.TB, key aws.Credentials, c call) answer {
	t.Helper()
	a, err := p.send(t.Context(), key, c)
	if err != nil {
		t.Fatal(err)
	}
	if a.status >= http.StatusInternalServerError {
		t.Errorf("%s %s: %d %s", c.method, c.path, a.status, a.body)
	}
	return a
}

// query calls an operation of IAM or STS; names and values of members alternate.
func (p *plane) query(t testing.TB, key aws.Credentials, service, action string, members ...string) answer {
	t.Helper()
	form := url.Values{"Action": {action}, "Version": {map[string]string{"iam": "2010-05-08", "sts": "2011-06-15"}[service]}}
	for i := 0; i < len(members); i += 2 {
		form.Set(members[i], members[i+1])
	}
	return p.do(t, key, call{service, "POST", "/", form.Encode(), []string{"Content-Type", "application/x-www-form-urlencoded"}})
}

// json calls an operation of a service that is told by X-Amz-Target.
func (p *plane) json(t testing.TB, key aws.Credentials, service, target, body string) answer {
	t.Helper()
	return p.do(t, key, call{service, "POST", "/", body, []string{"Content-Type", "application/x-amz-json-1.1", "X-Amz-Target", target}})
}

// mesh calls an operation of App Mesh, or of evermesh, by method and path.
func (p *plane) mesh(t testing.TB, key aws.Credentials, method, path, body string) answer {
	t.Helper()
	return p.do(t, key, call{service: "appmesh", method: method, path: path, body: body})
}

// ok is the answer when it is no refusal; else the test ends.
func (a answer) ok(t testing.TB) answer {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("%d %s: %s", a.status, a.code, a.body)
	}
	return a
}

// refused checks that it is a refusal with one of the codes.
func (a answer) refused(t testing.TB, what string, codes ...string) {
	t.Helper()
	for _, code := range codes {
		if a.code == code && a.status >= http.StatusBadRequest {
			return
		}
	}
	t.Errorf("%s: %d %s %s, want %s", what, a.status, a.code, a.body, strings.Join(codes, " or "))
}

// get is the text of the first element of that name.
func (a answer) get(t testing.TB, name string) string {
	t.Helper()
	text := element(a.ok(t).body, name)
	if text == "" {
		t.Fatalf("no %s in %s", name, a.body)
	}
	return text
}

// element is the text of the first element of that name in XML, or "".
func element(document, name string) string {
	d := xml.NewDecoder(strings.NewReader(document))
	for {
		token, err := d.Token()
		if err != nil {
			return ""
		}
		if at, ok := token.(xml.StartElement); ok && at.Name.Local == name {
			var text string
			if err := d.DecodeElement(&text, &at); err != nil {
				return ""
			}
			return text
		}
	}
}

// Statements of policies.
func policy(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func says(effect string, actions, resource string, more ...string) string {
	list := `"` + strings.ReplaceAll(actions, " ", `","`) + `"`
	return fmt.Sprintf(`{"Effect":%q,"Action":[%s],"Resource":%q%s}`, effect, list, resource, strings.Join(more, ""))
}

func allow(actions, resource string, more ...string) string {
	return says("Allow", actions, resource, more...)
}

func deny(actions, resource string, more ...string) string {
	return says("Deny", actions, resource, more...)
}

// trust is a role's trust policy with one statement; principal is JSON.
func trust(action, principal string, more ...string) string {
	return policy(fmt.Sprintf(`{"Effect":"Allow","Action":%q,"Principal":%s%s}`, action, principal, strings.Join(more, "")))
}

// when is the condition of a statement.
func when(operator, key, value string) string {
	return fmt.Sprintf(`,"Condition":{%q:{%q:%q}}`, operator, key, value)
}

// user makes a user of root's account with one policy, and returns its key.
func (p *plane) user(t testing.TB, root aws.Credentials, name string, statements ...string) aws.Credentials {
	t.Helper()
	p.query(t, root, "iam", "CreateUser", "UserName", name).ok(t)
	if len(statements) > 0 {
		p.query(t, root, "iam", "PutUserPolicy", "UserName", name, "PolicyName", "own", "PolicyDocument", policy(statements...)).ok(t)
	}
	key := keyIn(t, p.query(t, root, "iam", "CreateAccessKey", "UserName", name))
	p.planted.plant("the secret of user "+name, key.SecretAccessKey)
	return key
}

// role makes a role of root's account, and returns its ARN.
func (p *plane) role(t testing.TB, root aws.Credentials, name, trust string, statements ...string) string {
	t.Helper()
	arn := p.query(t, root, "iam", "CreateRole", "RoleName", name, "AssumeRolePolicyDocument", trust).get(t, "Arn")
	if len(statements) > 0 {
		p.query(t, root, "iam", "PutRolePolicy", "RoleName", name, "PolicyName", "own", "PolicyDocument", policy(statements...)).ok(t)
	}
	return arn
}

// assume asks for a session of a role.
func (p *plane) assume(t testing.TB, key aws.Credentials, role string, members ...string) answer {
	t.Helper()
	return p.query(t, key, "sts", "AssumeRole", append([]string{"RoleArn", role, "RoleSessionName", "attacker"}, members...)...)
}

// keyIn is the key that an answer of IAM or STS has.
func keyIn(t testing.TB, a answer) aws.Credentials {
	t.Helper()
	return aws.Credentials{
		AccessKeyID: a.get(t, "AccessKeyId"), SecretAccessKey: a.get(t, "SecretAccessKey"), SessionToken: element(a.body, "SessionToken"),
	}
}
