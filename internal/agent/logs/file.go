package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// FileOptions say where a File is and how much of it is kept.
type FileOptions struct {
	Path     string
	MaxBytes int64 // of one file; a full one becomes Path.SECONDS, the time of day in Unix seconds
	Keep     int   // full files
	// Else gets what the file does not take: the disk is full, or the file was made unwritable.
	Else io.Writer
	Now  func() time.Time
}

// File is one log of several writers, this process and others. Whatever other processes write comes through a pipe, so that
// this one alone writes to the file: that is why nothing is lost, and no line is cut, when a full file makes room for a new
// one. App Mesh's agent copied the file and then truncated it, and lost what Envoy wrote in between.
type File struct {
	o FileOptions

	mu      sync.Mutex
	file    *os.File // nil when there is none yet, or it could not be opened anew
	size    int64    // since it was opened, or could not be turned
	failing bool     // the last write did not reach the file
	closed  bool

	read, write *os.File // the pipe
	end         int      // read's descriptor
	reader      sync.WaitGroup
}

const fileMode = 0o644

// OpenFile appends to the file at o.Path, which it makes; its directory must exist.
func OpenFile(o FileOptions) (*File, error) {
	if info, err := os.Stat(filepath.Dir(o.Path)); err != nil {
		return nil, fmt.Errorf("open log file: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("open log file: %s is no directory", filepath.Dir(o.Path))
	}
	f := &File{o: o}
	if err := f.open(); err != nil {
		return nil, err
	}
	// Writers get an end that blocks, as they would have it of a file; the other end can be told to give up.
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, errors.Join(fmt.Errorf("make the pipe of the log: %w", err), f.file.Close())
	}
	_ = unix.SetNonblock(ends[0], true) // never fails on a pipe
	f.end = ends[0]
	f.read, f.write = os.NewFile(uintptr(ends[0]), "log"), os.NewFile(uintptr(ends[1]), "log")
	f.reader.Go(f.drain)
	return f, nil
}

// Pipe is for the standard output and error of a process. It is the File's, and closed by it.
func (f *File) Pipe() *os.File { return f.write }

// pieceSize is how much is taken from the pipe at once: all that fits into one. latePieces are taken yet when the time for
// writers is over: what was in the pipe by then.
const pieceSize, latePieces = 64 << 10, 2

// drain takes what other processes wrote until they and this one have closed the pipe. A piece ends with a line where the
// reader fell behind; otherwise it is what was written at once.
func (f *File) drain() {
	piece := make([]byte, pieceSize)
	kept, late := 0, 0
	for {
		n, err := f.read.Read(piece[kept:])
		if errors.Is(err, os.ErrDeadlineExceeded) && late < latePieces { // it may be this process that was slow
			late++
			if there, failed := unix.Read(f.end, piece[kept:]); there > 0 && failed == nil {
				n, err = there, nil
			}
		}
		n += kept
		end := n
		if i := bytes.LastIndexByte(piece[:n], '\n'); n == len(piece) && i >= 0 {
			end = i + 1
		}
		if err != nil {
			end = n
		}
		_, _ = f.Write(piece[:end]) // never fails
		if err != nil {
			return
		}
		kept = copy(piece, piece[end:n])
	}
}

// Write takes everything, and returns no error: what the file does not take goes to Else.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for rest := p; len(rest) > 0; {
		now := rest[:f.fits(rest)]
		f.put(now)
		if rest = rest[len(now):]; len(rest) > 0 {
			f.turn()
		}
	}
	return len(p), nil
}

// fits is how many bytes of p the file has room for: whole lines, and the first one in any case where it has nothing.
func (f *File) fits(p []byte) int {
	room := f.o.MaxBytes - f.size
	if int64(len(p)) <= room {
		return len(p)
	}
	if n := bytes.LastIndexByte(p[:max(room, 0)], '\n') + 1; n > 0 || f.size > 0 {
		return n
	}
	if n := bytes.IndexByte(p, '\n') + 1; n > 0 {
		return n
	}
	return len(p)
}

// put writes to the file, and to Else what does not go there.
func (f *File) put(p []byte) {
	if len(p) == 0 {
		return
	}
	err := f.open()
	n := 0
	if err == nil {
		n, err = f.file.Write(p)
	}
	f.size += int64(len(p))
	if err == nil {
		f.failing = false
		return
	}
	if !f.failing && !f.closed {
		f.log().Warn("cannot write to the log file: until it can be, lines go to standard error", "err", err)
	}
	f.failing = true
	_, _ = f.o.Else.Write(p[n:]) // there is no third place
}

// log tells of the file where it is not.
func (f *File) log() *slog.Logger { return New(f.o.Else, "info") }

// open makes sure that the file is open.
func (f *File) open() error {
	if f.closed {
		return os.ErrClosed
	}
	if f.file != nil {
		return nil
	}
	file, err := Open(f.o.Path)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.file, f.size = file, info.Size()
	return nil
}

// turn makes room: the full file gets another name, which needs no space, and the oldest ones go. When that cannot be done
// the file goes on growing, and it is tried again after as much again.
func (f *File) turn() {
	f.size = 0
	if f.file == nil {
		return
	}
	if f.ours() {
		if err := os.Rename(f.o.Path, f.next(f.full())); err != nil {
			f.log().Warn("cannot make room for a new log file: it goes on growing", "err", err)
			return
		}
		full := f.full()
		for _, second := range full[:max(len(full)-f.o.Keep, 0)] {
			_ = os.Remove(f.named(second))
		}
	}
	_ = f.file.Close() // every write has said how it went
	f.file = nil
	_ = f.open() // the next write says when it cannot be
}

// ours says whether the file that is open is still the one at the path: another agent may have turned it.
func (f *File) ours() bool {
	open, err := f.file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(f.o.Path)
	return err == nil && os.SameFile(open, named)
}

// full are the seconds of the full files, in order.
func (f *File) full() []int64 {
	entries, err := os.ReadDir(filepath.Dir(f.o.Path))
	if err != nil {
		return nil
	}
	var out []int64
	for _, e := range entries {
		if number, ok := strings.CutPrefix(e.Name(), filepath.Base(f.o.Path)+"."); ok {
			if second, err := strconv.ParseInt(number, 10, 64); err == nil && second > 0 {
				out = append(out, second)
			}
		}
	}
	slices.Sort(out)
	return out
}

func (f *File) named(second int64) string { return f.o.Path + "." + strconv.FormatInt(second, 10) }

// next is the name of a file that became full now. It comes behind all others, of which there may be several in a second,
// and some from before the clock was set back.
func (f *File) next(full []int64) string {
	second := f.o.Now().Unix()
	if len(full) > 0 {
		second = max(second, full[len(full)-1]+1)
	}
	return f.named(second)
}

// closeWait is how long a process that still has the pipe may go on with what it writes.
const closeWait = time.Second

// Close takes what is in the pipe, and ends.
func (f *File) Close() error {
	_ = f.write.Close()
	_ = f.read.SetReadDeadline(time.Now().Add(closeWait))
	f.reader.Wait()
	_ = f.read.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
