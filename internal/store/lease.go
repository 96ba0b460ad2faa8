package store

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// tokenKept is how long a client token is kept at least.
const tokenKept = 8 * time.Hour

// hourly is the lease that the tokens of this hour share: it outlasts each of
// them, and etcd has few leases to count.
type hourly struct {
	mu    sync.Mutex
	hour  time.Time
	id    clientv3.LeaseID
	known bool
}

func (h *hourly) lease(ctx context.Context, client *clientv3.Client) (clientv3.LeaseID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hour := time.Now().Truncate(time.Hour)
	if h.known && h.hour.Equal(hour) {
		return h.id, nil
	}
	resp, err := client.Grant(ctx, int64((tokenKept + time.Hour).Seconds()))
	if err != nil {
		return 0, err
	}
	h.hour, h.id, h.known = hour, resp.ID, true
	return h.id, nil
}

func (h *hourly) forget() {
	h.mu.Lock()
	h.known = false
	h.mu.Unlock()
}
