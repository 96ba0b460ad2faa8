package main

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
	"github.com/evermesh/evermesh/internal/testenv"
)

// python runs a script with boto3 as the root of the first account.
func (p *plane) python(t *testing.T, script string) string {
	t.Helper()
	c, err := client.Load(t.Context(), p.dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	top, err := testenv.Root()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(top, "build/tools/bin/python"), "-c", "import boto3, json, os, sys, time\n"+script)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "AWS_EC2_METADATA_DISABLED=true", "AWS_ENDPOINT_URL=" + c.Endpoint, "AWS_REGION=us-east-1",
		"AWS_DEFAULT_REGION=us-east-1", "AWS_ACCESS_KEY_ID=" + key.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + key.SecretAccessKey, "PYTHONDONTWRITEBYTECODE=1",
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String())
}

// events are the records that a replica's lookups find, newest first.
func (p *plane) events(t *testing.T) (out []map[string]any) {
	t.Helper()
	printed := p.python(t, `
for page in boto3.client("cloudtrail").get_paginator("lookup_events").paginate(PaginationConfig={"PageSize": 7}):
    for e in page["Events"]:
        print(e["CloudTrailEvent"])
`)
	for line := range strings.Lines(printed) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		out = append(out, e)
	}
	return out
}

// What was acknowledged is among the events after a kill, each once.
func TestEventsOutliveAKill_AUDIT_003(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	names := []string{"a", "b", "c", "d", "e"}
	for _, name := range names {
		if err := p.call(t.Context(), "CreateMesh", api.CreateMeshInput{MeshName: name}, nil); err != nil {
			t.Fatal(err)
		}
		if err := p.call(t.Context(), "DescribeMesh", api.DescribeMeshInput{MeshName: name}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.cmd.Process.Kill(); err != nil { // the events of the last writes are in the outbox
		t.Fatal(err)
	}
	<-p.ended
	p = start(t, dir)
	seen := map[string]int{}
	for _, e := range p.events(t) {
		if of, ok := e["requestParameters"].(map[string]any); ok {
			name, _ := of["meshName"].(string)
			seen[e["eventName"].(string)+" "+name]++
		}
	}
	// So is what App Mesh did for who made the first mesh.
	if seen["CreateServiceLinkedRole "] != 1 {
		t.Errorf("events are %v", seen)
	}
	for _, name := range names {
		if seen["CreateMesh "+name] != 1 || seen["DescribeMesh "+name] != 1 {
			t.Errorf("events are %v", seen)
		}
	}
}

// Of two replicas each finds the events of both, those of proxies too; one that
// ends tells of the ends of its streams.
func TestReplicasFindEachOthersEvents(t *testing.T) {
	t.Parallel()
	e := newEtcd(t).start(t)
	key := masterKey(t)
	var planes []*plane
	for range 2 {
		planes = append(planes, start(t, t.TempDir(), "--etcd-endpoints", e.endpoint, "--master-key-file", key))
	}
	a, b := planes[0], planes[1]
	if err := a.call(t.Context(), "CreateMesh", api.CreateMeshInput{MeshName: "apps"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.call(t.Context(), "CreateVirtualNode", api.CreateVirtualNodeInput{MeshName: "apps", VirtualNodeName: "n"}, nil); err != nil {
		t.Fatal(err)
	}
	facts, err := client.ReadFacts(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Load(t.Context(), b.dir)
	if err != nil {
		t.Fatal(err)
	}
	own, err := c.Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	proxies := strings.TrimPrefix(facts.XDSEndpoint, "http://")
	connected := proxy(t, proxies, "mesh/apps/virtualNode/n", own)
	connected.Wait(t, "it has its configuration", func() bool { return len(connected.Responses()) > 0 })
	refused := proxy(t, proxies, "mesh/apps/virtualNode/none", own)
	refused.Wait(t, "it is refused", func() bool { return len(refused.Ends()) > 0 })

	type connection struct{ ID, Node, Status, Reason string }
	streams := func(events []map[string]any) (out []connection) {
		for _, e := range events {
			if d, ok := e["serviceEventDetails"].(map[string]any); ok && e["eventName"] == "StreamAggregatedResources" {
				out = append(out, connection{d["connectionId"].(string), d["nodeArn"].(string), d["eventStatus"].(string), d["failureReason"].(string)})
			}
		}
		return out
	}
	const node = "arn:aws:appmesh:us-east-1:000000000000:mesh/apps/virtualNode/n"
	var seen []connection
	i := -1
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("connections are %+v", seen)
		}
	})
	eventually(t, "both connections are found on the other replica", func() bool {
		seen = streams(a.events(t))
		i = slices.IndexFunc(seen, func(c connection) bool {
			return c.Node == node && c.Status == "ConnectionEstablished" && c.Reason == ""
		})
		return i >= 0 && slices.ContainsFunc(seen, func(c connection) bool {
			return c.Node == "mesh/apps/virtualNode/none" && c.Status == "ConnectionTerminated" && strings.HasPrefix(c.Reason, "InvalidArgument: ")
		})
	})
	t.Run("AUDIT-010 calls and connections are among the events of every replica", func(t *testing.T) {
		for name, p := range map[string]*plane{"the one": a, "the other": b} {
			for event, kind := range map[string]string{"CreateVirtualNode": "AwsApiCall", "StreamAggregatedResources": "AwsServiceEvent"} {
				if !slices.ContainsFunc(p.events(t), func(e map[string]any) bool { return e["eventName"] == event && e["eventType"] == kind }) {
					t.Errorf("%s does not find %s", name, event)
				}
			}
		}
	})
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := b.exit(t); code != 0 {
		t.Errorf("exit code %d:\n%s", code, b.said(t))
	}
	// What it has is missed, by the name that it keeps; it is found when it is back.
	text, err := os.ReadFile(filepath.Join(b.dir, "audit", "replica"))
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSpace(string(text))
	a.events(t)
	if log := a.said(t); !strings.Contains(log, "replicas=["+name+"]") {
		t.Errorf("the log does not say that events of %s are missing:\n%s", name, log)
	}
	list := exec.CommandContext(t.Context(), self(t), "audit", "replicas", "--etcd-endpoints", e.endpoint)
	if out, err := list.Output(); err != nil || !strings.Contains(string(out), name+"  gone ") || strings.Count(string(out), " running ") != 1 {
		t.Errorf("replicas are\n%s, error %v", out, err)
	}
	start(t, b.dir, "--etcd-endpoints", e.endpoint, "--master-key-file", key)
	ended := connection{seen[i].ID, node, "ConnectionGracefullyTerminated", ""}
	if got := streams(a.events(t)); !slices.Contains(got, ended) {
		t.Errorf("connections are %+v, want %+v too\n%s", got, ended, a.said(t))
	}
}

// secretCalls make secrets of every kind and print them, one a line: keys, tokens,
// passwords, private keys in and out.
const secretCalls = `
def tell(secret):
    for line in secret.splitlines():
        if len(line) >= 16 and not line.startswith("-----"):
            print(line)
def refused(f, **arguments):
    try:
        f(**arguments)
    except Exception as e:
        assert "Error" in type(e).__name__ or "Exception" in type(e).__name__, e
iam, sts, acm, pca, mesh = (boto3.client(s) for s in ("iam", "sts", "acm", "acm-pca", "appmesh"))
mesh.create_mesh(meshName="apps")
iam.create_user(UserName="alice")
tell(iam.create_access_key(UserName="alice")["AccessKey"]["SecretAccessKey"])
me = sts.get_caller_identity()["Arn"]
role = iam.create_role(RoleName="r", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": me}, "Action": "sts:AssumeRole"}]}))["Role"]["Arn"]
refused(sts.assume_role, RoleArn=role, RoleSessionName="session")
iam.put_role_policy(RoleName="r", PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}))
iam.create_user(UserName="bob")
bob = iam.create_access_key(UserName="bob")["AccessKey"]
tell(bob["SecretAccessKey"])
iam.put_user_policy(UserName="bob", PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}))
iam.update_assume_role_policy(RoleName="r", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": iam.get_user(UserName="bob")["User"]["Arn"]}, "Action": "sts:AssumeRole"}]}))
as_bob = boto3.client("sts", aws_access_key_id=bob["AccessKeyId"], aws_secret_access_key=bob["SecretAccessKey"])
deadline = time.monotonic() + 30
while True:
    try: # until the policy is known
        session = as_bob.assume_role(RoleArn=role, RoleSessionName="session")["Credentials"]
        break
    except Exception:
        if time.monotonic() > deadline:
            raise
tell(session["SecretAccessKey"]); tell(session["SessionToken"])
as_role = dict(aws_access_key_id=session["AccessKeyId"], aws_secret_access_key=session["SecretAccessKey"], aws_session_token=session["SessionToken"])
boto3.client("appmesh", **as_role).describe_mesh(meshName="apps")
refused(boto3.client("appmesh", **as_role).describe_mesh, meshName="none")
refused(sts.assume_role_with_web_identity, RoleArn=role, RoleSessionName="session", WebIdentityToken="planted.web.identity.token")
print("planted.web.identity.token")
key, certificate = open(os.environ["HOME"] + "/planted-key.pem").read(), open(os.environ["HOME"] + "/planted.pem").read()
tell(key)
acm.import_certificate(Certificate=certificate, CertificateChain=open(os.environ["HOME"] + "/planted-ca.pem").read(), PrivateKey=key)
refused(acm.import_certificate, Certificate=certificate, PrivateKey="planted-private-key-that-is-none")
print("planted-private-key-that-is-none")
authority = pca.create_certificate_authority(CertificateAuthorityType="ROOT", IdempotencyToken="idempotent", CertificateAuthorityConfiguration=dict(
    KeyAlgorithm="EC_prime256v1", SigningAlgorithm="SHA256WITHECDSA", Subject=dict(CommonName="root")))["CertificateAuthorityArn"]
issued = pca.issue_certificate(CertificateAuthorityArn=authority, Csr=pca.get_certificate_authority_csr(CertificateAuthorityArn=authority)["Csr"].encode(),
    SigningAlgorithm="SHA256WITHECDSA", TemplateArn="arn:aws:acm-pca:::template/RootCACertificate/V1", Validity=dict(Type="DAYS", Value=10))["CertificateArn"]
pca.import_certificate_authority_certificate(CertificateAuthorityArn=authority, Certificate=pca.get_certificate(CertificateAuthorityArn=authority, CertificateArn=issued)["Certificate"].encode())
private = acm.request_certificate(DomainName="a.example", CertificateAuthorityArn=authority)["CertificateArn"]
deadline = time.monotonic() + 30
while acm.describe_certificate(CertificateArn=private)["Certificate"]["Status"] != "ISSUED" and time.monotonic() < deadline:
    time.sleep(0.02)
tell(acm.export_certificate(CertificateArn=private, Passphrase=b"planted-passphrase")["PrivateKey"])
print("planted-passphrase")
`

// No secret is in anything that is kept or said of calls: segments, the outbox and
// all else in etcd, the file, the webhook, logs, metrics.
func TestNoSecretIsInAnEvent(t *testing.T) {
	t.Parallel()
	e := newEtcd(t).start(t)
	dir := t.TempDir()
	var mu sync.Mutex
	var posted bytes.Buffer
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.Copy(&posted, r.Body)
	}))
	defer hook.Close()
	if _, _, err := ownCertificate(filepath.Join(dir, "planted"), []string{"planted.example"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"ca.pem": "planted-ca.pem", "server.pem": "planted.pem", "server-key.pem": "planted-key.pem"} {
		if err := os.Rename(filepath.Join(dir, "planted", from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "events.json")
	args := []string{
		"--etcd-endpoints", e.endpoint, "--master-key-file", masterKey(t), "--audit-file", file, "--audit-webhook", hook.URL,
		"--log-level", "debug", "--access-log", "on",
	}
	p := start(t, dir, args...)
	secrets := strings.Split(p.python(t, secretCalls), "\n")
	if len(secrets) < 15 {
		t.Fatalf("only %d secrets were made", len(secrets))
	}
	read := func(name string) []byte {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	last := []byte(`"eventName":"ExportCertificate"`)
	eventually(t, "the last event is delivered", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return bytes.Contains(posted.Bytes(), last) && bytes.Contains(read(file), last)
	})
	_, metrics := p.get(t, "/metrics")
	db, err := clientv3.New(clientv3.Config{Endpoints: []string{e.endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	stored, err := db.Get(t.Context(), "", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	var values bytes.Buffer
	for _, kv := range stored.Kvs {
		values.Write(append(append(kv.Key, '\n'), kv.Value...))
	}
	// Files of one that runs come and go while they are read.
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	places := map[string][]byte{"the file": read(file), "etcd": values.Bytes(), "the log": []byte(p.said(t)), "/metrics": []byte(metrics)}
	mu.Lock()
	places["the webhook"] = bytes.Clone(posted.Bytes())
	mu.Unlock()
	segments := 0
	if err := filepath.WalkDir(filepath.Join(dir, "audit"), func(name string, of fs.DirEntry, err error) error {
		if err == nil && !of.IsDir() {
			places[name] = read(name)
			if strings.HasSuffix(name, ".log") {
				segments++
			}
		}
		return err
	}); err != nil || segments < 3 {
		t.Fatalf("there are %d segments, error %v", segments, err)
	}
	for where, text := range places {
		for _, secret := range secrets {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s has %s", where, secret[:min(len(secret), 24)])
			}
		}
	}
	want := []string{"AssumeRole", "CreateAccessKey", "CreateCertificateAuthority", "ExportCertificate", "ImportCertificate", "IssueCertificate", "RequestCertificate"}
	var missing []string
	for _, name := range want {
		if !bytes.Contains(places["the file"], []byte(`"eventName":"`+name+`"`)) {
			missing = append(missing, name)
		}
	}
	if diff := cmp.Diff([]string(nil), missing); diff != "" {
		t.Errorf("these calls are no events: %s", diff)
	}
}
