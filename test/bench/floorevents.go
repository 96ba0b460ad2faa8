//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/evermesh/evermesh/test/stage"
)

// events is the floor of an audit trail on a disk: whatever waits for it is written and synced together, over and over
// the same zeros. Nothing is read, found or kept.
type events struct {
	file  *os.File
	queue chan written
	event []byte // of a read
}

// written is who waits for text to be on the disk, and how it went.
type written struct {
	text []byte
	done chan error
}

// eventsBytes is the size of the file.
const eventsBytes = 64 << 20

func openEvents(dir string, size int) (*events, error) {
	f, err := os.Create(filepath.Join(dir, "events"))
	if err != nil {
		return nil, fmt.Errorf("open events: %w", err)
	}
	// What is written over costs a disk less than what is appended.
	_, err = f.Write(make([]byte, eventsBytes))
	if err := errors.Join(err, f.Sync()); err != nil {
		return nil, fmt.Errorf("open events: %w", errors.Join(err, f.Close()))
	}
	e := &events{file: f, queue: make(chan written, 4096), event: []byte(strings.Repeat("x", size))}
	go e.work() // until the process ends
	return e, nil
}

// keep returns when one more event of a read is on the disk.
func (e *events) keep() error { return e.write(e.event) }

func (e *events) write(text []byte) error {
	done := make(chan error, 1)
	e.queue <- written{text, done}
	return <-done
}

func (e *events) work() {
	at := int64(0)
	for first := range e.queue {
		all, text := []written{first}, first.text
		for len(e.queue) > 0 { // nobody else takes from it
			next := <-e.queue
			all, text = append(all, next), append(slices.Clip(text), next.text...)
		}
		if at+int64(len(text)) > eventsBytes {
			at = 0
		}
		_, err := e.file.WriteAt(text, at)
		at += int64(len(text))
		err = errors.Join(err, unix.Fdatasync(int(e.file.Fd())))
		for _, w := range all {
			w.done <- err
		}
	}
}

// moving are the events of writes that are in the store and not on the disk yet.
type moving struct {
	sync.Mutex
	keys []string
}

func (m *moving) add(key string) {
	m.Lock()
	defer m.Unlock()
	m.keys = append(m.keys, key)
}

func (m *moving) take() (keys []string) {
	m.Lock()
	defer m.Unlock()
	keys, m.keys = m.keys, nil
	return keys
}

// move does what Evermesh has to do with events of writes: every 100 ms what there is goes to the disk together, and out
// of the store by hundreds. It ends with an error: without that it is no floor.
func (b *bareAPI) move() error {
	for range time.Tick(100 * time.Millisecond) {
		keys := b.moving.take()
		if len(keys) == 0 {
			continue
		}
		if err := b.events.write([]byte(strings.Repeat(b.event, len(keys)))); err != nil {
			return err
		}
		for some := range slices.Chunk(keys, 100) {
			var gone []clientv3.Op
			for _, key := range some {
				gone = append(gone, clientv3.OpDelete(key))
			}
			if _, err := b.db.Txn(context.Background()).Then(gone...).Commit(); err != nil {
				return fmt.Errorf("move events: %w", err)
			}
		}
	}
	return nil // never
}

// eventSizes are how many bytes Evermesh keeps of a read and of a write: one of each is made, and looked up on its disk.
func eventSizes(ctx context.Context, c *stage.Control) (read, write int, err error) {
	mesh := apiMesh(0)
	if err := c.Evermesh.Call(ctx, "DescribeRoute", map[string]any{"meshName": mesh, "virtualRouterName": "s", "routeName": "main"}, nil); err != nil {
		return 0, 0, err
	}
	if err := c.Evermesh.Call(ctx, "UpdateRoute", route(mesh, "s", "a", "b", 50), nil); err != nil {
		return 0, 0, err
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return read, write, stage.Until(wait, "the events of a read and a write are on the disk", func(context.Context) bool {
		read, write, err = sizesIn(filepath.Join(c.DataDir, "audit"))
		return err == nil && read > 0 && write > 0
	})
}

// sizesIn looks into segments for a DescribeRoute and an UpdateRoute: reads have a folder of their own.
func sizesIn(dir string) (read, write int, err error) {
	var files []string
	for _, pattern := range []string{"*", "*/*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return 0, 0, err
		}
		files = append(files, found...)
	}
	for _, name := range files {
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return 0, 0, err
		}
		for line := range strings.Lines(string(text)) {
			var event struct {
				EventName string `json:"eventName"`
			}
			_, body, found := strings.Cut(line, "{")
			if !found || json.Unmarshal([]byte("{"+body), &event) != nil {
				continue // zeros, or another file
			}
			switch event.EventName {
			case "DescribeRoute":
				read = len(line)
			case "UpdateRoute":
				write = len(line)
			}
		}
	}
	return read, write, nil
}
