package segment

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	logSuffix   = ".log"
	indexSuffix = ".index"
	// blockBytes is how much is read at once, and what the index tells apart.
	blockBytes = 256 << 10
	// maxLine bounds a line; what is longer is damage.
	maxLine = 4 << 20
)

// block is a run of whole lines in a file.
type block struct {
	Offset int64 `json:"o"`
	Size   int64 `json:"s"`
	Min    int64 `json:"n"` // time of its oldest entry
	Max    int64 `json:"x"` // and of its newest
}

func (b *block) add(at, size int64) {
	if b.Size == 0 {
		b.Min, b.Max = at, at
	}
	b.Min, b.Max, b.Size = min(b.Min, at), max(b.Max, at), b.Size+size
}

// file is one segment: its number, and what is in it. Blocks follow each other
// without a gap but for damage.
type file struct {
	number int64
	size   int64 // of what is whole and synced
	blocks []block
	// indexed says that its index is beside it.
	indexed bool
}

func (f *file) name(dir string) string { return filepath.Join(dir, numbered(f.number, logSuffix)) }

func numbered(number int64, suffix string) string { return fmt.Sprintf("%012d%s", number, suffix) }

// max is the time of the newest entry, 0 without any.
func (f *file) max() (at int64) {
	for _, b := range f.blocks {
		at = max(at, b.Max)
	}
	return at
}

// min is the time of the oldest entry, 0 without any.
func (f *file) min() (at int64) {
	for i, b := range f.blocks {
		if i == 0 || b.Min < at {
			at = b.Min
		}
	}
	return at
}

// add notes that a line was written at the end.
func (f *file) add(at, size int64) {
	n := len(f.blocks)
	if n == 0 || f.blocks[n-1].Size >= blockBytes || f.blocks[n-1].Offset+f.blocks[n-1].Size != f.size {
		f.blocks = append(f.blocks, block{Offset: f.size})
		n++
	}
	f.blocks[n-1].add(at, size)
	f.size += size
}

// numbers are those of the segments in a directory, in order.
func numbers(dir string) (out []int64, err error) {
	entries, err := os.ReadDir(dir) // sorted, and numbers have one length
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), logSuffix)
		if !ok {
			continue
		}
		if n, err := strconv.ParseInt(name, 10, 64); err == nil {
			out = append(out, n)
		}
	}
	return out, nil
}

// index is what is kept of a segment that takes no more.
type index struct {
	Size   int64   `json:"size"`
	Blocks []block `json:"blocks"`
}

// writeIndex keeps the index of a segment beside it. It may be lost: it is made
// anew then.
func (f *file) writeIndex(dir string) error {
	if f.indexed {
		return nil
	}
	text, err := json.Marshal(index{f.size, f.blocks})
	if err != nil {
		return err
	}
	name := filepath.Join(dir, numbered(f.number, indexSuffix))
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	f.indexed = true
	return nil
}

// openFile learns what is in a segment: from its index, else line by line.
// damaged is how many bytes in it are no lines; those at its end are cut off if
// it is the last segment.
func openFile(dir string, number int64, last bool) (f *file, damaged int64, err error) {
	f = &file{number: number}
	info, err := os.Stat(f.name(dir))
	if err != nil {
		return nil, 0, err
	}
	var known index
	if text, err := os.ReadFile(filepath.Join(dir, numbered(number, indexSuffix))); err == nil &&
		json.Unmarshal(text, &known) == nil && known.Size == info.Size() {
		f.size, f.blocks, f.indexed = known.Size, known.Blocks, true
		return f, 0, nil
	}
	if damaged, err = f.read(dir); err != nil {
		return nil, 0, err
	}
	if last && f.size < info.Size() {
		if err := os.Truncate(f.name(dir), f.size); err != nil {
			return nil, 0, err
		}
	}
	return f, damaged, nil
}

// read fills blocks and size, which ends with the last whole line.
func (f *file) read(dir string) (damaged int64, err error) {
	in, err := os.Open(f.name(dir))
	if err != nil {
		return 0, err
	}
	defer in.Close()
	lines := bufio.NewReaderSize(in, blockBytes)
	var line []byte
	for offset := int64(0); ; offset += int64(len(line)) {
		line, err = wholeLine(lines, line[:0])
		if len(line) == 0 && errors.Is(err, io.EOF) {
			return damaged, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return damaged, err
		}
		e, bad := parse(bytes.TrimSuffix(line, []byte("\n")))
		if bad != nil || line[len(line)-1] != '\n' {
			damaged += int64(len(bytes.Trim(line, "\x00"))) // zeros were reserved
			continue
		}
		f.size = offset // what was damaged before is in no block
		f.add(e.At, int64(len(line)))
	}
}

// wholeLine reads to the next line break, or maxLine bytes.
func wholeLine(r *bufio.Reader, line []byte) ([]byte, error) {
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) || len(line) >= maxLine {
			if errors.Is(err, bufio.ErrBufferFull) {
				err = nil
			}
			return line, err
		}
	}
}
