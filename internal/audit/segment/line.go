package segment

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"strconv"
)

// Entry is one thing that is kept.
type Entry struct {
	// At orders entries: microseconds since 1970, of what happened and not of when
	// it was written.
	At int64
	// Account and ID tell whose it is and which; words without spaces. Two entries
	// with one ID are one that was written twice.
	Account, ID string
	// Body is without line breaks, such as encoded JSON.
	Body []byte
}

// Newer says whether e comes before o where the newest is first.
func (e Entry) Newer(o Entry) bool {
	if e.At != o.At {
		return e.At > o.At
	}
	return e.ID > o.ID
}

// A line is `checksum at account id body` and a line break, the checksum of all
// after it in eight hexadecimal digits: a line that was torn is no line.
const sumSize = 8

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errLine    = errors.New("line is not whole")
)

// Line is the entry as it is kept, with its line break.
func (e Entry) Line() []byte {
	return e.AppendLine(make([]byte, 0, sumSize+len(e.Body)+len(e.Account)+len(e.ID)+24))
}

// AppendLine is Line at the end of b.
func (e Entry) AppendLine(b []byte) []byte {
	start := len(b)
	b = append(b, "00000000 "...)
	b = strconv.AppendInt(b, e.At, 10)
	b = append(append(b, ' '), e.Account...)
	b = append(append(b, ' '), e.ID...)
	b = append(append(b, ' '), e.Body...)
	var sum [sumSize / 2]byte
	binary.BigEndian.PutUint32(sum[:], crc32.Checksum(b[start+sumSize:], castagnoli))
	hex.Encode(b[start:], sum[:])
	return append(b, '\n')
}

// Lines reads what Entry.Line made, one after the other; the entries' bodies are
// parts of text. What is no line is an error, after the entries before it.
func Lines(text []byte) (out []Entry, err error) {
	for len(text) > 0 {
		end := bytes.IndexByte(text, '\n')
		if end < 0 {
			return out, errLine
		}
		e, err := parse(text[:end])
		if err != nil {
			return out, err
		}
		out, text = append(out, e), text[end+1:]
	}
	return out, nil
}

// parse reads a line without its break.
func parse(line []byte) (e Entry, err error) {
	if len(line) <= sumSize || line[sumSize] != ' ' {
		return e, errLine
	}
	sum, err := strconv.ParseUint(string(line[:sumSize]), 16, 32)
	if err != nil || uint32(sum) != crc32.Checksum(line[sumSize:], castagnoli) {
		return e, errLine
	}
	at, rest, _ := bytes.Cut(line[sumSize+1:], []byte(" "))
	account, rest, _ := bytes.Cut(rest, []byte(" "))
	id, body, ok := bytes.Cut(rest, []byte(" "))
	if e.At, err = strconv.ParseInt(string(at), 10, 64); err != nil || !ok {
		return e, errLine
	}
	e.Account, e.ID, e.Body = string(account), string(id), body
	return e, nil
}
