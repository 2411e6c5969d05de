// Package report is the trainer's end of the Train stream: it opens the attempt,
// sends numbered frames, keeps what the agent has not made durable, sends it
// again after a reconnect, pushes files, and follows the agent's orders. Proto
// types stop here.
package report

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// The errors that end an attempt from outside.
var (
	// ErrFenced: the lease is over; nothing this process does counts any more.
	ErrFenced = errors.New("the lease of this attempt is over")
	// ErrOrphaned: no agent answered within the orphan timeout.
	ErrOrphaned = errors.New("no agent came back within the orphan timeout")
	// ErrProtocol: the agent and this trainer disagree about what was sent.
	ErrProtocol = errors.New("the agent refused the stream")
)

// Options of a client. Socket and Token are required.
type Options struct {
	// Socket is the path of the agent's unix socket.
	Socket string
	// Token is the lease token.
	Token []byte
	Log   *zap.Logger
	// OrphanTimeout applies until Opened names one; 0 means 5 minutes.
	OrphanTimeout time.Duration
	// Buffer is how many frames may wait for their acknowledgement before the
	// senders wait; 0 means 1024.
	Buffer int
}

// openTimeout bounds the wait for the answer to Open.
const openTimeout = 15 * time.Second

// Client is one attempt's stream. Its methods are safe for concurrent use.
type Client struct {
	log    *zap.Logger
	token  []byte
	conn   *grpc.ClientConn
	api    trainv1.TrainServiceClient
	limit  int
	cancel context.CancelFunc
	done   chan struct{} // the stream loop has ended

	mu       sync.Mutex
	orphan   time.Duration
	last     uint64                  // sequence of the newest frame
	pending  []*trainv1.TrainRequest // unacknowledged, oldest first
	space    chan struct{}           // closed and replaced when frames were acknowledged
	wake     chan struct{}           // holds one token when there is something to send
	order    run.Order
	changed  chan struct{} // closed and replaced when order changes
	saved    committed
	finished bool
	err      error
	gone     chan struct{}
}

// committed is the newest checkpoint that the registry has.
type committed struct {
	step int64
	id   string
}

// Open connects to the agent, presents the token and waits for the assignment.
// The client reconnects by itself until Close; Gone tells when it has given up.
func Open(ctx context.Context, o Options) (*Client, *run.Assignment, error) {
	conn, err := rpcclient.Dial("unix://"+o.Socket, rpcclient.Options{Log: o.Log, WriteBuffer: 128 << 10})
	if err != nil {
		return nil, nil, err
	}
	c := &Client{log: o.Log, token: o.Token, conn: conn, api: trainv1.NewTrainServiceClient(conn), limit: o.Buffer,
		orphan: o.OrphanTimeout, space: make(chan struct{}), wake: make(chan struct{}, 1), changed: make(chan struct{}),
		gone: make(chan struct{}), done: make(chan struct{})}
	if c.log == nil {
		c.log = zap.NewNop()
	}
	if c.limit == 0 {
		c.limit = 1024
	}
	if c.orphan == 0 {
		c.orphan = 5 * time.Minute
	}
	// The stream outlives ctx: it ends by Close, after the last acknowledgement.
	loopCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	opened := make(chan *trainv1.Opened, 1)
	go c.loop(loopCtx, opened)
	select {
	case first := <-opened:
		a, err := assignment(first)
		if err != nil {
			return nil, nil, errors.Join(err, c.Close())
		}
		return c, a, nil
	case <-c.gone:
		return nil, nil, errors.Join(c.Err(), c.Close())
	case <-ctx.Done():
		return nil, nil, errors.Join(context.Cause(ctx), c.Close())
	}
}

// Close ends the stream at once. What is not acknowledged is lost: see Finish.
func (c *Client) Close() error {
	c.cancel()
	<-c.done
	return c.conn.Close()
}

// Gone is closed when the attempt is over from outside; Err says why.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// Err returns ErrFenced, ErrOrphaned or ErrProtocol, wrapped, or nil.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *Client) giveUp(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.gone)
	}
}

// loop keeps one stream alive after the other.
func (c *Client) loop(ctx context.Context, opened chan<- *trainv1.Opened) {
	defer close(c.done)
	lost := time.Now()
	pause := 50 * time.Millisecond
	for {
		healthy, err := c.session(ctx, opened)
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		complete := c.finished && len(c.pending) == 0
		timeout := c.orphan
		c.mu.Unlock()
		if complete {
			return
		}
		if fatal := refusal(err); fatal != nil {
			c.giveUp(fatal)
			return
		}
		if healthy {
			lost, pause = time.Now(), 50*time.Millisecond
		}
		if away := time.Since(lost); away > timeout {
			c.giveUp(fmt.Errorf("%w (%v): %w", ErrOrphaned, timeout, err))
			return
		}
		c.log.Debug("the agent is away", zap.Error(err))
		// Jitter, as all trainers of a host lose their agent at the same moment.
		wait := time.Duration(float64(pause) * (0.5 + rand.Float64()))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		pause = min(2*pause, time.Second)
	}
}

// refusal returns the final form of an error that trying again cannot heal.
func refusal(err error) error {
	e := rpcerr.FromError(err)
	if e == nil {
		return nil
	}
	switch {
	case e.Reason() == errorv1.Reason_REASON_LEASE_FENCED, e.Code() == codes.Unauthenticated, e.Code() == codes.PermissionDenied:
		return fmt.Errorf("%w: %w", ErrFenced, err)
	case e.Code() == codes.InvalidArgument, e.Code() == codes.Unimplemented:
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

// session runs one stream. healthy is true when the agent answered the Open.
func (c *Client) session(ctx context.Context, opened chan<- *trainv1.Opened) (healthy bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.api.Train(ctx)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	last := c.last
	c.mu.Unlock()
	open := &trainv1.TrainRequest{Traceparent: telemetry.TraceParent(ctx), Frame: &trainv1.TrainRequest_Open{
		Open: &trainv1.Open{Token: c.token, LastSequence: last, Pid: int64(os.Getpid())}}}
	if err := stream.Send(open); err != nil {
		// The reason of a refused stream comes with the read.
		_, err := stream.Recv()
		return false, err
	}
	expired := time.AfterFunc(openTimeout, cancel)
	answer, err := stream.Recv()
	expired.Stop()
	if err != nil {
		return false, err
	}
	o := answer.GetOpened()
	if o == nil {
		return false, fmt.Errorf("%w: the first frame was not Opened", ErrProtocol)
	}
	next, err := c.resume(o)
	if err != nil {
		c.giveUp(err)
		return true, err
	}
	select {
	case opened <- o: // read once; later answers only resume
	default:
	}
	sent := make(chan error, 1)
	go func() { sent <- c.write(ctx, stream, next) }()
	err = c.read(stream)
	if err != nil {
		cancel()
		return true, errors.Join(err, <-sent)
	}
	// Everything is durable: a clean end, so that the agent logs no broken stream.
	if err := stream.CloseSend(); err != nil {
		return true, err
	}
	closing := time.AfterFunc(time.Second, cancel)
	defer closing.Stop()
	for err == nil {
		_, err = stream.Recv()
	}
	cancel()
	<-sent //nolint:errcheck // the sender ends with the stream: its error is the stream's
	return true, nil
}

// resume drops what became durable while the stream was away and returns the
// sequence to go on with.
func (c *Client) resume(o *trainv1.Opened) (uint64, error) {
	acked := o.GetAckedSequence()
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.last - uint64(len(c.pending)) + 1
	if acked > c.last || acked+1 < first {
		return 0, fmt.Errorf("%w: it has frames up to %d, this trainer holds %d to %d", ErrProtocol, acked, first, c.last)
	}
	c.acknowledge(acked)
	if d := o.GetOrphanTimeout().AsDuration(); d > 0 {
		c.orphan = d
	}
	return acked + 1, nil
}

// acknowledge forgets frames up to sequence; the mutex is held.
func (c *Client) acknowledge(sequence uint64) {
	first := c.last - uint64(len(c.pending)) + 1
	if sequence < first || sequence > c.last {
		return
	}
	n := sequence - first + 1
	clear(c.pending[:n])
	c.pending = c.pending[n:]
	close(c.space)
	c.space = make(chan struct{})
}

// write sends frames from sequence next on until the stream ends.
func (c *Client) write(ctx context.Context, stream trainv1.TrainService_TrainClient, next uint64) error {
	for {
		c.mu.Lock()
		var frames []*trainv1.TrainRequest
		first := c.last - uint64(len(c.pending)) + 1
		// Frames that were acknowledged before they were sent again are skipped.
		next = max(next, first)
		if next <= c.last {
			frames = append(frames, c.pending[next-first:]...)
		}
		c.mu.Unlock()
		for _, f := range frames {
			if err := stream.Send(f); err != nil {
				return err
			}
			next = f.GetSequence() + 1
		}
		if len(frames) > 0 {
			continue
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read handles the agent's frames until the stream ends.
func (c *Client) read(stream trainv1.TrainService_TrainClient) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		c.handle(m)
		c.mu.Lock()
		complete := c.finished && len(c.pending) == 0
		c.mu.Unlock()
		if complete {
			return nil
		}
	}
}

func (c *Client) handle(m *trainv1.TrainResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := m.GetFrame().(type) {
	case *trainv1.TrainResponse_Ack:
		c.acknowledge(f.Ack.GetSequence())
	case *trainv1.TrainResponse_Stop:
		c.order.Stop = true
		c.order.Reason = stopReason(f.Stop.GetReason())
		c.order.Grace = f.Stop.GetGrace().AsDuration()
		c.tellChange()
	case *trainv1.TrainResponse_CheckpointNow:
		c.order.CheckpointNow = true
		c.tellChange()
	case *trainv1.TrainResponse_Pause:
		c.order.Paused = true
		c.tellChange()
	case *trainv1.TrainResponse_Resume:
		c.order.Paused = false
		c.tellChange()
	case *trainv1.TrainResponse_CheckpointCommitted:
		c.saved = committed{step: f.CheckpointCommitted.GetStep(), id: f.CheckpointCommitted.GetCheckpointId()}
	case *trainv1.TrainResponse_CheckpointRejected:
		c.log.Warn("a checkpoint was refused", zap.Int64("step", f.CheckpointRejected.GetStep()),
			zap.Strings("problems", f.CheckpointRejected.GetProblems()))
	default:
		c.log.Warn("the agent sent a frame that this trainer does not know")
	}
}

func (c *Client) tellChange() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Order returns what the agent wants now. CheckpointNow is cleared by taking it.
func (c *Client) Order() run.Order {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.order
	c.order.CheckpointNow = false
	return o
}

// Changed is closed at the next change of the order.
func (c *Client) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Interrupt makes the order Stop, for a signal that came to this process itself.
func (c *Client) Interrupt(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.order.Stop {
		c.order.Stop, c.order.Reason = true, reason
		c.tellChange()
	}
}

// send queues a frame. It waits while the buffer is full: a slow host slows its
// own trainer and nothing else.
func (c *Client) send(ctx context.Context, f *trainv1.TrainRequest) error {
	f.Traceparent = telemetry.TraceParent(ctx)
	for {
		c.mu.Lock()
		if c.err != nil {
			defer c.mu.Unlock()
			return c.err
		}
		if c.finished {
			c.mu.Unlock()
			return errors.New("report: a frame after Finish")
		}
		if len(c.pending) < c.limit {
			c.last++
			f.Sequence = c.last
			c.pending = append(c.pending, f)
			_, c.finished = f.GetFrame().(*trainv1.TrainRequest_Finished)
			c.mu.Unlock()
			select {
			case c.wake <- struct{}{}:
			default:
			}
			return nil
		}
		space := c.space
		c.mu.Unlock()
		select {
		case <-space:
		case <-c.gone:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Finish sends the ending and waits until everything is durable on the host.
func (c *Client) Finish(ctx context.Context, e run.Ending) error {
	if err := c.send(ctx, finishedFrame(e)); err != nil {
		return err
	}
	select {
	case <-c.done: // the loop ends by itself when the last frame is acknowledged
		return c.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// finiteOr keeps a progress value that JSON and people can read.
func finiteOr(v, otherwise float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return otherwise
	}
	return v
}
