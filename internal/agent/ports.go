package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/agent/envoyadmin"
	"github.com/evermesh/evermesh/internal/agent/pause"
	"github.com/evermesh/evermesh/internal/agent/settings"
)

// checkAdminPort says before the first start that somebody has the port of Envoy's administration interface already: Envoy
// would only say that it cannot bind. It does not end the agent: what has the port may be about to end.
func checkAdminPort(s settings.Settings, log *slog.Logger) {
	if s.Admin.Socket != "" || s.OwnBootstrap() {
		return
	}
	network, host := "tcp4", "0.0.0.0"
	if s.Admin.Address != "" {
		network, host = "tcp", s.Admin.Address
	}
	l, err := net.Listen(network, net.JoinHostPort(host, strconv.Itoa(s.Admin.Port)))
	switch {
	case err == nil:
		l.Close()
	case s.Admin.Given:
		log.Error("the port of envoy's administration interface cannot be had: set another one in the file that has admin", "port", s.Admin.Port, "err", err)
	default:
		log.Error("the port of envoy's administration interface cannot be had: set ENVOY_ADMIN_ACCESS_PORT to another one, or ENVOY_ADMIN_MODE=uds", "port", s.Admin.Port, "err", err)
	}
}

// portEvery is how often Envoy is asked whether it has its first configuration.
const portEvery = time.Second

// watchPorts waits for Envoy's first configuration and says when a listener of the node or gateway has the port of Envoy's
// administration interface (AGENT-008), or of the agent's own. Of a gateway Envoy refused that listener; of a node it
// took it, and what comes for the application gets to that interface instead.
func watchPorts(ctx context.Context, admin *envoyadmin.Client, s settings.Settings, log *slog.Logger) {
	own := s.Server.Port()
	if s.OwnBootstrap() || s.Admin.Socket != "" && own == 0 {
		return
	}
	for admin.State(ctx) != envoyadmin.Live {
		if pause.For(ctx, portEvery) != nil {
			return
		}
	}
	switch {
	case s.Admin.Socket != "" || !listens(ctx, admin, s.Admin.Port, log):
	case s.Admin.Given:
		log.Error("a listener has the port of envoy's administration interface: set another one in the file that has admin", "port", s.Admin.Port)
	default:
		log.Error("a listener has the port of envoy's administration interface: set ENVOY_ADMIN_ACCESS_PORT to another one, or ENVOY_ADMIN_MODE=uds", "port", s.Admin.Port)
	}
	if own != 0 && listens(ctx, admin, own, log) {
		log.Error("a listener has the port of the agent's own interface: set APPNET_AGENT_HTTP_PORT to another one, or APPNET_AGENT_ADMIN_MODE=uds", "port", own)
	}
}

// listens says whether a listener of the node or gateway has that port.
func listens(ctx context.Context, admin *envoyadmin.Client, port int, log *slog.Logger) bool {
	for _, kind := range []struct{ resources, before string }{{"dynamic_listeners", "lds_"}, {"dynamic_active_clusters", "cds_ingress_"}} {
		names, err := namesOf(ctx, admin, kind.resources, fmt.Sprintf("%s.*_%d", kind.before, port))
		if err != nil {
			log.Debug("cannot ask envoy for its ports", "err", err)
			continue
		}
		// Envoy's filter lets every listener pass that it has refused.
		if slices.ContainsFunc(names, func(name string) bool {
			return strings.HasPrefix(name, kind.before) && strings.HasSuffix(name, "_"+strconv.Itoa(port))
		}) {
			return true
		}
	}
	return false
}

// namesOf are the names of Envoy's resources of a kind that match a pattern, and of others.
func namesOf(ctx context.Context, admin *envoyadmin.Client, resources, pattern string) ([]string, error) {
	text, err := admin.OK(ctx, http.MethodGet, "/config_dump?resource="+resources+"&name_regex="+url.QueryEscape(pattern), envoyadmin.Wait)
	if err != nil {
		return nil, err
	}
	var dump struct {
		Configs []struct {
			Name    string                // a listener's
			Cluster struct{ Name string } // a cluster's
		}
	}
	if err := json.Unmarshal([]byte(text), &dump); err != nil {
		return nil, fmt.Errorf("read envoy's %s: %w", resources, err)
	}
	var names []string
	for _, c := range dump.Configs {
		names = append(names, c.Name, c.Cluster.Name)
	}
	return names, nil
}
