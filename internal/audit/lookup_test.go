package audit_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/audit"
	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/rest"
	"github.com/evermesh/evermesh/internal/rest/resttest"
	"github.com/evermesh/evermesh/internal/seal"
	"github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/internal/store/storetest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// replica is one of a control plane, as far as events go.
type replica struct {
	store   *store.Store
	log     *segment.Log
	trail   *audit.Trail
	mover   *audit.Mover
	lookups *audit.Lookups
	said    *testenv.Output
	peer    *httptest.Server
}

// replicas are several on one store, with one master key.
func replicas(t testing.TB, n int) []*replica {
	t.Helper()
	var out []*replica
	key := filepath.Join(t.TempDir(), "master-key")
	for i, s := range storetest.Replicas(t, n) {
		r := &replica{store: s, log: opened(t, t.TempDir()), said: &testenv.Output{}}
		box, err := seal.Open(seal.Config{Store: s, MasterKeyFile: key, CreateMasterKey: i == 0, Log: quiet(), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if err := box.LoadText(context.Background()); err != nil {
			t.Fatal(err)
		}
		r.trail = trail(r.log)
		r.trail.NewID = uuid.NewString
		r.mover = &audit.Mover{Store: s, Log: r.log, Logger: quiet(), Now: time.Now}
		r.lookups = &audit.Lookups{Logs: []*segment.Log{r.log}, Store: s, Logger: lines(r.said), Now: time.Now}
		r.peer = httptest.NewServer(r.lookups.Before(http.NotFoundHandler()))
		client := &http.Client{Transport: &http.Transport{}}
		t.Cleanup(func() {
			r.peer.Close()
			client.CloseIdleConnections()
		})
		r.lookups.Peers = &audit.Peers{
			Store: s, Replica: fmt.Sprint("r", i), URL: r.peer.URL, Sealer: box, Client: client, Logger: lines(r.said), Now: time.Now,
		}
		if err := r.lookups.Peers.Announce(context.Background()); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// lookup calls LookupEvents and returns the events' names, and the next token.
func (r *replica) lookup(t testing.TB, account string, input map[string]any) (names []string, token string, err error) {
	t.Helper()
	s, err := r.lookups.Service()
	if err != nil {
		t.Fatal(err)
	}
	c := &service.Call{Service: s, Operation: "LookupEvents", Principal: root(account), Input: input, Authorizer: auth.Roots{}}
	got, err := s.Operations["LookupEvents"].Run(context.Background(), c)
	if err != nil {
		return nil, "", err
	}
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var out struct {
		Events    []struct{ EventName string }
		NextToken string
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	for _, e := range out.Events {
		names = append(names, e.EventName)
	}
	return names, out.NextToken, nil
}

// append keeps a call's event.
func (r *replica) append(t testing.TB, of service.Record) {
	t.Helper()
	if err := r.trail.Append(context.Background(), of); err != nil {
		t.Fatal(err)
	}
}

// commit writes something, with a call's event.
func (r *replica) commit(t testing.TB, of service.Record) {
	t.Helper()
	scope := store.AccountScope(account)
	if _, err := r.store.Update(context.Background(), []store.Scope{scope}, func(tx *store.Tx) error {
		tx.PutRecord(store.Type{Name: "test", Schema: 1}, scope.Tail("test", of.Operation), struct{}{})
		tx.Outbox(r.trail.Event(of))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestEventsOfAllReplicasAreFoundNewestFirst_AUDIT_004(t *testing.T) {
	of := replicas(t, 3)
	for i, r := range of {
		for k := range 4 {
			r.append(t, call(time.Duration((k*7+i*5)%13)*time.Second, fmt.Sprintf("Call%02d", (k*7+i*5)%13)))
		}
	}
	of[1].commit(t, call(20*time.Second, "Call20")) // in the outbox
	want := []string{"Call20", "Call12", "Call11", "Call10", "Call08", "Call07", "Call06", "Call05", "Call05", "Call04", "Call01", "Call00", "Call00"}
	later := 0
	for _, r := range of {
		got, _, err := r.lookup(t, account, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		var paged []string
		for token := ""; ; {
			input := map[string]any{"MaxResults": json.Number("3")}
			if token != "" {
				input["NextToken"] = token
			}
			page, next, err := r.lookup(t, account, input)
			if err != nil {
				t.Fatal(err)
			}
			paged = append(paged, page...)
			later++ // what happens meanwhile moves no page
			r.append(t, call(time.Duration(1e6+later)*time.Second, "Later"))
			if token = next; token == "" {
				break
			}
		}
		if diff := cmp.Diff(want, paged); diff != "" {
			t.Errorf("in pages: %s", diff)
		}
		for range (len(want) + 2) / 3 {
			want = append([]string{"Later"}, want...) // from now on
		}
	}
	if got, _, err := of[0].lookup(t, other, nil); err != nil || len(got) > 0 {
		t.Errorf("another account finds %q, error %v", got, err)
	}
}

func TestAReplicaThatDoesNotAnswerIsSaid(t *testing.T) {
	of := replicas(t, 2)
	of[0].append(t, call(0, "Here"))
	of[1].append(t, call(1, "There"))
	of[1].peer.Close()
	got, _, err := of[0].lookup(t, account, nil)
	if err != nil || len(got) != 1 || got[0] != "Here" {
		t.Errorf("found are %q, error %v", got, err)
	}
	if !strings.Contains(of[0].said.String(), "events are missing in a lookup") || of[0].lookups.Incomplete() != 1 {
		t.Errorf("it said %q", of[0].said.String())
	}
	t.Run("in the answer's header", func(t *testing.T) {
		s, err := of[0].lookups.Service()
		if err != nil {
			t.Fatal(err)
		}
		front := httptest.NewServer(of[0].lookups.Before(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := &service.Call{Service: s, Operation: "LookupEvents", Principal: root(account), Authorizer: auth.Roots{}}
			if _, err := s.Operations["LookupEvents"].Run(r.Context(), c); err != nil {
				t.Error(err)
			}
			w.WriteHeader(http.StatusOK)
		})))
		defer front.Close()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, front.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Amz-Target", "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents")
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get(audit.HeaderMissing); got != "r1" {
			t.Errorf("the header says %q", got)
		}
	})
	missed := func(t *testing.T, input map[string]any) bool {
		t.Helper()
		before := of[0].lookups.Incomplete()
		if _, _, err := of[0].lookup(t, account, input); err != nil {
			t.Fatal(err)
		}
		return of[0].lookups.Incomplete() != before
	}
	ctx := context.Background()
	gone := of[1].lookups.Peers
	t.Run("and when it has left, of what it may have", func(t *testing.T) {
		if err := gone.Leave(ctx); err != nil {
			t.Fatal(err)
		}
		if !missed(t, nil) || !strings.Contains(of[0].said.String(), "replica with events is gone") {
			t.Errorf("it said %q", of[0].said.String())
		}
		if missed(t, map[string]any{"StartTime": api.Timestamp{Time: time.Now().Add(time.Minute)}}) {
			t.Error("events of later are missing too")
		}
	})
	t.Run("until it is back", func(t *testing.T) {
		if err := gone.Announce(ctx); err != nil {
			t.Fatal(err)
		}
		all, err := audit.Holders(ctx, of[0].store)
		if err != nil || len(all) != 2 || all[1].Name != "r1" || !all[1].Answers {
			t.Errorf("replicas with events are %+v, error %v", all, err)
		}
	})
	t.Run("or forgotten", func(t *testing.T) {
		if err := gone.Leave(ctx); err != nil {
			t.Fatal(err)
		}
		for _, want := range []bool{true, false} {
			if known, err := audit.Forget(ctx, of[0].store, "r1"); err != nil || known != want {
				t.Errorf("it is known: %v, error %v", known, err)
			}
		}
		if missed(t, nil) {
			t.Error("it is missed")
		}
	})
	t.Run("or its events are too old", func(t *testing.T) {
		gone.Now = func() time.Time { return time.Now().Add(-audit.Retention - time.Minute) }
		if err := gone.Leave(ctx); err != nil {
			t.Fatal(err)
		}
		if missed(t, nil) {
			t.Error("it is missed")
		}
		stop := running(t, of[0].lookups.Peers.Run)
		testenv.Eventually(t, "nothing is said of it any more", func() bool {
			all, err := audit.Holders(ctx, of[0].store)
			return err == nil && len(all) == 1
		})
		stop()
	})
}

func TestOnlyReplicasAreAnswered(t *testing.T) {
	of := replicas(t, 2)
	of[1].append(t, call(0, "Secret"))
	ask := func(body string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, of[1].peer.URL+audit.PeerPath, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.Status
	}
	sealed := func(owner, text string) string {
		t.Helper()
		out, err := of[0].lookups.Peers.Sealer.SealText(owner, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	question := func(at time.Time) string {
		return `{"query":{"account":"` + account + `","limit":10},"nonce":"n","at":"` + at.Format(time.RFC3339) + `"}`
	}
	for name, c := range map[string]struct{ body, want string }{
		"a question that is not sealed":      {question(time.Now()), "404 Not Found"},
		"one that is sealed for another":     {sealed("audit question r0", question(time.Now())), "404 Not Found"},
		"one that is sealed for other means": {sealed("session", question(time.Now())), "404 Not Found"},
		"an old one":                         {sealed("audit question r1", question(time.Now().Add(-time.Hour))), "404 Not Found"},
		"nothing":                            {"", "404 Not Found"},
		"a question of a replica":            {sealed("audit question r1", question(time.Now())), "200 OK"},
	} {
		if got := ask(c.body); got != c.want {
			t.Errorf("%s is answered with %s", name, got)
		}
	}
}

func TestLookupsThatCannotBe(t *testing.T) {
	r := replicas(t, 1)[0]
	for i := range 3 {
		r.append(t, call(time.Duration(i)*time.Second, "Call"))
	}
	attribute := func(key, value string) map[string]any {
		return map[string]any{"AttributeKey": key, "AttributeValue": value}
	}
	_, token, err := r.lookup(t, account, map[string]any{"MaxResults": json.Number("1")})
	if err != nil || token == "" {
		t.Fatalf("token %q, error %v", token, err)
	}
	for name, c := range map[string]struct {
		input map[string]any
		code  string
	}{
		"too many results":       {map[string]any{"MaxResults": json.Number("51")}, "InvalidMaxResultsException"},
		"two attributes":         {map[string]any{"LookupAttributes": []any{attribute("EventName", "a"), attribute("EventId", "b")}}, "InvalidLookupAttributesException"},
		"an empty attribute":     {map[string]any{"LookupAttributes": []any{attribute("EventName", "")}}, "InvalidLookupAttributesException"},
		"an end before a start":  {map[string]any{"StartTime": json.Number("2000"), "EndTime": json.Number("1000")}, "InvalidTimeRangeException"},
		"no token":               {map[string]any{"NextToken": "none"}, "InvalidNextTokenException"},
		"another lookup's token": {map[string]any{"NextToken": token, "LookupAttributes": []any{attribute("EventName", "a")}}, "InvalidNextTokenException"},
	} {
		_, _, err := r.lookup(t, account, c.input)
		var refused *api.Error
		if got := fmt.Sprintf("%v", err); err == nil {
			t.Errorf("%s: no error", name)
		} else if !asAPI(err, &refused) || refused.Code != c.code {
			t.Errorf("%s: %s", name, got)
		}
	}
	if _, _, err := r.lookup(t, other, map[string]any{"NextToken": token}); err == nil {
		t.Error("another account goes on with a token")
	}
}

// The real clients, against the API with all that is recorded of it.
func TestRealClientsLookUpEvents(t *testing.T) {
	r := replicas(t, 1)[0]
	running(t, r.mover.Run)
	trailService, err := r.lookups.Service()
	if err != nil {
		t.Fatal(err)
	}
	server := resttest.Serve(t, resttest.Options{
		Store: r.store, Services: []*service.Service{trailService}, Audit: r.trail,
		Edit: func(c *rest.Config) { c.Quotas = nil },
	})
	key := resttest.Root(resttest.AccountA)
	got := server.Python(t, key, `
mesh, trail = client("appmesh"), client("cloudtrail")
mesh.create_mesh(meshName="m", tags=[{"key": "team", "value": "a"}])
mesh.create_virtual_node(meshName="m", virtualNodeName="n", spec={})
mesh.describe_mesh(meshName="m")
print(refusal(mesh.describe_mesh, meshName="none"))

def names(**filters):
    attributes = [{"AttributeKey": k, "AttributeValue": v} for k, v in filters.items()]
    return [e["EventName"] for p in trail.get_paginator("lookup_events").paginate(LookupAttributes=attributes, PaginationConfig={"PageSize": 2}) for e in p["Events"]]

print("all", names())
events = trail.lookup_events()["Events"]
created = [e for e in events if e["EventName"] == "CreateVirtualNode"][0]
record = json.loads(created["CloudTrailEvent"])
print(created["Username"], created["ReadOnly"], created["EventSource"], created["Resources"], created["EventTime"].isoformat() == record["eventTime"].replace("Z", "+00:00"))
print(record["requestParameters"]["virtualNodeName"], record["responseElements"]["virtualNodeName"], record["userIdentity"]["type"])
for filters in (dict(EventName="CreateMesh"), dict(ReadOnly="false"), dict(EventId=created["EventId"]), dict(EventSource="appmesh.amazonaws.com"),
                dict(Username="root"), dict(Username="nobody"), dict(ResourceType="AWS::AppMesh::VirtualNode"), dict(ResourceName="n"),
                dict(AccessKeyId=created["AccessKeyId"]), dict(AccessKeyId="AKIANONE")):
    print(filters if "EventId" not in filters and "AccessKeyId" not in filters else "", sorted(set(names(**filters))))
hour = datetime.timedelta(hours=1)
print("hour before", trail.lookup_events(EndTime=created["EventTime"] - hour)["Events"])
print("this hour", len(trail.lookup_events(StartTime=created["EventTime"] - hour, EndTime=created["EventTime"] + hour)["Events"]) > 4)
print("insights", trail.lookup_events(EventCategory="insight")["Events"])
print(refusal(trail.lookup_events, NextToken="x"))
print(refusal(trail.lookup_events, MaxResults=51))
`)
	want := `404 NotFoundException: Mesh with name none is not present for account 111111111111
all ['DescribeMesh', 'DescribeMesh', 'CreateVirtualNode', 'CreateMesh']
root false appmesh.amazonaws.com [{'ResourceType': 'AWS::AppMesh::VirtualNode', 'ResourceName': 'n'}] True
n n Root
{'EventName': 'CreateMesh'} ['CreateMesh']
{'ReadOnly': 'false'} ['CreateMesh', 'CreateVirtualNode']
 ['CreateVirtualNode']
{'EventSource': 'appmesh.amazonaws.com'} ['CreateMesh', 'CreateVirtualNode', 'DescribeMesh']
{'Username': 'root'} ['CreateMesh', 'CreateVirtualNode', 'DescribeMesh', 'LookupEvents']
{'Username': 'nobody'} []
{'ResourceType': 'AWS::AppMesh::VirtualNode'} ['CreateVirtualNode']
{'ResourceName': 'n'} ['CreateVirtualNode']
 ['CreateMesh', 'CreateVirtualNode', 'DescribeMesh', 'LookupEvents']
 []
hour before []
this hour True
insights []`
	lines := strings.Split(got, "\n")
	if len(lines) < 18 {
		t.Fatal(got)
	}
	if diff := cmp.Diff(want, strings.Join(lines[:17], "\n")); diff != "" {
		t.Error(diff)
	}
	for i, code := range []string{"InvalidNextTokenException", "ValidationException"} {
		if !strings.Contains(strings.Join(lines[17+i:18+i], ""), code) && i == 0 {
			t.Errorf("line %d is %q, want %s", 17+i, lines[17+i], code)
		}
	}
	printed, ok := server.CLI(t, key, "cloudtrail", "lookup-events", "--lookup-attributes", "AttributeKey=EventName,AttributeValue=CreateMesh", "--query", "Events[].EventName", "--output", "text")
	if !ok || printed != "CreateMesh" {
		t.Errorf("the CLI prints %q", printed)
	}
	if printed := server.Python(t, resttest.Root(resttest.AccountB), `print(client("cloudtrail").lookup_events()["Events"])`); printed != "[]" {
		t.Errorf("another account finds %s", printed)
	}
	testenv.Eventually(t, "the outbox is empty", func() bool {
		waiting, _, err := r.store.Outbox(context.Background(), "", 10)
		return err == nil && len(waiting) == 0
	})
}

// Without the store what is on disks is found, and what is missing is said.
func TestLookupsWithoutTheStore(t *testing.T) {
	r := replicas(t, 1)[0]
	r.append(t, call(0, "Call"))
	held := &away{Store: r.store}
	held.reads.Store(true)
	r.lookups.Store = held
	if got, _, err := r.lookup(t, account, nil); err != nil || len(got) != 1 {
		t.Errorf("found are %q, error %v", got, err)
	}
	if said := r.said.String(); !strings.Contains(said, "replicas=[store]") {
		t.Errorf("it said %q", said)
	}
}

// A call whose event cannot be kept fails, whether it reads or is refused; a write
// has its event in the store.
func TestCallsFailWithoutTheirEvent(t *testing.T) {
	r := replicas(t, 1)[0]
	server := resttest.Serve(t, resttest.Options{Store: r.store, Audit: r.trail})
	r.log.Close() // a disk that takes nothing
	got := server.Python(t, resttest.Root(resttest.AccountA), `
mesh = client("appmesh", retries={"total_max_attempts": 1})
print(mesh.create_mesh(meshName="m")["mesh"]["status"]["status"])
print(refusal(mesh.describe_mesh, meshName="m"))
print(refusal(mesh.describe_mesh, meshName="none"))
print(refusal(mesh.create_mesh, meshName="m", spec={"egressFilter": {"type": "ALLOW_ALL"}}))
`)
	const refused = "503 ServiceUnavailableException: The call could not be recorded for the audit trail, so it is not answered: try again."
	if diff := cmp.Diff(strings.Join([]string{"ACTIVE", refused, refused, refused}, "\n"), got); diff != "" {
		t.Error(diff)
	}
	if n := waiting(t, r.store); n != 1 {
		t.Errorf("%d events of writes wait", n)
	}
}

// Replicas whose API has certificates that nobody knows understand each other.
func TestReplicasAskOverTLS(t *testing.T) {
	of := replicas(t, 2)
	of[1].append(t, call(0, "There"))
	over := httptest.NewTLSServer(of[1].lookups.Before(http.NotFoundHandler()))
	defer over.Close()
	of[1].lookups.Peers.URL = over.URL
	if err := of[1].lookups.Peers.Announce(context.Background()); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	of[0].lookups.Peers.Client = client
	if got, _, err := of[0].lookup(t, account, nil); err != nil || len(got) != 1 {
		t.Errorf("found are %q, error %v", got, err)
	}
}

// A replica has one name for all its starts, as long as it has its disk.
func TestAReplicaKeepsItsName(t *testing.T) {
	dir := t.TempDir()
	first, err := audit.ReplicaName(dir, "a host/1")
	if err != nil || !strings.HasPrefix(first, "a-host-1-") {
		t.Fatalf("its name is %q, error %v", first, err)
	}
	if again, err := audit.ReplicaName(dir, "another"); again != first || err != nil {
		t.Errorf("its name is %q then, error %v", again, err)
	}
	if other, err := audit.ReplicaName(t.TempDir(), "a host/1"); other == first || err != nil {
		t.Errorf("another has the name too, error %v", err)
	}
}
