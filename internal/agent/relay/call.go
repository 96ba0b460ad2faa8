package relay

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/agent/lastgood"
	"github.com/evermesh/evermesh/internal/agent/pause"
)

const (
	// answerWait is how long an Envoy without a configuration waits for the control plane before it is given the last
	// good one (D10).
	answerWait = 3 * time.Second
	// firstWait bounds how long the end of a stream waits for Envoy's first word, which comes with its stream.
	firstWait = 200 * time.Millisecond
	// mostEarly bounds what Envoy says before anybody answers, in bytes.
	mostEarly = 16 << 20
	// lookEvery is how often an Envoy that is given the last good configuration is looked at.
	lookEvery = 100 * time.Millisecond
)

// call is one stream of Envoy. Until somebody answers it what Envoy says is kept, so that it can be said to the next
// endpoint. Then the stream is the control plane's, or that of the last good configuration, until its end.
type call struct {
	*Relay
	method string
	down   grpc.ServerStream
	seen   *lastgood.Stream
	came   chan struct{} // closed when Envoy has said something, or will not
	broken chan error    // why it cannot go on, the first reason
	taken  chan struct{} // closed when somebody answers, or the stream is over
	cancel context.CancelCauseFunc
	cause  func() error // why it was cancelled, if it was
	idle   *time.Timer  // cancels; nil without a bound

	mu      sync.Mutex
	early   [][]byte // what Envoy said, while nobody has answered
	size    int
	half    bool // Envoy says no more
	over    bool
	up      *upstream         // who is asked, or answers
	settled bool              // up answers
	stood   bool              // it counts as connected without an answer
	answers *lastgood.Answers // or this does
}

// reached is the first answer to a call, or why there is none.
type reached struct {
	up    *upstream // nil without an answer
	first *frame    // nil when the endpoint has said nothing yet but that it serves
	err   error     // nil with status 0
}

// relay is one stream of Envoy, from its first to its last message.
func (r *Relay) relay(method string, down grpc.ServerStream) error {
	ctx, cancel := context.WithCancelCause(down.Context())
	c := &call{
		Relay: r, method: method, down: down, seen: r.kept.Begin(method == "/"+adsService+"/"+delta),
		came: make(chan struct{}), broken: make(chan error, 1), taken: make(chan struct{}),
		cancel: cancel, cause: func() error { return context.Cause(ctx) },
	}
	c.watchIdle()
	// It ends with the stream: after this function returns nothing can be received from Envoy any more.
	r.wg.Go(c.ascend)
	answer := make(chan reached, 1)
	r.wg.Go(func() { answer <- c.reach(ctx); close(answer) })
	defer func() {
		cancel(nil)
		c.end()
		for got := range answer {
			got.close()
		}
		c.seen.End()
	}()
	late := time.NewTimer(r.patience)
	defer late.Stop()
	var came <-chan struct{} // c.came, when it is late
	for {
		select {
		case got := <-answer:
			if got.up == nil {
				if idled := c.idled(); idled != nil {
					return idled
				}
				return got.err
			}
			return c.descends(ctx, got)
		case err := <-c.broken:
			return err
		case <-late.C:
			came = c.came // only Envoy can say what it has
		case <-came:
			came = nil
			if !c.seen.Needy() {
				continue // it has one: the control plane may take its time
			}
			if answers := c.seen.Answers(ctx); answers != nil {
				return c.fallBack(answers, answer)
			}
		}
	}
}

func (g reached) close() {
	if g.up != nil {
		if g.first != nil {
			g.first.data.Free()
		}
		g.up.close()
	}
}

// reach asks endpoints until one answers. An Envoy that has a configuration, or that can be given none, is told at once
// when no endpoint does; for another one it goes on until ctx ends.
func (c *call) reach(ctx context.Context) reached {
	for {
		up, err := c.upstreams.open(ctx, c.method)
		if none, ok := errors.AsType[*noAnswer](err); ok {
			if !c.patient(ctx) || pause.For(ctx, time.Until(none.next)) != nil {
				return reached{err: status.Error(codes.Unavailable, none.Error())}
			}
			continue
		} else if err != nil {
			return reached{err: status.FromContextError(err).Err()}
		}
		c.attach(up)
		speaks := c.upstreams.speaks(up.endpoint)
		lasts := time.AfterFunc(c.lasting, func() { c.stands(up, speaks) })
		f, err := up.answered()
		lasts.Stop()
		if err == nil {
			if f == nil {
				c.upstreams.spoke(up.endpoint)
			}
			return reached{up: up, first: f}
		}
		c.attach(nil)
		if ctx.Err() != nil && c.down.Context().Err() == nil {
			err = errUnanswered
		}
		if err = c.ended(up, false, err); definite(err) || !c.patient(ctx) {
			return reached{err: err}
		}
	}
}

// answered waits for the endpoint's answer to a stream: that it is served, which the control plane says in the stream's
// head even to an Envoy that lacks nothing, or else (a release that does not say so) the first message, which then is
// returned. The error is the stream's end.
func (u *upstream) answered() (*frame, error) {
	head, err := u.Header() // why there is none is learned by receiving
	if err == nil && slices.Contains(head.Get(headKey), headServed) {
		return nil, nil
	}
	return u.message()
}

// What the head of a stream says that the control plane serves.
const headKey, headServed = "evermesh-stream", "served"

// message receives the first message of a stream, which must be one of ADS.
func (u *upstream) message() (*frame, error) {
	f := &frame{}
	if err := u.RecvMsg(f); err != nil {
		return nil, err
	}
	if err := f.answers(); err != nil {
		f.data.Free()
		return nil, status.Error(codes.Unimplemented, err.Error())
	}
	return f, nil
}

// errUnanswered is what came of a stream that the relay ended itself: Envoy has what was kept, and nobody had answered it.
var errUnanswered = status.Error(codes.Unavailable, "it took the stream, and had not answered when Envoy had the last good configuration")

// definite says whether the end of a stream that was never answered is the control plane's word on this proxy, which
// other replicas would say as well.
func definite(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition, codes.ResourceExhausted:
		return true
	}
	return false
}

// patient says whether Envoy is better off waiting than with the end of its stream: it has no configuration, and can be
// given one.
func (c *call) patient(ctx context.Context) bool {
	wait := time.NewTimer(c.first)
	defer wait.Stop()
	select {
	case <-c.came:
	case <-wait.C:
		return false
	case <-ctx.Done():
		return false
	}
	return c.seen.Needy() && c.seen.Kept()
}

// attach says to an endpoint what Envoy has said so far, and from now on says; nil is nobody.
func (c *call) attach(up *upstream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = up
	if up == nil {
		c.falls()
		return
	}
	for _, message := range c.early {
		_ = up.SendMsg(&frame{mem.BufferSlice{mem.SliceBuffer(message)}}) // why it takes no more is learned by receiving
	}
	if c.half {
		_ = up.CloseSend()
	}
}

// ascend passes Envoy's messages on.
func (c *call) ascend() {
	var once sync.Once
	came := func() { once.Do(func() { close(c.came) }) }
	defer came()
	for {
		f := &frame{}
		if err := c.down.RecvMsg(f); err != nil {
			if errors.Is(err, io.EOF) {
				c.halfClose()
			}
			return
		}
		show(f, c.seen.Request)
		passed, wait := c.pass(f)
		came()
		if !passed {
			return
		}
		if wait {
			<-c.taken
		}
	}
}

func (c *call) halfClose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.half = true
	if c.up != nil && !c.over {
		_ = c.up.CloseSend()
	}
}

// pass gives one message of Envoy's to whoever it is for. passed is false when nobody takes any more, and wait says that no
// more is to be taken from Envoy before somebody answers.
func (c *call) pass(f *frame) (passed, wait bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.spoken()
	}
	if c.settled && !c.over {
		return c.up.SendMsg(f) == nil, false
	}
	message := f.data.Materialize()
	f.data.Free()
	switch {
	case c.over:
		return false, false
	case c.answers != nil:
		return c.tell(message), false
	}
	if c.size += len(message); c.size > mostEarly && c.upstreams.bounds.Buffer == 0 {
		c.breaks(status.Errorf(codes.ResourceExhausted, "requests of more than %d bytes before an answer", mostEarly))
		return false, false
	}
	c.early = append(c.early, message)
	if c.up != nil {
		_ = c.up.SendMsg(&frame{mem.BufferSlice{mem.SliceBuffer(message)}})
	}
	return true, c.full()
}

// tell answers a message from the last good configuration. mu is held.
func (c *call) tell(message []byte) bool {
	answers, err := c.answers.Answer(message)
	for _, one := range answers {
		if err == nil {
			err = c.down.SendMsg(&frame{mem.BufferSlice{mem.SliceBuffer(one)}})
		}
	}
	if err != nil {
		c.breaks(status.Error(codes.Unavailable, "the last good configuration cannot be served: "+err.Error()))
	}
	return err == nil
}

// breaks says why the stream cannot go on. It waits for nobody: the stream may be ending for another reason, and the one
// who ends it waits for mu.
func (c *call) breaks(err error) {
	select {
	case c.broken <- err:
	default: // one reason is enough
	}
}

// descends is descend, but for a stream on which nothing was said for too long: an Envoy that does not read holds up what is
// being sent to it, which ends with the stream, and the stream ends when relay returns. Who closes the relay waits for it.
func (c *call) descends(ctx context.Context, got reached) error {
	c.mu.Lock()
	c.early, c.settled = nil, true
	c.mu.Unlock()
	close(c.taken)
	select {
	case err := <-c.broken: // before the answer came: what Envoy has said since is lost
		got.close()
		return err
	default:
	}
	ended := make(chan error, 1)
	c.wg.Go(func() { ended <- c.descend(got) })
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		if idled := c.idled(); idled != nil {
			return idled
		}
		return <-ended // Envoy is gone, and takes nothing
	}
}

// descend passes the control plane's messages on until its stream ends, and returns that end: nil for status 0.
func (c *call) descend(got reached) error {
	defer got.up.close()
	c.count(1)
	defer c.count(-1)
	c.mu.Lock()
	c.falls() // it counts by its answer now
	c.mu.Unlock()
	c.upstreams.served(got.up.address)
	c.upstreams.reports.served(got.up.endpoint, time.Now())
	c.log.Info("control plane connected", "endpoint", got.up.endpoint.String(), "address", got.up.address)
	c.seen.Served()
	f := got.first
	if f == nil {
		var err error
		if f, err = got.up.message(); err != nil {
			return c.ended(got.up, true, err)
		}
	}
	for {
		c.mu.Lock()
		if !c.over {
			c.spoken()
		}
		c.mu.Unlock()
		message := f.data.Reader()
		c.seen.Response(message)
		_ = message.Close()
		if err := c.down.SendMsg(f); err != nil {
			return c.ended(got.up, true, errGone)
		}
		f = &frame{}
		if err := got.up.RecvMsg(f); err != nil {
			return c.ended(got.up, true, err)
		}
	}
}

// fallBack gives Envoy the last good configuration, until it has it or the control plane answers. Either way its stream
// ends: Envoy keeps what it has and comes back, and its statistics tell that nobody is there.
func (c *call) fallBack(answers *lastgood.Answers, answer <-chan reached) error {
	c.mu.Lock()
	c.answers = answers
	for _, message := range c.early {
		if !c.tell(message) {
			break
		}
	}
	c.early = nil
	c.mu.Unlock()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case got := <-answer:
			if got.up == nil {
				return got.err
			}
			defer got.close()
			c.log.Info("control plane answers: the last good configuration gives way", "endpoint", got.up.endpoint.String())
			return status.Error(codes.Unavailable, "the control plane answers again")
		case err := <-c.broken:
			return err
		case <-look.C:
			if answers.Done() {
				return status.Error(codes.Unavailable, "no control plane answers: this is the last good configuration")
			}
		}
	}
}

// errGone is the end of a stream whose Envoy takes no more. gRPC may say so before the stream's context has ended.
var errGone = status.Error(codes.Canceled, "Envoy's stream is gone")

// ended notes and logs the end of an endpoint's stream, and returns what Envoy is told.
func (c *call) ended(up *upstream, spoke bool, err error) error {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if idled := c.idled(); idled != nil {
		c.log.Info("control plane stream ended", "endpoint", up.endpoint.String(), "code", status.Code(idled).String(), "err", idled)
		up.close()
		return idled
	}
	ctx := c.down.Context()
	if ctx.Err() == nil && !errors.Is(err, errGone) && (err != nil || !spoke) {
		c.upstreams.ended(ctx, up, spoke, err)
	}
	level := slog.LevelInfo
	if err != nil && !spoke && ctx.Err() == nil {
		level = slog.LevelWarn // refused: why is what a person looks for
	}
	c.log.Log(ctx, level, "control plane stream ended", "endpoint", up.endpoint.String(), "code", status.Code(err).String(), "err", err)
	up.close()
	return err
}

// end says that nothing is passed on any more.
func (c *call) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.falls()
	if c.idle != nil {
		c.idle.Stop()
	}
	if !c.settled {
		close(c.taken)
	}
}

// show shows a message of Envoy's to what follows the stream, which keeps nothing of it.
func show(f *frame, to func([]byte)) {
	whole := f.data.MaterializeToBuffer(mem.DefaultBufferPool())
	to(whole.ReadOnlyData())
	whole.Free()
}
