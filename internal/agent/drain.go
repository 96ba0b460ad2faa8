package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/evermesh/evermesh/internal/agent/relay"
	"github.com/evermesh/evermesh/internal/agent/supervise"
)

// tellDrain takes this proxy's endpoints out of what the control plane pushes, and says whether any client may choose
// them after that. resource is what it is a proxy of, as Envoy's node id: the instance alone may be another's, too. An
// answer but DRAINED is told why, as the whole drain time is waited for then.
func tellDrain(ctx context.Context, r *relay.Relay, resource, instance string, log *slog.Logger) (supervise.Left, error) {
	text, err := r.Do(ctx, http.MethodPut, "/evermesh/v1/proxies/"+url.PathEscape(instance)+"/drain?resourceArn="+url.QueryEscape(resource))
	if err != nil {
		return supervise.SomebodyMay, err
	}
	var answer struct {
		Status  string `json:"status"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return supervise.SomebodyMay, fmt.Errorf("answer of the control plane: %w", err)
	}
	if answer.Status == "DRAINED" {
		return supervise.NobodyMay, nil
	}
	log.Info("clients may choose this proxy yet, so the whole drain time is waited for", "status", answer.Status, "message", answer.Message)
	return supervise.SomebodyMay, nil
}
