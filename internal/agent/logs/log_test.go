package logs

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestLog(t *testing.T) {
	var b bytes.Buffer
	log := New(&b, "warning")
	log.Info("not shown")
	log.With("proxy", "p").Warn("some words", "err", fmt.Errorf("a b"), "n", 1, "empty", "", "none", error(nil))
	_, line, ok := strings.Cut(b.String(), "][")
	_, line, _ = strings.Cut(line, "]")
	if want := "[warning] [AppNet Agent] some words proxy=p err=\"a b\" n=1 empty=\"\"\n"; !ok || line != want {
		t.Errorf("got %q", b.String())
	}
	if at, err := time.Parse("[2006-01-02 15:04:05.000", strings.SplitN(b.String(), "]", 2)[0]); err != nil || time.Since(at) > time.Minute {
		t.Errorf("time of %q: %v", b.String(), err)
	}
	if New(&b, "off").Enabled(context.Background(), 8) {
		t.Error("off is not off")
	}
}
