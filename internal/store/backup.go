package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A backup is lines of JSON: a head, a line for each key in order, and a foot
// with the checksum of all bytes before it. Values are kept as they are, so that
// what this program does not know of them comes back too.
const (
	backupFormat = 1
	// backupLine bounds a line in bytes: the largest record in base64.
	backupLine = 2 * maxRequest
	// backupPage is how many keys are read at once.
	backupPage = 250
)

// ledgerTail is what replicas say of the proxies that they have. It is of no use
// to other replicas at another time, and is in no backup; nor are rows with the
// lease of a replica, and events: they may have been delivered, and would be
// delivered again.
const ledgerTail = "ledger/"

// BackupInfo is what a backup says of itself.
type BackupInfo struct {
	Created  time.Time
	Revision int64 // of the etcd that it was made from
	Records  int
	Bytes    int64 // of the whole file
	Checksum string
}

type backupHead struct {
	Backup   string    `json:"backup"` // evermesh
	Format   int       `json:"format"`
	Created  time.Time `json:"created"`
	Revision int64     `json:"revision"`
}

type backupRow struct {
	Key   string `json:"key"` // below <prefix>/v1/
	Value []byte `json:"value"`
	// Expires marks client tokens, which are kept for 8 hours.
	Expires bool `json:"expires,omitempty"`
}

type backupFoot struct {
	Records int    `json:"records"`
	SHA256  string `json:"sha256"`
}

// backupName is the word in the head that tells a backup from other files.
const backupName = "evermesh"

// Backup writes all that is to be kept, as of one revision, while others go on
// reading and writing. progress, which may be nil, is told after every page how
// much is written. A backup that failed is not one: its foot is missing.
func (s *Store) Backup(ctx context.Context, w io.Writer, progress func(BackupInfo)) (BackupInfo, error) {
	out := &backupWriter{w: bufio.NewWriter(w), sum: sha256.New()}
	info := BackupInfo{Created: time.Now().UTC().Truncate(time.Second)}
	prefix := s.key("")
	for from := prefix; ; {
		resp, err := s.page(ctx, from, prefix, info.Revision)
		if says(err, textCompacted) {
			return info, errors.New("back up: etcd compacted what was being read: try again, and compact less often if this comes back")
		}
		if err != nil {
			return info, s.failure(ctx, "back up", err)
		}
		if info.Revision == 0 {
			info.Revision = resp.Header.Revision
			if err := out.line(backupHead{backupName, backupFormat, info.Created, info.Revision}); err != nil {
				return info, err
			}
		}
		for _, kv := range resp.Kvs {
			tail := s.tail(kv.Key)
			row := backupRow{tail, kv.Value, strings.HasPrefix(tail, tokenTail)}
			switch {
			case tail == restoreTail:
				return info, errRestoring
			case strings.HasPrefix(tail, ledgerTail), strings.HasPrefix(tail, outboxTail), kv.Lease != 0 && !row.Expires:
				continue
			}
			if err := out.line(row); err != nil {
				return info, err
			}
			info.Records++
		}
		if progress != nil {
			info.Bytes = out.bytes
			progress(info)
		}
		if !resp.More {
			break
		}
		from = behind(string(resp.Kvs[len(resp.Kvs)-1].Key))
	}
	info.Checksum = hex.EncodeToString(out.sum.Sum(nil))
	if err := out.line(backupFoot{info.Records, info.Checksum}); err != nil {
		return info, err
	}
	info.Bytes = out.bytes
	if err := out.w.Flush(); err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	return info, nil
}

// page reads keys from one on, at the revision or, with 0, as they are.
func (s *Store) page(ctx context.Context, from, prefix string, revision int64) (*clientv3.GetResponse, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	return s.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(backupPage), clientv3.WithRev(revision))
}

type backupWriter struct {
	w     *bufio.Writer
	sum   hash.Hash
	bytes int64
}

func (b *backupWriter) line(v any) error {
	text, err := marshal(v)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	text = append(text, '\n')
	b.sum.Write(text)
	b.bytes += int64(len(text))
	if _, err := b.w.Write(text); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// CheckBackup reads a backup to its end and says whether it is whole.
func CheckBackup(r io.Reader) (BackupInfo, error) {
	return readBackup(r, func(backupRow) error { return nil })
}

// readBackup calls each with the rows of a backup. That it is whole is known
// only when readBackup returns.
func readBackup(r io.Reader, each func(backupRow) error) (BackupInfo, error) {
	lines := bufio.NewReaderSize(r, backupLine)
	sum := sha256.New()
	var info BackupInfo
	head, err := nextLine(lines)
	var h backupHead
	switch {
	case err != nil && !errors.Is(err, errLine) && !errors.Is(err, errCut):
		return info, err
	case err != nil, json.Unmarshal(head, &h) != nil, h.Backup != backupName:
		return info, errors.New("it is not a backup that evermeshd made")
	case h.Format != backupFormat:
		return info, fmt.Errorf("it has format %d, and this evermeshd reads format %d: use the release that made it, or a newer one", h.Format, backupFormat)
	}
	info.Created, info.Revision = h.Created, h.Revision
	for line := head; ; info.Records++ {
		sum.Write(line)
		info.Bytes += int64(len(line))
		if line, err = nextLine(lines); err != nil {
			return info, err
		}
		if bytes.HasPrefix(line, []byte(`{"records":`)) {
			info.Bytes += int64(len(line))
			return info, checkFoot(lines, line, &info, sum)
		}
		var row backupRow
		if err := json.Unmarshal(line, &row); err != nil || row.Key == "" {
			return info, fmt.Errorf("it is damaged: record %d cannot be read", info.Records+1)
		}
		if err := each(row); err != nil {
			return info, err
		}
	}
}

// checkFoot compares the last line with what was read.
func checkFoot(lines *bufio.Reader, line []byte, info *BackupInfo, sum hash.Hash) error {
	var foot backupFoot
	if err := json.Unmarshal(line, &foot); err != nil {
		return errors.New("it is damaged: its last line cannot be read")
	}
	info.Checksum = hex.EncodeToString(sum.Sum(nil))
	if foot.SHA256 != info.Checksum || foot.Records != info.Records {
		return fmt.Errorf("it is damaged: its checksum is %s, and its last line says %s", info.Checksum, foot.SHA256)
	}
	if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.New("it is damaged: something follows its last line")
	}
	return nil
}

var (
	errLine = errors.New("it is damaged: a line is too long")
	errCut  = errors.New("it is cut off: its end is missing")
)

// nextLine reads a line with its end; it is good until the next one is read.
func nextLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF):
		return nil, errCut
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, errLine
	case err != nil:
		return nil, fmt.Errorf("read backup: %w", err)
	}
	return line, nil
}
