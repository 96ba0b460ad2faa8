package wire

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

func named(t testing.TB, name string) *model.Model {
	t.Helper()
	m, err := model.Named(name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func encoded(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// CBOR is read in all forms that RFC 8949 has for what the protocol carries.
func TestReadCBOR(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, sent, want string }{
		{"nothing", "", `{}`},
		{"an empty map", "a0", `{}`},
		{"small and large numbers", "a461611761621818616319ffff61643b7fffffffffffffff", `{"a":23,"b":24,"c":65535,"d":-9223372036854775808}`},
		{"an open map, list and text", "bf61619f0102ff6162" + "7f62617862797aff" + "ff", `{"a":[1,2],"b":"axyz"}`},
		{"bytes", "a16161430001ff", `{"a":"AAH/"}`},
		{"open bytes", "a161615f41004201ffff", `{"a":"AAH/"}`},
		{"a time", "a16161c11a66900000", `{"a":1720713216}`},
		{"half numbers", "a46161f93c006162f9c4006163f900016164f97bff", `{"a":1,"b":-4,"c":0.00000005960464477539063,"d":65504}`},
		{"single and double", "a26161fa3fc000006162fb4004000000000000", `{"a":1.5,"b":2.5}`},
		{"true, false, null, undefined", "a46161f56162f46163f66164f7", `{"a":true,"b":false,"c":null,"d":null}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			body, err := hex.DecodeString(c.sent)
			if err != nil {
				t.Fatal(err)
			}
			got, err := readCBOR(nil, nil, body)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, encoded(t, got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	for _, c := range []struct{ name, sent, want string }{
		{"cut", "a16161", "ends too early"},
		{"cut within a head", "a1616119ff", "ends too early"},
		{"a list that claims too much", "9bffffffffffffffff", "ends too early"},
		{"a text that claims too much", "a17bffffffffffffffff", "ends too early"},
		{"no map", "01", "not a map"},
		{"two", "a0a0", "something follows"},
		{"a key twice", "a2616101616102", `key "a" stands twice`},
		{"a key of numbers", "a10102", "a key is not a text"},
		{"a text that is none", "a16161" + "61ff", "not UTF-8"},
		{"not a number", "a16161f97e00", "not finite"},
		{"infinite", "a16161fb7ff0000000000000", "not finite"},
		{"a break alone", "a16161ff", "does not allow"},
		{"a reserved head", "a161611c", "does not allow"},
		{"deep lists", "a16161" + strings.Repeat("81", 100_000), "too deeply"},
		{"deep tags", "a16161" + strings.Repeat("c1", 100_000), "too deeply"},
		{"text in open bytes", "a161615f6161ff", "does not allow"},
		{"too low", "a161613bffffffffffffffff", "too low"},
	} {
		t.Run(c.name, func(t *testing.T) {
			body, err := hex.DecodeString(c.sent)
			if err != nil {
				t.Fatal(err)
			}
			_, err = readCBOR(nil, nil, body)
			var refusal *api.Error
			if !errors.As(err, &refusal) || !strings.Contains(refusal.Message, c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// What is written as CBOR is read again as it was.
func FuzzCBOR(f *testing.F) {
	for _, seed := range []string{"a0", "a16161c11a66900000", "bf61619f0102ffff", "a161615f41004201ffff"} {
		body, err := hex.DecodeString(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	text := &model.Shape{Type: "string"}
	any := &model.Shape{Type: "map", Value: &model.Ref{Shape: "any"}, Member: &model.Ref{Shape: "any"}}
	m := &model.Model{Shapes: map[string]*model.Shape{"any": any, "text": text}}
	f.Fuzz(func(t *testing.T, body []byte) {
		doc, err := readCBOR(nil, nil, body)
		if err != nil {
			return
		}
		again, err := readCBOR(nil, nil, appendCBOR(nil, m, any, doc))
		if err != nil {
			t.Fatalf("%s: %v", encoded(t, doc), err)
		}
		if got, want := encoded(t, again), encoded(t, bare(doc)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// bare is a document as it is written: without members that are null, and numbers as
// the writer has them.
func bare(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, inner := range v {
			if inner != nil {
				out[k] = bare(inner)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, inner := range v {
			out[i] = bare(inner)
		}
		return out
	case json.Number:
		d := cborReader{rest: appendNumber(nil, &model.Shape{Type: "long"}, v)}
		n, _ := d.item(0)
		return n
	}
	return v
}

// Forms of any kind are read or refused, and what is read is of the model's types.
func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"Action=CreateUser&UserName=a&Tags.member.1.Key=k&Tags.member.1.Value=v", "Tags.member.2.Key=b&Tags.member.1.Key=a",
		"a.b.c=1&a.b=2", "%zz", "Tags=", "Tags.member.999999999999999999999.Key=a", strings.Repeat("a.", 200) + "=1",
	} {
		f.Add(seed)
	}
	m := named(f, "iam")
	f.Fuzz(func(t *testing.T, body string) {
		for _, op := range []string{"CreateUser", "SimulateCustomPolicy", "ListUsers"} {
			doc, err := readQuery(m, m.Operations[op], []byte(body))
			if err != nil {
				continue
			}
			m.Check(m.Operations[op].Input.Shape, doc)
			encoded(t, doc)
		}
	})
}

func TestReadQuery(t *testing.T) {
	t.Parallel()
	m := named(t, "iam")
	for _, c := range []struct{ name, op, form, want string }{
		{"a list in the order of its numbers", "CreateUser", "UserName=a&Tags.member.10.Key=j&Tags.member.2.Key=b&Tags.member.01.Key=no", `{"Tags":[{"Key":"b"},{"Key":"j"}],"UserName":"a"}`},
		{"an empty list", "CreateUser", "Tags=&UserName=a", `{"Tags":[],"UserName":"a"}`},
		{"numbers and truth", "ListPolicies", "OnlyAttached=true&MaxItems=7&Scope=All", `{"MaxItems":7,"OnlyAttached":true,"Scope":"All"}`},
		{"what is not known", "GetUser", "Action=GetUser&Version=2010-05-08&Strange.member.1=x", `{}`},
		{"an escaped value", "GetUser", "UserName=a%26b%20c%3D%E4", `{"UserName":"a\u0026b c=\ufffd"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readQuery(m, m.Operations[c.op], []byte(c.form))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, encoded(t, got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	for _, form := range []string{"UserName=a&UserName=b", "UserName=%zz", strings.Repeat("a.", 300) + "a=1"} {
		if _, err := readQuery(m, m.Operations["GetUser"], []byte(form)); err == nil {
			t.Errorf("%.40s was read", form)
		}
	}
}

// No document that a model allows keeps a secret when it is redacted, and all else of
// it stays.
func TestRedact(t *testing.T) {
	t.Parallel()
	const planted, plain = "planted-secret", "plain"
	for _, name := range []string{"iam", "sts", "eks", "eks-auth", "ram", "servicequotas", "cloudtrail", "servicediscovery", "acm", "acm-pca", "tagging"} {
		m := named(t, name)
		r := NewRedactor(m)
		var fill func(shape, member string, depth int) any
		fill = func(shape, member string, depth int) any {
			s := m.Shapes[shape]
			if depth > 8 {
				return nil
			}
			switch s.Type {
			case "structure":
				out := map[string]any{}
				for member, ref := range s.Members {
					out[member] = fill(ref.Shape, member, depth+1)
				}
				return out
			case "list":
				return []any{fill(s.Member.Shape, member, depth+1)}
			case "map":
				return map[string]any{"k": fill(s.Value.Shape, member, depth+1)}
			case "boolean":
				return true
			case "integer", "long", "double", "timestamp":
				return json.Number("1")
			}
			lower := strings.ToLower(member)
			if s.Sensitive || (strings.Contains(lower, "secret") || strings.Contains(lower, "password") || lower == "sessiontoken" || lower == "token" || lower == "tokencode" ||
				strings.Contains(lower, "privatekey") || strings.Contains(lower, "passphrase")) && s.Type != "boolean" {
				return planted
			}
			return plain
		}
		for op, o := range m.Operations {
			for _, shape := range []string{o.Input.Shape, o.Output.Shape} {
				if shape == "" {
					continue
				}
				doc := fill(shape, "", 0)
				before := encoded(t, doc)
				got := encoded(t, r.Redact(shape, doc))
				if strings.Contains(got, planted) {
					t.Errorf("%s %s keeps a secret: %s", name, op, got)
				}
				if strings.Count(got, plain) != strings.Count(before, plain) && !strings.Contains(before, planted) {
					t.Errorf("%s %s lost something", name, op)
				}
				if encoded(t, doc) != before {
					t.Errorf("%s %s: the document itself has changed", name, op)
				}
			}
		}
	}
}

// Records have names and times as CloudTrail's (AUDIT-002).
func TestRecordsAreCloudTrails_AUDIT_002(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ service, shape, doc, want string }{
		{"iam", "CreateUserRequest", `{"UserName":"ann","Path":"/x/","Tags":[{"Key":"Team","Value":"A"}]}`, `{"path":"/x/","tags":[{"key":"Team","value":"A"}],"userName":"ann"}`},
		{"iam", "CreateUserResponse", `{"User":{"UserName":"ann","CreateDate":1728566625.5}}`, `{"user":{"createDate":"Oct 10, 2024, 1:23:45 PM","userName":"ann"}}`},
		{"iam", "CreateOpenIDConnectProviderRequest", `{"Url":"https://a","ThumbprintList":["B"]}`, `{"thumbprintList":["B"],"url":"https://a"}`},
		{
			"sts", "AssumeRoleResponse", `{"Credentials":{"AccessKeyId":"ASIA","SecretAccessKey":"s","SessionToken":"t","Expiration":1728566625}}`,
			`{"credentials":{"accessKeyId":"ASIA","expiration":"Oct 10, 2024, 1:23:45 PM","secretAccessKey":"HIDDEN_DUE_TO_SECURITY_REASONS","sessionToken":"HIDDEN_DUE_TO_SECURITY_REASONS"}}`,
		},
		{"cloudtrail", "LookupEventsRequest", `{"StartTime":"2024-10-10T00:00:00Z","EndTime":"soon","MaxResults":5}`, `{"endTime":"soon","maxResults":5,"startTime":"Oct 10, 2024, 12:00:00 AM"}`},
		{"servicediscovery", "CreateServiceRequest", `{"Name":"Orders"}`, `{"name":"Orders"}`},
		{"servicediscovery", "RegisterInstanceRequest", `{"Attributes":{"AWS_INSTANCE_IPV4":"10.0.0.1","Color":"Blue"}}`, `{"attributes":{"AWS_INSTANCE_IPV4":"10.0.0.1","Color":"Blue"}}`},
		{"eks", "CreatePodIdentityAssociationRequest", `{"clusterName":"C","roleArn":"arn"}`, `{"clusterName":"C","roleArn":"arn"}`},
	} {
		doc, err := model.DecodeText([]byte(c.doc))
		if err != nil {
			t.Fatal(err)
		}
		if got := encoded(t, NewRedactor(named(t, c.service)).Redact(c.shape, doc)); got != c.want {
			t.Errorf("%s %s: got %s, want %s", c.service, c.shape, got, c.want)
		}
	}
}

// A document that is written for another place is read there as it was.
func TestBodiesAreReadAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ service, operation, protocol, doc string }{
		{"iam", "CreateRole", Query, `{"RoleName":"a b&c","Path":"/x/","MaxSessionDuration":3600,"Tags":[{"Key":"k","Value":"=1"},{"Key":"l","Value":""}]}`},
		{"iam", "TagUser", Query, `{"UserName":"ann","Tags":[]}`},
		{"cloudtrail", "LookupEvents", JSON, `{"StartTime":1700000000.5,"MaxResults":5}`},
		{"servicediscovery", "RegisterInstance", CBOR, `{"ServiceId":"srv-1","InstanceId":"i","Attributes":{"a":"b"}}`},
		{"acm-pca", "IssueCertificate", CBOR, `{"CertificateAuthorityArn":"arn","Csr":"eHg=","Validity":{"Type":"DAYS","Value":7}}`},
	} {
		m := named(t, c.service)
		want, err := model.DecodeText([]byte(c.doc))
		if err != nil {
			t.Fatal(err)
		}
		p, _ := Named(c.protocol)
		body := p.Body(m, m.Operations[c.operation], want.(map[string]any))
		got, err := p.Read(m, m.Operations[c.operation], body)
		if err != nil {
			t.Errorf("%s: %v", c.operation, err)
		}
		if diff := cmp.Diff(want, any(got)); diff != "" {
			t.Errorf("%s, -want +got:\n%s", c.operation, diff)
		}
	}
}
