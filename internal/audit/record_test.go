package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
)

// indented are the events that a record becomes, as they are written.
func indented(t *testing.T, event []byte) string {
	t.Helper()
	entries, err := segment.Lines(event)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, e := range entries {
		if err := json.Indent(&b, e.Body, "", "  "); err != nil {
			t.Fatalf("%v: %s", err, e.Body)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestACallIsAnEvent(t *testing.T) {
	t.Run("AUDIT-001 who, where from, when, what with, and the answer", func(t *testing.T) {
		r := call(0, "CreateMesh")
		r.Response = map[string]any{"mesh": map[string]any{"meshName": "m", "note": "a<b"}}
		want := `{
  "eventVersion": "1.08",
  "userIdentity": {
    "type": "Root",
    "principalId": "111111111111",
    "arn": "arn:aws:iam::111111111111:root",
    "accountId": "111111111111",
    "accessKeyId": "AKIAROOT111111111111"
  },
  "eventTime": "2026-01-02T03:04:05Z",
  "eventSource": "appmesh.amazonaws.com",
  "eventName": "CreateMesh",
  "awsRegion": "us-east-1",
  "sourceIPAddress": "192.0.2.7",
  "userAgent": "aws-cli/2.0",
  "requestParameters": {
    "meshName": "m"
  },
  "responseElements": {
    "mesh": {
      "meshName": "m",
      "note": "a<b"
    }
  },
  "requestID": "request-CreateMesh",
  "eventID": "id-1",
  "readOnly": false,
  "resources": [
    {
      "ARN": "arn:aws:appmesh:us-east-1:111111111111:mesh/m",
      "accountId": "111111111111",
      "type": "AWS::AppMesh::Mesh"
    }
  ],
  "eventType": "AwsApiCall",
  "managementEvent": true,
  "recipientAccountId": "111111111111",
  "eventCategory": "Management"
}
`
		if diff := cmp.Diff(want, indented(t, trail(nil).Event(r))); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("AUDIT-001 a refusal has its code and text, and no answer", func(t *testing.T) {
		r := call(0, "DescribeMesh")
		r.ReadOnly, r.Code, r.Message, r.Request = true, "NotFoundException", "There is no mesh m.", nil
		text := indented(t, trail(nil).Event(r))
		for _, want := range []string{`"errorCode": "NotFoundException",`, `"errorMessage": "There is no mesh m.",`, `"requestParameters": null,`, `"responseElements": null,`, `"readOnly": true,`} {
			if !strings.Contains(text, want) {
				t.Errorf("%s is not in %s", want, text)
			}
		}
	})
	t.Run("what is too large is left out", func(t *testing.T) {
		r := call(0, "CreateMesh")
		r.Request, r.UserAgent = map[string]any{"text": strings.Repeat("x", 200<<10)}, strings.Repeat("y", 5000)
		event := trail(nil).Event(r)
		if len(event) > 5000 || !bytes.Contains(event, []byte(`"requestParameters":{"omitted":`)) {
			t.Errorf("the event has %d bytes", len(event))
		}
	})
	t.Run("a call with a token alone is an event of the role's account", func(t *testing.T) {
		r := call(0, "AssumeRoleWithWebIdentity")
		r.Principal = auth.Principal{Session: &auth.Session{Provider: "issuer", Subject: "pod"}}
		r.Resources = []string{"arn:aws:iam::" + other + ":role/r"}
		entries, err := segment.Lines(trail(nil).Event(r))
		if err != nil || len(entries) != 1 || entries[0].Account != other || !bytes.Contains(entries[0].Body, []byte(`"userName":"pod"`)) {
			t.Errorf("events are %v, error %v", entries, err)
		}
	})
	t.Run("a call of nobody in no account has none", func(t *testing.T) {
		r := call(0, "AssumeRoleWithWebIdentity")
		r.Principal, r.Resources = auth.Principal{}, nil
		if event := trail(nil).Event(r); len(event) > 0 {
			t.Errorf("the event is %s", event)
		}
	})
}

func TestWhoItWas_AUDIT_002(t *testing.T) {
	issued := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	role := &auth.Session{Issuer: "arn:aws:iam::" + account + ":role/team/deploy", Issued: issued, MFA: true, SourceIdentity: "alice"}
	web := &auth.Session{Issuer: role.Issuer, Issued: issued, Provider: "arn:aws:iam::" + account + ":oidc-provider/issuer.example", Subject: "system:serviceaccount:a:b"}
	for name, c := range map[string]struct {
		p    auth.Principal
		want string
		user string
	}{
		"root": {root(account), `{"type":"Root","principalId":"111111111111","arn":"arn:aws:iam::111111111111:root","accountId":"111111111111","accessKeyId":"AKIAROOT111111111111"}`, "root"},
		"user": {
			auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":user/team/alice", Type: auth.User, ID: "AIDA1", AccessKeyID: "AKIA1"},
			`{"type":"IAMUser","principalId":"AIDA1","arn":"arn:aws:iam::111111111111:user/team/alice","accountId":"111111111111","accessKeyId":"AKIA1","userName":"alice"}`, "alice",
		},
		"a user's temporary credentials": {
			auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":user/alice", Type: auth.User, ID: "AIDA1", AccessKeyID: "ASIA1", Session: &auth.Session{Issued: issued}},
			`{"type":"IAMUser","principalId":"AIDA1","arn":"arn:aws:iam::111111111111:user/alice","accountId":"111111111111","accessKeyId":"ASIA1","userName":"alice","sessionContext":{"attributes":{"creationDate":"2026-01-02T03:00:00Z","mfaAuthenticated":"false"}}}`, "alice",
		},
		"role": {
			auth.Principal{Account: account, ARN: "arn:aws:sts::" + account + ":assumed-role/deploy/run-7", Type: auth.AssumedRole, ID: "AROA1:run-7", AccessKeyID: "ASIA2", Session: role},
			`{"type":"AssumedRole","principalId":"AROA1:run-7","arn":"arn:aws:sts::111111111111:assumed-role/deploy/run-7","accountId":"111111111111","accessKeyId":"ASIA2","sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROA1","arn":"arn:aws:iam::111111111111:role/team/deploy","accountId":"111111111111","userName":"deploy"},"attributes":{"creationDate":"2026-01-02T03:00:00Z","mfaAuthenticated":"true"},"sourceIdentity":"alice"}}`, "run-7",
		},
		"role of a service account": {
			auth.Principal{Account: account, ARN: "arn:aws:sts::" + account + ":assumed-role/deploy/pod", Type: auth.AssumedRole, ID: "AROA1:pod", AccessKeyID: "ASIA3", Session: web},
			`{"type":"AssumedRole","principalId":"AROA1:pod","arn":"arn:aws:sts::111111111111:assumed-role/deploy/pod","accountId":"111111111111","accessKeyId":"ASIA3","sessionContext":{"sessionIssuer":{"type":"Role","principalId":"AROA1","arn":"arn:aws:iam::111111111111:role/team/deploy","accountId":"111111111111","userName":"deploy"},"webIdFederationData":{"federatedProvider":"arn:aws:iam::111111111111:oidc-provider/issuer.example","attributes":{}},"attributes":{"creationDate":"2026-01-02T03:00:00Z","mfaAuthenticated":"false"}}}`, "pod",
		},
		"federated user": {
			auth.Principal{Account: account, ARN: "arn:aws:sts::" + account + ":federated-user/bob", Type: auth.FederatedUser, ID: account + ":bob", AccessKeyID: "ASIA4", Session: &auth.Session{Issuer: "arn:aws:iam::" + account + ":user/alice", Issued: issued}},
			`{"type":"FederatedUser","principalId":"111111111111:bob","arn":"arn:aws:sts::111111111111:federated-user/bob","accountId":"111111111111","accessKeyId":"ASIA4","sessionContext":{"sessionIssuer":{"type":"IAMUser","arn":"arn:aws:iam::111111111111:user/alice","accountId":"111111111111","userName":"alice"},"attributes":{"creationDate":"2026-01-02T03:00:00Z","mfaAuthenticated":"false"}}}`, "bob",
		},
		"another service": {auth.Principal{Account: account, ARN: "appmesh.amazonaws.com"}, `{"type":"AWSService","invokedBy":"appmesh.amazonaws.com"}`, "appmesh.amazonaws.com"},
		"web identity": {
			auth.Principal{Session: &auth.Session{Provider: "issuer.example", Subject: "sub"}},
			`{"type":"WebIdentityUser","principalId":"issuer.example:sub","userName":"sub","identityProvider":"issuer.example"}`, "sub",
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := opened(t, t.TempDir())
			r := call(0, "DescribeMesh")
			r.Principal = c.p
			if err := trail(l).Append(context.Background(), r); err != nil {
				t.Fatal(err)
			}
			found, err := l.Scan(context.Background(), segment.Query{Account: account, Limit: 1})
			if err != nil || len(found.Entries) != 1 {
				t.Fatalf("%d events, error %v", len(found.Entries), err)
			}
			var got struct {
				Identity json.RawMessage `json:"userIdentity"`
			}
			if err := json.Unmarshal(found.Entries[0].Body, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got.Identity)); diff != "" {
				t.Error(diff)
			}
			if user := audit.Username(t, found.Entries[0]); user != c.user {
				t.Errorf("lookups find it by the name %q, want %q", user, c.user)
			}
		})
	}
}

func TestAnotherAccountsResourceIsAnEventOfBoth(t *testing.T) {
	r := call(0, "CreateVirtualNode")
	r.Resources = append(r.Resources, "arn:aws:appmesh:"+region+":"+other+":mesh/shared/virtualNode/n", "arn:aws:appmesh:"+region+":"+other+":mesh/shared")
	entries, err := segment.Lines(trail(nil).Event(r))
	if err != nil || len(entries) != 2 {
		t.Fatalf("%d events, error %v", len(entries), err)
	}
	type event struct {
		Identity  map[string]string `json:"userIdentity"`
		ID        string            `json:"eventID"`
		Recipient string            `json:"recipientAccountId"`
		Shared    string            `json:"sharedEventID"`
		Resources []struct{ ARN, Type string }
	}
	got := make([]event, 2)
	for i, e := range entries {
		if err := json.Unmarshal(e.Body, &got[i]); err != nil {
			t.Fatal(err)
		}
		if e.Account != got[i].Recipient || e.ID != got[i].ID {
			t.Errorf("the entry of %s is kept as %s of %s", got[i].ID, e.ID, e.Account)
		}
	}
	if got[0].Recipient != account || got[1].Recipient != other || got[0].ID == got[1].ID || got[0].Shared == "" || got[0].Shared != got[1].Shared {
		t.Errorf("events are %+v", got)
	}
	if diff := cmp.Diff(map[string]string{"type": "AWSAccount", "principalId": account, "accountId": account}, got[1].Identity); diff != "" {
		t.Errorf("the owner is told: %s", diff)
	}
	if len(got[1].Resources) != 2 || got[1].Resources[0].Type != "AWS::AppMesh::VirtualNode" || len(got[0].Resources) != 3 {
		t.Errorf("resources are %+v and %+v", got[0].Resources, got[1].Resources)
	}
}

// Whatever a caller writes, the event is JSON and says it.
func TestAnyTextIsKept(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		text := func(of string) string { return rapid.StringN(0, 20, -1).Draw(r, of) }
		c := call(0, text("operation"))
		c.Principal.ARN, c.Principal.AccessKeyID, c.ID, c.UserAgent, c.Message, c.Code = text("arn"), text("key"), text("id"), text("agent"), text("message"), "Code"
		c.Request = map[string]any{text("member"): text("value")}
		c.Resources = []string{"arn:aws:appmesh:r:" + account + ":mesh/" + text("mesh")}
		entries, err := segment.Lines(trail(nil).Event(c))
		if err != nil || len(entries) != 1 {
			r.Fatalf("%d entries, error %v", len(entries), err)
		}
		var got struct {
			Identity  struct{ ARN, AccessKeyID string } `json:"userIdentity"`
			Name      string                            `json:"eventName"`
			ID        string                            `json:"requestID"`
			Agent     string                            `json:"userAgent"`
			Message   string                            `json:"errorMessage"`
			Request   map[string]any                    `json:"requestParameters"`
			Resources []struct{ ARN string }
		}
		if err := json.Unmarshal(entries[0].Body, &got); err != nil {
			r.Fatalf("%v: %s", err, entries[0].Body)
		}
		want := []any{c.Operation, c.Principal.ARN, c.Principal.AccessKeyID, c.ID, c.UserAgent, c.Message, c.Request, c.Resources[0]}
		if diff := cmp.Diff(want, []any{got.Name, got.Identity.ARN, got.Identity.AccessKeyID, got.ID, got.Agent, got.Message, got.Request, got.Resources[0].ARN}); diff != "" {
			r.Error(diff)
		}
	})
}

func TestTypesOfResources(t *testing.T) {
	for arn, want := range map[string]string{
		"arn:aws:appmesh:r:1:mesh/m":                                      "AWS::AppMesh::Mesh",
		"arn:aws:appmesh:r:1:mesh/m/virtualRouter/virtualNode/route/mesh": "AWS::AppMesh::Route",
		"arn:aws:appmesh:r:1:mesh/m/virtualGateway/g/gatewayRoute/r":      "AWS::AppMesh::GatewayRoute",
		"arn:aws:appmesh:r:1:mesh/m/virtualService/svc.local":             "AWS::AppMesh::VirtualService",
		"arn:aws:iam::1:role/user/x":                                      "AWS::IAM::Role",
		"arn:aws:iam::1:oidc-provider/issuer/x":                           "AWS::IAM::OIDCProvider",
		"arn:aws:acm-pca:r:1:certificate-authority/12":                    "AWS::ACMPCA::CertificateAuthority",
		"arn:aws:servicediscovery:r:1:service/srv-1":                      "AWS::ServiceDiscovery::Service",
		"arn:aws:other:r:1:thing/x":                                       "",
		"no arn":                                                          "",
	} {
		if got := audit.ResourceType(arn); got != want {
			t.Errorf("%s is %q, want %q", arn, got, want)
		}
	}
}

// The guide has this very event.
const sample = `{
  "eventVersion": "1.08",
  "userIdentity": {
    "type": "AssumedRole",
    "principalId": "AKIAIOSFODNN7EXAMPLE:d060be4ac3244e05aca4e067bfe241f8",
    "arn": "arn:aws:sts::123456789012:assumed-role/Application-TaskIamRole-C20GBLBRLBXE/d060be4ac3244e05aca4e067bfe241f8",
    "accountId": "123456789012",
    "accessKeyId": "AKIAIOSFODNN7EXAMPLE",
    "invokedBy": "appmesh.amazonaws.com"
  },
  "eventTime": "2021-06-09T23:09:46Z",
  "eventSource": "appmesh.amazonaws.com",
  "eventName": "StreamAggregatedResources",
  "awsRegion": "us-west-2",
  "sourceIPAddress": "appmesh.amazonaws.com",
  "userAgent": "appmesh.amazonaws.com",
  "eventID": "e3c6f4ce-EXAMPLE",
  "readOnly": false,
  "eventType": "AwsServiceEvent",
  "managementEvent": true,
  "recipientAccountId": "123456789012",
  "serviceEventDetails": {
    "connectionId": "e3c6f4ce-EXAMPLE",
    "nodeArn": "arn:aws:appmesh:us-west-2:123456789012:mesh/CloudTrail-Test/virtualNode/cloudtrail-test-vn",
    "eventStatus": "ConnectionEstablished",
    "failureReason": ""
  },
  "eventCategory": "Management"
}
`

// connection is that of the guide.
func connection() audit.Connection {
	const session = "d060be4ac3244e05aca4e067bfe241f8"
	return audit.Connection{
		ID: "e3c6f4ce-EXAMPLE", Node: "arn:aws:appmesh:us-west-2:123456789012:mesh/CloudTrail-Test/virtualNode/cloudtrail-test-vn",
		Principal: auth.Principal{
			Account: "123456789012", ARN: "arn:aws:sts::123456789012:assumed-role/Application-TaskIamRole-C20GBLBRLBXE/" + session,
			ID: "AKIAIOSFODNN7EXAMPLE:" + session, AccessKeyID: "AKIAIOSFODNN7EXAMPLE", Type: auth.AssumedRole, Session: &auth.Session{Issuer: "arn:aws:iam::123456789012:role/x"},
		},
		Status: audit.Established, At: time.Date(2021, 6, 9, 23, 9, 46, 0, time.UTC),
	}
}

func TestAConnectionIsAnEvent(t *testing.T) {
	events := func(t *testing.T, connections ...audit.Connection) (out []string, l *segment.Log) {
		l = opened(t, t.TempDir())
		k := trail(l)
		k.Region = "us-west-2"
		for _, c := range connections {
			k.Connection(c)
		}
		running(t, k.Run)()
		for p := (segment.Position{}); ; {
			entries, next, _, err := l.Next(p)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) == 0 {
				return out, l
			}
			for _, e := range entries {
				out = append(out, indented(t, e.Line()))
			}
			p = next
		}
	}
	t.Run("AUDIT-005 AUDIT-006 AUDIT-008 as in the guide", func(t *testing.T) {
		got, _ := events(t, connection())
		if diff := cmp.Diff([]string{sample}, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("AUDIT-007 AUDIT-008 its ends have the connection's id", func(t *testing.T) {
		for status, reason := range map[audit.Status]string{audit.Graceful: "", audit.Terminated: "Canceled: context canceled"} {
			end := connection()
			end.Status, end.Reason = status, reason
			want := strings.NewReplacer(
				`"eventID": "e3c6f4ce-EXAMPLE"`, `"eventID": "id-1"`,
				"ConnectionEstablished", string(status), `"failureReason": ""`, `"failureReason": "`+reason+`"`,
			).Replace(sample)
			got, _ := events(t, end)
			if diff := cmp.Diff([]string{want}, got); diff != "" {
				t.Error(diff)
			}
		}
	})
	t.Run("AUDIT-009 a refusal of somebody who is not known", func(t *testing.T) {
		c := connection()
		c.Principal, c.Node, c.Status, c.Reason = auth.Principal{}, "", audit.Terminated, "Unauthenticated: Missing Authentication Token"
		got, l := events(t, c)
		if len(got) != 1 || !strings.Contains(got[0], c.Reason) || !strings.Contains(got[0], `"type": "Unknown"`) || len(all(t, l, account)) != 1 {
			t.Errorf("events are %s", got)
		}
	})
	t.Run("of a guest, for the owner of the node too", func(t *testing.T) {
		c := connection()
		c.Node = strings.Replace(c.Node, "123456789012", other, 1)
		_, l := events(t, c)
		if len(all(t, l, other)) != 1 || len(all(t, l, "123456789012")) != 1 {
			t.Error("there is not one event for each")
		}
	})
}

var _ service.Auditor = (*audit.Trail)(nil)

// The input of a call, which is written by hand, is byte for byte what package json makes.
func TestDocumentsAreAsPackageJSONHasThem(t *testing.T) {
	for name, doc := range map[string]map[string]any{
		"texts":          {"b": "plain", "a": "a<b \"é\"\n\u2028", "": ""},
		"JSON":           {"spec": json.RawMessage(`{"a":["<b>",1.50]}`), "routeName": "r"},
		"JSON of lines":  {"spec": json.RawMessage("{\n  \"a\": 1\n}")},
		"JSON of nobody": {"spec": json.RawMessage(nil)},
		"others":         {"limit": json.Number("10"), "none": nil, "yes": true, "list": []any{"x", map[string]any{"k": "v"}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := call(0, "UpdateRoute")
			r.Request = doc
			var want bytes.Buffer
			enc := json.NewEncoder(&want)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(doc); err != nil {
				t.Fatal(err)
			}
			if event := trail(nil).Event(r); !bytes.Contains(event, []byte(`"requestParameters":`+strings.TrimSpace(want.String())+`,"responseElements"`)) {
				t.Errorf("the event is %s, want the input %s", event, &want)
			}
		})
	}
}
