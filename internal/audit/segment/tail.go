package segment

import "fmt"

// Position is a place between two entries in the order in which they were
// written. The zero Position is before all of them.
type Position struct {
	Segment int64 `json:"segment"`
	Offset  int64 `json:"offset"`
}

func (p Position) before(o Position) bool {
	return p.Segment < o.Segment || p.Segment == o.Segment && p.Offset < o.Offset
}

// Next reads entries behind a position, about a block of them, and says where
// they end. missed says that segments that were not read are gone. Without an
// entry there is nothing new: wait for Changed, asked for before.
func (l *Log) Next(p Position) (entries []Entry, next Position, missed bool, err error) {
	for {
		at, ok, gone := l.behind(p)
		missed = missed || gone
		if !ok {
			return nil, p, missed, nil
		}
		text, err := l.block(at, nil)
		if err != nil {
			return nil, p, missed, fmt.Errorf("read log: %w", err)
		}
		p = Position{at.file.number, at.Offset + at.Size}
		if entries, err = Lines(text); err != nil {
			l.config.Log.Warn("log has bytes that are no entries", "file", at.file.name(l.config.Dir), "offset", at.Offset)
		}
		if len(entries) > 0 {
			return entries, p, missed, nil
		}
		missed = missed || len(text) == 0 // it was removed meanwhile
	}
}

// End is the position behind all that there is.
func (l *Log) End() Position {
	l.mu.RLock()
	defer l.mu.RUnlock()
	f := l.files[len(l.files)-1]
	return Position{f.number, f.size}
}

// Behind is how many bytes there are behind a position.
func (l *Log) Behind(p Position) (bytes int64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, f := range l.files {
		switch {
		case f.number == p.Segment:
			bytes += max(f.size-p.Offset, 0)
		case f.number > p.Segment:
			bytes += f.size
		}
	}
	return bytes
}

// behind is the first block, or the rest of one, behind a position. gone says
// that segments between are not there any more.
func (l *Log) behind(p Position) (at place, ok, gone bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if p != (Position{}) {
		gone = p.before(l.cut) || l.files[0].number > p.Segment+1 && l.cut.Segment == 0 // removed before Open
	}
	for _, f := range l.files {
		if f.number < p.Segment {
			continue
		}
		for _, b := range f.blocks {
			from := b.Offset
			if f.number == p.Segment {
				from = max(from, p.Offset)
			}
			if end := b.Offset + b.Size; from < end {
				b.Offset, b.Size = from, end-from
				return place{b, f}, true, gone
			}
		}
	}
	return place{}, false, gone
}
