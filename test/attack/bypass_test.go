package attack

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// What a policy denies is asked for in other letters, escapes and forms of names and ARNs,
// of App Mesh and of the services around it.
func TestOtherWordsForWhatIsDenied(t *testing.T) {
	t.Parallel()
	p := target(t)
	const meshes = "/v20190125/meshes"
	arn := func(service, rest string) string { return "arn:aws:" + service + ":us-east-1:" + ours + ":" + rest }
	denied := func(t *testing.T, what string, a answer, besides ...string) {
		t.Helper()
		a.refused(t, what, append(besides, "AccessDenied", "AccessDeniedException", "ForbiddenException")...)
	}

	t.Run("IAM-005 names of meshes", func(t *testing.T) {
		t.Parallel()
		for _, name := range []string{"bypass", "Bypass", "bypass-open"} {
			p.mesh(t, p.root, "PUT", meshes, `{"meshName":"`+name+`"}`).ok(t)
		}
		p.mesh(t, p.root, "PUT", meshes+"/bypass/virtualNodes", `{"virtualNodeName":"secret","spec":{}}`).ok(t)
		kept := p.user(t, p.root, "bypass-kept", allow("*", "*"), deny("appmesh:* evermesh:*", arn("appmesh", "mesh/bypass")), deny("appmesh:* evermesh:*", arn("appmesh", "mesh/bypass/*")))
		only := p.user(t, p.root, "bypass-only", allow("appmesh:* evermesh:*", arn("appmesh", "mesh/bypass-open")), allow("appmesh:*", arn("appmesh", "mesh/bypass-open/*")))
		p.mesh(t, kept, "GET", meshes+"/Bypass", "").ok(t)
		p.mesh(t, only, "GET", meshes+"/bypass-open", "").ok(t)
		for _, path := range []string{
			"/bypass", "/%62ypass", "/%62%79%70%61%73%73", "/bypass?meshOwner=" + ours, "/bypass/virtualNodes/secret", "/bypass/virtualNodes/%73ecret", "/bypass/virtualNodes",
			"/./bypass", "//bypass", "/bypass/", "/bypass%2F", "/bypass-open/../bypass", "/bypass-open/%2e%2e/bypass", "/bypass-open%2F..%2Fbypass", "/bypass%00", "/bypass%20", "/bypas%C5%BF", "/bypass;x=y", "/bypass%3Fx", "/%2562ypass", "/BYPASS",
			"/bypass@" + ours, "/bypass%40" + ours, "/bypass%2FvirtualNodes%2Fsecret",
		} {
			denied(t, path, p.mesh(t, kept, "GET", meshes+path, ""), "BadRequestException", "NotFoundException", "UnknownOperationException")
		}
		for _, name := range []string{"*", "?ypass", "bypass-ope?", "bypass-open*", "bypass-*", "BYPASS-OPEN", "bypass", "bypass-open ", "bypass-ope\u006e\u0301", "${*}", "bypass-open/*"} {
			denied(t, name, p.mesh(t, only, "GET", meshes+"/"+url.PathEscape(name), ""), "BadRequestException", "NotFoundException")
		}
		for _, of := range []string{
			arn("appmesh", "mesh/bypass"), arn("appmesh", "mesh/bypass@"+ours), arn("appmesh", "mesh/bypass/virtualNode/secret"), arn("appmesh", "mesh/bypass@"+ours+"/virtualNode/secret"),
			"arn:aws-cn:appmesh:us-east-1:" + ours + ":mesh/bypass", "arn:aws:appmesh:eu-west-1:" + ours + ":mesh/bypass", "arn:aws:appmesh::" + ours + ":mesh/bypass", "arn:aws:appmesh:*:" + ours + ":mesh/bypass",
			"arn:aws:appmesh:us-east-1:" + theirs + ":mesh/bypass@" + ours, "arn:aws:appmesh:us-east-1:*:mesh/bypass", "ARN:aws:appmesh:us-east-1:" + ours + ":mesh/bypass", "arn:aws:appmesh-preview:us-east-1:" + ours + ":mesh/bypass",
			arn("appmesh", "mesh/bypass/virtualNode/secret/"), arn("appmesh", "mesh/x/../bypass"), arn("appmesh", "mesh%2Fbypass"), arn("appmesh", "mesh/bypas*"),
		} {
			q := url.QueryEscape(of)
			for what, a := range map[string]answer{
				"tags of " + of: p.mesh(t, kept, "GET", "/v20190125/tags?resourceArn="+q, ""),
				"tag " + of:     p.mesh(t, kept, "PUT", "/v20190125/tag?resourceArn="+q, `{"tags":[{"key":"a","value":"b"}]}`),
				"explain " + of: p.mesh(t, kept, "GET", "/evermesh/v1/explain?resourceArn="+q, ""),
			} {
				denied(t, what, a, "BadRequestException", "NotFoundException")
			}
			list, err := json.Marshal([]string{of})
			if err != nil {
				t.Fatal(err)
			}
			a := p.json(t, kept, "tagging", "ResourceGroupsTaggingAPI_20170126.TagResources", `{"ResourceARNList":`+string(list)+`,"Tags":{"a":"b"}}`)
			if a.status < 400 && strings.Contains(a.body, `"FailedResourcesMap":{}`) {
				t.Errorf("TagResources of %s: %s", of, a.body)
			}
		}
		if a := p.mesh(t, p.root, "GET", "/v20190125/tags?resourceArn="+url.QueryEscape(arn("appmesh", "mesh/bypass")), "").ok(t); strings.Contains(a.body, `"a"`) {
			t.Errorf("it was tagged: %s", a.body)
		}
	})

	t.Run("IAM-035 what a tag says is text in a policy, and no pattern", func(t *testing.T) {
		t.Parallel()
		p.mesh(t, p.root, "PUT", meshes, `{"meshName":"bypass-team"}`).ok(t)
		key := p.user(t, p.root, "bypass-team", allow("appmesh:DescribeMesh", arn("appmesh", "mesh/${aws:PrincipalTag/team}")), allow("sts:*", "*"))
		role := p.role(t, p.root, "bypass-team", policy(`{"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession"],"Principal":{"AWS":"arn:aws:iam::`+ours+`:user/bypass-team"}}`),
			allow("appmesh:DescribeMesh", arn("appmesh", "mesh/${aws:PrincipalTag/team}")))
		for value, lets := range map[string]bool{"*": false, "bypass-*": false, "bypass-tea?": false, "BYPASS-TEAM": false, "${*}": false, "$": false, "bypass-team": true} {
			a := p.query(t, p.root, "iam", "TagUser", "UserName", "bypass-team", "Tags.member.1.Key", "team", "Tags.member.1.Value", value)
			if a.status < 400 {
				if got := p.mesh(t, key, "GET", meshes+"/bypass-team", ""); (got.status < 400) != lets {
					t.Errorf("a user's tag %q: %d %s", value, got.status, got.body)
				}
			}
			if s := p.assume(t, key, role, "Tags.member.1.Key", "team", "Tags.member.1.Value", value); s.status < 400 {
				if got := p.mesh(t, keyIn(t, s), "GET", meshes+"/bypass-team", ""); (got.status < 400) != lets {
					t.Errorf("a session's tag %q: %d %s", value, got.status, got.body)
				}
			} else if lets {
				t.Errorf("no session: %s", s.body)
			}
		}
	})

	t.Run("IAM-001 names in IAM", func(t *testing.T) {
		t.Parallel()
		p.query(t, p.root, "iam", "CreateUser", "UserName", "bypass-Admin", "Path", "/secret/").ok(t)
		p.query(t, p.root, "iam", "CreateRole", "RoleName", "bypass-Role", "AssumeRolePolicyDocument", trust("sts:AssumeRole", `{"AWS":"`+ours+`"}`)).ok(t)
		key := p.user(t, p.root, "bypass-iam", allow("*", "*"), deny("iam:* sts:*", "arn:aws:iam::*:*/secret/*"), deny("iam:* sts:*", "arn:aws:iam::*:role/bypass-Role"))
		for _, name := range []string{"bypass-Admin", "bypass-admin", "BYPASS-ADMIN", "secret/bypass-Admin", "/secret/bypass-Admin", "bypass-Admin ", "bypass-Adm*", "bypass%2DAdmin"} {
			for _, action := range []string{"GetUser", "DeleteUser", "CreateAccessKey", "ListAccessKeys"} {
				denied(t, action+" of "+name, p.query(t, key, "iam", action, "UserName", name), "NoSuchEntity", "ValidationError")
			}
		}
		for _, name := range []string{"bypass-Role", "bypass-role", "BYPASS-ROLE"} {
			denied(t, "GetRole of "+name, p.query(t, key, "iam", "GetRole", "RoleName", name), "NoSuchEntity")
			denied(t, "UpdateAssumeRolePolicy of "+name, p.query(t, key, "iam", "UpdateAssumeRolePolicy", "RoleName", name, "PolicyDocument", trust("sts:AssumeRole", `"*"`)), "NoSuchEntity")
			denied(t, "AssumeRole of "+name, p.assume(t, key, "arn:aws:iam::"+ours+":role/"+name))
		}
		// Neither by renaming it, nor itself into the role of another.
		denied(t, "a new path", p.query(t, key, "iam", "UpdateUser", "UserName", "bypass-admin", "NewPath", "/"))
		for _, name := range []string{"*", "a*", "a?b", "a/b", "a:b", "${aws:username}", "ä", "", "."} {
			if a := p.query(t, p.root, "iam", "CreateUser", "UserName", name); a.status < 400 && name != "." {
				t.Errorf("a user is called %q", name)
			}
		}
	})

	t.Run("IAM-004 actions have no case, in the call and in the policy", func(t *testing.T) {
		t.Parallel()
		key := p.user(t, p.root, "bypass-actions", allow("*", "*"), deny("IAM:createuser ACM:LISTcertificates ServiceDiscovery:List?amespaces", "*"))
		for _, action := range []string{"CreateUser", "createuser", "CREATEUSER", "CreateUser ", "Create\u0055ser"} {
			a := p.query(t, key, "iam", action, "UserName", "bypass-made")
			denied(t, action, a, "InvalidAction", "ValidationError")
		}
		for _, target := range []string{"CertificateManager.ListCertificates", "CertificateManager.listcertificates", "certificatemanager.ListCertificates", "X.CertificateManager.ListCertificates"} {
			denied(t, target, p.json(t, key, "acm", target, `{}`), "UnknownOperationException", "InvalidAction")
		}
		denied(t, "ListNamespaces", p.json(t, key, "servicediscovery", "Route53AutoNaming_v20170314.ListNamespaces", `{}`))
		// A request that is signed for one service is for no other, whatever its target says.
		denied(t, "signed for another", p.json(t, key, "ram", "CertificateManager.ListCertificates", `{}`), "UnknownOperationException", "InvalidAction", "InvalidSignatureException")
		denied(t, "two actions", p.do(t, key, call{"iam", "POST", "/?Action=ListUsers", "Action=CreateUser&UserName=bypass-made&Version=2010-05-08", []string{"Content-Type", "application/x-www-form-urlencoded"}}), "InvalidAction", "ValidationError", "MalformedQueryString")
		denied(t, "an action twice", p.do(t, key, call{"iam", "POST", "/", "Action=ListUsers&Action=CreateUser&UserName=bypass-made&Version=2010-05-08", []string{"Content-Type", "application/x-www-form-urlencoded"}}), "InvalidAction", "ValidationError", "MalformedQueryString")
		if a := p.query(t, p.root, "iam", "GetUser", "UserName", "bypass-made"); a.status < 400 {
			t.Errorf("the user was made: %s", a.body)
		}
	})

	t.Run("IAM-005 ids and ARNs of Cloud Map and ACM", func(t *testing.T) {
		t.Parallel()
		const sd = "Route53AutoNaming_v20170314."
		p.json(t, p.root, "servicediscovery", sd+"CreateHttpNamespace", `{"Name":"bypass.secret"}`).ok(t)
		var namespaces struct {
			Namespaces []struct{ ID, ARN, Name string }
		}
		if err := json.Unmarshal([]byte(p.json(t, p.root, "servicediscovery", sd+"ListNamespaces", `{"MaxResults":100}`).ok(t).body), &namespaces); err != nil {
			t.Fatal(err)
		}
		var id, namespace string
		for _, n := range namespaces.Namespaces {
			if n.Name == "bypass.secret" {
				id, namespace = n.ID, n.ARN
			}
		}
		var made struct{ Service struct{ ID, ARN string } }
		if err := json.Unmarshal([]byte(p.json(t, p.root, "servicediscovery", sd+"CreateService", fmt.Sprintf(`{"Name":"s","NamespaceId":%q}`, id)).ok(t).body), &made); err != nil {
			t.Fatal(err)
		}
		p.json(t, p.root, "servicediscovery", sd+"RegisterInstance", fmt.Sprintf(`{"ServiceId":%q,"InstanceId":"i","Attributes":{"AWS_INSTANCE_IPV4":"10.9.9.9"}}`, made.Service.ID)).ok(t)
		key := p.user(t, p.root, "bypass-names", allow("*", "*"), deny("servicediscovery:*", namespace), deny("servicediscovery:*", made.Service.ARN),
			deny("servicediscovery:DiscoverInstances", "*", when("StringEquals", "servicediscovery:NamespaceName", "bypass.secret")))
		for _, form := range []string{id, strings.ToUpper(id), namespace, " " + id, id + "\\u0000", strings.Replace(namespace, "aws", "aws-cn", 1), strings.Replace(namespace, "us-east-1", "eu-west-1", 1), strings.Replace(namespace, ours, "", 1)} {
			denied(t, "GetNamespace "+form, p.json(t, key, "servicediscovery", sd+"GetNamespace", `{"Id":"`+form+`"}`), "NamespaceNotFound", "InvalidInput")
		}
		for _, form := range []string{made.Service.ID, strings.ToUpper(made.Service.ID), made.Service.ARN} {
			denied(t, "ListInstances "+form, p.json(t, key, "servicediscovery", sd+"ListInstances", `{"ServiceId":"`+form+`"}`), "ServiceNotFound", "InvalidInput")
		}
		// Names in DNS have no case: in a policy, they are the names that were given to it.
		p.json(t, p.root, "servicediscovery", sd+"CreatePrivateDnsNamespace", `{"Name":"bypass.dns","Vpc":"vpc-1"}`).ok(t)
		var dns string
		if err := json.Unmarshal([]byte(p.json(t, p.root, "servicediscovery", sd+"ListNamespaces", `{"MaxResults":100}`).ok(t).body), &namespaces); err != nil {
			t.Fatal(err)
		}
		for _, n := range namespaces.Namespaces {
			if n.Name == "bypass.dns" {
				dns = n.ID
			}
		}
		p.json(t, p.root, "servicediscovery", sd+"CreateService", fmt.Sprintf(`{"Name":"s","NamespaceId":%q,"DnsConfig":{"DnsRecords":[{"Type":"A","TTL":60}]}}`, dns)).ok(t)
		lower := p.user(t, p.root, "bypass-dns", allow("*", "*"), deny("servicediscovery:DiscoverInstances", "*", when("StringEquals", "servicediscovery:NamespaceName", "bypass.dns")))
		for _, name := range []string{"bypass.dns", "BYPASS.DNS", "Bypass.Dns"} {
			denied(t, "DiscoverInstances of "+name, p.json(t, lower, "servicediscovery", sd+"DiscoverInstances", `{"NamespaceName":"`+name+`","ServiceName":"S"}`))
			denied(t, "what there is in "+name, p.json(t, lower, "servicediscovery", sd+"DiscoverInstances", `{"NamespaceName":"`+name+`","ServiceName":"absent"}`))
		}
		for _, name := range []string{"bypass.secret", "BYPASS.SECRET", "bypass.secret.", "Bypass.Secret", "bypass.secret\\u0000", " bypass.secret"} {
			a := p.json(t, key, "servicediscovery", sd+"DiscoverInstances", `{"NamespaceName":"`+name+`","ServiceName":"s"}`)
			denied(t, "DiscoverInstances of "+name, a, "NamespaceNotFound", "InvalidInput")
			if strings.Contains(a.body, "10.9.9.9") {
				t.Errorf("%s is told: %s", name, a.body)
			}
		}
	})
}
