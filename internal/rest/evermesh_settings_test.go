package rest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/internal/rest"
)

const settings = "/evermesh/v1/mesh-settings?meshName=apps"

func TestMeshSettings(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.do(t, "GET", settings, "").refused(t, 404, "NotFoundException", "Mesh with name apps is not present for account 111111111111")
	s.do(t, "PUT", settings, "{}").refused(t, 404, "NotFoundException", "Mesh with name apps is not present for account 111111111111")
	const spec = `{"spec":{"egressFilter":{"type":"ALLOW_ALL"}}`
	s.do(t, "PUT", meshes, spec+`,"meshName":"apps"}`).ok(t)
	s.as(t, accountB, "PUT", meshes, `{"meshName":"apps"}`).ok(t)
	before := string(s.do(t, "GET", meshes+"/apps", "").body)
	same := func(t *testing.T, account, want string) {
		t.Helper()
		if got := string(s.as(t, account, "GET", settings, "").body); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	const both = `{"defaultRetry":"OFF","quotas":"AWS"}`
	same(t, accountA, `{}`)
	s.do(t, "PUT", settings, both).ok(t)
	t.Run("are read back", func(t *testing.T) { same(t, accountA, both) })
	t.Run("are no part of the mesh's spec and version", func(t *testing.T) {
		if diff := cmp.Diff(before, string(s.do(t, "GET", meshes+"/apps", "").body)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("are of one owner's mesh", func(t *testing.T) { same(t, accountB, `{}`) })
	t.Run("of another account are not told and not set", func(t *testing.T) {
		for method, body := range map[string]string{"GET": "", "PUT": "{}"} {
			if a := s.as(t, accountB, method, settings+"&meshOwner="+accountA, body); a.status != 403 {
				t.Errorf("%s: got %d %s", method, a.status, a.body)
			}
		}
		same(t, accountA, both)
	})
	t.Run("that are not known are refused", func(t *testing.T) {
		for body, path := range map[string]string{
			`{"defaultRetry":"MAYBE"}`:                "defaultRetry",
			`{"quotas":7}`:                            "quotas",
			`{"defaultRetry":"ON","profile":"large"}`: "/profile",
			`{"meshName":"other"}`:                    "/meshName",
		} {
			a := s.do(t, "PUT", settings, body)
			if a.status != 400 || a.header.Get("X-Amzn-ErrorType") != "BadRequestException" || !strings.Contains(string(a.body), path) {
				t.Errorf("%s: got %d %s", body, a.status, a.body)
			}
		}
		same(t, accountA, both)
	})
	t.Run("outlive a change of the mesh and its tags", func(t *testing.T) {
		s.do(t, "PUT", meshes+"/apps", `{"spec":{}}`).ok(t)
		arn := at(s.do(t, "GET", meshes+"/apps", "").ok(t), "metadata", "arn")
		s.do(t, "PUT", "/v20190125/tag?resourceArn="+fmt.Sprint(arn), `{"tags":[{"key":"a","value":"b"}]}`).ok(t)
		same(t, accountA, both)
	})
	t.Run("that are absent are unset", func(t *testing.T) {
		s.do(t, "PUT", settings, `{"quotas":"NONE"}`).ok(t)
		same(t, accountA, `{"quotas":"NONE"}`)
	})
	t.Run("go with the mesh", func(t *testing.T) {
		s.do(t, "DELETE", meshes+"/apps", "").ok(t)
		s.mesh(t)
		same(t, accountA, `{}`)
	})
}

// QUOTA-008 in one mesh only, whatever the server has.
// Authorities that could not act are not taken (D11).
func TestSettingsNameAuthoritiesThatAct(t *testing.T) {
	t.Parallel()
	arn := func(n int) string {
		return fmt.Sprintf("arn:aws:acm-pca:us-east-1:%s:certificate-authority/00000000-0000-0000-0000-%012d", accountA, n)
	}
	status := map[string]string{arn(1): "ACTIVE", arn(2): "DISABLED", arn(3): "DELETED", arn(4): "PENDING_CERTIFICATE", arn(5): "EXPIRED"}
	s := serve(t, func(c *rest.Config) {
		c.Authority = func(_ context.Context, arn string) (string, error) {
			return status[arn], nil
		}
	})
	s.do(t, "PUT", meshes, `{"meshName":"apps"}`).ok(t)
	put := func(more string, list ...string) answer {
		t.Helper()
		return s.do(t, "PUT", settings, `{"identity":"STRICT","identityAuthorities":["`+strings.Join(list, `","`)+`"]`+more+`}`)
	}
	for _, list := range [][]string{{"built-in"}, {arn(1)}, {arn(1), arn(2), "built-in"}, {"built-in/2", arn(2)}} {
		put("", list...).ok(t)
	}
	for _, c := range []struct {
		list []string
		want string
	}{
		{[]string{"built-in", arn(9)}, "identityAuthorities[1]: certificate authority " + arn(9) + " does not exist."},
		{[]string{arn(2)}, "identityAuthorities[0]: certificate authority " + arn(2) + " is DISABLED: the first one issues the identities, and has to be ACTIVE."},
		{[]string{arn(1), arn(3)}, "identityAuthorities[1]: certificate authority " + arn(3) + " is DELETED: want one that is ACTIVE, or DISABLED to be trusted only."},
		{[]string{arn(1), arn(4)}, "is PENDING_CERTIFICATE: want one"},
		{[]string{arn(5), arn(1)}, "is EXPIRED: the first one issues"},
	} {
		if a := put("", c.list...); a.status != 400 || !strings.Contains(string(a.body), c.want) {
			t.Errorf("%q: got %d %s", c.list, a.status, a.body)
		}
	}
	// What ended since it was named does not keep other settings from being changed.
	status[arn(2)] = "DELETED"
	put(`,"quotas":"AWS"`, "built-in/2", arn(2)).ok(t)
}

func TestMeshSettingsSayTheQuotas(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		quotas mesh.Quotas // the server's
		set    string
		want   map[string]int // gateways that can be made, of 4
	}{
		"AWS in one mesh of a server without quotas":   {mesh.Quotas{}, "AWS", map[string]int{"apps": 3, "other": 4}},
		"NONE in one mesh of a server with App Mesh's": {mesh.AppMeshQuotas(), "NONE", map[string]int{"apps": 4, "other": 3}},
	} {
		t.Run("QUOTA-008 "+name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(r *rest.Config) { r.Quotas = c.quotas })
			s.mesh(t)
			s.do(t, "PUT", meshes, `{"meshName":"other"}`).ok(t)
			s.do(t, "PUT", settings, `{"quotas":"`+c.set+`"}`).ok(t)
			for in, want := range c.want {
				made := 0
				for i := range 4 {
					input := fmt.Sprintf(`{"meshName":%q,"virtualGatewayName":"g%d","spec":{"listeners":[]}}`, in, i)
					planned := first(t, s.do(t, "POST", "/evermesh/v1/plan", changed("virtualGateway", input, false)))
					a := s.do(t, "PUT", meshes+"/"+in+"/virtualGateways", fmt.Sprintf(`{"virtualGatewayName":"g%d","spec":{"listeners":[]}}`, i))
					if (planned["action"] == string(api.PlanActionCreate)) != (a.status == 200) {
						t.Errorf("the plan says %v, the API %d", planned["action"], a.status)
					}
					if a.status == 200 {
						made++
					}
				}
				if made != want {
					t.Errorf("%s: %d gateways were made, want %d", in, made, want)
				}
			}
		})
	}
}
