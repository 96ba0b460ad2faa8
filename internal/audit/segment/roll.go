package segment

import (
	"errors"
	"os"
	"time"
)

// write puts text at the end of the last segment, on the disk. After a failure
// nothing of it is left, or the segment takes no more.
func (l *Log) write(text []byte) error {
	if l.out == nil || l.last().size >= l.segmentBytes() || l.config.Now().Sub(l.began) > segmentAge {
		if err := l.next(); err != nil {
			return err
		}
		l.retain()
	}
	size := l.last().size
	l.reserve(size + int64(len(text)))
	_, err := l.out.WriteAt(text, size)
	if err != nil {
		l.reserved = size
		return errors.Join(err, l.out.Truncate(size))
	}
	if err := syncData(l.out); err != nil {
		// What the kernel has of the file now, nobody knows: it is read again, if at
		// all, by the next start.
		err = errors.Join(err, l.out.Truncate(size), l.out.Close())
		l.out, l.reserved = nil, 0
		return err
	}
	return nil
}

// reserve fills the segment with zeros behind the place up to which is written now,
// if need be. A disk that has no room for them takes entries all the same.
func (l *Log) reserve(upTo int64) {
	if upTo <= l.reserved {
		return
	}
	next := min(upTo+reserveBytes, l.segmentBytes())
	if next <= upTo {
		return
	}
	if err := l.zero(upTo, next); err != nil {
		if err := l.out.Truncate(max(upTo, l.reserved)); err != nil {
			l.config.Log.Warn("segment keeps zeros at its end", "err", err)
		}
		return
	}
	l.reserved = next
}

// zero writes zeros into the last segment.
func (l *Log) zero(from, to int64) error {
	for from < to {
		n, err := l.out.WriteAt(l.zeros[:min(to-from, zeroBytes)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// shut closes the last segment, which is synced, without the zeros at its end.
func (l *Log) shut(f *file) {
	if l.reserved > f.size {
		if err := l.out.Truncate(f.size); err != nil {
			l.config.Log.Warn("segment keeps zeros at its end", "err", err)
		}
	}
	_ = l.out.Close()
	l.out, l.reserved = nil, 0
}

func (l *Log) segmentBytes() int64 { return max(min(segmentBytes, l.config.MaxBytes/8), 1) }

// last is the segment that takes what comes.
func (l *Log) last() *file {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.files[len(l.files)-1]
}

// resume goes on with the last segment there is.
func (l *Log) resume() error {
	if len(l.files) == 0 {
		return l.next()
	}
	f := l.files[len(l.files)-1]
	out, err := os.OpenFile(f.name(l.config.Dir), os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	l.out, l.began = out, l.config.Now()
	if at := f.min(); at > 0 {
		l.began = time.UnixMicro(at)
	}
	return nil
}

// next begins a segment. Its directory is synced: a file whose name is lost is
// lost.
func (l *Log) next() error {
	number := int64(1)
	l.mu.RLock()
	var before *file
	if n := len(l.files); n > 0 {
		before = l.files[n-1]
		number = before.number + 1
	}
	l.mu.RUnlock()
	if before != nil && l.out != nil {
		l.shut(before)
	}
	f := &file{number: number}
	out, err := os.OpenFile(f.name(l.config.Dir), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := syncDir(l.config.Dir); err != nil {
		return errors.Join(err, out.Close())
	}
	if before != nil {
		if err := before.writeIndex(l.config.Dir); err != nil {
			l.config.Log.Warn("index of a segment was not written and is made at the next start", "file", before.name(l.config.Dir), "err", err)
		}
	}
	l.out, l.reserved, l.began = out, 0, l.config.Now()
	l.mu.Lock()
	l.files = append(l.files, f)
	l.mu.Unlock()
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
