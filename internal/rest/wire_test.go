package rest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
)

// What is wrong below any operation.
func TestWire(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.mesh(t)
	slash := `The meshName "arn:aws:appmesh:us-east-1:1:mesh/apps" holds a slash: give the resource's name, not its ARN.`
	dots := func(path string) string {
		return fmt.Sprintf("The path %q has empty, '.' or '..' segments: a resource's name may not be one of these.", path)
	}
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		code, message            string
	}{
		{"API-045 an ARN as a name in the path", "GET", meshes + "/arn%3Aaws%3Aappmesh%3Aus-east-1%3A1%3Amesh%2Fapps", "", 400, "BadRequestException", slash},
		{"API-045 an ARN as a name in the body", "PUT", meshes, `{"meshName": "arn:aws:appmesh:us-east-1:1:mesh/apps"}`, 400, "BadRequestException", slash},
		{"API-045 an empty name", "PUT", meshes + "/apps/virtualServices", `{"virtualServiceName": "", "spec": {}}`, 400, "BadRequestException", "The virtualServiceName is empty: no path of the API could name the resource again."},
		{"API-045 a slash in a nested name", "DELETE", meshes + "/apps/virtualRouter/a%2fb/routes/r", "", 400, "BadRequestException", `The virtualRouterName "a/b" holds a slash: give the resource's name, not its ARN.`},
		{"a name of two dots", "GET", meshes + "/..", "", 400, "BadRequestException", dots("/v20190125/meshes/..")},
		{"a name of two dots, encoded", "GET", meshes + "/%2e%2e/virtualNodes", "", 400, "BadRequestException", `The meshName ".." cannot be used: '.' and '..' have another meaning in paths.`},
		{"a name of one dot in the body", "PUT", meshes, `{"meshName": "."}`, 400, "BadRequestException", `The meshName "." cannot be used: '.' and '..' have another meaning in paths.`},
		{"an empty name", "GET", meshes + "//virtualNodes", "", 400, "BadRequestException", dots("/v20190125/meshes//virtualNodes")},
		{"an empty last name", "GET", meshes + "/", "", 400, "BadRequestException", dots("/v20190125/meshes/")},
		{"a control character in a name", "GET", meshes + "/a%00b", "", 400, "BadRequestException", `The meshName "a\x00b" holds a control character.`},
		{"API-035 a name of 256 letters", "GET", meshes + "/" + strings.Repeat("a", 256), "", 400, "BadRequestException", "1 validation error detected: Value '" + strings.Repeat("a", 64) + "...' at 'meshName' failed to satisfy constraint: Member must have length less than or equal to 255"},
		{"API-039 an older version of the API", "GET", "/v20181001/meshes", "", 404, "UnknownOperationException", "No operation is reached by GET /v20181001/meshes. The API's version is 2019-01-25: paths begin with /v20190125/."},
		{"no path", "GET", "/", "", 404, "UnknownOperationException", "No operation is reached by GET /. The API's version is 2019-01-25: paths begin with /v20190125/."},
		{"API-003 a method that is not taken", "POST", meshes, `{}`, 405, "MethodNotAllowedException", "The path /v20190125/meshes does not take method POST."},
		{"no JSON", "PUT", meshes, `{"meshName": `, 400, "BadRequestException", "The request's body is not valid: it ends too early."},
		{"broken JSON", "PUT", meshes, `{"meshName" "a"}`, 400, "BadRequestException", "The request's body is not valid: invalid character '\"' after object key."},
		{"a list", "PUT", meshes, `[]`, 400, "BadRequestException", "The request's body is not valid: it is not a JSON object."},
		{"two objects", "PUT", meshes, `{"meshName": "a"} {}`, 400, "BadRequestException", "The request's body is not valid: something follows the JSON object."},
		{"a key twice", "PUT", meshes, `{"meshName": "a", "meshName": "b"}`, 400, "BadRequestException", "The request's body is not valid: key \"meshName\" stands twice in one object."},
		{"a key twice, deep", "PUT", meshes, `{"meshName": "a", "spec": {"x": [{"k": 1, "k": 1}]}}`, 400, "BadRequestException", "The request's body is not valid: key \"k\" stands twice in one object."},
		{"nested too deeply", "PUT", meshes, `{"x": ` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, 400, "BadRequestException", "The request's body is not valid: it is nested too deeply."},
		{"no body where one is needed", "PUT", meshes, "", 400, "BadRequestException", "1 validation error detected: Value at 'meshName' failed to satisfy constraint: Member must not be null"},
		{"a body over a mebibyte", "PUT", meshes, `{"meshName": "` + strings.Repeat("a", rest.MaxBody) + `"}`, 413, "RequestEntityTooLargeException", "The request's body is larger than 1048576 bytes."},
		{"a body far over a mebibyte", "PUT", meshes, strings.Repeat(" ", 4*rest.MaxBody), 413, "RequestEntityTooLargeException", "The request's body is larger than 1048576 bytes."},
		{"a query that is none", "GET", meshes + "?limit=%zz", "", 400, "BadRequestException", `The query string could not be read: invalid URL escape "%zz".`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s.do(t, c.method, c.path, c.body).refused(t, c.status, c.code, c.message)
		})
	}
	t.Run("another content type", func(t *testing.T) {
		t.Parallel()
		r, err := http.NewRequestWithContext(t.Context(), "PUT", s.URL+meshes, strings.NewReader("meshName=a"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set(headerAccount, accountA)
		s.send(t, r).refused(t, 415, "UnsupportedMediaTypeException", `The content type "application/x-www-form-urlencoded" is not understood: send application/json.`)
	})
	t.Run("API-035 the longest names", func(t *testing.T) {
		t.Parallel()
		long := strings.Repeat("aZ0-_", 51)
		s.do(t, "PUT", meshes, `{"meshName": "`+long+`"}`).ok(t)
		s.do(t, "PUT", meshes+"/"+long+"/virtualRouters", `{"virtualRouterName": "`+long+`", "spec": {}}`).ok(t)
		s.do(t, "GET", meshes+"/"+long+"/virtualRouters/"+long, "").ok(t)
	})
	t.Run("VS-007 a name that needs encoding in a path", func(t *testing.T) {
		t.Parallel()
		const name = "a b%2F+ü?#.Local"
		s.do(t, "PUT", meshes+"/apps/virtualServices", `{"virtualServiceName": "`+name+`", "spec": {}}`).ok(t)
		if got := s.do(t, "GET", meshes+"/apps/virtualServices/"+url.PathEscape(name), "").ok(t); got["virtualServiceName"] != name {
			t.Errorf("got %v", got)
		}
	})
	t.Run("names keep their case", func(t *testing.T) {
		t.Parallel()
		s.do(t, "PUT", meshes+"/apps/virtualServices", `{"virtualServiceName": "serviceB.apps.local", "spec": {}}`).ok(t)
		s.do(t, "GET", meshes+"/apps/virtualServices/serviceb.apps.local", "").refused(t, 404, "NotFoundException", "VirtualService with name serviceb.apps.local is not present under mesh apps for account 111111111111")
	})
}

func TestRate(t *testing.T) {
	t.Parallel()
	var seconds atomic.Int64
	s := serve(t, func(c *rest.Config) { c.Rate, c.Now = 1, func() time.Time { return time.Unix(seconds.Load(), 0) } })
	for range 2 {
		s.do(t, "GET", meshes, "").ok(t)
	}
	t.Run("API-033 too many requests of one key", func(t *testing.T) {
		s.do(t, "GET", meshes, "").refused(t, 429, "TooManyRequestsException", "Rate exceeded: this access key made more than 1 requests per second; try again, with back-off.")
	})
	t.Run("another key has its own", func(t *testing.T) {
		s.as(t, accountB, "GET", meshes, "").ok(t)
	})
	t.Run("a second later there is one more", func(t *testing.T) {
		seconds.Add(1)
		s.do(t, "GET", meshes, "").ok(t)
		if a := s.do(t, "GET", meshes, ""); a.status != 429 {
			t.Errorf("got %d %s", a.status, a.body)
		}
	})
}

// Sessions can be made without end: all of a user or role count as one caller.
func TestRateOfSessions(t *testing.T) {
	t.Parallel()
	var made atomic.Int64
	s := serve(t, func(c *rest.Config) {
		c.Rate, c.Now = 1, func() time.Time { return time.Unix(0, 0) }
		c.Verify = func(_ context.Context, r auth.Request) (auth.Principal, error) {
			return auth.Principal{
				Account: accountA, ARN: "arn:aws:sts::" + accountA + ":assumed-role/r/s", Type: auth.AssumedRole, AccessKeyID: fmt.Sprintf("ASIA%d", made.Add(1)),
				Session: &auth.Session{Issuer: "arn:aws:iam::" + accountA + ":role/r", IssuerID: r.Header.Get(headerAccount)},
			}, nil
		}
	})
	for range 2 {
		s.do(t, "GET", meshes, "").ok(t)
	}
	s.do(t, "GET", meshes, "").refused(t, 429, "TooManyRequestsException", "Rate exceeded: the sessions of this user or role together made more than 1 requests per second; try again, with back-off.")
	s.as(t, accountB, "GET", meshes, "").ok(t) // another role
}

// Every error of the model has its status; what is no api.Error says nothing of
// its cause but to the log.
func TestErrors(t *testing.T) {
	t.Parallel()
	s := serve(t, func(c *rest.Config) {
		c.Verify = func(_ context.Context, r auth.Request) (auth.Principal, error) {
			code := r.Header.Get(headerAccount)
			if code == "fault" {
				return auth.Principal{}, errors.New("dial etcd: no route to 10.0.0.1")
			}
			return auth.Principal{}, fmt.Errorf("verify: %w", api.Errorf(code, "why"))
		}
	})
	for code, status := range map[string]int{
		"BadRequestException": 400, "LimitExceededException": 400, "TooManyTagsException": 400, "ForbiddenException": 403, "NotFoundException": 404,
		"ConflictException": 409, "ResourceInUseException": 409, "TooManyRequestsException": 429, "InternalServerErrorException": 500, "ServiceUnavailableException": 503,
		"MissingAuthenticationTokenException": 403, "IncompleteSignatureException": 400, "UnrecognizedClientException": 403, "InvalidSignatureException": 403, "ExpiredTokenException": 403, "AccessDeniedException": 403,
	} {
		t.Run("API-033 "+code, func(t *testing.T) {
			t.Parallel()
			s.as(t, code, "GET", meshes, "").refused(t, status, code, "why")
		})
	}
	t.Run("API-033 a fault of the program's own", func(t *testing.T) {
		t.Parallel()
		a := s.as(t, "fault", "GET", meshes, "")
		id := a.header.Get("X-Amzn-Requestid")
		a.refused(t, 500, "InternalServerErrorException", "Evermesh could not answer because of a fault of its own. Its log tells more under request id "+id+".")
		if log := s.log.String(); !strings.Contains(log, id) || !strings.Contains(log, "no route to 10.0.0.1") {
			t.Errorf("logged %s", log)
		}
	})
}

// keys are the access keys of two accounts.
type keys map[string]auth.Credential

func (k keys) Credential(_ context.Context, id, _ string) (auth.Credential, bool, error) {
	c, found := k[id]
	return c, found, nil
}

// Signatures are verified on the request as it came, before the path is read.
func TestSignatures(t *testing.T) {
	t.Parallel()
	directory := keys{
		"AKIAA": {Secret: "a", Principal: auth.Principal{Account: accountA, ARN: "arn:aws:iam::" + accountA + ":root"}},
		"AKIAB": {Secret: "b", Principal: auth.Principal{Account: accountB, ARN: "arn:aws:iam::" + accountB + ":root"}},
	}
	s := serve(t, func(c *rest.Config) {
		c.Verify = auth.NewVerifier(directory, "us-east-1", []string{"appmesh"}, time.Now).Verify
	})
	signed := func(t *testing.T, id, secret, region, method, path, body string) answer {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		sum := "UNSIGNED-PAYLOAD"
		r.Header.Set("X-Amz-Content-Sha256", sum)
		if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}, r, sum, "appmesh", region, time.Now()); err != nil {
			t.Fatal(err)
		}
		return s.send(t, r)
	}
	t.Run("API-004 API-042 the account follows from the key", func(t *testing.T) {
		t.Parallel()
		for id, account := range map[string]string{"AKIAA": accountA, "AKIAB": accountB} {
			got := signed(t, id, strings.ToLower(id[4:]), "us-east-1", "PUT", meshes, `{"meshName": "apps"}`).ok(t)
			if at(got, "metadata", "meshOwner") != account {
				t.Errorf("%s made %v", id, got)
			}
		}
	})
	t.Run("API-042 another region is refused", func(t *testing.T) {
		t.Parallel()
		signed(t, "AKIAA", "a", "eu-west-1", "GET", meshes, "").refused(t, 403, "InvalidSignatureException", "Credential should be scoped to a valid region, not 'eu-west-1'.")
	})
	t.Run("API-004 no signature", func(t *testing.T) {
		t.Parallel()
		s.do(t, "GET", meshes, "").refused(t, 403, "MissingAuthenticationTokenException", "Missing Authentication Token")
	})
	t.Run("API-004 an unknown key", func(t *testing.T) {
		t.Parallel()
		signed(t, "AKIAC", "c", "us-east-1", "GET", meshes, "").refused(t, 403, "UnrecognizedClientException", "The security token included in the request is invalid.")
	})
	t.Run("API-004 a wrong secret", func(t *testing.T) {
		t.Parallel()
		if a := signed(t, "AKIAA", "b", "us-east-1", "GET", meshes, ""); a.status != 403 || a.header.Get("X-Amzn-Errortype") != "InvalidSignatureException" {
			t.Errorf("got %d %s", a.status, a.body)
		}
	})
	t.Run("API-045 a slash in a signed path", func(t *testing.T) {
		t.Parallel()
		signed(t, "AKIAA", "a", "us-east-1", "GET", meshes+"/a%2Fb", "").refused(t, 400, "BadRequestException", `The meshName "a/b" holds a slash: give the resource's name, not its ARN.`)
	})
	t.Run("strangers learn nothing of paths", func(t *testing.T) {
		t.Parallel()
		s.do(t, "GET", "/nothing", "").refused(t, 403, "MissingAuthenticationTokenException", "Missing Authentication Token")
	})
}
