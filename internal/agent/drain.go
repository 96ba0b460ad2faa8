package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/evermesh/evermesh/internal/agent/relay"
	"github.com/evermesh/evermesh/internal/agent/supervise"
)

// tellDrain takes this proxy's endpoints out of what the control plane pushes, and says whether any client may choose
// them after that.
func tellDrain(ctx context.Context, r *relay.Relay, instance string) (supervise.Left, error) {
	text, err := r.Do(ctx, http.MethodPut, "/evermesh/v1/proxies/"+instance+"/drain")
	if err != nil {
		return supervise.SomebodyMay, err
	}
	var answer struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return supervise.SomebodyMay, fmt.Errorf("answer of the control plane: %w", err)
	}
	if answer.Status == "DRAINED" {
		return supervise.NobodyMay, nil
	}
	return supervise.SomebodyMay, nil
}
