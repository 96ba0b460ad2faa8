package catchup_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/catchup"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/share"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/sts"
	"github.com/evermesh/evermesh/internal/sts/accounts"
	"github.com/evermesh/evermesh/internal/testenv"
)

// replica serves App Mesh, IAM, STS and RAM twice: as it does, and as it would without
// memory that catches up.
type replica struct {
	keys          *iam.Keys
	serves, hasty *resttest.Server
	reads         atomic.Int64 // of heads
}

// newReplica makes a replica on a store. One that is deaf begins to follow the store when
// somebody has read the heads: until then it knows what there was when it was made.
func newReplica(t *testing.T, data *store.Store, dir string, deaf bool) *replica {
	t.Helper()
	r := &replica{}
	log := slog.New(slog.DiscardHandler)
	var err error
	r.keys, err = iam.Open(t.Context(), iam.Config{
		Store: data, Partition: "aws", Account: resttest.AccountA, MasterKeyFile: filepath.Join(dir, "master-key"), CreateMasterKey: true, Log: log, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	shares, err := share.Open(t.Context(), share.Config{
		Store: data, Realm: api.Realm{Partition: "aws", Region: resttest.Region}, Management: resttest.AccountA, Log: log, Now: time.Now, NewID: uuid.NewString,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	t.Cleanup(func() { stop(); parts.Wait() })
	follow := sync.OnceFunc(func() {
		parts.Go(func() { _ = r.keys.Run(ctx) })
		parts.Go(func() { _ = shares.Run(ctx) })
	})
	directory := r.keys.Directory()
	memory := catchup.New(catchup.Config{
		Heads: func(ctx context.Context, tails ...string) ([]int64, error) {
			r.reads.Add(1)
			defer follow()
			return data.Heads(ctx, tails...)
		},
		Now: time.Now, Patience: testenv.Patience,
		Followers: []catchup.Follower{{
			Tail: iam.Tail, Revision: directory.Revision, Reach: directory.Reach,
			Codes: []string{api.CodeUnrecognizedClient, api.CodeAccessDenied, api.CodeForbidden},
		}, {
			Tail: share.Tail, Revision: shares.Revision, Reach: shares.Reach, Codes: []string{api.CodeAccessDenied, api.CodeForbidden},
		}},
	})
	parts.Go(func() { _ = memory.Run(ctx) })
	if !deaf {
		follow()
	}
	known := accounts.New(r.keys, r.keys.Authorizer())
	sessions := &sts.Sessions{Lasting: resttest.Keys(r.keys), Directory: known, Box: r.keys.Box(), Now: time.Now}
	var services []*service.Service
	for _, made := range []func() (*service.Service, error){
		iam.NewServer(r.keys).Service, (&sts.Server{Partition: "aws", Sessions: sessions, Directory: known}).Service, shares.Service,
	} {
		one, err := made()
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, one)
	}
	serve := func(m *catchup.Memory) *resttest.Server {
		return resttest.Serve(t, resttest.Options{
			Store: data, Services: services, Keys: sessions, Authorizer: r.keys.Authorizer(), Shares: shares,
			Edit: func(c *rest.Config) { c.Memory = m },
		})
	}
	r.serves, r.hasty = serve(memory), serve(nil)
	return r
}

// request sends a signed request; a body is a form or JSON.
func request(t testing.TB, at *resttest.Server, key resttest.Key, of, method, path, body string) (status int, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, at.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" && !strings.HasPrefix(body, "{") {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	sum := sha256.Sum256([]byte(body))
	c := aws.Credentials{AccessKeyID: key.ID, SecretAccessKey: key.Secret, SessionToken: key.Token}
	if err := v4.NewSigner().SignHTTP(t.Context(), c, r, hex.EncodeToString(sum[:]), of, resttest.Region, time.Now()); err != nil {
		t.Fatal(err)
	}
	resp, err := at.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("X-Amzn-Errortype") + " " + string(read)
}

// do is a request of a service at this replica that is answered.
func (r *replica) do(t testing.TB, key resttest.Key, of, path, body string) string {
	t.Helper()
	status, text := request(t, r.serves, key, of, http.MethodPost, path, body)
	if status != http.StatusOK {
		t.Fatalf("%s %s: %d %s", path, body, status, text)
	}
	return text
}

// form is a request of IAM or STS by the root of account A; arguments are names and
// values.
func (r *replica) form(t testing.TB, of, action string, arguments ...string) string {
	t.Helper()
	return r.do(t, resttest.Root(resttest.AccountA), of, "/", form(of, action, arguments...))
}

func form(of, action string, arguments ...string) string {
	v := url.Values{"Action": {action}, "Version": {map[string]string{"iam": "2010-05-08", "sts": "2011-06-15"}[of]}}
	for i := 0; i < len(arguments); i += 2 {
		v.Set(arguments[i], arguments[i+1])
	}
	return v.Encode()
}

// keyOf is the access key in an answer of IAM or STS.
func keyOf(answer string) resttest.Key {
	one := func(name string) string {
		if found := regexp.MustCompile("<" + name + ">([^<]*)</" + name + ">").FindStringSubmatch(answer); found != nil {
			return found[1]
		}
		return ""
	}
	return resttest.Key{ID: one("AccessKeyId"), Secret: one("SecretAccessKey"), Token: one("SessionToken")}
}

const (
	meshes = "/v20190125/meshes"
	may    = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	mayNot = `{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}`
	trust  = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + resttest.AccountA + `"},"Action":"sts:AssumeRole"}]}`
)

// user makes a user with a key, and a policy if there is one.
func (r *replica) user(t testing.TB, name, policy string) resttest.Key {
	t.Helper()
	r.form(t, "iam", "CreateUser", "UserName", name)
	if policy != "" {
		r.form(t, "iam", "PutUserPolicy", "UserName", name, "PolicyName", "p", "PolicyDocument", policy)
	}
	return keyOf(r.form(t, "iam", "CreateAccessKey", "UserName", name))
}

// role makes a role and a session of it.
func (r *replica) role(t testing.TB, caller resttest.Key, name string) resttest.Key {
	t.Helper()
	r.form(t, "iam", "CreateRole", "RoleName", name, "AssumeRolePolicyDocument", trust)
	r.form(t, "iam", "PutRolePolicy", "RoleName", name, "PolicyName", "p", "PolicyDocument", may)
	arn := "arn:aws:iam::" + resttest.AccountA + ":role/" + name
	return keyOf(r.do(t, caller, "sts", "/", form("sts", "AssumeRole", "RoleArn", arn, "RoleSessionName", "session")))
}

// What one replica has just written acts at another that has not been told of it.
func TestWhatIsWrittenAtOneReplicaIsUsedAtAnother(t *testing.T) {
	t.Parallel()
	ann, b := "ann", resttest.Root(resttest.AccountB)
	for name, c := range map[string]struct {
		// before is what both replicas know, write what one of them writes, and who may
		// list meshes, or get the path, by it.
		before func(t *testing.T, one *replica) resttest.Key
		write  func(t *testing.T, one *replica, key resttest.Key) resttest.Key
		path   string
		want   string // without memory that catches up
	}{
		"a root's key": {
			write: func(t *testing.T, one *replica, _ resttest.Key) resttest.Key {
				root, err := one.keys.AddAccount(t.Context(), "444444444444")
				if err != nil {
					t.Fatal(err)
				}
				return resttest.Key{ID: root.ID, Secret: string(root.Secret)}
			},
			want: api.CodeUnrecognizedClient,
		},
		"a user with a key": {
			write: func(t *testing.T, one *replica, _ resttest.Key) resttest.Key { return one.user(t, ann, may) },
			want:  api.CodeUnrecognizedClient,
		},
		"a key that is active again": {
			before: func(t *testing.T, one *replica) resttest.Key {
				key := one.user(t, ann, may)
				one.form(t, "iam", "UpdateAccessKey", "UserName", ann, "AccessKeyId", key.ID, "Status", "Inactive")
				return key
			},
			write: func(t *testing.T, one *replica, key resttest.Key) resttest.Key {
				one.form(t, "iam", "UpdateAccessKey", "UserName", ann, "AccessKeyId", key.ID, "Status", "Active")
				return key
			},
			want: api.CodeUnrecognizedClient,
		},
		"a policy": {
			before: func(t *testing.T, one *replica) resttest.Key { return one.user(t, ann, "") },
			write: func(t *testing.T, one *replica, key resttest.Key) resttest.Key {
				one.form(t, "iam", "AttachUserPolicy", "UserName", ann, "PolicyArn", "arn:aws:iam::aws:policy/AWSAppMeshReadOnly")
				return key
			},
			want: api.CodeAccessDenied,
		},
		"the end of a policy that denies": {
			before: func(t *testing.T, one *replica) resttest.Key {
				key := one.user(t, ann, may)
				one.form(t, "iam", "PutUserPolicy", "UserName", ann, "PolicyName", "no", "PolicyDocument", mayNot)
				return key
			},
			write: func(t *testing.T, one *replica, key resttest.Key) resttest.Key {
				one.form(t, "iam", "DeleteUserPolicy", "UserName", ann, "PolicyName", "no")
				return key
			},
			want: api.CodeAccessDenied,
		},
		"a session of a role": {
			before: func(t *testing.T, one *replica) resttest.Key { return one.user(t, ann, may) },
			write:  func(t *testing.T, one *replica, key resttest.Key) resttest.Key { return one.role(t, key, "r") },
			want:   api.CodeUnrecognizedClient,
		},
		"a share": {
			before: func(t *testing.T, one *replica) resttest.Key {
				status, text := request(t, one.serves, resttest.Root(resttest.AccountA), "appmesh", http.MethodPut, meshes, `{"meshName":"apps"}`)
				if status != http.StatusOK {
					t.Fatal(text)
				}
				return b
			},
			write: func(t *testing.T, one *replica, _ resttest.Key) resttest.Key {
				one.do(t, resttest.Root(resttest.AccountA), "ram", "/createresourceshare", `{"name":"apps","resourceArns":["arn:aws:appmesh:us-east-1:`+resttest.AccountA+`:mesh/apps"],"principals":["`+resttest.AccountB+`"]}`)
				invited := one.do(t, b, "ram", "/getresourceshareinvitations", `{}`)
				arn := regexp.MustCompile(`"resourceShareInvitationArn":"([^"]*)"`).FindStringSubmatch(invited)[1]
				one.do(t, b, "ram", "/acceptresourceshareinvitation", `{"resourceShareInvitationArn":"`+arn+`"}`)
				return b
			},
			path: meshes + "/apps?meshOwner=" + resttest.AccountA,
			want: api.CodeForbidden,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stores, dir := storetest.Replicas(t, 2), t.TempDir()
			one := newReplica(t, stores[0], dir, false)
			var key resttest.Key
			if c.before != nil {
				key = c.before(t, one)
			}
			two := newReplica(t, stores[1], dir, true)
			key = c.write(t, one, key)
			path := meshes
			if c.path != "" {
				path = c.path
			}
			if status, text := request(t, two.hasty, key, "appmesh", http.MethodGet, path, ""); status != http.StatusForbidden || !strings.HasPrefix(text, c.want+" ") {
				t.Errorf("it knows what it was not told: %d %s, want %s", status, text, c.want)
			}
			if status, text := request(t, two.serves, key, "appmesh", http.MethodGet, path, ""); status != http.StatusOK {
				t.Errorf("it is refused: %d %s", status, text)
			}
			before := two.reads.Load()
			if before < 1 || before > 2 {
				t.Errorf("%d reads for one call", before)
			}
			if status, text := request(t, two.serves, key, "appmesh", http.MethodGet, path, ""); status != http.StatusOK || two.reads.Load() != before {
				t.Errorf("a call that is allowed: %d %s, %d reads", status, text, two.reads.Load()-before)
			}
		})
	}
}

// Two replicas that run, and scripts that use each time at one what they have made at the
// other.
func TestNoRoundIsRefused(t *testing.T) {
	t.Parallel()
	const scripts, rounds = 8, 25
	stores, dir := storetest.Replicas(t, 2), t.TempDir()
	replicas := []*replica{newReplica(t, stores[0], dir, false), newReplica(t, stores[1], dir, false)}
	t.Run("scripts", func(t *testing.T) {
		for script := range scripts {
			t.Run(fmt.Sprint(script), func(t *testing.T) {
				t.Parallel()
				for round := range rounds {
					useElsewhere(t, replicas[round%2], replicas[(round+1)%2], script*rounds+round)
				}
			})
		}
	})
	t.Logf("%d rounds, %d and %d reads of the store", scripts*rounds, replicas[0].reads.Load(), replicas[1].reads.Load())
}

// useElsewhere makes an account, a user, a policy and a role at one replica, and uses each
// at the other at once.
func useElsewhere(t *testing.T, one, two *replica, n int) {
	t.Helper()
	lists := func(what string, key resttest.Key) {
		t.Helper()
		if status, text := request(t, two.serves, key, "appmesh", http.MethodGet, meshes, ""); status != http.StatusOK {
			t.Errorf("round %d, %s: %d %s", n, what, status, text)
		}
	}
	name := fmt.Sprintf("n%d", n)
	root, err := one.keys.AddAccount(t.Context(), fmt.Sprintf("4%011d", n))
	if err != nil {
		t.Fatal(err)
	}
	lists("a root", resttest.Key{ID: root.ID, Secret: string(root.Secret)})
	user := one.user(t, name, "")
	if status, text := request(t, two.serves, user, "appmesh", http.MethodGet, meshes, ""); status != http.StatusForbidden || !strings.HasPrefix(text, api.CodeAccessDenied) {
		t.Errorf("round %d, a user without policies: %d %s", n, status, text)
	}
	one.form(t, "iam", "PutUserPolicy", "UserName", name, "PolicyName", "p", "PolicyDocument", may)
	lists("a policy", user)
	lists("a role", one.role(t, user, name))
}

// Who is refused because of what it is stays so, however new the memory.
func TestARefusalIsNoAllowanceOnNewerMemory(t *testing.T) {
	t.Parallel()
	stores, dir := storetest.Replicas(t, 2), t.TempDir()
	one := newReplica(t, stores[0], dir, false)
	known := one.user(t, "ann", may)
	two := newReplica(t, stores[1], dir, true)
	fresh := one.user(t, "bob", mayNot)
	wrong := known
	wrong.Secret += "x"
	for _, c := range []struct {
		name  string
		key   resttest.Key
		code  string
		reads int64
	}{
		// Its key is here, and no key changes its secret.
		{"a wrong signature", wrong, api.CodeInvalidSignature, 0},
		{"an unknown key", resttest.Key{ID: "AKIANOBODY0000000000", Secret: "x"}, api.CodeUnrecognizedClient, 1},
		{"a key that is new, and denied", fresh, api.CodeAccessDenied, 1},
	} {
		before := two.reads.Load()
		status, text := request(t, two.serves, c.key, "appmesh", http.MethodGet, meshes, "")
		if status != http.StatusForbidden || !strings.HasPrefix(text, c.code+" ") || two.reads.Load()-before != c.reads {
			t.Errorf("%s: %d %s with %d reads, want %s with %d", c.name, status, text, two.reads.Load()-before, c.code, c.reads)
		}
	}
}
