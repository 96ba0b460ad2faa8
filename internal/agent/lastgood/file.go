package lastgood

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// The file is a line that names its form, fields as protobuf encodes them, and the SHA-256 of all that. The fields:
//
//	1 the node's id
//	2 its traits
//	3 a type: 1 its URL, 2 its version in the state of the world
//	4 a resource of the type before it: 1 name, 2 version, 3 the encoded Any
//	5 what is sealed: fields 3 and 4 again, of secrets. It is the last field, there whenever the agent had a key, and bound to
//	  all that is before it: who cannot open it can change nothing

const (
	fileMark   = "evermesh-agent last good configuration "
	fileForm   = fileMark + "1\n"
	fileSuffix = ".lastgood"
	tempSuffix = ".new"
	// mostFile bounds what is read, in bytes.
	mostFile = 2*mostBytes + 1<<20
	// staleAfter is how old a file half written must be to be nobody's.
	staleAfter = time.Minute
)

// path is the file of a node. Several agents, of several nodes or of one, may share a directory.
func path(dir, node string) string {
	sum := sha256.Sum256([]byte(node))
	return filepath.Join(dir, hex.EncodeToString(sum[:8])+fileSuffix)
}

// read reads a file of a node and when it was right. It is whole or an error: a file that is half there, was changed, is of
// another node or form, or could be somebody else's.
func read(name, node string) (*configuration, time.Time, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read last good configuration: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, time.Time{}, fmt.Errorf("read last good configuration: %w", err)
	case !info.Mode().IsRegular() || !closed(info):
		return nil, time.Time{}, fmt.Errorf("read %s: others may write to it, or it is no file", name)
	case info.Size() > mostFile:
		return nil, time.Time{}, fmt.Errorf("read %s: it has more than %d bytes", name, mostFile)
	}
	text := make([]byte, info.Size())
	if _, err := io.ReadFull(f, text); err != nil {
		return nil, time.Time{}, fmt.Errorf("read %s: %w", name, err)
	}
	c, err := decode(text)
	switch {
	case err != nil:
		return nil, time.Time{}, fmt.Errorf("read %s: %w", name, err)
	case c.node != node:
		return nil, time.Time{}, fmt.Errorf("read %s: it is of %q, not of %q", name, c.node, node)
	}
	return c, info.ModTime(), nil
}

// decode reads the text of a file; the resources point into it.
func decode(text []byte) (*configuration, error) {
	switch {
	case !strings.HasPrefix(string(text[:min(len(text), len(fileMark))]), fileMark):
		return nil, errors.New("it is not of an agent")
	case len(text) < len(fileForm)+sha256.Size:
		return nil, errors.New("it is half written")
	case string(text[:len(fileForm)]) != fileForm:
		return nil, errors.New("it is of another release of the agent")
	}
	body, sum := text[:len(text)-sha256.Size], text[len(text)-sha256.Size:]
	if sha256.Sum256(body) != [sha256.Size]byte(sum) {
		return nil, errors.New("its checksum is wrong: it is half written, or was changed")
	}
	c := &configuration{kinds: map[string]keptKind{}}
	if err := c.fill(body[len(fileForm):]); err != nil {
		return nil, err
	}
	if len(c.sealed) == 0 {
		return c, nil
	}
	before, last := bytes.CutSuffix(body, appendBytes(nil, 5, c.sealed))
	if !last {
		return nil, errMessage
	}
	c.before = sha256.Sum256(before)
	return c, nil
}

// fill adds what the fields say.
func (c *configuration) fill(body []byte) error {
	at := ""
	return fields(body, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			c.node = string(v)
		case 2:
			c.traits = string(v)
		case 3:
			at = first(v, 1)
			if _, ok := c.kinds[at]; !ok {
				c.kinds[at] = keptKind{version: first(v, 2), resources: map[string]resource{}}
			}
		case 4:
			r := resource{}
			err := fields(v, func(n protowire.Number, v []byte) error {
				switch n {
				case 1:
					r.name = string(v)
				case 2:
					r.version = string(v)
				case 3:
					r.any = v
				}
				return nil
			})
			if k, ok := c.kinds[at]; err != nil || !ok || r.any == nil {
				return errMessage
			} else {
				k.resources[r.name] = r
			}
		case 5:
			c.sealed = v
		}
		return nil
	})
}

// bound is what the sealed part belongs to.
func (c *configuration) bound() []byte {
	return append([]byte(c.node+"\x00"+c.traits+"\x00"), c.before[:]...)
}

// open adds the secrets that were sealed: it returns a configuration that has them, and is as one of the keys' owners wrote
// it.
func (c *configuration) open(keys [][]byte) (*configuration, error) {
	plain, err := unseal(c.sealed, c.bound(), keys)
	if err != nil {
		return nil, err
	}
	whole := &configuration{node: c.node, traits: c.traits, kinds: maps.Clone(c.kinds)}
	if k, ok := c.kinds[secretType]; ok {
		whole.kinds[secretType] = keptKind{version: k.version, resources: maps.Clone(k.resources)}
	}
	return whole, whole.fill(plain)
}

// fields writes the fields of the types and resources that are wanted, sorted, each with one call of w.
func (c *configuration) fields(w func([]byte) error, wanted func(typ string, r resource) bool) error {
	var b []byte
	for _, typ := range slices.Sorted(maps.Keys(c.kinds)) {
		k := c.kinds[typ]
		if err := w(appendBytes(b[:0], 3, appendString(appendString(nil, 1, typ), 2, k.version))); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(k.resources)) {
			r := k.resources[name]
			if !wanted(typ, r) {
				continue
			}
			length := sizeOf(1, len(r.name)) + sizeOf(2, len(r.version)) + sizeOf(3, len(r.any))
			b = protowire.AppendVarint(protowire.AppendTag(b[:0], 4, protowire.BytesType), uint64(length))
			b = appendBytes(appendString(appendString(b, 1, r.name), 2, r.version), 3, r.any)
			if err := w(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// encode writes the file's text. Without keys it is not sealed, and secrets are left out.
func (c *configuration) encode(to io.Writer, keys [][]byte) error {
	sum := sha256.New()
	out := io.MultiWriter(to, sum)
	w := func(b []byte) error { _, err := out.Write(b); return err }
	err := w(appendString(appendString([]byte(fileForm), 1, c.node), 2, c.traits))
	if err == nil {
		err = c.fields(w, func(typ string, r resource) bool { return typ != secretType || !sensitive(r.any) })
	}
	if err == nil && len(keys) > 0 {
		var plain, sealed []byte
		written := configuration{node: c.node, traits: c.traits, before: [sha256.Size]byte(sum.Sum(nil))}
		secrets := &configuration{kinds: map[string]keptKind{secretType: c.kinds[secretType]}}
		err = secrets.fields(func(b []byte) error { plain = append(plain, b...); return nil }, func(_ string, r resource) bool { return sensitive(r.any) })
		if err == nil {
			sealed, err = seal(plain, written.bound(), keys)
		}
		if err == nil {
			err = w(appendBytes(nil, 5, sealed))
		}
	}
	if err == nil {
		_, err = to.Write(sum.Sum(nil))
	}
	return err
}

// write replaces the node's file in dir: whoever reads it, at whatever moment and after whatever end of this process,
// finds the old one or the new one.
func write(dir string, c *configuration, keys [][]byte) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write last good configuration: %w", err)
	}
	name := path(dir, c.node)
	f, err := os.CreateTemp(dir, filepath.Base(name)+".*"+tempSuffix) // mode 0600
	if err != nil {
		return fmt.Errorf("write last good configuration: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write last good configuration: %w", err)
			os.Remove(f.Name())
		}
	}()
	buffered := bufio.NewWriterSize(f, 64<<10)
	err = c.encode(buffered, keys)
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sweep removes what agents that were killed left half written.
func sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, "*"+fileSuffix+".*"+tempSuffix))
	for _, name := range left {
		if info, err := os.Lstat(name); err == nil && time.Since(info.ModTime()) > staleAfter {
			os.Remove(name)
		}
	}
}
