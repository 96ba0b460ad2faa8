package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
)

// File is a file of events, a line of JSON each, that others rotate: it is opened
// anew when it was moved or removed, and after Reopen.
type File struct {
	Name string

	mu  sync.Mutex
	out *os.File
}

// Reopen opens the file anew before the next event.
func (f *File) Reopen() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.close()
}

// Close lets go of the file.
func (f *File) Close() { f.Reopen() }

// Send appends events. A line is whole or not there.
func (f *File) Send(_ context.Context, lines [][]byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open(); err != nil {
		return fmt.Errorf("open file of events: %w", err)
	}
	info, err := f.out.Stat()
	if err != nil {
		f.close()
		return fmt.Errorf("write events to file: %w", err)
	}
	text := append(bytes.Join(lines, []byte("\n")), '\n')
	if n, err := f.out.Write(text); err != nil {
		if n > 0 && info.Mode().IsRegular() {
			err = errors.Join(err, f.out.Truncate(info.Size()))
		}
		f.close()
		return fmt.Errorf("write events to file: %w", err)
	}
	return nil
}

// open makes sure that out is what the name names.
func (f *File) open() error {
	if f.out != nil {
		named, err := os.Stat(f.Name)
		if err == nil {
			if info, err := f.out.Stat(); err == nil && os.SameFile(named, info) {
				return nil
			}
		}
		f.close()
	}
	out, err := os.OpenFile(f.Name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	f.out = out
	return nil
}

func (f *File) close() {
	if f.out != nil {
		_ = f.out.Close() // what was written is written, or told
		f.out = nil
	}
}
