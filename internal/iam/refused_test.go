package iam_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
)

const (
	other     = "111122223333"
	identityP = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	trustP    = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"` + first + `"},"Action":"sts:AssumeRole"}]}`
)

// input makes a document with all members that an operation must have, about things of
// an account that are called name.
func input(t *testing.T, m *model.Model, operation, account, name string) map[string]any {
	t.Helper()
	out := map[string]any{}
	shape := m.Shapes[m.Operations[operation].Input.Shape]
	if shape == nil {
		return out
	}
	for member := range shape.Members {
		switch {
		case member == "PolicyArn" || member == "PermissionsBoundary":
			out[member] = "arn:aws:iam::" + account + ":policy/" + name
		case member == "PolicySourceArn":
			out[member] = "arn:aws:iam::" + account + ":user/" + name
		case member == "OpenIDConnectProviderArn":
			out[member] = "arn:aws:iam::" + account + ":oidc-provider/" + name + ".example.com"
		case member == "Url":
			out[member] = "https://" + name + ".example.com"
		case member == "AssumeRolePolicyDocument", member == "PolicyDocument" && operation == "UpdateAssumeRolePolicy":
			out[member] = trustP
		case member == "PolicyDocument":
			out[member] = identityP
		case member == "AWSServiceName":
			out[member] = "appmesh.amazonaws.com"
		case member == "DeletionTaskId":
			out[member] = "task/aws-service-role/appmesh.amazonaws.com/AWSServiceRoleForAppMesh/AROA-1"
		case member == "VersionId":
			out[member] = "v1"
		case member == "AccessKeyId":
			out[member] = "AKIAIOSFODNN7EXAMPLE"
		case member == "Status":
			out[member] = "Inactive"
		case member == "ActionNames":
			out[member] = []any{"appmesh:CreateMesh"}
		case member == "PolicyInputList":
			out[member] = []any{identityP}
		case member == "Tags":
			out[member] = []any{map[string]any{"Key": "k", "Value": "v"}}
		case member == "TagKeys":
			out[member] = []any{"k"}
		case strings.HasSuffix(member, "Name") && member != "NewUserName":
			out[member] = name
		case member == "ClientID" || member == "Description":
			out[member] = name
		case member == "ThumbprintList":
			out[member] = []any{strings.Repeat("0", 40)}
		}
	}
	return out
}

// ground is two accounts in which everything is called "it".
func ground(t *testing.T) (*iam.Keys, *service.Service, *store.Store) {
	t.Helper()
	s := storetest.New(t)
	k := open(t, replica(s, t.TempDir()))
	follow(t, k)
	if _, err := k.AddAccount(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	offered, err := iam.NewServer(k).Service()
	if err != nil {
		t.Fatal(err)
	}
	for _, account := range []string{first, other} {
		for _, operation := range []string{"CreateUser", "CreateGroup", "CreateRole", "CreatePolicy", "CreateInstanceProfile", "CreateOpenIDConnectProvider", "CreateServiceLinkedRole", "PutUserPolicy", "PutGroupPolicy", "PutRolePolicy", "AddUserToGroup"} {
			in := input(t, offered.Model, operation, account, "it")
			delete(in, "PermissionsBoundary")
			delete(in, "CustomSuffix")
			if operation != "CreatePolicy" && strings.HasPrefix(operation, "Create") {
				in["Path"] = "/deep/"
			}
			c := &service.Call{Service: offered, Operation: operation, Principal: iam.Root("aws", account), Input: in, Authorizer: k.Authorizer()}
			if _, err := offered.Operations[operation].Run(t.Context(), c); err != nil {
				t.Fatalf("%s in account %s: %v", operation, account, err)
			}
		}
	}
	return k, offered, s
}

// records is what an account holds, as text.
func records(t *testing.T, s *store.Store, account string) string {
	t.Helper()
	list, _, err := s.Records(t.Context(), "account/"+account+"/")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Whoever has no policy is refused every operation of the model, writes nothing, and
// cannot tell what exists from what does not.
func TestWithoutAPolicyEveryOperationIsRefused(t *testing.T) {
	t.Parallel()
	k, offered, s := ground(t)
	if _, err := call(t, offered, k, "CreateUser", map[string]any{"UserName": "eve"}); err != nil {
		t.Fatal(err)
	}
	id, _ := k.Current("arn:aws:iam::" + first + ":user/eve")
	eve := auth.Principal{Account: first, ARN: "arn:aws:iam::" + first + ":user/eve", Type: auth.User, ID: id}
	before := records(t, s, first)
	for _, operation := range slices.Sorted(maps.Keys(offered.Operations)) {
		ask := func(name string) string {
			t.Helper()
			c := &service.Call{Service: offered, Operation: operation, Principal: eve, Input: input(t, offered.Model, operation, first, name), Authorizer: k.Authorizer()}
			_, err := offered.Operations[operation].Run(context.Background(), c)
			if refusal, ok := errors.AsType[*api.Error](err); !ok || refusal.Code != api.CodeAccessDenied || c.Committed() {
				t.Errorf("%s of %s: got %v, want AccessDenied", operation, name, err)
				return ""
			}
			return strings.ReplaceAll(err.Error(), name, "it")
		}
		if there, not := ask("it"), ask("absent"); there != not {
			t.Errorf("%s tells what exists:\n%s\n%s", operation, there, not)
		}
	}
	if records(t, s, first) != before {
		t.Error("something was written")
	}
}

// Nobody reaches into another account: not the root, and not a user who may do
// everything, by ARN or by equal names.
func TestAccountsDoNotReachIntoEachOther(t *testing.T) {
	t.Parallel()
	k, offered, s := ground(t)
	if _, err := call(t, offered, k, "AttachUserPolicy", map[string]any{"UserName": "it", "PolicyArn": "arn:aws:iam::aws:policy/AdministratorAccess"}); err != nil {
		t.Fatal(err)
	}
	id, _ := k.Current("arn:aws:iam::" + first + ":user/it")
	user := auth.Principal{Account: first, ARN: "arn:aws:iam::" + first + ":user/it", Type: auth.User, ID: id}
	before := records(t, s, other)
	for _, p := range []auth.Principal{iam.Root("aws", first), user} {
		for _, operation := range slices.Sorted(maps.Keys(offered.Operations)) {
			if strings.HasPrefix(operation, "Delete") || operation == "UpdateUser" {
				continue // names are of the caller's own account; those by ARN follow
			}
			c := &service.Call{Service: offered, Operation: operation, Principal: p, Input: input(t, offered.Model, operation, other, "it"), Authorizer: k.Authorizer()}
			out, err := offered.Operations[operation].Run(context.Background(), c)
			text, encoding := json.Marshal(out)
			if encoding != nil {
				t.Fatal(encoding)
			}
			if err == nil && strings.Contains(string(text), other) && !strings.HasPrefix(operation, "Simulate") {
				t.Errorf("%s tells %s of the other account: %s", operation, p.ARN, text)
			}
		}
		for _, operation := range []string{"GetPolicy", "DeletePolicy", "GetPolicyVersion", "DeletePolicyVersion", "CreatePolicyVersion", "SetDefaultPolicyVersion", "ListPolicyVersions", "ListEntitiesForPolicy", "TagPolicy", "UntagPolicy", "ListPolicyTags", "DeleteOpenIDConnectProvider", "GetOpenIDConnectProvider", "AddClientIDToOpenIDConnectProvider", "SimulatePrincipalPolicy"} {
			c := &service.Call{Service: offered, Operation: operation, Principal: p, Input: input(t, offered.Model, operation, other, "it"), Authorizer: k.Authorizer()}
			_, err := offered.Operations[operation].Run(context.Background(), c)
			if refusal, ok := errors.AsType[*api.Error](err); !ok || refusal.Code != api.CodeAccessDenied {
				t.Errorf("%s by %s: got %v, want AccessDenied", operation, p.ARN, err)
			}
		}
	}
	if records(t, s, other) != before {
		t.Error("the other account changed")
	}
}
