package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/evermesh/evermesh/internal/ads/adstest"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/client"
)

// scrape reads the metrics of a control plane as Prometheus does.
func (p *plane) scrape(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	_, text := p.get(t, "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// value is the sum of a family's values, counts of a histogram, over the samples
// that have the labels: label=value, ….
func value(families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		have := map[string]bool{}
		for _, l := range m.GetLabel() {
			have[l.GetName()+"="+l.GetValue()] = true
		}
		if slices.ContainsFunc(labels, func(l string) bool { return !have[l] }) {
			continue
		}
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

// Two replicas on one etcd are driven through everything that is measured. Each
// metric of D13 is there, moves, and has no label per proxy or resource; and
// what lies under deploy/ uses nothing that is not served.
func TestMetrics(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	shared := []string{"--etcd-endpoints", newEtcd(t).start(t).endpoint, "--master-key-file", masterKey(t)}
	one := start(t, t.TempDir(), append(shared, "--auth", "off", "--quotas", "aws", "--dns-listen", "127.0.0.1:0")...)
	two := start(t, t.TempDir(), append(shared, "--xds-listen", "0.0.0.0:0")...)
	call := func(p *plane, operation string, in any) {
		t.Helper()
		if err := p.call(ctx, operation, in, nil); err != nil {
			t.Fatal(err)
		}
	}
	spec := func(port int, broken bool) map[string]any {
		out := map[string]any{
			"listeners":        []any{map[string]any{"portMapping": map[string]any{"port": port, "protocol": "http"}}},
			"serviceDiscovery": map[string]any{"dns": map[string]any{"hostname": "front.local"}},
		}
		if broken {
			out["backends"] = []any{map[string]any{"virtualService": map[string]any{"virtualServiceName": "nowhere.local"}}}
		}
		return out
	}
	call(one, "CreateMesh", api.CreateMeshInput{MeshName: "shop"})
	for _, name := range []string{"front", "back"} {
		call(one, "CreateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": name, "spec": spec(8080, false)})
	}
	eventually(t, "the mesh is published", func() bool { return value(one.scrape(t), "evermesh_snapshot_revision") > 0 })
	before := one.scrape(t)

	facts, err := client.ReadFacts(one.dir)
	if err != nil {
		t.Fatal(err)
	}
	conn := adstest.Dial(t, strings.TrimPrefix(facts.XDSEndpoint, "http://"))
	adstest.Connect(t, conn, adstest.Options{Node: "mesh/shop/virtualNode/front", Delta: true, Instance: "one"})
	refuses := adstest.Connect(t, conn, adstest.Options{Node: "mesh/shop/virtualNode/back", Instance: "two"})
	eventually(t, "both proxies are content", func() bool {
		return value(one.scrape(t), "evermesh_proxies", "state=CURRENT") == 2
	})
	refuses.SetRefuse(func(r adstest.Response) string {
		if r.Type == adstest.LDS {
			return "not this one"
		}
		return ""
	})
	for _, name := range []string{"front", "back"} {
		call(one, "UpdateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": name, "spec": spec(8081, name == "front")})
	}
	eventually(t, "one refuses", func() bool { return value(one.scrape(t), "evermesh_proxies", "state=REFUSED") == 1 })
	if err := one.call(ctx, "DescribeMesh", api.DescribeMeshInput{MeshName: "none"}, nil); err == nil {
		t.Error("a mesh that does not exist was found")
	}
	asked(t, "front.local.", answersAt(t, one))
	deadline := time.Now().Add(within)
	for value(one.scrape(t), "evermesh_store_conflicts_total") == 0 && time.Now().Before(deadline) {
		var all sync.WaitGroup
		for _, p := range []*plane{one, two} {
			for i := range 4 {
				all.Go(func() {
					if err := p.call(ctx, "UpdateVirtualNode", map[string]any{"meshName": "shop", "virtualNodeName": "back", "spec": spec(9000+i, false)}, nil); err != nil {
						t.Error(err)
					}
				})
			}
		}
		all.Wait()
	}
	// The writes put the proxies back to pending until they answer again.
	var after map[string]*dto.MetricFamily
	eventually(t, "one proxy refuses the last write, one has it, and they are counted", func() bool {
		after = one.scrape(t)
		return value(after, "evermesh_quota_usage_ratio") > 0 && value(after, "evermesh_proxies", "state=REFUSED") == 1 && value(after, "evermesh_proxies", "state=CURRENT") == 1
	})

	for _, c := range []struct {
		name   string
		labels []string
	}{
		{"evermesh_api_requests_total", []string{"operation=UpdateVirtualNode", "code=OK"}},
		{"evermesh_api_requests_total", []string{"operation=DescribeMesh", "code=NotFoundException"}},
		{"evermesh_api_request_seconds", []string{"operation=UpdateVirtualNode"}},
		{"evermesh_store_txn_seconds", nil},
		{"evermesh_store_conflicts_total", nil},
		{"evermesh_snapshot_revision", nil},
		{"evermesh_publish_seconds", []string{"phase=apply"}},
		{"evermesh_publish_seconds", []string{"phase=build"}},
		{"evermesh_publish_seconds", []string{"phase=set"}},
		{"evermesh_xds_streams", []string{"dialect=" + string(api.DialectDelta)}},
		{"evermesh_xds_streams", []string{"dialect=" + string(api.DialectStateOfTheWorld)}},
		{"evermesh_xds_responses_total", []string{"type=" + string(api.DiscoveryTypeListener)}},
		{"evermesh_xds_responses_total", []string{"type=" + string(api.DiscoveryTypeCluster)}},
		{"evermesh_xds_rejections_total", []string{"type=" + string(api.DiscoveryTypeListener)}},
		{"evermesh_proxies", []string{"state=CURRENT"}},
		{"evermesh_proxies", []string{"state=REFUSED"}},
		{"evermesh_problems", []string{"reason=NotFound"}},
		{"evermesh_dns_queries_total", []string{"type=A", "result=REFUSED"}},
		{"evermesh_quota_usage_ratio", []string{"quota=L-606A910B"}},
	} {
		t.Run(c.name+" moves "+strings.Join(c.labels, " "), func(t *testing.T) {
			if was, is := value(before, c.name, c.labels...), value(after, c.name, c.labels...); is <= was {
				t.Errorf("was %v, is %v", was, is)
			}
		})
	}
	t.Run("evermesh_build_info names the version", func(t *testing.T) {
		if value(after, "evermesh_build_info", "version="+version) != 1 {
			t.Errorf("got %v", after["evermesh_build_info"])
		}
	})
	t.Run("evermesh_certificate_expiry_seconds is the certificate's end", func(t *testing.T) {
		end := time.Unix(int64(value(two.scrape(t), "evermesh_certificate_expiry_seconds", "listener=xds")), 0)
		if left := time.Until(end); left < serverLifetime-time.Hour || left > serverLifetime {
			t.Errorf("ends at %v", end)
		}
	})
	t.Run("no label is per proxy or resource", func(t *testing.T) {
		for name, family := range after {
			for _, m := range family.GetMetric() {
				for _, l := range m.GetLabel() {
					if regexp.MustCompile(`shop|front|back|000000000000|127\.0\.0\.1`).MatchString(l.GetValue()) {
						t.Errorf("%s has %s=%q", name, l.GetName(), l.GetValue())
					}
				}
			}
		}
	})
	t.Run("what is documented is served, and what is served is documented", func(t *testing.T) {
		text, err := os.ReadFile("../../docs/metrics.md")
		if err != nil {
			t.Fatal(err)
		}
		documented := map[string]bool{}
		for _, m := range regexp.MustCompile("(?m)^\\| `(evermesh_\\w+)`").FindAllStringSubmatch(string(text), -1) {
			documented[m[1]] = true
		}
		served := maps.Clone(after)
		maps.Copy(served, two.scrape(t))
		for name := range served {
			if strings.HasPrefix(name, "evermesh_") && !documented[name] {
				t.Errorf("%s is not documented", name)
			}
		}
		for name := range documented {
			if served[name] == nil {
				t.Errorf("%s is not served", name)
			}
		}
	})
	t.Run("deploy", func(t *testing.T) {
		served := newServed(after)
		served.add(two.scrape(t))
		checkDeploy(t, served)
	})
}

// served is what expressions may use: names of metrics with their labels, and
// the values of those that were seen.
type served struct {
	labels map[string]map[string]map[string]bool // metric, label, value
}

func newServed(families map[string]*dto.MetricFamily) *served {
	s := &served{labels: map[string]map[string]map[string]bool{}}
	s.add(families)
	return s
}

func (s *served) add(families map[string]*dto.MetricFamily) {
	for name, family := range families {
		names := []string{name}
		if family.GetType() == dto.MetricType_HISTOGRAM {
			names = []string{name + "_bucket", name + "_sum", name + "_count"}
		}
		for _, n := range names {
			for _, m := range family.GetMetric() {
				s.see(n, "instance", "")
				s.see(n, "job", "")
				if strings.HasSuffix(n, "_bucket") {
					s.see(n, "le", "")
				}
				for _, l := range m.GetLabel() {
					s.see(n, l.GetName(), l.GetValue())
				}
			}
		}
	}
}

func (s *served) see(name, label, value string) {
	if s.labels[name] == nil {
		s.labels[name] = map[string]map[string]bool{}
	}
	if s.labels[name][label] == nil {
		s.labels[name][label] = map[string]bool{}
	}
	s.labels[name][label][value] = true
}

// has says what is wrong with a use of a metric with a label that is compared
// with a value; a pattern is not looked at, nor are the values of labels that
// the scraper adds.
func (s *served) has(name, label, operator, value string) error {
	switch values := s.labels[name][label]; {
	case s.labels[name] == nil:
		return fmt.Errorf("no metric %s", name)
	case values == nil:
		return fmt.Errorf("%s has no label %s", name, label)
	case operator == "=~" || operator == "!~" || values[""]:
		return nil
	case label == "code":
		// Not every code was brought about: which there are, the API says.
		if e := (&api.Error{Code: value}); value != "OK" && e.Status() == 500 && value != api.CodeInternalServerError {
			return fmt.Errorf("%s is no code", value)
		}
		return nil
	case label == "operation":
		if !slices.ContainsFunc(api.AppMeshOperations(), func(o api.Operation) bool { return o.Name == value }) && value != "DescribeRollout" {
			return fmt.Errorf("%s is no operation", value)
		}
		return nil
	case !values[value]:
		return fmt.Errorf("%s{%s=%q} is never served", name, label, value)
	}
	return nil
}
