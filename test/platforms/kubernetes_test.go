//go:build linux

package platforms

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/sts/oidc/oidctest"
	"github.com/evermesh/evermesh/internal/testenv"
	"github.com/evermesh/evermesh/test/stage"
)

// addresses are those of the pods of an application, in one order.
func (k *cluster) addresses(namespace, app string) (all []netip.Addr) {
	for _, p := range k.pods {
		if p.namespace == namespace && p.labels["app"] == app {
			all = append(all, p.host.Addr())
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// The page for Kubernetes by hand: the manifests run as a kubelet runs them, proxies prove themselves by tokens of their
// service accounts, and a pod ends under load without a failed request.
func TestKubernetes(t *testing.T) {
	ready(t)
	if world.Owner().Mark != 0 {
		t.Skip("this ground has one user only")
	}
	issuer := oidctest.New(t)
	k := &cluster{
		token: func(namespace, account, audience string) string {
			return issuer.ServiceAccount(t, namespace, account, audience)
		},
		issuer: issuer.URL, issuerCA: issuer.CAFile, files: map[string]map[string]string{}, pods: map[string]*pod{},
		quicker: strings.NewReplacer(
			`{name: LISTENER_DRAIN_WAIT_TIME_S, value: "60"}`, `{name: LISTENER_DRAIN_WAIT_TIME_S, value: "15"}`, "seconds: 40", "seconds: 10",
			`{name: APPNET_AGENT_ADMIN_MODE, value: tcp}`, `{name: APPNET_AGENT_ADMIN_MODE, value: tcp}
        - {name: APPNET_AGENT_POLL_ENVOY_READINESS_INTERVAL_S, value: "1"}
        - {name: ENVOY_CONCURRENCY, value: "1"}`),
	}
	shim := shims(t, k.kubectl, "kubectl")
	dir := t.TempDir()
	blocks := page(t, "kubernetes.md")
	env := []string{"PATH=" + shim + ":" + tools(), "HOME=" + dir, "AWS_PAGER="}
	replace := strings.NewReplacer("-f deploy/", "-f ./deploy/", "evermesh apply deploy/", "evermesh apply ./deploy/")
	link := fmt.Sprintf("ln -s %s deploy\n", filepath.Join(world.repository, "deploy"))
	defer func() {
		for _, p := range k.pods {
			for _, process := range p.runs {
				if t.Failed() {
					dump(t, process)
				}
				_ = process.Kill() // which may have ended
			}
		}
	}()
	out := paste(t, world.Home(), dir, env, replace, append(append([]string{link}, blocks["control"]...), blocks["workload"]...)...)
	if !strings.Contains(out, `"app":"colors-`) || !strings.Contains(out, "X-Envoy-Expected-Rq-Timeout-Ms") {
		t.Fatalf("the page printed:\n%s", out)
	}
	t.Run("the last good configuration is on the pod's volume", func(t *testing.T) {
		state := filepath.Join(world.roots.Dir, "volumes", "shop-colors-0-state")
		testenv.Eventually(t, "there is a file", func() bool {
			files, err := os.ReadDir(state)
			return err == nil && len(files) > 0
		})
	})
	t.Run("a pod ends and no request fails", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		// Or the hidden retries would hide what fails.
		paste(t, world.Home(), dir, append(env, "AWS_ENDPOINT_URL=https://localhost:7070", "AWS_CA_BUNDLE="+dir+"/ca.pem", "AWS_REGION=us-east-1",
			"AWS_SHARED_CREDENTIALS_FILE="+dir+"/credentials"), nil, "evermesh settings shop --default-retry off\nevermesh rollout mesh/shop")
		front, gone := k.pods["shop/front-0"], k.pods["shop/colors-1"]
		steady := stage.NewSteady(front.host, "http://colors.shop.svc.cluster.local:8080/", 4, 2*time.Millisecond)
		defer steady.Stop()
		testenv.Eventually(t, "both pods answer", func() bool {
			count := steady.Count(time.Time{}, time.Time{})
			return count.ByApp["colors-0"] > 100 && count.ByApp["colors-1"] > 100
		})
		delete(k.pods, "shop/colors-1")
		if err := k.publish(); err != nil {
			t.Fatal(err)
		}
		if err := k.end(ctx, gone); err != nil {
			t.Errorf("%v", err)
		}
		count := steady.Count(time.Time{}, time.Time{})
		if count.Failed > 0 {
			t.Errorf("of %d requests %d failed: %v", count.Requests, count.Failed, count.Faults)
		}
	})
}
