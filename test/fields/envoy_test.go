//go:build linux

package fields

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/evermesh/evermesh/internal/intercept"
	"github.com/evermesh/evermesh/internal/mesh"
	"github.com/evermesh/evermesh/test/ground"
)

// redirect sends the host's traffic through its Envoy: what goes out, and what
// arrives at the application's ports.
func redirect(ctx context.Context, owner ground.Owner) error {
	cfg := intercept.Config{
		Enabled: true, EgressPort: 15001, IngressPort: 15000,
		AppPorts:     []intercept.PortRange{{First: firstHTTP, Last: lastTCP}},
		IgnoredPorts: []intercept.PortRange{{First: 22, Last: 22}},
		Ignored:      []intercept.Owner{{Kind: intercept.OwnerUID, ID: owner.UID}},
	}
	if owner.Mark != 0 {
		cfg.Ignored = []intercept.Owner{{Kind: intercept.OwnerMark, ID: owner.Mark}}
	}
	tools, err := intercept.Find("auto")
	errs := []error{err}
	for _, tool := range tools {
		if err := tool.Apply(ctx, cfg); err == nil {
			return nil
		} else {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// bootstrap is the configuration that the client's Envoy starts with: the agent's
// without the agent.
func bootstrap(c mesh.Client, admin, sds string) ([]byte, error) {
	type object = map[string]any
	pipe := func(path string) object { return object{"pipe": object{"path": path}} }
	server := func(name, socket string) object {
		return object{
			"name": name, "type": "STATIC", "connect_timeout": "1s",
			"load_assignment": object{"cluster_name": name, "endpoints": []any{object{"lb_endpoints": []any{
				object{"endpoint": object{"address": pipe(socket)}},
			}}}},
			"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
				"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
				"explicit_http_config": object{"http2_protocol_options": object{}},
			}},
		}
	}
	source := object{"ads": object{}, "resource_api_version": "V3"}
	out := object{
		"node":  object{"id": fmt.Sprintf("mesh/%s/%s/%s", c.Key.Mesh, c.Key.Kind, c.Key.Name), "cluster": "fields", "metadata": object{"evermesh.instance": "i"}},
		"admin": object{"address": pipe(admin)},
		"dynamic_resources": object{
			"ads_config": object{
				"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
				"grpc_services": []any{object{"envoy_grpc": object{"cluster_name": "management", "retry_policy": object{
					"retry_back_off": object{"base_interval": "0.1s", "max_interval": "0.5s"},
				}}}},
			},
			"cds_config": source, "lds_config": source,
		},
		"static_resources": object{"clusters": []any{server("management", shared.plane.socket), server("static_cluster_sds_unix_socket", sds)}},
	}
	if mark := shared.Owner().Mark; mark != 0 {
		out["cluster_manager"] = object{"upstream_bind_config": object{"socket_options": []any{
			object{"level": 1, "name": 36, "int_value": mark, "state": "STATE_PREBIND"},
		}}}
	}
	return json.Marshal(out)
}
