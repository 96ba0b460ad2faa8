package rest

import (
	"bytes"
	"io"
	"net/http"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

const (
	// smallBody is what any number of requests may hold of their bodies; a mesh
	// of everyday size is changed with a tenth of it.
	smallBody = 64 << 10
	// largeBodies is how many requests may hold more than that, up to MaxBody, at
	// once: 128 MiB together, also when their senders never end.
	largeBodies = 128
)

// bodies reads the bodies of requests. A body is held before its sender is known,
// because its hash is part of the signature, so what strangers can make the
// server hold has a bound.
type bodies struct{ large chan struct{} }

func newBodies() *bodies { return &bodies{large: make(chan struct{}, largeBodies)} }

// read returns the whole body. The caller calls done when it is not needed any
// more, unless there was an error.
func (b *bodies) read(r *http.Request) (body []byte, done func(), err error) {
	if r.ContentLength == 0 {
		return nil, func() {}, nil
	}
	var buf bytes.Buffer
	if r.ContentLength > 0 && r.ContentLength <= smallBody {
		buf.Grow(int(min(r.ContentLength, 4096)) + bytes.MinRead)
	}
	if err := receive(&buf, r, smallBody); err != nil {
		return nil, nil, err
	}
	if buf.Len() < smallBody {
		return buf.Bytes(), func() {}, nil
	}
	select {
	case b.large <- struct{}{}:
	default:
		return nil, nil, api.Errorf(api.CodeServiceUnavailable, "%d other requests with more than %d bytes are being read: try again, with back-off.", largeBodies, smallBody)
	}
	done = func() { <-b.large }
	if err := receive(&buf, r, MaxBody+1-smallBody); err != nil {
		done()
		return nil, nil, err
	}
	if buf.Len() > MaxBody {
		done() // what follows is not held
		// A client that is still sending would see a broken connection and
		// never the answer.
		_, _ = io.CopyN(io.Discard, r.Body, 8*MaxBody)
		return nil, nil, api.Errorf(codeBodyTooLarge, "The request's body is larger than %d bytes.", MaxBody)
	}
	return buf.Bytes(), done, nil
}

func receive(buf *bytes.Buffer, r *http.Request, most int64) error {
	if _, err := buf.ReadFrom(io.LimitReader(r.Body, most)); err != nil {
		return api.Errorf(api.CodeBadRequest, "The request's body could not be read: %v.", err)
	}
	return nil
}

// lineWait is how long one line of a stream may take to be sent.
const lineWait = 30 * time.Second

// lasting makes an answer of many lines last beyond the server's time-outs for a
// request: what has a time is each line.
func lasting(w http.ResponseWriter) http.ResponseWriter {
	l := &lines{ResponseWriter: w, control: http.NewResponseController(w)}
	// A writer that has no deadlines has none that could end the stream.
	_ = l.control.SetReadDeadline(time.Time{})
	return l
}

type lines struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Unwrap lets http.ResponseController find the writer below.
func (l *lines) Unwrap() http.ResponseWriter { return l.ResponseWriter }

func (l *lines) Write(line []byte) (int, error) {
	_ = l.control.SetWriteDeadline(time.Now().Add(lineWait))
	return l.ResponseWriter.Write(line)
}
