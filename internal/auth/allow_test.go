package auth_test

import (
	"testing"

	"github.com/evermesh/evermesh/internal/auth"
)

func TestAllow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, arn, want string }{
		{"a mesh of the own account", "arn:aws:appmesh:us-east-1:111122223333:mesh/apps", ""},
		{"no resource", "", ""},
		{"all resources", "*", ""},
		{
			"IAM-016 a mesh of another account", "arn:aws:appmesh:us-east-1:444455556666:mesh/apps",
			"User: arn:aws:iam::111122223333:root is not authorized to perform: appmesh:DeleteMesh on resource: arn:aws:appmesh:us-east-1:444455556666:mesh/apps",
		},
		{
			"what is no ARN", "111122223333",
			"User: arn:aws:iam::111122223333:root is not authorized to perform: appmesh:DeleteMesh on resource: 111122223333",
		},
		{
			"an ARN of no account", "arn:aws:appmesh:us-east-1::mesh/apps",
			"User: arn:aws:iam::111122223333:root is not authorized to perform: appmesh:DeleteMesh on resource: arn:aws:appmesh:us-east-1::mesh/apps",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := auth.Allow(root, "appmesh:DeleteMesh", c.arn)
			if c.want != "" {
				refused(t, err, 403, "ForbiddenException", c.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	if err := auth.Allow(auth.Principal{}, "appmesh:DeleteMesh", "arn:aws:appmesh:us-east-1:111122223333:mesh/apps"); err == nil {
		t.Error("a principal of no account was let in")
	}
}
