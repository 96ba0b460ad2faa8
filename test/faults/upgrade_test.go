//go:build linux

package faults

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/appmesh"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/testenv"
)

// streams is how many streams the replica has open.
func (r *replica) streams() (n int) {
	r.t.Helper()
	resp, err := http.Get("http://" + r.admin + "/metrics")
	must(r.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(r.t, err)
	for _, m := range regexp.MustCompile(`(?m)^evermesh_xds_streams\{.*\} (\d+)$`).FindAllSubmatch(text, -1) {
		k, err := strconv.Atoi(string(m[1]))
		must(r.t, err)
		n += k
	}
	return n
}

// TestEverythingIsReplacedInTurn replaces every member of an etcd of three and every one of three replicas, one after
// another, under writes and with proxies connected. No call is lost; the streams of a replica that goes move to others
// once each, those of the others stay, and nobody is sent what has not changed.
func TestEverythingIsReplacedInTurn(t *testing.T) {
	t.Parallel()
	etcd := newCluster(t, 3)
	settings := on(t, etcd.endpoints()...)
	var replicas []*replica
	for n := range 3 {
		replicas = append(replicas, newReplica(t, fmt.Sprintf("r%d", n), settings...).start())
	}
	key := replicas[0].key()
	var users []*appmesh.Client
	for _, r := range replicas {
		users = append(users, userOf("http://"+r.api, key))
	}
	must(t, makeShop(t.Context(), replicas[0].patient(), "turns", 90, 10))
	var all proxies
	for i := range 30 {
		all = append(all, connect(t, key, "turns", fmt.Sprintf("p%d", i), i%4 > 0, replicas[i%3].xds, replicas[(i+1)%3].xds, replicas[(i+2)%3].xds))
	}
	all.have(t, 90, 10)
	l := newLoad(t, "load", users...)
	weight := 10
	change := func(at int) {
		t.Helper()
		weight++
		eventually(t, "a write", shifted(users[at], "turns", int64(100-weight), int64(weight)))
		all.have(t, 100-weight, weight)
	}
	// ends counts streams that had been taken. These proxies ask a replica that is leaving again at once, where the agent
	// would go to another one and wait longer each time: such refusals are not counted.
	ends := func() (out []int) {
		for _, p := range all {
			taken := slices.DeleteFunc(p.Ends(), func(err error) bool { return status.Code(err) == codes.Unavailable })
			out = append(out, len(taken))
		}
		return out
	}
	for n, m := range etcd.members {
		t.Run(fmt.Sprintf("SEC-011 member %d of etcd is lost and comes back, and no stream ends", n), func(t *testing.T) {
			sent, ended := all.sent(), ends()
			m.kill()
			change(n)
			m.start()
			etcd.awaitReady()
			all.changed(t, sent)
			for i, k := range ends() {
				if k != ended[i] {
					t.Errorf("proxy %d's stream ended: %v", i, all[i].Ends())
				}
			}
		})
	}
	for n, r := range replicas {
		t.Run(fmt.Sprintf("SEC-011 replica %d is replaced: its streams move once, others stay", n), func(t *testing.T) {
			had, sent, ended := r.streams(), all.sent(), ends()
			if had == 0 {
				t.Fatal("it has no stream: nothing is shown")
			}
			r.stop()
			others := []*replica{replicas[(n+1)%3], replicas[(n+2)%3]}
			testenv.Eventually(t, "all streams are at the others", func() bool { return others[0].streams()+others[1].streams() == len(all) })
			change((n + 1) % 3)
			all.changed(t, sent)
			r.start()
			moved := 0
			for i, k := range ends() {
				k -= ended[i]
				moved += k
				if k > 1 {
					t.Errorf("proxy %d's stream ended %d times", i, k)
				}
			}
			if moved != had {
				t.Errorf("%d streams ended, and the replica had %d", moved, had)
			}
			t.Logf("%d of %d streams moved", moved, len(all))
		})
	}
	l.stop()
}
