//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// way is a path of requests: a client's sidecar, a server's, and the server.
type way struct {
	client *ground.Host
	to     string // address; which one does not matter
	envoys [2]*envoyOf
	asked  int
}

// passed is an error unless both Envoys have passed on whatever was asked, over TLS where that is wanted.
func (w *way) passed(ctx context.Context, secure bool) error {
	for _, e := range w.envoys {
		requests, err := e.sum(ctx, `^cluster\..*\.upstream_rq_200$`)
		if err != nil {
			return err
		}
		handshakes, err := e.sum(ctx, `ssl\.handshake$`)
		if err != nil {
			return err
		}
		if requests < w.asked || secure != (handshakes > 0) {
			return fmt.Errorf("the Envoy on %s has passed on %d of %d requests, with %d TLS handshakes", e.host.Name(), requests, w.asked, handshakes)
		}
	}
	return nil
}

// layWay makes the hosts of a way and runs what is on them. configs are the two sidecars'.
func (r *rig) layWay(ctx context.Context, hosts []*ground.Host, domain string, configs [2]object) (*way, error) {
	w := &way{client: hosts[0], to: fmt.Sprintf("%s:%d", hosts[1].Addr(), port)}
	for _, name := range []string{"blue", "green"} {
		r.DNS().Set(name+domain, hosts[1].Addr())
	}
	server, err := hosts[1].Start(ground.Command{
		Name: "server", Path: "/proc/self/exe", Args: []string{fmt.Sprintf("127.0.0.1:%d", port)}, Env: []string{partVariable + "=server"},
	})
	if err != nil {
		return nil, err
	}
	r.running = append(r.running, server)
	for i, ports := range []string{"", strconv.Itoa(port)} {
		if err := r.redirect(ctx, hosts[i], ports); err != nil {
			return nil, err
		}
		if w.envoys[i], err = r.runEnvoy(ctx, hosts[i], configs[i]); err != nil {
			return nil, err
		}
	}
	client := w.client.Client()
	client.Timeout = patience / 4
	defer client.CloseIdleConnections()
	last := ""
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := stage.Until(ctx, "requests pass "+hosts[0].Name(), func(ctx context.Context) bool {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.to+"/", nil)
		if err != nil {
			return false
		}
		req.Host = loadHost
		resp, err := client.Do(req)
		if err != nil {
			last = err.Error()
			return false
		}
		last = resp.Status
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}); err != nil {
		return nil, fmt.Errorf("%w: the last one: %s", err, last)
	}
	return w, nil
}

// outcome is what came of some seconds of load on a way.
type outcome struct {
	rate float64       // requests per second
	cpu  time.Duration // of both Envoys, for each request
}

// turnsOfPair is how many turns each way of a pair has in it.
const turnsOfPair = 20

// load asks through the ways, in turns.
func (r *rig) load(ctx context.Context, ways ...*way) (map[*way]outcome, error) {
	name := filepath.Join(r.Dir(), "run", r.name("load"))
	c := loadConfig{Conns: r.scale.conns, Start: name + ".start", Turn: r.scale.pairTime / turnsOfPair, Turns: turnsOfPair, Of: len(ways)}
	before, said := make([]time.Duration, len(ways)), make([]string, len(ways))
	group, loading := errgroup.WithContext(ctx)
	var ready []string
	for i, w := range ways {
		var err error
		if before[i], err = w.used(); err != nil {
			return nil, err
		}
		c.Addr, c.Mine, c.Ready = w.to, i, fmt.Sprintf("%s.ready%d", name, i)
		ready = append(ready, c.Ready)
		text, err := json.Marshal(c)
		if err != nil {
			return nil, err
		}
		group.Go(func() (err error) {
			said[i], err = w.client.Run(loading, ground.Command{
				Name: "load", Path: "/proc/self/exe", Args: []string{string(text)}, Env: []string{partVariable + "=load"},
			})
			return err
		})
	}
	group.Go(func() error { return begin(loading, c.Start, ready) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	out := map[*way]outcome{}
	for i, w := range ways {
		after, err := w.used()
		if err != nil {
			return nil, err
		}
		var n asked
		if err := json.Unmarshal([]byte(said[i]), &n); err != nil || n.Counted == 0 {
			return nil, fmt.Errorf("the load on %s said %q", w.client.Name(), said[i])
		}
		w.asked += n.All
		out[w] = outcome{rate: float64(n.Counted) / r.scale.pairTime.Seconds(), cpu: (after - before[i]) / time.Duration(n.All)}
	}
	return out, nil
}

// begin says when to begin, in the file start, once all files of the ready ones are there.
func begin(ctx context.Context, start string, ready []string) error {
	if err := stage.Until(ctx, "the load is connected", func(context.Context) bool {
		return !slices.ContainsFunc(ready, func(file string) bool {
			_, err := os.Stat(file)
			return err != nil
		})
	}); err != nil {
		return err
	}
	at, err := time.Now().Add(100 * time.Millisecond).MarshalText()
	if err != nil {
		return err
	}
	// As a whole, for those who look.
	if err := os.WriteFile(start+".new", at, 0o644); err != nil {
		return err
	}
	return os.Rename(start+".new", start)
}

// used is the processor time of both Envoys.
func (w *way) used() (sum time.Duration, err error) {
	for _, e := range w.envoys {
		one, err := processor(e.Pid())
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, nil
}
