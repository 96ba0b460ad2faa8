package relay

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
)

// TestManyFiles_IMG_017 has a task's credentials fetched over a socket whose number is above 1024, which Envoy's own client
// could not do before 1.25: nothing was signed any more.
func TestManyFiles_IMG_017(t *testing.T) {
	const many = 1100
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < many+100 {
		t.Fatalf("only %d files may be open: %v", limit.Cur, err)
	}
	agenttest.Signed(t)
	answer := fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":%q,"Expiration":%q}`,
		os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	agenttest.Unsigned(t)
	asked := make(chan struct{}, 10)
	task := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(task.Close)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", task.URL)
	c := agenttest.NewControlPlane(t, "", agenttest.Verifying())
	for range many {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	_, client := newTestRelay(t, "APPMESH_XDS_ENDPOINT=http://"+c.Addr)
	converse(t, client)
	if len(asked) == 0 {
		t.Error("the task's endpoint was not asked")
	}
}
