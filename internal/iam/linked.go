package iam

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
)

// linkedPath is the path of service-linked roles.
const linkedPath = "/aws-service-role/"

// linkedService is a service that has a role in an account.
type linkedService struct{ principal, role, policy string }

// linkedServices are those that are offered here.
func linkedServices() []linkedService {
	return []linkedService{
		{"appmesh.amazonaws.com", "AWSServiceRoleForAppMesh", "AWSAppMeshServiceRolePolicy"},
		{"appmesh-preview.amazonaws.com", "AWSServiceRoleForAppMeshPreview", "AWSAppMeshPreviewServiceRolePolicy"},
	}
}

// newLinked makes the identity of a service-linked role.
func (d *desk) newLinked(s linkedService, description *string) (*identity, error) {
	id, err := newID(roleID)
	if err != nil {
		return nil, err
	}
	return &identity{
		Name: s.role, Path: linkedPath + s.principal + "/", ID: id, Created: d.stamp(), Service: s.principal, MaxSession: leastSession,
		Attached:    []string{d.arn(builtinAccount, "policy", linkedPath, s.policy)},
		Trust:       fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"%s"},"Action":"sts:AssumeRole"}]}`, s.principal),
		Description: description,
	}, nil
}

func (d *desk) createLinked(in *iamapi.CreateServiceLinkedRoleRequest) (*iamapi.CreateServiceLinkedRoleResponse, error) {
	var s linkedService
	for _, known := range linkedServices() {
		if known.principal == in.AWSSErviceName {
			s = known
		}
	}
	name := s.role
	if name == "" {
		name = "*"
	}
	keys := map[string][]string{"iam:awsservicename": {in.AWSSErviceName}}
	if err := d.allow(d.arn(d.account, string(roleKind), linkedPath+in.AWSSErviceName+"/", name), keys); err != nil {
		return nil, err
	}
	switch {
	case s.role == "":
		return nil, api.Errorf(iamapi.CodeInvalidInput, "Service role can not be created for service principal %s: it is not offered here.", in.AWSSErviceName)
	case in.CustomSuffix != "":
		return nil, api.Errorf(iamapi.CodeInvalidInput, "Custom suffix is not allowed for %s", in.AWSSErviceName)
	case d.Record(recordTail(d.account, string(roleKind), s.role)) != nil:
		return nil, api.Errorf(iamapi.CodeInvalidInput, "Service role name %s has been taken in this account, please try a different suffix.", s.role)
	}
	i, err := d.newLinked(s, in.Description)
	if err != nil {
		return nil, err
	}
	d.putIdentity(roleKind, i)
	r := d.role(i, true)
	return &iamapi.CreateServiceLinkedRoleResponse{Role: &r}, nil
}

// A deletion task is over when the call that began it returns: a role without a use is
// gone then. What became of the last ones is kept.

const (
	taskPrefix = "task" + linkedPath
	// tasksKept bounds the tasks of a role whose end is told.
	tasksKept = 50
)

// deletions are the deletion tasks of a service-linked role, the newest last.
type deletions struct {
	Role  string     `json:"role"`
	Tasks []deletion `json:"tasks"`
}

type deletion struct {
	ID     string `json:"id"`
	Failed bool   `json:"failed,omitempty"` // for what used the role
}

func deletionsType() store.Type {
	return store.Type{Name: deletionsRecord, Schema: 1, Members: []string{"role", "tasks"}}
}

// deleteLinked deletes a service-linked role that nothing uses. Where something does,
// the task that it returns has failed, and says by what.
func (d *desk) deleteLinked(in *iamapi.DeleteServiceLinkedRoleRequest) (*iamapi.DeleteServiceLinkedRoleResponse, error) {
	i, err := d.identity(roleKind, in.RoleName)
	if err != nil {
		return nil, err
	}
	if i.Service == "" {
		return nil, api.Errorf(iamapi.CodeInvalidInput, "Role %s is not a service-linked role.", i.Name)
	}
	meshes, err := d.meshes(d.ctx, d.account)
	if err != nil {
		return nil, err
	}
	try, err := newID("")
	if err != nil {
		return nil, err
	}
	if meshes == 0 {
		d.remove(identityType(roleKind), recordTail(d.account, string(roleKind), i.Name))
	}
	tail := recordTail(d.account, deletionsRecord, i.Name)
	kept, err := read[deletions](d, tail)
	if err != nil {
		return nil, err
	}
	if kept == nil {
		kept = &deletions{Role: i.Name}
	}
	id := taskPrefix + i.Service + "/" + i.Name + "/" + i.ID + "-" + try
	kept.Tasks = append(kept.Tasks[max(0, len(kept.Tasks)+1-tasksKept):], deletion{ID: id, Failed: meshes > 0})
	d.put(deletionsType(), tail, kept)
	return &iamapi.DeleteServiceLinkedRoleResponse{DeletionTaskID: id}, nil
}

func (s *Server) meshes(ctx context.Context, account string) (int, error) {
	if s.Meshes == nil {
		return 0, nil
	}
	return s.Meshes(ctx, account)
}

func (d *desk) deletionStatus(in *iamapi.GetServiceLinkedRoleDeletionStatusRequest) (*iamapi.GetServiceLinkedRoleDeletionStatusResponse, error) {
	if err := d.allow(d.arn(d.account, string(roleKind), linkedPath, "*")); err != nil {
		return nil, err
	}
	unknown := absent("The deletion task with id %s cannot be found.", in.DeletionTaskID)
	service, rest, _ := strings.Cut(strings.TrimPrefix(in.DeletionTaskID, taskPrefix), "/")
	role, _, ok := strings.Cut(rest, "/")
	if !ok {
		return nil, unknown
	}
	kept, err := read[deletions](d, recordTail(d.account, deletionsRecord, role))
	switch {
	case err != nil:
		return nil, err
	case kept == nil:
		return nil, unknown
	}
	at := slices.IndexFunc(kept.Tasks, func(t deletion) bool { return t.ID == in.DeletionTaskID })
	switch {
	case at < 0:
		return nil, unknown
	case !kept.Tasks[at].Failed:
		return &iamapi.GetServiceLinkedRoleDeletionStatusResponse{Status: iamapi.DeletionTaskStatusTypeSucceeded}, nil
	}
	reason := "The role is in use: delete all meshes of the account and what is in them first."
	return &iamapi.GetServiceLinkedRoleDeletionStatusResponse{
		Status: iamapi.DeletionTaskStatusTypeFailed,
		Reason: &iamapi.DeletionTaskFailureReasonType{Reason: &reason, RoleUsageList: []iamapi.RoleUsageType{{Resources: []string{service}}}},
	}, nil
}

// EnsureLinkedRole makes AWSServiceRoleForAppMesh where an account does not have it,
// for the first mesh of an account (IAM-028). A caller who may not is no error: the
// mesh is made all the same. What is made has an event of its own, as a call that App
// Mesh did for the principal; audit may be nil.
func (s *Server) EnsureLinkedRole(ctx context.Context, p auth.Principal, a auth.Authorizer, audit service.Auditor) error {
	if s.keys.directory.hasRole(p.Account, linkedServices()[0].role) {
		return nil
	}
	linked := linkedServices()[0]
	arn := s.arn(p.Account, string(roleKind), linkedPath+linked.principal+"/", linked.role)
	if a.Authorize(ctx, auth.Question{
		Principal: p, Action: "iam:CreateServiceLinkedRole", Resource: arn, Keys: map[string][]string{"iam:awsservicename": {linked.principal}, "aws:viaawsservice": {"true"}},
	}) != nil {
		return nil //nolint:nilerr // the refusal is the caller's to have, and stops nothing
	}
	_, err := s.store.Update(ctx, []store.Scope{store.AccountScope(p.Account)}, func(tx *store.Tx) error {
		d := &desk{Server: s, shelf: tx, ctx: ctx, account: p.Account, tx: tx}
		if d.Record(recordTail(p.Account, string(roleKind), linked.role)) != nil {
			return nil
		}
		i, err := d.newLinked(linked, nil)
		if err != nil {
			return err
		}
		d.putIdentity(roleKind, i)
		if audit == nil {
			return nil
		}
		id, err := newID("")
		if err != nil {
			return err
		}
		r := d.role(i, true)
		tx.Outbox(audit.Event(service.Record{
			ID: id, Source: "iam.amazonaws.com", Operation: "CreateServiceLinkedRole", Principal: p, At: s.now(),
			SourceIP: linked.principal, UserAgent: linked.principal, Resources: []string{arn},
			Request: map[string]any{"aWSServiceName": linked.principal}, // in CloudTrail's words
			Response: map[string]any{"role": map[string]any{
				"arn": r.ARN, "createDate": r.CreateDate.UTC().Format("Jan 2, 2006, 3:04:05 PM"), "path": r.Path, "roleId": r.RoleID, "roleName": r.RoleName,
			}},
		}))
		return nil
	})
	if err != nil {
		return fmt.Errorf("make role %s of account %s: %w", linked.role, p.Account, err)
	}
	return nil
}
