package resttest_test

import (
	"bufio"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/forward"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/testenv"
)

// moto starts a copy of AWS that this project did not write.
func moto(t testing.TB) (url string) {
	t.Helper()
	root, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(root, "build", "tools", "bin", "moto")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: run make tools", err)
	}
	cmd := exec.Command(program, "-H", "127.0.0.1", "-p", "0")
	cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it ends by the signal
	})
	at := regexp.MustCompile(`http://127\.0\.0\.1:\d+`)
	lines := bufio.NewScanner(out)
	for url == "" && lines.Scan() {
		url = at.FindString(lines.Text())
	}
	if url == "" {
		t.Fatal("moto did not say where it listens")
	}
	go func() {
		for lines.Scan() { // until it ends, so that it never waits for a reader
		}
	}()
	return url
}

// elsewhere are services that are switched to the address.
func elsewhere(t testing.TB, url string, names ...string) map[string]*forward.Service {
	t.Helper()
	out := map[string]*forward.Service{}
	for _, name := range names {
		s, err := forward.New(forward.Config{
			Name: name, Endpoint: url, Region: resttest.Region, Partition: "aws", Now: time.Now,
			Credentials: credentials.NewStaticCredentialsProvider("AKIAOFTHECONTROLPLANE", "x", ""),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		out[name] = s
	}
	return out
}

// A service that is switched to another place answers from there, in every protocol;
// who may use it is still settled here, and every call leaves a record here.
func TestServicesElsewhere(t *testing.T) {
	t.Parallel()
	kept := &trail{}
	services := []*service.Service{play(t, "iam", "iam", nil), play(t, "acm", "acm", nil), play(t, "ram", "ram", nil), play(t, "servicediscovery", "servicediscovery", nil)}
	s := resttest.Serve(t, resttest.Options{Audit: kept, Services: services, Edit: func(c *rest.Config) {
		c.Elsewhere, c.ElsewhereFor = elsewhere(t, moto(t), "iam", "acm", "ram", "servicediscovery"), resttest.AccountA
	}})
	got := s.Python(t, resttest.Root(resttest.AccountA), `
iam, acm, ram, sd = client("iam"), client("acm"), client("ram"), client("servicediscovery")
print(iam.create_user(UserName="ann")["User"]["Arn"])
print(refusal(iam.create_user, UserName="ann"))
print([u["UserName"] for u in iam.list_users()["Users"]])
print(len(iam.create_access_key(UserName="ann")["AccessKey"]["SecretAccessKey"]))
print(acm.list_certificates()["CertificateSummaryList"])
print(refusal(acm.describe_certificate, CertificateArn="arn:aws:acm:us-east-1:123456789012:certificate/12345678-1234-1234-1234-123456789012")[:29])
print(ram.get_resource_shares(resourceOwner="SELF")["resourceShares"])
print(len(sd.create_http_namespace(Name="local")["OperationId"]) > 0)
print([n["Name"] for n in sd.list_namespaces()["Namespaces"]])
print(refusal(iam.create_user, UserName="!"))
print(refusal(client("iam", `+resttest.Root(resttest.AccountB).Text()+`).list_users))
`)
	const want = `arn:aws:iam::123456789012:user/ann
409 EntityAlreadyExists: User ann already exists
['ann']
40
[]
400 ResourceNotFoundException
[]
True
['local']
400 ValidationError: 1 validation error detected: Value '!' at 'userName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]+
403 AccessDenied: User: arn:aws:iam::222222222222:root is not authorized to perform: iam:ListUsers: IAM is not this control plane's own here, and only account 111111111111 may use it.`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	records := kept.what()
	if diff := cmp.Diff([]string{"iam.amazonaws.com CreateUser", "iam.amazonaws.com CreateUser EntityAlreadyExists"}, records[:2]); diff != "" {
		t.Errorf("records, -want +got:\n%s", diff)
	}
	if n := len(records); n != 10+1 {
		t.Errorf("%d records: %v", n, records)
	}
}

// Where nothing answers, the call can be repeated; what proves who the caller is goes
// nowhere else.
func TestElsewhereIsAway(t *testing.T) {
	t.Parallel()
	s := resttest.Serve(t, resttest.Options{Services: []*service.Service{play(t, "iam", "iam", nil)}, Edit: func(c *rest.Config) {
		c.Elsewhere, c.ElsewhereFor = elsewhere(t, "http://127.0.0.1:1", "iam"), resttest.AccountA
	}})
	got := s.Python(t, resttest.Root(resttest.AccountA), `print(refusal(client("iam").list_users))`)
	if want := "503 ServiceUnavailable: IAM is elsewhere, and does not answer this control plane: try again."; got != want {
		t.Errorf("got %s", got)
	}
}

// A request goes on with its protocol's headers and the control plane's signature, and
// with nothing of the caller's.
func TestForwardedRequest(t *testing.T) {
	t.Parallel()
	seen := make(chan *http.Request, 1)
	there := resttest.Serve(t, resttest.Options{})
	there.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header().Set("X-Secret", "not passed back")
		w.WriteHeader(http.StatusTeapot)
	})
	to := elsewhere(t, there.URL, "eks")["eks"]
	header := http.Header{
		"Authorization": {"AWS4-HMAC-SHA256 Credential=AKIACALLER/x"}, "X-Amz-Security-Token": {"caller's"}, "Cookie": {"a"}, "Content-Type": {"application/json"},
	}
	answer, err := to.Send(t.Context(), "X", "GET", "/clusters/a%2Fb/x?q=1&X-Amz-Credential=AKIACALLER&X-Amz-Signature=s", header, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := <-seen
	if r.RequestURI != "/clusters/a%2Fb/x?q=1" || r.Header.Get("Cookie") != "" || r.Header.Get("X-Amz-Security-Token") != "" ||
		!strings.Contains(r.Header.Get("Authorization"), "Credential=AKIAOFTHECONTROLPLANE/") || strings.Contains(r.Header.Get("Authorization"), "CALLER") {
		t.Errorf("sent %s %v", r.RequestURI, r.Header)
	}
	if answer.Status != http.StatusTeapot || answer.Header.Get("X-Secret") != "" {
		t.Errorf("answer %+v", answer)
	}
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	for endpoint, ok := range map[string]bool{
		"aws": true, "https://a.example": true, "http://127.0.0.1:5000/": true,
		"": false, "a.example": false, "ftp://a": false, "https://a/b": false, "https://u:p@a": false, "https://a?b": false,
	} {
		if err := forward.Check(endpoint); (err == nil) != ok {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
}
