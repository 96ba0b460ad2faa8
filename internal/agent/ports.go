package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
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
	l, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", s.Admin.Port))
	if err != nil {
		log.Error("the port of envoy's administration interface cannot be had: set ENVOY_ADMIN_ACCESS_PORT to another one, or ENVOY_ADMIN_MODE=uds", "port", s.Admin.Port, "err", err)
		return
	}
	l.Close()
}

// portEvery is how often Envoy is asked whether it has its first configuration.
const portEvery = time.Second

// watchPorts waits for Envoy's first configuration and says when a listener of the node or gateway has the port of Envoy's
// administration interface (AGENT-008). Of a gateway Envoy refused that listener; of a node it took it, and what comes
// for the application gets to the administration interface instead.
func watchPorts(ctx context.Context, admin *envoyadmin.Client, s settings.Settings, log *slog.Logger) {
	if s.Admin.Socket != "" || s.OwnBootstrap() {
		return
	}
	for admin.State(ctx) != "LIVE" {
		if pause.For(ctx, portEvery) != nil {
			return
		}
	}
	for _, of := range []struct{ resources, pattern string }{
		{"dynamic_listeners", fmt.Sprintf("lds_.*_%d", s.Admin.Port)}, {"dynamic_active_clusters", fmt.Sprintf("cds_ingress_.*_%d", s.Admin.Port)},
	} {
		path := "/config_dump?resource=" + of.resources + "&name_regex=" + url.QueryEscape(of.pattern)
		text, err := admin.OK(ctx, http.MethodGet, path, envoyadmin.Wait)
		if err != nil {
			log.Debug("cannot ask envoy for its ports", "err", err)
			continue
		}
		if strings.Contains(text, `"name"`) {
			log.Error("a listener has the port of envoy's administration interface: set ENVOY_ADMIN_ACCESS_PORT to another one, or ENVOY_ADMIN_MODE=uds", "port", s.Admin.Port)
			return
		}
	}
}
