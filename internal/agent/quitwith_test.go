package agent

import (
	"strconv"
	"strings"
	"testing"
)

// A job may be done before the agent looks for its process.
func TestQuitWithAProcessThatIsGone(t *testing.T) {
	t.Parallel()
	const nobody = 1<<22 + 1 // Linux has no larger number than one less
	p := play(t, newStub(t, "run", "AGENT_TEST_WITH="+strconv.Itoa(nobody)))
	p.ends(t, 0)
	if !strings.Contains(p.out.String(), "there is no process of --quit-with: it is taken to have ended") {
		t.Error("the log does not say why")
	}
}
