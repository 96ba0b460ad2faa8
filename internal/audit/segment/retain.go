package segment

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// retainEvery is how often it is looked for what has become too old; what is too
// much is looked for with each segment.
const retainEvery = time.Minute

// retain removes whole segments, the oldest first: while all are larger than they
// may be, and where every entry is too old. The last one stays.
func (l *Log) retain() {
	for {
		f, why := l.due()
		if f == nil {
			return
		}
		if err := l.remove(f); err != nil {
			l.config.Log.Error("segment was not removed", "file", f.name(l.config.Dir), "err", err)
			return
		}
		l.removed.Add(f.size)
		if why == "size" {
			l.surplus.Add(f.size)
		}
		l.config.Log.Info("segment was removed", "file", f.name(l.config.Dir), "reason", why, "bytes", f.size)
	}
}

// due is a segment that is to go, and why.
func (l *Log) due() (*file, string) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	oldest := l.config.Now().Add(-l.config.MaxAge).UnixMicro()
	var bytes int64
	for _, f := range l.files {
		bytes += f.size
	}
	for i, f := range l.files[:len(l.files)-1] {
		switch {
		case i == 0 && bytes > l.config.MaxBytes:
			return f, "size"
		case f.max() < oldest:
			return f, "age"
		}
	}
	return nil, ""
}

func (l *Log) remove(f *file) error {
	for _, suffix := range []string{logSuffix, indexSuffix} {
		if err := os.Remove(filepath.Join(l.config.Dir, numbered(f.number, suffix))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = Position{f.number, f.size}
	for i, other := range l.files {
		if other == f {
			l.files = append(l.files[:i:i], l.files[i+1:]...)
			return nil
		}
	}
	return nil
}
