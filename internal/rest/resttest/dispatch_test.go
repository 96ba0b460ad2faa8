package resttest_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/service"
)

// raw sends a request as no client of AWS would, signed for a service (or not at all),
// and returns status and body.
func raw(t testing.TB, s *resttest.Server, signedFor, method, path string, header map[string]string, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	r.Host = header["Host"] // empty: the server's
	if signedFor != "" {
		sum := sha256.Sum256([]byte(body))
		root := resttest.Root(resttest.AccountA)
		if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: root.ID, SecretAccessKey: root.Secret}, r, hex.EncodeToString(sum[:]), signedFor, resttest.Region, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if auth := header["Authorization"]; auth != "" {
		r.Header.Set("Authorization", auth)
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("X-Amzn-Errortype"), " ", string(text))
}

// What a request is signed for is what it reaches; what cannot be read, or is not
// signed, is refused in the protocol that it came in.
func TestDispatch(t *testing.T) {
	t.Parallel()
	ran := make(chan string, 100)
	one := func(model, prefix string) *service.Service {
		s := play(t, model, prefix, nil)
		for name, op := range s.Operations {
			op.Run = func(context.Context, *service.Call) (any, error) {
				ran <- model + " " + name
				return map[string]any{}, nil
			}
			s.Operations[name] = op
		}
		return s
	}
	s := resttest.Serve(t, resttest.Options{Services: []*service.Service{
		one("iam", "iam"), one("sts", "sts"), one("acm", "acm"), one("cloudtrail", "cloudtrail"), one("ram", "ram"), one("servicediscovery", "servicediscovery"),
	}})
	form := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
	target := func(name string) map[string]string {
		return map[string]string{"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": name}
	}
	cbor := map[string]string{"Content-Type": "application/cbor", "Smithy-Protocol": "rpc-v2-cbor"}
	const users, web = "Action=ListUsers&Version=2010-05-08", "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleSessionName=ab&WebIdentityToken=abcd&RoleArn=arn:aws:iam::111111111111:role/x"
	const acm, trail, map_ = "CertificateManager.ListCertificates", "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents", "/service/Route53AutoNaming_v20170314/operation/ListServices"
	for _, c := range []struct {
		name, signed, method, path string
		header                     map[string]string
		body                       string
		runs, want                 string // the operation that runs, or what the refusal has
	}{
		{"query", "iam", "POST", "/", form, users, "iam ListUsers", ""},
		{"an operation of another service", "sts", "POST", "/", form, users, "", "<Code>InvalidAction</Code>"},
		{"another version", "iam", "POST", "/", form, "Action=ListUsers&Version=2011-06-15", "", "<Code>InvalidAction</Code>"},
		{"no action", "iam", "POST", "/", form, "", "", "<Code>InvalidAction</Code>"},
		{"a form that is none", "iam", "POST", "/", form, "Action=%zz", "", "400  <ErrorResponse"},
		{"a parameter twice", "iam", "POST", "/", form, users + "&PathPrefix=/&PathPrefix=/a/", "", "<Code>InvalidAction</Code>"},
		{"query without signature", "", "POST", "/", form, users, "", "403  <ErrorResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\"><Error><Type>Sender</Type><Code>MissingAuthenticationToken</Code>"},
		{"what anybody may call", "", "POST", "/", form, web, "sts AssumeRoleWithWebIdentity", ""},
		{"what anybody may call, signed", "sts", "POST", "/", form, web, "sts AssumeRoleWithWebIdentity", ""},
		{
			"what anybody may call, with a signature that does not hold", "", "POST", "/",
			map[string]string{"Content-Type": form["Content-Type"], "Authorization": "AWS4-HMAC-SHA256 Credential=AKIAROOT111111111111/20260301/us-east-1/sts/aws4_request, SignedHeaders=host, Signature=00"},
			web, "", "<Code>IncompleteSignature</Code>",
		},
		{
			"a credential within another parameter", "", "POST", "/",
			map[string]string{"Content-Type": form["Content-Type"], "Authorization": "AWS4-HMAC-SHA256 X=Credential=A/20260301/us-east-1/acm/aws4_request, Credential=AKIAROOT111111111111/20260301/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=00"},
			users, "", "<ErrorResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\">",
		},
		{"an escaped credential", "", "POST", "/?X-Amz-Cr%65dential=AKIAROOT111111111111/20260301/us-east-1/acm/aws4_request", form, users, "", `400  {"__type":"IncompleteSignatureException"`},
		{"a target", "acm", "POST", "/", target(acm), "{}", "acm ListCertificates", ""},
		{"a target with dots", "cloudtrail", "POST", "/", target(trail), "{}", "cloudtrail LookupEvents", ""},
		{"a target of another service", "cloudtrail", "POST", "/", target(acm), "{}", "", `404  {"__type":"UnknownOperationException"`},
		{"no target", "acm", "POST", "/", map[string]string{"Content-Type": "application/x-amz-json-1.1"}, "{}", "", `404  {"__type":"UnknownOperationException"`},
		{"a target without signature", "", "POST", "/", target(acm), "{}", "", `400  {"__type":"MissingAuthenticationTokenException"`},
		{"broken JSON", "acm", "POST", "/", target(acm), `{"a":`, "", `400  {"__type":"SerializationException"`},
		{"no object", "acm", "POST", "/", target(acm), `[]`, "", `400  {"__type":"SerializationException"`},
		{"a wrong type", "acm", "POST", "/", target(acm), `{"MaxItems":"1"}`, "", `400  {"__type":"ValidationException","message":"1 validation error detected: Value at 'maxItems'`},
		{"CBOR", "servicediscovery", "POST", map_, cbor, "\xa0", "servicediscovery ListServices", ""},
		{"CBOR for another service", "servicediscovery", "POST", "/service/Other/operation/ListServices", cbor, "\xa0", "", "UnknownOperationException"},
		{"broken CBOR", "servicediscovery", "POST", map_, cbor, "\xa1", "", "SerializationException"},
		{"CBOR where it is not spoken", "acm", "POST", "/service/CertificateManager/operation/ListCertificates", cbor, "\xa0", "", "404"},
		{"JSON where CBOR is spoken too", "servicediscovery", "POST", "/", target("Route53AutoNaming_v20170314.ListServices"), "{}", "servicediscovery ListServices", ""},
		{"rest-json", "ram", "POST", "/listresources", map[string]string{"Content-Type": "application/json"}, `{"resourceOwner":"SELF"}`, "ram ListResources", ""},
		{"a path of another service", "ram", "GET", "/v20190125/meshes", nil, "", "", "404 UnknownOperationException"},
		{"a path with a wrong signature", "appmesh", "POST", "/listresources", nil, `{"resourceOwner":"SELF"}`, "", "404 UnknownOperationException"},
		{"a service that is not there, by a path", "route53", "GET", "/2013-04-01/hostedzone", nil, "", "", "403 InvalidSignatureException"},
		{"a service that is not there, by a form", "sns", "POST", "/", form, "Action=ListTopics", "", "403  <ErrorResponse xmlns=\"\"><Error><Type>Sender</Type><Code>SignatureDoesNotMatch</Code>"},
		{"a service that is not there, by a target", "dynamodb", "POST", "/", target("DynamoDB_20120810.ListTables"), "{}", "", `400  {"__type":"InvalidSignatureException","message":"Credential should be scoped`},
		{"a service that is not there, in CBOR", "logs", "POST", "/service/Logs/operation/List", cbor, "\xa0", "", "InvalidSignatureException"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := raw(t, s, c.signed, c.method, c.path, c.header, c.body)
			select {
			case op := <-ran:
				if op != c.runs {
					t.Errorf("ran %s", op)
				}
			default:
				if c.runs != "" {
					t.Errorf("nothing ran: %s", got)
				}
			}
			if c.runs == "" && !strings.Contains(got, c.want) || c.runs != "" && !strings.HasPrefix(got, "200 ") {
				t.Errorf("got %s\nwant %s", got, c.want)
			}
		})
	}
	t.Run("a host with the prefix of Cloud Map's data", func(t *testing.T) {
		header := map[string]string{"Content-Type": "application/cbor", "Smithy-Protocol": "rpc-v2-cbor", "Host": "data-evermesh.example.com"}
		got := raw(t, s, "servicediscovery", "POST", "/service/Route53AutoNaming_v20170314/operation/DiscoverInstances", header, "\xa2\x6dNamespaceName\x61n\x6bServiceName\x61s")
		if !strings.HasPrefix(got, "200 ") {
			t.Errorf("got %s", got)
		} else if op := <-ran; op != "servicediscovery DiscoverInstances" {
			t.Errorf("ran %s", op)
		}
	})
	t.Run("a presigned URL", func(t *testing.T) {
		out := s.Python(t, resttest.Root(resttest.AccountA), `
import urllib.request
for method in ["GET", "POST"]:
    url = client("sts").generate_presigned_url("get_caller_identity", HttpMethod=method)
    print(urllib.request.urlopen(urllib.request.Request(url, method=method)).status)
`)
		if first, second := <-ran, <-ran; out != "200\n200" || first != "sts GetCallerIdentity" || second != first {
			t.Errorf("got %s, ran %s, %s", out, first, second)
		}
	})
}
