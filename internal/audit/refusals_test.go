package audit_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/service"
)

// parted is a Trail whose logs are small.
func parted(t *testing.T) (k *audit.Trail, find *audit.Lookups) {
	t.Helper()
	dir := t.TempDir()
	var logs []*segment.Log
	for _, name := range []string{"", "refusals", "reads"} {
		l, err := segment.Open(segment.Config{Dir: filepath.Join(dir, name), MaxBytes: 64 << 10, MaxAge: 1e5 * time.Hour, Log: quiet(), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		logs = append(logs, l)
	}
	k = trail(logs[0])
	k.Refusals, k.Reads = logs[1], logs[2]
	return k.Init(), &audit.Lookups{Logs: logs, Logger: quiet(), Now: time.Now}
}

// Who may do nothing can be refused and read without end: that pushes no event of
// what was done out, and no refusal of others.
func TestWhoMayDoNothingPushesNothingOut(t *testing.T) {
	k, find := parted(t)
	ctx := context.Background()
	kept := func(at time.Duration, operation string, p auth.Principal, change func(*service.Record)) {
		t.Helper()
		r := call(at, operation)
		r.Principal = p
		if p.Account == other {
			r.Resources = nil
		}
		if change != nil {
			change(&r)
		}
		if err := k.Append(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(r *service.Record) { r.Code, r.Message = "AccessDeniedException", "no" }
	read := func(r *service.Record) { r.ReadOnly = true }
	mallory := auth.Principal{Account: other, ARN: "arn:aws:iam::" + other + ":user/mallory", ID: "AIDAMALLORY", Type: auth.User, AccessKeyID: "AKIAMALLORY"}

	k.Now = func() time.Time { return start.Add(4 * time.Second) }
	kept(0, "DeleteMesh", root(account), nil)
	kept(time.Second, "DescribeMesh", root(account), refused)
	kept(2*time.Second, "AssumeRole", root(account), read)
	stop := running(t, k.Run)
	k.Connection(connection())
	for i := range 3000 {
		kept(time.Duration(i)*time.Millisecond, "CreateMesh", mallory, func(r *service.Record) {
			refused(r)
			r.Request = map[string]any{"meshName": strings.Repeat("x", 10_000)}
		})
		if i < 300 { // of which each waits for the disk
			kept(time.Duration(i)*time.Millisecond, "GetCallerIdentity", mallory, read)
		}
		gone := connection()
		gone.Principal, gone.Refused, gone.Status, gone.Reason = mallory, true, audit.Terminated, "PermissionDenied: no"
		gone.Node = ""
		gone.At = start.Add(time.Duration(i) * time.Millisecond)
		k.Connection(gone)
	}
	stop() // what was counted is told at the end too

	names := map[string]int{}
	for _, l := range find.Logs {
		for _, of := range []string{account, other, connection().Principal.Account} {
			for _, e := range all(t, l, of) {
				name := fmt.Sprint(e["eventName"])
				if name == "RefusedCalls" {
					d := e["serviceEventDetails"].(map[string]any)
					if e["recipientAccountId"] != other || e["userIdentity"].(map[string]any)["arn"] != mallory.ARN || e["eventType"] != "AwsServiceEvent" ||
						d["refusedCalls"] != float64(6000-20) || d["since"] != "2026-01-02T03:04:05Z" || d["until"] != "2026-01-02T03:04:08Z" {
						t.Errorf("the sum is %v", e)
					}
				}
				names[of+" "+name]++
			}
		}
	}
	for name, want := range map[string]int{
		account + " DeleteMesh": 1, account + " DescribeMesh": 1, account + " AssumeRole": 1,
		other + " RefusedCalls": 1,
	} {
		if names[name] != want {
			t.Errorf("%s is there %d times, want %d: %v", name, names[name], want, names)
		}
	}
	if n := names[other+" CreateMesh"] + names[other+" StreamAggregatedResources"]; n != 20 {
		t.Errorf("%d refusals are kept whole", n)
	}
	if find.Logs[2].Stats().Surplus == 0 || names[other+" GetCallerIdentity"] == 0 {
		t.Error("reads pushed no reads out")
	}
	if k.Summed() != 6000-20 {
		t.Errorf("%d refusals were counted", k.Summed())
	}
}

// The next minute of a principal is another one.
func TestRefusalsAreWholeAgain(t *testing.T) {
	k, find := parted(t)
	now := start
	k.Now = func() time.Time { return now }
	for minute := range 3 {
		for i := range 25 {
			r := call(time.Duration(minute)*2*time.Minute+time.Duration(i)*time.Second, "CreateMesh")
			r.Code = "AccessDeniedException"
			if err := k.Append(context.Background(), r); err != nil {
				t.Fatal(err)
			}
		}
		now = now.Add(2 * time.Minute)
		k.SumUp(context.Background(), now.Add(-time.Minute))
	}
	names := map[any]int{}
	for _, e := range all(t, find.Logs[1], account) {
		names[e["eventName"]]++
	}
	if names["CreateMesh"] != 60 || names["RefusedCalls"] != 3 {
		t.Errorf("events are %v", names)
	}
}

// That most of a quota is used is an event that is found by the resource.
func TestAQuotaIsAnEvent(t *testing.T) {
	r := replicas(t, 1)[0]
	const node = "arn:aws:appmesh:us-east-1:" + account + ":mesh/m/virtualNode/n"
	if err := r.trail.Quota(t.Context(), audit.QuotaUsage{ARN: node, Code: "L-606A910B", Used: 4, Limit: 5, At: start}); err != nil {
		t.Fatal(err)
	}
	for _, attribute := range []map[string]any{
		{"AttributeKey": "EventName", "AttributeValue": "QuotaUsage"}, {"AttributeKey": "ResourceName", "AttributeValue": "n"},
	} {
		if got, _, err := r.lookup(t, account, map[string]any{"LookupAttributes": []any{attribute}}); err != nil || len(got) != 1 {
			t.Errorf("by %v there are %q, error %v", attribute, got, err)
		}
	}
	details := all(t, r.log, account)[0]["serviceEventDetails"].(map[string]any)
	if details["quotaCode"] != "L-606A910B" || details["resourceArn"] != node || details["used"] != 4.0 || details["limit"] != 5.0 {
		t.Errorf("details are %v", details)
	}
}
