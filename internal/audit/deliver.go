package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/evermesh/evermesh/internal/audit/segment"
)

const (
	// retryLeast and retryMost bound the pause after a delivery that failed.
	retryLeast = 500 * time.Millisecond
	retryMost  = time.Minute
	// saveEvery is how often the place up to which is delivered is written down.
	saveEvery = time.Second
)

// Delivery brings the events of this replica's segments somewhere else, in the
// order in which they were written, each at least once: after a crash the last
// ones come again, with the ids that they had. It begins with the oldest event
// that is kept.
type Delivery struct {
	Log *segment.Log
	// Send takes events, each a line of JSON, all or none.
	Send func(ctx context.Context, lines [][]byte) error
	// To is the word for it in the log: webhook. Place is the file with the place
	// up to which is delivered.
	To, Place string
	Logger    *slog.Logger

	behind, sent, missed atomic.Int64

	at    segment.Position
	saved segment.Position
}

// DeliveryStats are counts since the start, and how far it is.
type DeliveryStats struct {
	Sent   int64 // events
	Behind int64 // bytes of segments that are not delivered yet
	Missed int64 // times that segments had been removed before they were delivered
}

// Stats tells how far it is.
func (d *Delivery) Stats() DeliveryStats {
	return DeliveryStats{Sent: d.sent.Load(), Behind: d.behind.Load(), Missed: d.missed.Load()}
}

// Run delivers until ctx ends, and then for a moment what is left. Its error is
// that of a place that cannot be read.
func (d *Delivery) Run(ctx context.Context) error {
	if err := d.load(); err != nil {
		return err
	}
	defer d.save()
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	for {
		changed := d.Log.Changed()
		if d.step(ctx) {
			select {
			case <-save.C:
				d.save()
			default:
			}
			continue
		}
		select {
		case <-changed:
		case <-save.C:
			d.save()
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWait)
			defer cancel()
			for d.step(last) && last.Err() == nil {
			}
			return nil
		}
	}
}

// step delivers about a block; false says that there is none, or that ctx ended.
func (d *Delivery) step(ctx context.Context) bool {
	d.behind.Store(d.Log.Behind(d.at))
	entries, next, missed, err := d.Log.Next(d.at)
	if missed {
		d.missed.Add(1)
		d.Logger.Error("events were removed before they were delivered: keep more (--audit-max-bytes)", "to", d.To)
	}
	if err != nil {
		d.Logger.Error("events cannot be read to be delivered", "to", d.To, "err", err)
		pause(ctx, retryMost)
		return ctx.Err() == nil
	}
	if len(entries) == 0 {
		d.at = next
		return false
	}
	lines := make([][]byte, len(entries))
	for i, e := range entries {
		lines[i] = e.Body
	}
	for wait := retryLeast; ; wait = min(2*wait, retryMost) {
		err := d.Send(ctx, lines)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return false
		}
		d.Logger.Warn("events were not delivered and wait", "to", d.To, "err", err)
		pause(ctx, wait)
	}
	d.at = next
	d.sent.Add(int64(len(lines)))
	d.behind.Store(d.Log.Behind(d.at))
	return true
}

func (d *Delivery) load() error {
	text, err := os.ReadFile(d.Place)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read place of delivery: %w", err)
	case json.Unmarshal(text, &d.at) != nil:
		d.Logger.Warn("place of delivery is not readable: all that is kept is delivered again", "to", d.To)
	}
	if end := d.Log.End(); d.at.Segment > end.Segment || d.at.Segment == end.Segment && d.at.Offset > end.Offset {
		d.at = segment.Position{} // the segments are others
	}
	d.saved = d.at
	return nil
}

// save writes the place down. If that is lost, events come again.
func (d *Delivery) save() {
	if d.at == d.saved {
		return
	}
	if err := replace(d.Place, marshal(d.at)); err != nil {
		d.Logger.Warn("place of delivery was not written", "to", d.To, "err", err)
		return
	}
	d.saved = d.at
}

// replace writes a file so that it is the old one or the new one, whole.
func replace(name string, text []byte) error {
	out, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
